"""What remains of a condition when some options are chosen: another condition, on fewer parameters, or true or false.

Equal residuals are one object, so that choices which leave the same to be decided can be told from each other no more.
That is what counting and searching rest on (``diagrams.py``).
"""

from collections.abc import Sequence

from lmsearcher_local.spaces.linear import compare_with_zero, decide
from lmsearcher_local.spaces.nodes import (
    DIVISIONS,
    EQUALITIES,
    ORDERS,
    Failure,
    Node,
    Value,
    combine,
    is_finite,
    make,
)

TRUE, FALSE = make("constant", value=True), make("constant", value=False)
NOTHING = make("constant")  # in place of a number, where there is none: whatever is asked of it is false


class Residuals:
    """Fixes options in conditions that have a value for all options; parts that are never looked at may have none."""

    def __init__(self, options: Sequence[Sequence[Value]]) -> None:
        self._options = options  # exact ones, by position
        self._known: dict[object, Node] = {}
        self._fixed: dict[tuple[Node, int, int], Node] = {}

    def fix(self, node: Node, place: int, index: int) -> Node:
        """What remains of a node when this position takes this option."""
        if place not in node.reads:
            return node
        if node.kind == "linear":
            return self._added(node, place, index)
        if (node, place, index) not in self._fixed:
            self._fixed[node, place, index] = self._fix(node, place, index)
        return self._fixed[node, place, index]

    def _fix(self, node: Node, place: int, index: int) -> Node:
        if node.kind == "first":
            return FALSE if index else TRUE
        if node.kind == "active":
            return self.fix(node.parts[0], place, index)
        if node.kind == "table":
            return TRUE if node.value[1][index] else FALSE
        if node.kind == "option":
            return self._constant(self._options[place][index])
        parts = [self.fix(part, place, index) for part in node.parts]
        if node.kind in ("and", "or"):
            return self._joined(node.kind, parts)
        if node.kind in ("sum", "product"):
            return self._gathered(node, parts)
        if any(part is NOTHING for part in parts):
            return NOTHING if node.kind in DIVISIONS else FALSE
        if all(part.kind == "constant" for part in parts):
            return self._combined(node, [part.value for part in parts])
        answer = _decide(node.kind, *parts) if len(parts) == 2 else None
        return self._one(node.kind, tuple(parts), node.value) if answer is None else (FALSE, TRUE)[answer]

    def _added(self, node: Node, place: int, index: int) -> Node:
        sign, number, terms = node.value
        number += terms.tables[place][index]
        rest = terms.without(place)
        if (answer := decide(sign, number, rest)) is not None:
            return TRUE if answer else FALSE
        key = sign, number, rest
        if key not in self._known:
            self._known[key] = Node("linear", (), key, node.reads - {place}, 0, 1)
        return self._known[key]

    def _joined(self, kind: str, parts: list[Node]) -> Node:
        end, other = (FALSE, TRUE) if kind == "and" else (TRUE, FALSE)
        rest: dict[Node, None] = {}
        for part in parts:
            # What is no truth is never looked at.
            known = part if part.kind != "constant" else TRUE if part.value is True else FALSE
            if known is end:
                return end
            if known is not other:
                rest[known] = None
        if not rest:
            return other
        return next(iter(rest)) if len(rest) == 1 else self._one(kind, tuple(rest), None)

    def _gathered(self, node: Node, parts: list[Node]) -> Node:
        """A sum or a product whose constants are one number."""
        constants = [part.value for part in parts if part.kind == "constant"]
        number = self._combined(node, constants) if constants else self._constant(node.value)
        rest = tuple(part for part in parts if part.kind != "constant")
        if not rest or number is NOTHING or (node.kind == "product" and number.value == 0):
            return number
        return self._one(node.kind, rest, number.value)

    def _combined(self, node: Node, values: list[Value]) -> Node:
        try:
            return self._constant(combine(node.kind, values, node.value))
        except Failure:
            return NOTHING if node.kind in ("sum", "product", *DIVISIONS) else FALSE

    def _constant(self, value: Value) -> Node:
        if isinstance(value, bool):
            return TRUE if value else FALSE
        return self._one("constant", (), value)

    def _one(self, kind: str, parts: tuple[Node, ...], value: Value) -> Node:
        key = kind, parts, value
        if key not in self._known:
            self._known[key] = make(kind, parts, value)
        return self._known[key]


def _decide(kind: str, left: Node, right: Node) -> bool | None:
    """A comparison as far as bounds decide it."""
    bounds = (left.low, left.high, right.low, right.high)
    if kind not in (*ORDERS, *EQUALITIES) or any(bound is None or not is_finite(bound) for bound in bounds):
        return None
    return compare_with_zero(kind, left.low - right.high, left.high - right.low)
