"""What was evaluated: codes and scores in order of evaluation, higher always better."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy.special import ndtri

from lmsearcher_local.errors import HistoryError

Direction = Literal["maximize", "minimize"]

HISTORY_CAP = 200  # items shown at most (published protocol)
BEYOND = 1.2  # how far past the scores that made a scale of normal scores a new extreme may reach


@dataclass(frozen=True, slots=True)
class History:
    """Distinct evaluated codes and their scores, in order of evaluation; a minimised value enters negated.

    Raises:
        HistoryError: lengths differ, a code stands twice, or a score is not a finite number.
    """

    codes: tuple[str, ...] = ()
    scores: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        if len(self.codes) != len(self.scores):
            raise HistoryError(f"{len(self.codes)} codes came with {len(self.scores)} scores")
        if len(set(self.codes)) != len(self.codes):
            raise HistoryError("a history holds each code once")
        for code, score in zip(self.codes, self.scores, strict=True):
            if not math.isfinite(score):
                raise HistoryError(f"the score of {code} is {score}; a finite number is needed")

    def __len__(self) -> int:
        return len(self.codes)

    def best(self, n: int) -> "History":
        """The ``n`` best points, best first; equal scores stay in order of evaluation."""
        order = sorted(range(len(self)), key=lambda i: -self.scores[i])[:n]
        return History(tuple(self.codes[i] for i in order), tuple(self.scores[i] for i in order))


def min_max(scores: Sequence[float]) -> list[float]:
    """Scores scaled to [0, 1] over the items shown; all equal become 1.0 (the published code divides by zero there)."""
    low, high = min(scores), max(scores)
    # Halving first keeps the span finite for scores near the largest float.
    span = high / 2 - low / 2
    return [1.0 if span == 0 else (score / 2 - low / 2) / span for score in scores]


def truncate_history(scores: Sequence[float], cap: int = HISTORY_CAP) -> list[int]:
    """Which trials are shown: all, or over the cap the best half and the most recent ones, in order of evaluation."""
    n = len(scores)
    if n <= cap:
        return list(range(n))
    kept = set(sorted(range(n), key=lambda i: -scores[i])[: cap // 2])
    for i in reversed(range(n)):
        if len(kept) == cap:
            break
        kept.add(i)
    return sorted(kept)


def scores_at(normal: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """The scores of which ``normal_scores`` makes ``normal`` on the scale of ``scores``: its way back."""
    values, knots, slopes = _scale(scores)
    found = np.interp(normal, knots, values)
    for end, slope in zip((-1, 0), slopes, strict=True):
        past = normal > knots[end] if end else normal < knots[end]
        away = np.minimum(np.abs(normal[past] - knots[end]) / BEYOND, 1 - 1e-9)  # a scale has no end that is reached
        with np.errstate(over="ignore"):
            reach = -BEYOND * np.log1p(-away) / slope if slope else 0.0
        found[past] = np.clip(values[end] - np.sign(end + 0.5) * reach, -np.finfo(float).max, np.finfo(float).max)
    return found


def normal_scores(scores: np.ndarray, fitted: int) -> np.ndarray:
    """Normal scores of ranks among the first ``fitted``; others are interpolated, or follow the tail's slope."""
    values, knots, slopes = _scale(scores[:fitted])
    z = np.interp(scores, values, knots)
    if len(values) == 1:
        return z + np.sign(scores - values[0]) * BEYOND / 2
    for end, slope in zip((-1, 0), slopes, strict=True):
        past = scores > values[end] if end else scores < values[end]
        with np.errstate(over="ignore"):
            reach = np.abs((scores[past] - values[end]) * slope)
        z[past] = knots[end] + np.sign(end + 0.5) * -BEYOND * (1 - np.exp(-reach / BEYOND))
    return z


def _scale(scores: np.ndarray) -> tuple[np.ndarray, np.ndarray, tuple[float, float]]:
    """The distinct scores, ascending, the normal scores of their ranks, and how steep these are past the last and the
    first of them."""
    values, counts = np.unique(scores, return_counts=True)
    ends = np.cumsum(counts)
    knots = ndtri((ends - (counts - 1) / 2 - 0.375) / (len(scores) + 0.25))  # ties share the middle of their ranks
    if len(values) == 1:
        return values, knots, (0.0, 0.0)
    middle = int(np.searchsorted(values, np.median(scores)).clip(1, len(values) - 2)) if len(values) > 2 else 1
    with np.errstate(over="ignore"):
        last, first = (
            float((knots[end] - knots[other]) / (values[end] - values[other]))
            for end, other in ((-1, min(middle, len(values) - 2)), (0, max(middle, 1)))
        )
    return values, knots, (last, first)
