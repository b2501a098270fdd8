"""Training examples: a history as uniform draws or a search leaves it, a pool of new codes, and their true values."""

from dataclasses import dataclass

import numpy as np

from lmsearcher_local.history import History
from lmsearcher_local.prompt.compact import ALIASES, BASE, SLOTS, hint_bins, scale_length, score_bins
from lmsearcher_local.space import SearchSpace
from lmsearcher_local.surrogate import process
from lmsearcher_local.training.prior import Objective, Rng, draw_objective, draw_ordinal, draw_sizes, draw_space

WIDER = 5  # times as many candidates as a pool holds, where the surrogate chooses among them


@dataclass(frozen=True, slots=True)
class Task:
    """One question: ``history`` and ``pool`` hold option indices [n, L] and [m, L], ``scores`` and ``truth`` values."""

    space: SearchSpace
    history: np.ndarray
    scores: np.ndarray
    pool: np.ndarray
    truth: np.ndarray

    def question(self) -> tuple[History, list[str]]:
        """History and pool as codes of the space."""
        code = self.space.code
        return History(tuple(map(code, self.history)), tuple(self.scores.tolist())), [*map(code, self.pool)]


@dataclass(frozen=True, slots=True)
class Batch:
    """Examples of equal shape: digit rows (slot-major ids without offset), score bins, aliases and pool values."""

    digits: np.ndarray  # [B, n + m, L]: slot * BASE + digit, the slot counted from the end
    bins: np.ndarray  # [B, n + m]
    hints: np.ndarray  # [B, m, 2]: bins of what the surrogate says of the pool
    aliases: np.ndarray  # [B, m]
    truth: np.ndarray  # [B, m]: normalised values of the pool


def draw_task(rng: Rng, positions: int, n: int, m: int) -> Task:
    """A task over a fresh space and objective."""
    sizes = draw_sizes(rng, positions, 2.0 * (n + m))
    ordinal = draw_ordinal(rng, positions)
    objective, space = draw_objective(rng, sizes, ordinal), draw_space(rng, sizes, ordinal)
    searched = rng.random() < 0.6
    history, scores = draw_search(rng, objective, sizes, n) if searched else draw_uniform(rng, objective, sizes, n)
    kind = rng.random()
    near = 0.0 if kind < 0.35 else 1.0 if kind < 0.75 else 0.5
    pool = draw_pool(rng, sizes, history, scores, m, near)
    if rng.random() < 0.4:
        count = int(min(WIDER * m, np.prod(sizes, dtype=float) - n))
        pool = _promising(rng, space, history, scores, draw_pool(rng, sizes, history, scores, count, near), m)
    return Task(space, history, scores, pool, objective(pool))


