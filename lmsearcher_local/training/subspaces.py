"""Pruned subspaces (paper, section 3.3): questions over small random parts of a space, of a table or of the prior."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from lmsearcher_local.errors import SpaceError
from lmsearcher_local.presets.tables import Table
from lmsearcher_local.spaces.space import SearchSpace
from lmsearcher_local.training.prior import Objective, Rng, draw_objective, draw_ordinal, draw_sizes
from lmsearcher_local.training.trajectories import Task, draw_pool, draw_search, draw_uniform

FEWEST, MOST = 100, 200  # architectures drawn from a subspace, the pool among them
POOL = 10
TRIES, ROUNDS = 64, 200  # prunings drawn at once, and how often before a space is given up
STREAM = 2_000_003  # first word of the seeds here: neither the trainer's nor the held-out tasks'
ROOM = 4 * FEWEST  # codes of a synthetic space at least, so that pruned parts are large enough often


@dataclass(frozen=True, slots=True)
class Source:
    """A space of option counts ``sizes`` [L] and what is measured on it, higher is better."""

    sizes: np.ndarray
    objective: Objective


def table_source(table: Table) -> Source:
    """A benchmark table; a minimised value enters negated."""
    sign = 1.0 if table.direction == "maximize" else -1.0
    values = np.empty(table.space.sizes)
    values[tuple(table.space.array([*table.values]).T)] = [sign * value for value in table.values.values()]
    return Source(np.array(table.space.sizes), lambda codes: values[tuple(codes.T)])


def prior_source(rng: Rng) -> Source:
    """A fresh synthetic space with its objective: mostly 3 to 16 positions, now and then up to 48."""
    positions = int(rng.integers(3, 17) if rng.random() < 0.85 else rng.integers(17, 49))
    sizes = draw_sizes(rng, positions, ROOM)
    return Source(sizes, draw_objective(rng, sizes, draw_ordinal(rng, positions)))


def prune(rng: Rng, sizes: np.ndarray) -> list[np.ndarray]:
    """The options left at each position of a pruned space, ascending; a ``SpaceError`` where it is too small for that.

    Each position and each option is dropped with probability 1/2. A dropped position is searched no more: all codes
    of the subspace hold the same option there, drawn at random, so they stay codes of the whole space. A pruning that
    leaves fewer than ``FEWEST`` codes is drawn again.
    """
    offered = np.arange(sizes.max()) < sizes[:, None]
    for _ in range(ROUNDS):
        options = offered & (rng.random((TRIES, *offered.shape)) < 0.5)
        dropped = rng.random((TRIES, len(sizes))) < 0.5
        large = np.flatnonzero(np.where(dropped, 1.0, options.sum(2)).prod(1) >= FEWEST)
        if len(large):
            fixed, left, out = rng.integers(0, sizes), options[large[0]], dropped[large[0]]
            return [fixed[i : i + 1] if out[i] else np.flatnonzero(left[i]) for i in range(len(sizes))]
    raise SpaceError(f"a space of {sizes.tolist()} options is too small: its pruned parts hold no {FEWEST} codes")


def draw_pruned(rng: Rng, source: Source) -> Task:
    """One question over a pruned subspace: 100 to 200 distinct codes, ten of them the pool, the others the history.

    Half of the histories are uniform draws, as in the paper, half as a search leaves them. Pools are uniform over
    what the history left. Where candidates share the best value the pool has no one answer: callers look.
    """
    options = prune(rng, source.sizes)
    counts = np.array([len(left) for left in options])
    searched = np.flatnonzero(counts > 1)
    fixed = np.array([left[0] for left in options])

    def whole(part: np.ndarray) -> np.ndarray:
        codes = np.tile(fixed, (len(part), 1))
        for column, position in enumerate(searched):
            codes[:, position] = options[position][part[:, column]]
        return codes

    sizes = counts[searched]
    drawn = int(rng.integers(FEWEST, min(MOST, sizes.astype(float).prod()) + 1))
    draw = draw_uniform if rng.random() < 0.5 else draw_search
    history, scores = draw(rng, lambda part: source.objective(whole(part)), sizes, drawn - POOL)
    pool = whole(draw_pool(rng, sizes, history, scores, POOL, near=0.0))
    return Task(SearchSpace(source.sizes.tolist()), whole(history), scores, pool, source.objective(pool))


def draw_pruned_tasks(sources: Sequence[Source], seed: int, count: int) -> Iterator[Task]:
    """``count`` questions, one after the other, each with one truly best candidate; they depend on the seed alone.

    Sources take turns; without any, each question has a fresh space and objective of the prior.
    """
    for i in range(count):
        rng = np.random.default_rng((STREAM, seed, i))
        task = None
        while task is None or (task.truth == task.truth.max()).sum() > 1:
            try:
                task = draw_pruned(rng, sources[i % len(sources)] if sources else prior_source(rng))
            except SpaceError:
                if sources:  # a synthetic space that is too small makes way for another
                    raise
        yield task
