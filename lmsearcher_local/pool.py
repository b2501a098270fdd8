"""Candidate pools: what the model is asked to choose from. Never an evaluated code.

A policy is a function ``(space, history, rng, size, exclude) -> codes``; every random choice comes from ``rng``.
"""

from collections.abc import Callable, Collection, Sequence

import numpy as np

from lmsearcher_local.history import History
from lmsearcher_local.space import SearchSpace
from lmsearcher_local.surrogate import process

PARENTS = 5  # codes whose neighbourhood is searched
RECOMBINED, SAMPLED = 50, 200  # other codes that a surrogate considers
NEAR = 1000  # changes of one parameter that are looked at around a code
CLIMBS, CLIMBERS = 2, 3  # rounds in which it looks around what it found, and around how many

Policy = Callable[[SearchSpace, History, np.random.Generator, int, Collection[str]], list[str]]


def uniform(
    space: SearchSpace, history: History, rng: np.random.Generator, size: int, exclude: Collection[str]
) -> list[str]:
    """The paper's pool: distinct unseen codes, uniform over the space."""
    return space.sample(rng, size, exclude)


def local(
    space: SearchSpace, history: History, rng: np.random.Generator, size: int, exclude: Collection[str]
) -> list[str]:
    """Unseen neighbours of the best codes, nearly all of the pool, with some uniform codes for exploration.

    A uniform pool of ten rarely holds a good code late in a search: even a perfect ranker loses to plain local search.
    """
    taken = set(exclude)
    around = []
    for parent in history.best(PARENTS).codes:
        fresh = [code for code in near(space, parent, rng) if code not in taken]
        taken.update(fresh)
        around += fresh
    kept = [around[i] for i in rng.permutation(len(around))[: size - max(1, size // 5)]]
    pool = kept + space.sample(rng, size - len(kept), {*exclude, *kept})
    return [pool[i] for i in rng.permutation(len(pool))]  # the place in the pool must say nothing


def surrogate(
    space: SearchSpace, history: History, rng: np.random.Generator, size: int, exclude: Collection[str]
) -> list[str]:
    """Of hundreds of unseen codes those of highest expected improvement, and as many others at random.

    Considered are the neighbours of the best codes, recombinations of them and uniform codes; then, twice, the
    neighbours of what is most promising so far. The others are there because a surrogate errs, and the model may not.
    """
    parents = history.best(PARENTS).codes
    around = [*neighbourhood(space, parents, rng), *recombined(space, parents, rng, RECOMBINED)]
    candidates = list(dict.fromkeys(code for code in around if code not in exclude))
    candidates += space.sample(rng, SAMPLED, {*exclude, *candidates})
    if not candidates:
        return []
    gaussian = process(space, history)
    promise = gaussian.appraise(candidates).improvements
    for _ in range(CLIMBS):
        top = [candidates[i] for i in np.argsort(-promise, kind="stable")[:CLIMBERS]]
        seen = {*exclude, *candidates}
        fresh = [code for code in neighbourhood(space, top, rng) if code not in seen]
        if fresh:
            candidates += fresh
            promise = np.concatenate([promise, gaussian.appraise(fresh).improvements])
    order = np.argsort(-promise, kind="stable")
    half = (size + 1) // 2
    picked = rng.permutation([*order[:half], *rng.permutation(order[half:])[: size - half]])
    return [candidates[i] for i in picked]  # the place in the pool must say nothing


def neighbourhood(space: SearchSpace, codes: Sequence[str], rng: np.random.Generator) -> list[str]:
    """The neighbours of every code, each once."""
    return list(dict.fromkeys(neighbour for code in codes for neighbour in near(space, code, rng)))


def near(space: SearchSpace, code: str, rng: np.random.Generator) -> list[str]:
    """The neighbours of a code. Of very many about ``NEAR``: of each parameter some options beside its own, some at
    random."""
    if sum(space.sizes) - len(space.sizes) <= NEAR:
        return space.neighbours(code)
    reach = max(1, NEAR // len(space.sizes) // 4)  # options beside its own, on either side; as many are random
    options: list[list[int]] = []
    for size, own in zip(space.sizes, space.indices(code), strict=True):
        beside = range(max(0, own - reach), min(size, own + reach + 1))
        some = {*beside, *rng.integers(size, size=2 * reach).tolist()}
        options.append(sorted(some) if size > 4 * reach else [*range(size)])
    return space.neighbours(code, options)


def recombined(space: SearchSpace, codes: Sequence[str], rng: np.random.Generator, n: int) -> list[str]:
    """Up to ``n`` valid codes, each of whose options comes from one of two codes drawn at random."""
    rows = space.array(codes)
    first, second = rows[rng.integers(len(rows), size=(2, n))]
    children = space.codes(np.where(rng.random(first.shape) < 0.5, first, second))
    return [child for child in children if space.valid is None or child in space]


POLICIES: dict[str, Policy] = {"surrogate": surrogate, "local": local, "paper": uniform}
