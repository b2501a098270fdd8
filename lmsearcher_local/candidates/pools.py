"""Candidate pools: what the model is asked to choose from, and what is expected of it. Never an evaluated code.

A policy is a function ``(surrogate, rng, size, exclude) -> pool``; every random choice comes from ``rng``.
``policies.py`` names them.
"""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from lmsearcher_local.candidates.surrogate import Appraisal, Surrogate
from lmsearcher_local.spaces.sampling import Taken
from lmsearcher_local.spaces.space import SearchSpace

PARENTS = 5  # codes whose neighbourhood is searched
RECOMBINED, SAMPLED = 50, 200  # other codes that a surrogate considers
NEAR = 1000  # changes of one parameter that are looked at around a code
FORCED = 200  # changes that expressions forbid, around a code, for which other parameters change along
CLIMBS, CLIMBERS = 2, 3  # rounds in which it looks around what it found, and around how many


@dataclass(frozen=True)
class Pool:
    """Codes to choose from, and what a surrogate expects of them, which is computed once, when it is first read."""

    codes: tuple[str, ...]
    surrogate: Surrogate
    known: Callable[[], Appraisal] | None = field(default=None, repr=False, compare=False)  # of these codes, if at hand

    def __len__(self) -> int:
        return len(self.codes)

    @cached_property
    def appraisal(self) -> Appraisal:
        """Means, deviations and expected improvements, each float64 ``[len(codes)]``."""
        return self.known() if self.known else self.surrogate.appraise(self.codes)

    @property
    def means(self) -> np.ndarray:
        """Expected scores, in the surrogate's unit."""
        return self.appraisal.means

    @property
    def deviations(self) -> np.ndarray:
        """Their standard deviations."""
        return self.appraisal.deviations

    @property
    def improvements(self) -> np.ndarray:
        """By how much each code is expected to exceed the best trial."""
        return self.appraisal.improvements

    def take(self, indices: Sequence[int] | np.ndarray) -> "Pool":
        """The codes at these places; they share with this pool what is computed."""
        places = np.asarray(indices, dtype=np.int64)
        codes = tuple(self.codes[i] for i in places)
        return Pool(codes, self.surrogate, lambda: Appraisal(*(values[places] for values in self.appraisal)))


Policy = Callable[[Surrogate, np.random.Generator, int, Collection[str]], Pool]


def uniform(surrogate: Surrogate, rng: np.random.Generator, size: int, exclude: Collection[str]) -> Pool:
    """The paper's pool: distinct unseen codes, uniform over the space."""
    return Pool(tuple(surrogate.space.sample(rng, size, exclude)), surrogate)


