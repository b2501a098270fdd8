"""Candidate pools: what the model is asked to choose from. Never an evaluated code.

A policy is a function ``(space, history, rng, size, exclude) -> codes``; every random choice comes from ``rng``.
"""

from collections.abc import Callable, Collection

import numpy as np

from lmsearcher_local.history import History
from lmsearcher_local.space import SearchSpace
from lmsearcher_local.surrogate import expected_improvement

PARENTS = 5  # codes whose neighbourhood is searched
SAMPLED = 200  # uniform codes that a surrogate considers besides

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
        fresh = [code for code in space.neighbours(parent) if code not in taken]
        taken.update(fresh)
        around += fresh
    kept = [around[i] for i in rng.permutation(len(around))[: size - max(1, size // 5)]]
    pool = kept + space.sample(rng, size - len(kept), {*exclude, *kept})
    return [pool[i] for i in rng.permutation(len(pool))]  # the place in the pool must say nothing


def surrogate(
    space: SearchSpace, history: History, rng: np.random.Generator, size: int, exclude: Collection[str]
) -> list[str]:
    """Of the unseen neighbours of the best codes and many uniform codes, those of highest expected improvement."""
    around = dict.fromkeys(code for parent in history.best(PARENTS).codes for code in space.neighbours(parent))
    candidates = [code for code in around if code not in exclude]
    candidates += space.sample(rng, SAMPLED, {*exclude, *candidates})
    if not candidates:
        return []
    promise = expected_improvement(space, history, candidates)
    return [candidates[i] for i in np.argsort(-promise, kind="stable")[:size]]


POLICIES: dict[str, Policy] = {"surrogate": surrogate, "local": local, "paper": uniform}
