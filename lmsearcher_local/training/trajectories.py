"""Training examples: a history as uniform draws or a search leaves it, pools of new codes, and their true values."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import numpy as np

from lmsearcher_local.candidates.history import History, normal_scores
from lmsearcher_local.candidates.kernel import usual_kernel
from lmsearcher_local.candidates.surrogate import Surrogate, expected_improvement, scale_length
from lmsearcher_local.model.codecs.compact import (
    ALIASES,
    SETS,
    SLOTS,
    CodeFeatures,
    candidate_numbers,
    code_features,
    lay_out,
    trial_numbers,
)
from lmsearcher_local.spaces.space import SearchSpace
from lmsearcher_local.training.prior import Objective, Rng, draw_objective, draw_ordinal, draw_sizes, draw_space

WIDER = 5  # times as many candidates as a pool holds, where the surrogate chooses among them
CANDIDATES = 60  # about as many stand behind one history, in several pools
WRONG_KERNEL, NOISY, USELESS = 0.1, 0.1, 0.1  # shares of lessons whose hints are bad on purpose
TELLING = 40  # trials from which the shares hold: fewer cannot show that hints are bad, and shares are smaller


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
        return _history(self.space, self.history, self.scores), self.space.codes(self.pool)


@dataclass(frozen=True, slots=True)
class Lesson:
    """Several pools behind one history: ``pools`` [k, m, L], ``truth`` [k, m], and the surrogate of the history."""

    space: SearchSpace
    history: np.ndarray
    scores: np.ndarray
    pools: np.ndarray
    truth: np.ndarray
    surrogate: Surrogate


class Batch(NamedTuple):
    """Lessons of equal shape as the model takes them: ``n`` trials, then ``k`` pools of ``m`` candidates."""

    codes: CodeFeatures  # [B, n + k * m, slots]
    trials: np.ndarray  # [B, n, features]
    candidates: np.ndarray  # [B, k * m, features]
    truth: np.ndarray  # [B, k, m]: values of the pool, standardised
    scores: np.ndarray  # [B, k, m]: the same as normal scores on the history's scale
    best: np.ndarray  # [B]: the best score of the history


def draw_lesson(rng: Rng, positions: int, n: int, m: int, k: int, wrong: float = 0.0) -> Lesson:
    """A lesson over a fresh space and objective; with probability ``wrong`` the surrogate has a kernel at random."""
    sizes = draw_sizes(rng, positions, 2.0 * (n + k * m))
    ordinal = draw_ordinal(rng, positions)
    objective, space = draw_objective(rng, sizes, ordinal), draw_space(rng, sizes, ordinal)
    history, scores = (draw_search if rng.random() < 0.6 else draw_uniform)(rng, objective, sizes, n)
    known = _history(space, history, scores)
    surrogate = Surrogate(space, known)
    shown = surrogate
    if rng.random() < wrong * _telling(n):
        usual, spread = usual_kernel(space)
        theta = usual + spread * np.clip(1.5 * rng.standard_normal(len(usual)), -3, 3)
        shown = Surrogate(space, known, lambda *_: theta)
    pools = []
    for _ in range(k):
        kind = rng.random()
        near = 0.0 if kind < 0.35 else 1.0 if kind < 0.75 else 0.5
        chosen = rng.random() < 0.4
        count = int(min(WIDER * m, np.prod(sizes, dtype=float) - n)) if chosen else m
        pool = draw_pool(rng, sizes, history, scores, count, near)
        pools.append(_most_promising(rng, surrogate, pool, m) if chosen else pool)
    truth = objective(np.concatenate(pools)).reshape(k, m)
    return Lesson(space, history, scores, np.stack(pools), truth, shown)


def draw_batch(rng: Rng, lessons: list[Lesson], augment: bool = True) -> Batch:
    """Lessons of equal shape as arrays.

    With ``augment`` slots and sets are random, and the hints of some lessons bad; without, everything is as the codec
    writes it.
    """
    parts = [_arrays(rng, lesson, augment) for lesson in lessons]
    codes, *others = zip(*parts, strict=True)
    stacked = [np.stack(column) for column in others]
    return Batch(CodeFeatures(*map(np.stack, zip(*codes, strict=True))), *stacked)


def _arrays(rng: Rng, lesson: Lesson, augment: bool) -> Batch:
    k, m, positions = lesson.pools.shape
    layout = lay_out(lesson.space)
    if augment:
        sets = np.append(rng.permutation(SETS), -1)[layout.sets]
        layout = layout._replace(slots=rng.permutation(SLOTS)[: len(layout.slots)], sets=sets)
    pool = lesson.pools.reshape(-1, positions)
    codes = code_features(layout, np.concatenate([lesson.history, pool]))
    surrogate = lesson.surrogate
    hindsight, (means, deviations, improvements) = surrogate.hindsight, surrogate.appraise(lesson.space.codes(pool))
    before = hindsight.means
    if augment and (kind := rng.random() / _telling(len(lesson.scores))) < NOISY + USELESS:
        before, means = (_worsen(rng, kind, part) for part in (before, means))
        improvements = expected_improvement(means, deviations, surrogate.best)
    fitted = scale_length(len(lesson.scores))
    together = normal_scores(np.concatenate([lesson.scores, lesson.truth.ravel()]), fitted)
    together -= together[:fitted].mean()
    spread = lesson.truth.std(1, keepdims=True) + 1e-9
    return Batch(
        codes,
        trial_numbers(hindsight.scores, before, hindsight.deviations),
        candidate_numbers(means, deviations, improvements, surrogate.best),
        ((lesson.truth - lesson.truth.mean(1, keepdims=True)) / spread).astype(np.float32),
        together[len(lesson.scores) :].reshape(k, m).astype(np.float32),
        together[: len(lesson.scores)].max(keepdims=False).astype(np.float32),
    )


def _telling(n: int) -> float:
    return min(1.0, n / TELLING)


def _worsen(rng: Rng, kind: float, means: np.ndarray) -> np.ndarray:
    """Expectations with noise, or noise in their place."""
    noise = rng.standard_normal(len(means)) * max(means.std(), 0.3)
    return means + noise * rng.uniform(0.3, 2) if kind < NOISY else noise


def draw_shape(rng: Rng, rows: int) -> tuple[int, int, int, int, int]:
    """Positions, history length, pool size, pools and batch size of the next batch, of about ``rows`` rows."""
    style = rng.random()
    low, high = (3, 10) if style < 0.72 else (2, 16) if style < 0.92 else (17, 48)
    positions = int(rng.integers(low, high + 1))
    n = int(np.exp(rng.uniform(np.log(4), np.log(201))))
    size = rng.random()
    m = 10 if size < 0.6 else int(rng.integers(2, 25) if size < 0.96 else rng.integers(25, ALIASES + 1))
    k = max(1, round(CANDIDATES / max(m, 8)))
    cost = (n + k * (m + 1)) * (1 + positions / 32)  # a code is a sum over its positions
    return positions, n, m, k, max(2, round(rows / cost))


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
        new = _new_rows(rng, sizes, count, taken, partial(_change, rng, sizes, best, near=near))
        codes, scores = np.concatenate([codes, new]), np.concatenate([scores, objective(new)])
    if rng.random() < 0.15:
        order = rng.permutation(n)
        return codes[order], scores[order]
    return codes, scores


def draw_pool(rng: Rng, sizes: np.ndarray, history: np.ndarray, scores: np.ndarray, m: int, near: float) -> np.ndarray:
    """``m`` rows that are not in the history; a share of about ``near`` of them are changed copies of its best."""
    best = history[np.argsort(-scores)[: int(rng.integers(1, 6))]]
    taken = {row.tobytes() for row in history}
    return _new_rows(rng, sizes, m, taken, partial(_change, rng, sizes, best, near=near))


def _most_promising(rng: Rng, surrogate: Surrogate, wide: np.ndarray, m: int) -> np.ndarray:
    """``m`` of the rows ``wide`` as a search takes them: all or half by expected improvement, the others at random."""
    improvements = surrogate.appraise(surrogate.space.codes(wide)).improvements
    order = np.argsort(-improvements, kind="stable")
    best = m if rng.random() < 0.5 else (m + 1) // 2
    return wide[rng.permutation([*order[:best], *rng.permutation(order[best:])[: m - best]])]


def _history(space: SearchSpace, rows: np.ndarray, scores: np.ndarray) -> History:
    return History(tuple(space.codes(rows)), tuple(scores.tolist()))


def _change(rng: Rng, sizes: np.ndarray, parents: np.ndarray, k: int, near: float) -> np.ndarray:
    """``k`` rows, each with probability ``near`` near a parent, else uniform.

    Of those near one half differ from it in one position, the others have one to three redrawn.
    """
    rows = parents[rng.integers(len(parents), size=k)]
    fresh = rng.integers(0, sizes, size=rows.shape)
    share = rng.integers(1, 4, size=(k, 1)) / rows.shape[1]
    one = rng.integers(rows.shape[1], size=(k, 1)) == np.arange(rows.shape[1])
    redrawn = np.where(rng.random((k, 1)) < 0.5, one, rng.random(rows.shape) < share)
    return np.where(redrawn | (rng.random((k, 1)) >= near), fresh, rows)


def _new_rows(
    rng: Rng, sizes: np.ndarray, count: int, taken: set[bytes], propose: Callable[[int], np.ndarray]
) -> np.ndarray:
    """``count`` proposed rows that are not in ``taken``, which they join; uniform ones where proposals run dry."""
    found: list[np.ndarray] = []
    for attempt in range(1000):
        rows = propose(2 * count + 4) if attempt < 6 else rng.integers(0, sizes, size=(2 * count + 4, len(sizes)))
        for row in np.ascontiguousarray(rows, dtype=np.int64):
            if row.tobytes() not in taken:
                taken.add(row.tobytes())
                found.append(row)
                if len(found) == count:
                    return np.stack(found)
    raise ValueError(f"a space of {sizes.tolist()} holds no {count} new codes")
