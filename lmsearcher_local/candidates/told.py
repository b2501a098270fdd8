"""What was told of a search: values of codes in the order of their trials."""

from bisect import bisect_left, insort

from lmsearcher_local.candidates.history import HISTORY_CAP, History


class Told:
    """Values of codes. Told again, a code keeps its place, and its score is the mean of its values.

    A trial is placed by its number, so that several at once may end in any order. Nothing here takes longer the more
    was told, but for ``history``.

    Args:
        sign: 1 where values are maximised, -1 where they are minimised; a score is a value times the sign.
    """

    def __init__(self, sign: float) -> None:
        self.sign = sign
        self._values: dict[str, list[tuple[int, float]]] = {}  # of each code the trials, by number
        self._scored: dict[int, tuple[str, float]] = {}  # code and score by the number of the code's first trial
        self._numbers: list[int] = []  # of first trials, ascending
        self._ranked: list[tuple[float, int]] = []  # negated score and number of first trials, the best first

    def __len__(self) -> int:
        return len(self._numbers)

    def __contains__(self, code: str) -> bool:
        return code in self._values

    def tell(self, code: str, value: float, number: int | None = None) -> None:
        """Add a value; without a number behind all others. A number told again has the new value."""
        values = self._values.setdefault(code, [])
        if values:
            _, score = self._scored.pop(first := values[0][0])
            del self._numbers[bisect_left(self._numbers, first)]
            del self._ranked[bisect_left(self._ranked, (-score, first))]
            values[:] = [told for told in values if told[0] != number]
        insort(values, (self._behind if number is None else number, value))
        self._behind = max(self._behind, values[-1][0] + 1)
        first, score = values[0][0], self.sign * (sum(value for _, value in values) / len(values))
        self._scored[first] = code, score
        insort(self._numbers, first)
        insort(self._ranked, (-score, first))

    _behind = 0  # the number behind all that was told

    @property
    def history(self) -> History:
        """All of it."""
        return self._history(self._numbers)

    @property
    def essential(self) -> History:
        """What prompts and surrogates depend on, at most three times ``HISTORY_CAP`` codes in order of evaluation.

        They show the best and the latest ones; kernel and scale are those of the first. With these codes they are what
        they are with all.
        """
        if len(self) <= HISTORY_CAP:
            return self.history
        kept = {*self._numbers[:HISTORY_CAP], *self._numbers[-HISTORY_CAP:]}
        kept.update(number for _, number in self._ranked[:HISTORY_CAP])
        return self._history(sorted(kept))

    @property
    def best(self) -> tuple[str, float]:
        """The best code, of equal ones the first, and its value."""
        code, score = self._scored[self._ranked[0][1]]
        return code, self.sign * score

    def _history(self, numbers: list[int]) -> History:
        scored = [self._scored[number] for number in numbers]
        return History(tuple(code for code, _ in scored), tuple(score for _, score in scored))
