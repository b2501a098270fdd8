"""Conditions in a form that is quick to decide: sums of what single positions say, compared with nothing.

``alpha - 2 * rank >= 0.5`` becomes whole numbers for each option of each position, whose sum is compared with 0. What
positions that are not chosen yet can add lies between bounds and, as long as there are few, is one of a list of sums.
Conditions of one position become a truth for each of its options.
"""

from collections.abc import Sequence
from functools import cached_property
from math import lcm, prod

from lmsearcher_local.spaces.nodes import (
    EQUALITIES,
    ORDERS,
    TRUTHS,
    Failure,
    Node,
    Value,
    evaluate,
    is_finite,
    is_number,
    make,
)

REACHED, SUMMED = 100_000, 100  # sums that are listed at most, and terms of which they are


class Terms:
    """What each of some positions adds to a sum, by option."""

    def __init__(self, tables: dict[int, list[int]]) -> None:
        self.tables = tables
        self.low = sum(map(min, tables.values()))
        self.high = sum(map(max, tables.values()))
        self._without: dict[int, Terms] = {}

    def without(self, place: int) -> "Terms":
        """Those of the other positions; always the same object."""
        if place not in self._without:
            rest = {other: table for other, table in self.tables.items() if other != place}
            self._without[place] = Terms(rest)
        return self._without[place]

    @cached_property
    def sums(self) -> set[int] | None:
        """All sums, where they are at most ``REACHED``."""
        if len(self.tables) > SUMMED:
            return None
        if not self.tables:
            return {0}
        place, table = next(iter(self.tables.items()))
        rest = self.without(place).sums
        if rest is None or len(rest) * len({*table}) > 10 * REACHED:
            return None
        found = {one + other for one in {*table} for other in rest}
        return found if len(found) <= REACHED else None


def compare_with_zero(sign: str, low: Value, high: Value) -> bool | None:
    """Whether a number between these bounds compares with 0 like this, where they decide it."""
    if sign in EQUALITIES:
        return sign == "!=" if low > 0 or high < 0 else None
    never, always = (low >= 0, high < 0) if sign in ("<", ">=") else (low > 0, high <= 0)
    below = sign in ("<", "<=")
    return below if always else not below if never else None


def decide(sign: str, number: int, terms: Terms) -> bool | None:
    """Whether ``number`` plus the terms compares with 0 like this, where that does not depend on them."""
    low, high = number + terms.low, number + terms.high
    if low == high:
        return bool({**ORDERS, **EQUALITIES}[sign](low, 0))
    found = compare_with_zero(sign, low, high)
    if found is None and sign in EQUALITIES and terms.sums is not None and -number not in terms.sums:
        return sign == "!="
    return found


def simplify(node: Node, options: Sequence[Sequence[Value]], known: dict[int, Node]) -> Node:
    """An equal condition of nodes that are quicker to decide, ``table`` and ``linear``, as far as there is one.

    ``node`` is a truth that has a value for all options. ``known`` is what was made of parts, by identity; it grows.
    """
    if id(node) not in known:
        known[id(node)] = _simplify(node, options, known)
    return known[id(node)]


def _simplify(node: Node, options: Sequence[Sequence[Value]], known: dict[int, Node]) -> Node:
    if node.kind not in TRUTHS:
        return node
    if len(node.reads) == 1:
        (place,) = node.reads
        truths = tuple(_truth(node, place, index, options) for index in range(len(options[place])))
        return Node("table", (), (place, truths), node.reads, 0, 1)
    if node.kind in ORDERS or node.kind in EQUALITIES:
        return _linear(node, options) or node
    return make(node.kind, tuple(simplify(part, options, known) for part in node.parts), node.value)


def _truth(node: Node, place: int, index: int, options: Sequence[Sequence[Value]]) -> bool:
    indices = [0] * len(options)
    indices[place] = index
    try:
        return evaluate(node, indices, options) is True
    except Failure:  # it is never looked at
        return False


def _linear(node: Node, options: Sequence[Sequence[Value]]) -> Node | None:
    left, right = node.parts
    terms = [*_terms(left, 1), *_terms(right, -1)]
    if any(len(term.reads) > 1 for _, term in terms):
        return None
    number: Value = 0
    tables: dict[int, list[Value]] = {}
    indices = [0] * len(options)
    try:
        for factor, term in terms:
            for place in term.reads:
                table = tables.setdefault(place, [0] * len(options[place]))
                for index in range(len(table)):
                    indices[place] = index
                    table[index] += factor * _number(evaluate(term, indices, options))
            if not term.reads:
                number += factor * _number(evaluate(term, indices, options))
    except Failure:  # text, say
        return None
    scale = lcm(number.denominator, *(value.denominator for table in tables.values() for value in table))
    whole = Terms({place: [int(value * scale) for value in table] for place, table in tables.items()})
    return Node("linear", (), (node.kind, int(number * scale), whole), node.reads, 0, 1)


def _number(value: Value) -> Value:
    if not is_number(value) or not is_finite(value):
        raise Failure("it is no number")
    return value


def _terms(node: Node, factor: Value) -> list[tuple[Value, Node]]:
    """The terms of a number, each with its factor."""
    if node.kind == "sum":
        return [(factor, make("constant", value=node.value)), *(t for part in node.parts for t in _terms(part, factor))]
    if node.kind == "product":
        constants = [part for part in node.parts if part.kind == "constant"]
        rest = [part for part in node.parts if part.kind != "constant"]
        if len(rest) == 1 and all(is_number(part.value) for part in constants):
            return _terms(rest[0], factor * node.value * prod(part.value for part in constants))
    return [(factor, node)]