def draw_batch(rng: Rng, tasks: list[Task], augment: bool = True) -> Batch:
    """Tasks of equal shape as token arrays.

    With ``augment`` scales are made by a random prefix of the history, aliases and sometimes slots are random;
    without, everything is as the codec writes it.
    """
    n, (m, positions) = len(tasks[0].history), tasks[0].pool.shape
    digits, bins, hints, aliases, truths = [], [], [], [], []
    for task in tasks:
        slots = np.arange(positions)[::-1]
        if augment and rng.random() < 0.15:  # now and then any slots, so that the rare ones are trained
            slots = rng.permutation(SLOTS)[:positions]
        rows = np.concatenate([task.history, task.pool])
        digits.append(rows + slots * BASE)
        fitted = scale_length(n)
        if augment:
            fitted = int(rng.integers((n + 1) // 2, n + 1)) if rng.random() < 0.5 else n
        bins.append(score_bins(np.concatenate([task.scores, task.truth]), fitted))
        hints.append(hint_bins(task.space, *task.question()))
        aliases.append(rng.permutation(ALIASES)[:m] if augment else np.arange(m))
        truths.append((task.truth - task.truth.mean()) / (task.truth.std() + 1e-9))
    return Batch(np.stack(digits), np.stack(bins), np.stack(hints), np.stack(aliases), np.stack(truths))


def draw_shape(rng: Rng, tokens: int) -> tuple[int, int, int, int]:
    """Positions, history length, pool size and batch size of the next batch, of about ``tokens`` tokens."""
    style = rng.random()
    low, high = (3, 10) if style < 0.72 else (2, 16) if style < 0.92 else (17, 48)
    positions = int(rng.integers(low, high + 1))
    n = int(np.exp(rng.uniform(np.log(6), np.log(201))))
    m = int(rng.integers(6, 25))
    return positions, n, m, max(2, round(tokens / ((n + m) * (positions + 3))))


def draw_uniform(rng: Rng, objective: Objective, sizes: np.ndarray, n: int) -> tuple[np.ndarray, np.ndarray]:
    """A history of ``n`` distinct uniform rows, ``[n, positions]``, and their scores."""
    codes = _new_rows(rng, sizes, n, set(), lambda k: rng.integers(0, sizes, size=(k, len(sizes))))
    return codes, objective(codes)


def draw_search(rng: Rng, objective: Objective, sizes: np.ndarray, n: int) -> tuple[np.ndarray, np.ndarray]:
    """Random start, then rounds of changed copies of the best codes and some random ones."""
    start = int(rng.integers(min(4, n), n // 2 + 5))
    codes, scores = draw_uniform(rng, objective, sizes, min(start, n))
    taken = {row.tobytes() for row in codes}
    elite, fresh = int(rng.integers(1, 11)), rng.uniform(0, 0.3)
    rounds = max(4, (n - start) // 8)
    while len(codes) < n:
        best = codes[np.argsort(-scores)[:elite]]
        near = 0.0 if rng.random() < fresh else 1.0
        count = min(rounds, n - len(codes))
        new = _new_rows(rng, sizes, count, taken, lambda k, b=best, p=near: _changed(rng, sizes, b, k, p))
        codes, scores = np.concatenate([codes, new]), np.concatenate([scores, objective(new)])
    if rng.random() < 0.15:
        order = rng.permutation(n)
        return codes[order], scores[order]
    return codes, scores


def draw_pool(rng: Rng, sizes: np.ndarray, history: np.ndarray, scores: np.ndarray, m: int, near: float) -> np.ndarray:
    """``m`` rows that are not in the history; a share of about ``near`` of them are changed copies of its best."""
    best = history[np.argsort(-scores)[: int(rng.integers(1, 6))]]
    taken = {row.tobytes() for row in history}
    return _new_rows(rng, sizes, m, taken, lambda k: _changed(rng, sizes, best, k, near))


def _promising(
    rng: Rng, space: SearchSpace, history: np.ndarray, scores: np.ndarray, wide: np.ndarray, m: int
) -> np.ndarray:
    """``m`` of the rows ``wide`` as a search takes them: all or half by expected improvement, the others at random."""
    known, codes = Task(space, history, scores, wide, np.empty(0)).question()
    order = np.argsort(-process(space, known).appraise(codes).improvements, kind="stable")
    best = m if rng.random() < 0.5 else (m + 1) // 2
    return wide[rng.permutation([*order[:best], *rng.permutation(order[best:])[: m - best]])]


def _changed(rng: Rng, sizes: np.ndarray, parents: np.ndarray, k: int, near: float) -> np.ndarray:
    """``k`` rows, each with probability ``near`` a parent with one to three positions redrawn, else uniform."""
    rows = parents[rng.integers(len(parents), size=k)]
    fresh = rng.integers(0, sizes, size=rows.shape)
    share = rng.integers(1, 4, size=(k, 1)) / rows.shape[1]
    redrawn = (rng.random(rows.shape) < share) | (rng.random((k, 1)) >= near)
    return np.where(redrawn, fresh, rows)


def _new_rows(rng: Rng, sizes: np.ndarray, count: int, taken: set[bytes], propose) -> np.ndarray:  # type: ignore[no-untyped-def]
    """``count`` proposed rows that are not in ``taken``, which they join; uniform ones where proposals run dry."""
    found: list[np.ndarray] = []
    for attempt in range(1000):
        rows = propose(2 * count + 4) if attempt < 6 else rng.integers(0, sizes, size=(2 * count + 4, len(sizes)))
        for row in np.ascontiguousarray(rows, dtype=np.int64):
            key = row.tobytes()
            if key not in taken:
                taken.add(key)
                found.append(row)
                if len(found) == count:
                    return np.stack(found)
    raise ValueError(f"a space of {sizes.tolist()} holds no {count} new codes")