def local(surrogate: Surrogate, rng: np.random.Generator, size: int, exclude: Collection[str]) -> Pool:
    """Unseen neighbours of the best codes, nearly all of the pool, with some uniform codes for exploration.

    A uniform pool of ten rarely holds a good code late in a search: even a perfect ranker loses to plain local search.
    """
    space = surrogate.space
    taken = set(exclude)
    around = []
    for parent in space.array(surrogate.parents(PARENTS, rng)):
        fresh, _ = unseen(space, near(space, parent, rng), taken)
        taken.update(fresh)
        around += fresh
    kept = [around[i] for i in rng.permutation(len(around))[: size - max(1, size // 5)]]
    pool = kept + space.sample(rng, size - len(kept), {*exclude, *kept})
    return Pool(tuple(pool[i] for i in rng.permutation(len(pool))), surrogate)  # the place in it must say nothing


def promising(surrogate: Surrogate, rng: np.random.Generator, size: int, exclude: Collection[str]) -> Pool:
    """Of hundreds of unseen codes those of highest expected improvement, and as many others at random.

    Considered are the neighbours of the best codes, recombinations of them and uniform codes; then, twice, the
    neighbours of what is most promising so far. The others are there because a surrogate errs, and the model may not.
    The best codes of earlier searches are considered, and count as best codes.
    """
    space = surrogate.space
    earlier = surrogate.sources.best(space, rng)
    parents = space.array([*surrogate.parents(PARENTS, rng), *earlier])
    near, mixed = neighbourhood(space, parents, rng), recombine(space, parents, rng, RECOMBINED)
    candidates, rows = unseen(space, np.concatenate([space.array(earlier), near, mixed]), exclude)
    seen = Taken(exclude)
    seen.update(candidates)
    sampled = space.sample(rng, SAMPLED, seen)
    seen.update(sampled)
    candidates += sampled
    rows = np.concatenate([rows, space.array(sampled)])
    appraisal = surrogate.appraise(rows)
    for _ in range(CLIMBS):
        top = rows[np.argsort(-appraisal.improvements, kind="stable")[:CLIMBERS]]
        fresh, more = unseen(space, neighbourhood(space, top, rng), seen)
        seen.update(fresh)
        candidates += fresh
        rows = np.concatenate([rows, more])
        appraisal = Appraisal(*map(np.concatenate, zip(appraisal, surrogate.appraise(more), strict=True)))
    order = np.argsort(-appraisal.improvements, kind="stable")
    half = (size + 1) // 2
    picked = rng.permutation([*order[:half], *rng.permutation(order[half:])[: size - half]])
    return Pool(tuple(candidates), surrogate, lambda: appraisal).take(picked)  # the place in it must say nothing


def unseen(space: SearchSpace, rows: np.ndarray, exclude: Collection[str]) -> tuple[list[str], np.ndarray]:
    """The codes of option indices ``[n, positions]``, each once and none of ``exclude``, and their indices."""
    places: dict[str, int] = {}
    for place, code in enumerate(space.codes(rows)):
        if code not in exclude:
            places.setdefault(code, place)
    return [*places], rows[[*places.values()]]


def neighbourhood(space: SearchSpace, rows: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The neighbours of every code, given and returned as option indices ``[n, positions]``; some may stand twice."""
    none = np.empty((0, len(space.sizes)), dtype=np.int64)
    return np.concatenate([none, *(near(space, row, rng) for row in rows)])


def near(space: SearchSpace, row: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The neighbours of a code, of option indices ``[positions]``. Of very many about ``NEAR``: of each parameter some
    options beside its own, some at random. Where expressions forbid a change, a code that has it and little else."""
    options: list[Sequence[int]] = [range(size) for size in space.sizes]
    if sum(space.sizes) - len(space.sizes) > NEAR:
        reach = max(1, NEAR // len(space.sizes) // 4)  # options beside its own, on either side; as many are random
        for place, (size, own) in enumerate(zip(space.sizes, row.tolist(), strict=True)):
            beside = range(max(0, own - reach), min(size, own + reach + 1))
            some = {*beside, *rng.integers(size, size=2 * reach).tolist()}
            if size > 4 * reach:
                options[place] = sorted(some)
    rows = space.neighbour_rows(row, options)
    if space.constraints is None:
        return rows
    done = {(int(place), int(rows[i, place])) for i, place in zip(*np.nonzero(rows != row), strict=True)}
    changes = ((place, index) for place, some in enumerate(options) for index in some if index != row[place])
    wanted = [change for change in changes if change not in done]
    drawn = [wanted[i] for i in sorted(rng.permutation(len(wanted))[:FORCED].tolist())]
    forced = space.constraints.moves(row, drawn, rng)
    return np.concatenate([rows, forced[space.accepted(forced)]])


def recombine(space: SearchSpace, rows: np.ndarray, rng: np.random.Generator, n: int) -> np.ndarray:
    """Up to ``n`` valid codes, each of whose options comes from one of two codes drawn at random, as option indices."""
    if not len(rows):
        return rows
    first, second = rows[rng.integers(len(rows), size=(2, n))]
    children = np.where(rng.random(first.shape) < 0.5, first, second)
    children = space.repaired(children, rng)
    return children[space.accepted(children)]
