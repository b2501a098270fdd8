"""What was evaluated: codes and scores in order of evaluation, higher always better."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from lmsearcher_local.errors import HistoryError


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
