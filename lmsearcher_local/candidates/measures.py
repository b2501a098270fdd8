"""What is measured of a configuration: one number, or several by name, of which goals and limits speak."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from numbers import Real
from typing import TYPE_CHECKING, TypeGuard, TypeVar

from lmsearcher_local.errors import MeasureError

if TYPE_CHECKING:  # the command line reads goals and limits before anything slow is imported
    from lmsearcher_local.candidates.history import Direction

DIRECTIONS: "dict[str, Direction]" = {"max": "maximize", "min": "minimize"}


@dataclass(frozen=True, slots=True)
class Goal:
    """A measured value to search for the best of. It has a name and one of the ``DIRECTIONS`` (``MeasureError``)."""

    name: str
    direction: "Direction"

    def __post_init__(self) -> None:
        if not self.name.strip() or self.direction not in DIRECTIONS.values():
            raise MeasureError(f"a goal has a name and is maximized or minimized; {self.name!r}, {self.direction!r}")

    def __str__(self) -> str:
        """As ``parse_goal`` reads it."""
        return f"{self.name}:{self.direction[:3]}"


@dataclass(frozen=True, slots=True)
class Limit:
    """What a measured value may be at most (``upper``) or at least; a ``MeasureError`` without name or finite bound."""

    name: str
    bound: float
    upper: bool

    def __post_init__(self) -> None:
        if not self.name.strip():
            raise MeasureError("a limit has a name: that of a measured value")
        if not math.isfinite(self.bound):
            raise MeasureError(f"the limit of {self.name} is {self.bound}; a finite number is needed")

    def __str__(self) -> str:
        """As ``parse_limit`` reads it; a study calls the limit's constraint so."""
        short = f"{self.bound:g}"
        return f"{self.name} {'<=' if self.upper else '>='} {short if float(short) == self.bound else repr(self.bound)}"

    def violation(self, value: float) -> float:
        """By how much a value breaks the limit, above 0; at most 0 where it holds."""
        return value - self.bound if self.upper else self.bound - value


def is_finite(value: object) -> TypeGuard[float]:
    """Whether a value is a number, no boolean, that a float can hold."""
    try:
        return isinstance(value, Real) and not isinstance(value, bool) and math.isfinite(value)
    except OverflowError:  # a whole number that is too large
        return False


def parse_goal(text: str) -> Goal:
    """A goal written like ``accuracy:max`` or ``latency:min``; a ``MeasureError`` for any other text."""
    name, _, direction = (part.strip() for part in text.rpartition(":"))
    if not name or direction not in DIRECTIONS:
        raise MeasureError(f"a goal is written NAME:max or NAME:min, not {text!r}")
    return Goal(name, DIRECTIONS[direction])


def parse_limit(text: str) -> Limit:
    """A limit written like ``latency <= 500`` or ``accuracy >= 0.9``; a ``MeasureError`` for any other text."""
    sign = "<=" if "<=" in text else ">="
    name, found, bound = (part.strip() for part in text.partition(sign))
    try:
        number = float(bound)
    except ValueError:
        number = math.nan
    if not name or not found or not math.isfinite(number):
        raise MeasureError(f"a limit is written NAME <= NUMBER or NAME >= NUMBER, not {text!r}")
    return Limit(name, number, sign == "<=")


def goals_of(goals: Iterable[Goal | str]) -> tuple[Goal, ...]:
    """Goals, some of them as text; a ``MeasureError`` where two have one name."""
    found = tuple(parse_goal(goal) if isinstance(goal, str) else goal for goal in goals)
    if twice := _twice([goal.name for goal in found]):
        raise MeasureError(f"two goals are called {twice}")
    return found


def limits_of(limits: Iterable[Limit | str]) -> tuple[Limit, ...]:
    """Limits, some of them as text; a ``MeasureError`` where two bound the same side of one value."""
    found = tuple(parse_limit(limit) if isinstance(limit, str) else limit for limit in limits)
    if twice := _twice([(limit.name, limit.upper) for limit in found]):
        raise MeasureError(f"two limits say what {twice[0]} may be at {'most' if twice[1] else 'least'}")
    return found


def judge(
    measured: float | Mapping[str, float], goals: Sequence[Goal], limits: Sequence[Limit]
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """The goals' values, and the violation of each limit, both in their order.

    Without goals there is one value: the number measured, or of named values the only one that no limit names. A
    ``MeasureError`` where there is no such value, or one number where several are needed.
    """
    if not isinstance(measured, Mapping):
        if goals or limits:
            needed = ", ".join(dict.fromkeys([*(goal.name for goal in goals), *(limit.name for limit in limits)]))
            raise MeasureError(f"one number was measured, {measured:g}; a mapping is needed that names {needed}")
        return (float(measured),), ()
    names = [goal.name for goal in goals] or [name for name in measured if name not in {one.name for one in limits}]
    if not goals and len(names) != 1:
        beside = f"{len(names)} values beside the limits, {', '.join(names)}" if names else "no value beside the limits"
        raise MeasureError(f"{beside}: name what is searched for, such as --goal {(*names, *measured, 'NAME')[0]}:max")
    for name in (*names, *(limit.name for limit in limits)):
        if name not in measured:
            raise MeasureError(f"no {name} was measured; there is {', '.join(measured) or 'nothing'}")
    violations = tuple(limit.violation(measured[limit.name]) for limit in limits)
    return tuple(measured[name] for name in names), violations


def breaks(violations: Mapping[str, float]) -> str:
    """Which limits are broken, and by how much, in words; empty where none is."""
    return ", ".join(f"{limit} by {amount:.6g}" for limit, amount in violations.items() if amount > 0)


_Name = TypeVar("_Name")


def _twice(names: list[_Name]) -> _Name | None:
    return next((name for i, name in enumerate(names) if name in names[:i]), None)
