"""What was told of a search: values of codes in the order of their trials."""

import math
from bisect import bisect_left, insort
from collections.abc import Mapping
from types import MappingProxyType

import numpy as np

from lmsearcher_local.candidates.history import HISTORY_CAP, History
from lmsearcher_local.candidates.limits import Points, breaks_limits, excess, rank_scores

FAR = 1e100  # violations are brought within it: their squares are finite
NONE: Mapping[str, float] = MappingProxyType({})


class Told:
    """Values of codes. Told again, a code keeps its place, and its score is the mean of its values.

    A trial is placed by its number, so that several at once may end in any order. Nothing here takes longer the more
    was told, but for ``history``; where there are limits, nothing but ``tell`` does. A score is a value times the
    ``sign``: 1 where values are maximised, -1 where they are minimised.
    """

    def __init__(self, sign: float) -> None:
        self.sign = sign
        self._values: dict[str, list[tuple[int, float]]] = {}  # of each code the trials, by number
        self._violations: dict[str, dict[str, dict[int, float]]] = {}  # by limit, code and trial
        self._scored: dict[int, tuple[str, float]] = {}  # code and score by the number of the code's first trial
        self._numbers: list[int] = []  # of first trials, ascending
        self._behind = 0  # the number behind all that was told
        self._ranked: list[tuple[float, int]] = []  # negated score and number of first trials, the best first

    def __len__(self) -> int:
        return len(self._numbers)

    def __contains__(self, code: str) -> bool:
        return code in self._values

    def tell(self, code: str, value: float, number: int | None = None, violations: Mapping[str, float] = NONE) -> None:
        """Add a value, and by how much it breaks each limit; without a number behind all others. A number told again
        has the new value."""
        values = self._values.setdefault(code, [])
        if values:
            _, score = self._scored.pop(first := values[0][0])
            del self._numbers[bisect_left(self._numbers, first)]
            del self._ranked[bisect_left(self._ranked, (-score, first))]
            values[:] = [told for told in values if told[0] != number]
        number = self._behind if number is None else number
        for limit, violation in violations.items():
            known = self._violations.setdefault(limit, {}).setdefault(code, {})
            known[number] = min(max(violation, -FAR), FAR)
        insort(values, (number, value))
        self._behind = max(self._behind, values[-1][0] + 1)
        first, score = values[0][0], self.sign * (sum(value for _, value in values) / len(values))
        self._scored[first] = code, score
        insort(self._numbers, first)
        insort(self._ranked, (-score, first))

    @property
    def limits(self) -> tuple[str, ...]:
        """The names of the limits of which violations were told."""
        return tuple(sorted(self._violations))

    @property
    def history(self) -> History:
        """All of it. What breaks a limit lies below all that hold, see ``limits.rank_scores``."""
        return self._history(self._numbers)

    @property
    def essential(self) -> History:
        """What prompts and surrogates depend on, at most three times ``HISTORY_CAP`` codes in order of evaluation.

        They show the best and the latest ones; kernel and scale are those of the first. With these codes they are what
        they are with all.
        """
        return self._history(self._essential)

    @property
    def essential_points(self) -> Points:
        """The same, as scores and violations."""
        return self._points(self._essential)

    @property
    def points(self) -> Points:
        """All of it, as scores and violations."""
        return self._points(self._numbers)

    @property
    def _essential(self) -> list[int]:
        if len(self) <= HISTORY_CAP:
            return self._numbers
        kept = {*self._numbers[:HISTORY_CAP], *self._numbers[-HISTORY_CAP:]}
        best = [number for _, number in self._ranked[:HISTORY_CAP]]
        if self.limits:
            order = np.argsort(-np.array(self.history.scores), kind="stable")[:HISTORY_CAP]
            best = [self._numbers[i] for i in order]
        return sorted(kept | {*best})

    @property
    def best(self) -> tuple[str, float] | None:
        """The best code of those that hold every limit, of equal ones the first, and its value; nothing where there is
        none."""
        if not self._violations:
            code, score = self._scored[self._ranked[0][1]]
            return code, self.sign * score
        codes, scores, violations = self._points(self._numbers)
        holds = np.flatnonzero(~breaks_limits(violations))
        if not len(holds):
            return None
        best = holds[np.argmax(scores[holds])]
        return codes[best], self.sign * float(scores[best])

    @property
    def nearest(self) -> tuple[str, dict[str, float]]:
        """The code that breaks the limits least, and by how much it breaks those that it breaks."""
        codes, _, violations = self._points(self._numbers)
        least = int(np.argmin(excess(violations)))
        amounts = zip(self.limits, violations[least].tolist(), strict=True)
        return codes[least], {limit: amount for limit, amount in amounts if amount > 0}

    def _history(self, numbers: list[int]) -> History:
        codes, scores, violations = self._points(numbers)
        return History(codes, tuple(rank_scores(scores, violations).tolist()))

    def _points(self, numbers: list[int]) -> Points:
        codes = tuple(self._scored[number][0] for number in numbers)
        scores = np.array([self._scored[number][1] for number in numbers])
        known = [self._violations[limit].get(code) for code in codes for limit in self.limits]
        means = [math.fsum(found.values()) / len(found) if found else math.nan for found in known]
        return Points(codes, scores, np.array(means).reshape(len(codes), len(self.limits)))
