"""Expressions as trees: what a node's value is, between which bounds it lies, and whether there is one at all."""

import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import product
from math import floor, isfinite, prod
from typing import Any, TypeAlias

from lmsearcher_local.errors import SpaceError, brief

Value: TypeAlias = Any  # text, a number (int, Fraction or an infinite float), a boolean or None

LARGEST = 10**300  # that arithmetic may come to
ORDERS = {"<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge}
EQUALITIES = {"==": operator.eq, "!=": operator.ne}
DIVISIONS: dict[str, Callable[[Any, Any], Any]] = {
    "/": lambda a, b: Fraction(a) / b,
    "//": operator.floordiv,
    "%": operator.mod,
}
TRUTHS = ("and", "or", "not", "in", "first", "active", *ORDERS, *EQUALITIES)
CHECKED = 20_000  # combinations of options that are tried, where a look at the kinds of values does not settle it


class Failure(Exception):
    """An expression has no value for some options; the message says why."""


@dataclass(frozen=True, slots=True, eq=False)
class Node:
    """A part of an expression; parts are compared by identity.

    ``value`` is that of a constant, or the position of an option. Of a sum or a product it is the number that is added
    to the parts or multiplied with them, of ``in`` the values listed. ``first`` says whether a position has its first
    option, ``active`` whether it is active, which its one part says. ``low`` and ``high`` are bounds, where there are
    any.
    """

    kind: str
    parts: tuple["Node", ...] = ()
    value: Value = None
    reads: frozenset[int] = frozenset()
    low: Value = None
    high: Value = None


def exact(option: object) -> Value:
    """An option as expressions reckon with it."""
    if isinstance(option, float) and isfinite(option):
        number = Fraction(repr(option))
        return number.numerator if number.denominator == 1 else number
    return option


def make(kind: str, parts: tuple[Node, ...] = (), value: Value = None, options: Sequence[Value] = ()) -> Node:
    """A node with what it reads and its bounds; a constant where it reads nothing, or a ``Failure``.

    ``options`` are exact ones, of a position.
    """
    reads = frozenset([value]) if kind in ("option", "first") else frozenset().union(*(part.reads for part in parts))
    node = Node(kind, parts, value, reads, *_bounds(kind, parts, value, options))
    return node if reads or kind == "constant" else make("constant", value=evaluate(node, (), ()))


def _bounds(
    kind: str, parts: tuple[Node, ...], value: Value, options: Sequence[Value]
) -> tuple[Value, Value] | tuple[None, None]:
    if kind in TRUTHS:
        return 0, 1
    if kind in ("constant", "option"):
        numbers = options if kind == "option" else [value]
        return (min(numbers), max(numbers)) if all(map(is_number, numbers)) else (None, None)
    if any(part.low is None or not (is_finite(part.low) and is_finite(part.high)) for part in parts):
        return None, None
    if kind == "sum":
        return value + sum(part.low for part in parts), value + sum(part.high for part in parts)
    if kind == "product":
        low = high = value
        for part in parts:
            corners = [a * b for a in (low, high) for b in (part.low, part.high)]
            low, high = min(corners), max(corners)
        return low, high
    number, divisor = parts
    if divisor.low <= 0 <= divisor.high:
        return None, None
    if kind == "%":
        return (0, divisor.high) if divisor.low > 0 else (divisor.low, 0)
    corners = [Fraction(a) / b for a in (number.low, number.high) for b in (divisor.low, divisor.high)]
    return (min(corners), max(corners)) if kind == "/" else (floor(min(corners)), floor(max(corners)))


def is_number(value: Value) -> bool:
    """Whether it can be reckoned with; a boolean is 0 or 1, as in Python."""
    return isinstance(value, (int, float, Fraction))


def is_finite(number: Value) -> bool:
    """The same as ``math.isfinite``, also of numbers that are larger than any float."""
    return not isinstance(number, float) or isfinite(number)


def combine(kind: str, values: Sequence[Value], value: Value) -> Value:
    """The value of a node, but of ``and`` and ``or``, given those of its parts, or a ``Failure``."""
    if kind in EQUALITIES:
        return EQUALITIES[kind](*values)
    if kind == "in":
        return values[0] in value
    if kind == "not":
        return not truth(values[0])
    if kind in ORDERS:
        if not (all(map(is_number, values)) or all(isinstance(one, str) for one in values)):
            raise Failure(f"{format_value(values[0])} cannot be compared with {format_value(values[1])} by {kind}")
        return ORDERS[kind](*values)
    for one in values:
        if not is_number(one) or not is_finite(one):
            raise Failure(f"{format_value(one)} cannot be reckoned with")
    if kind in DIVISIONS and values[1] == 0:
        raise Failure(f"{format_value(values[0])} {kind} 0 divides by zero")
    if kind == "sum":
        found = value + sum(values)
    else:
        found = value * prod(values) if kind == "product" else DIVISIONS[kind](*values)
    if abs(found) > LARGEST:
        raise Failure("a number grows beyond 10^300")
    return found


def truth(value: Value) -> bool:
    """The value, which is true or false, or a ``Failure``."""
    if not isinstance(value, bool):
        raise Failure(f"{format_value(value)} is neither true nor false")
    return value


def evaluate(
    node: Node, indices: Sequence[int], options: Sequence[Sequence[Value]], known: dict[int, bool] | None = None
) -> Value:
    """The value of a node, where these options are taken, or a ``Failure``.

    ``and`` and ``or`` look at no more parts than they need. ``known`` says which positions are active; it grows.
    """
    known = {} if known is None else known
    if node.kind == "constant":
        return node.value
    if node.kind == "option":
        return options[node.value][indices[node.value]]
    if node.kind == "first":
        return indices[node.value] == 0
    if node.kind == "active":
        if node.value not in known:
            known[node.value] = evaluate(node.parts[0], indices, options, known)
        return known[node.value]
    if node.kind in ("and", "or"):
        ends = node.kind == "or"
        return next((ends for part in node.parts if truth(evaluate(part, indices, options, known)) is ends), not ends)
    return combine(node.kind, [evaluate(part, indices, options, known) for part in node.parts], node.value)


def check(node: Node, text: str, options: Sequence[Sequence[Value]]) -> None:
    """Refuse, with a ``SpaceError``, a node that has no value for some options, or reads too many to find out."""
    risk = _risk(node, options)
    if risk is None:
        return
    places = sorted(node.reads)
    indices = [0] * len(options)
    try:
        if prod(len(options[place]) for place in places) > CHECKED:
            raise Failure(risk)
        for combination in product(*(range(len(options[place])) for place in places)):
            for place, index in zip(places, combination, strict=True):
                indices[place] = index
            evaluate(node, indices, options)
    except Failure as error:
        raise SpaceError(f"the expression {brief(text)}: {error}") from error


def kinds(node: Node, options: Sequence[Sequence[Value]]) -> set[str]:
    """What a node's values may be: boolean, number, text, null."""
    if node.kind in TRUTHS:
        return {"boolean"}
    if node.kind not in ("constant", "option"):
        return {"number"}
    found = options[node.value] if node.kind == "option" else [node.value]
    return {_kind(value) for value in found}


def _kind(value: Value) -> str:
    if isinstance(value, bool):
        return "boolean"
    return "number" if is_number(value) else "text" if isinstance(value, str) else "null"


def _risk(node: Node, options: Sequence[Sequence[Value]]) -> str | None:
    """Why a node may have no value, from the kinds of values and their bounds alone."""
    for part in node.parts if node.kind != "active" else ():  # that has been checked by itself
        if risk := _risk(part, options):
            return risk
    found = [kinds(part, options) for part in node.parts]
    if node.kind in ("and", "or", "not"):
        return None if all(one == {"boolean"} for one in found) else "a part is neither true nor false"
    if node.kind in ORDERS:
        fine = all(one <= {"number", "boolean"} for one in found) or all(one == {"text"} for one in found)
        return None if fine else f"text and numbers cannot be compared by {node.kind}"
    if node.kind in ("sum", "product", *DIVISIONS):
        if not all(one <= {"number", "boolean"} for one in found):
            return "what is no number cannot be reckoned with"
        if node.low is None:
            return "it may divide by zero, or reckon with what is not finite"
        if max(abs(node.low), abs(node.high)) > LARGEST:
            return "a number may grow beyond 10^300"
    return None


def format_value(value: Value) -> str:
    """A value in a message."""
    return f"{float(value):g}" if isinstance(value, Fraction) else brief(value)
