"""What is known of a search: its space, its options, what was told, what is pending and what failed."""

from collections.abc import Mapping, Sequence
from functools import lru_cache

import numpy as np

from lmsearcher_local.candidates.earlier import Sources
from lmsearcher_local.candidates.goals import GoalsSurrogate, select_essential, standing
from lmsearcher_local.candidates.history import Direction, History
from lmsearcher_local.candidates.kernel import fit_kernel
from lmsearcher_local.candidates.limits import LimitedSurrogate, Points, breaks_limits
from lmsearcher_local.candidates.measures import is_finite
from lmsearcher_local.candidates.pareto import on_front
from lmsearcher_local.candidates.policies import policy
from lmsearcher_local.candidates.surrogate import Surrogate
from lmsearcher_local.candidates.told import NONE, Told
from lmsearcher_local.errors import HistoryError, brief
from lmsearcher_local.search.options import SearchOptions
from lmsearcher_local.spaces.space import SearchSpace
from lmsearcher_local.system.plain import quantity

FITS = 32  # of the kernel that are remembered: beginnings of the history, with pending codes and without, by limit


class State:
    """All that ``propose`` depends on beside the model. ``known`` holds every code that is not proposed again.

    ``seed`` is of the random generators; a sampler that shares its study with others changes it. A ``HistoryError``
    where there are too many earlier searches, a ``SpaceError`` where a first code is not of this space.
    """

    def __init__(self, space: SearchSpace, options: SearchOptions) -> None:
        self.space = space
        self.options = options
        self.seed = options.seed
        self.policy = policy(options.policy)
        self.sources = Sources(options.earlier)
        self._fit = lru_cache(maxsize=FITS)(fit_kernel)
        self._valid: set[str] = set()  # codes that were checked, because the same ones are told again and again
        self.clear(*options.directions)
        for code in options.first:
            self._check(code)

    def clear(self, *directions: Direction) -> None:
        """Forget everything told, begun and closed; from now on a value is told for each of the directions."""
        self.goals = [Told(1.0 if direction == "maximize" else -1.0) for direction in directions]
        self.told = self.goals[0]  # all of them hold the same codes and violations
        self.pending: dict[str, None] = {}  # begun and not yet told, in that order
        self.closed: set[str] = set()  # failed
        self.known: set[str] = set()

    def tell(
        self,
        code: str,
        value: float | Sequence[float],
        number: int | None = None,
        violations: Mapping[str, float] = NONE,
    ) -> None:
        """Add the value of a code, of several goals one for each, and by how much it breaks each limit, by name; see
        ``Searcher.tell``."""
        self._check(code)
        values = value if isinstance(value, (tuple, list)) else (value,)
        if len(values) != len(self.goals):
            raise HistoryError(f"{code} came with {quantity(len(values), 'value')}, not {len(self.goals)}")
        for one in values:
            check_number(code, one)
        self.pending.pop(code, None)
        self.closed.discard(code)
        self.known.add(code)
        for goal, one in zip(self.goals, values, strict=True):
            goal.tell(code, float(one), number, violations)

    def begin(self, code: str) -> None:
        """Note that a code is being evaluated."""
        self._check(code)
        if code not in self.told:
            self.pending[code] = None
            self.known.add(code)

    def close(self, code: str) -> None:
        """Rule out a code without a value."""
        self._check(code)
        self.pending.pop(code, None)
        self.known.add(code)
        if code not in self.told:
            self.closed.add(code)

    def forget_pending(self) -> None:
        """Forget what was begun and not yet told, for a caller that says anew what is pending."""
        self.known.difference_update(self.pending.keys() - self.closed)
        self.pending.clear()

    def surrogate(self, sources: Sources) -> Surrogate:
        """What is expected of codes, with these earlier searches; pending ones count with the score that is expected of
        them."""
        found: Surrogate
        if len(self.goals) > 1:
            found = GoalsSurrogate(self.space, select_essential(self._points), self._fit)
        elif self.told.limits:
            found = LimitedSurrogate(self.space, self.told.essential_points, self._fit, sources)
        else:
            found = Surrogate(self.space, self.told.essential, self._fit, sources)
        return found.with_pending([*self.pending]) if self.pending else found

    def ranking(self) -> History:
        """The codes told, in order of evaluation, with scores that say which are better; with several goals, how far
        each stands off the front."""
        if len(self.goals) == 1:
            return self.told.history
        points = self._points
        return History(points.codes, tuple((-standing(points)).tolist()))

    def front(self) -> list[tuple[str, tuple[float, ...]]]:
        """The codes within the limits that no other of them dominates, in order of evaluation, and their values."""
        points = self._points
        values = points.scores * [goal.sign for goal in self.goals]
        bad = breaks_limits(points.violations)
        places = np.flatnonzero(~bad)[on_front(points.scores[~bad])] if not bad.all() else ()
        return [(points.codes[i], tuple(values[i].tolist())) for i in places]

    @property
    def _points(self) -> Points:
        """What was told of several goals: scores ``[codes, goals]``."""
        told = [goal.points for goal in self.goals]
        return Points(told[0].codes, np.stack([points.scores for points in told], 1), told[0].violations)

    def _check(self, code: str) -> None:
        if code not in self._valid:
            self.space.decode(code)
            self._valid.add(code)


def check_number(code: str, value: object, what: str = "value") -> None:
    """Make sure that what is told of a code is a finite number; else a ``HistoryError``."""
    if not is_finite(value):
        raise HistoryError(f"the {what} of {code} is {brief(value)}; a finite number is needed")
