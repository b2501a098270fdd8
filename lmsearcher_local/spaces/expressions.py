"""Expressions over the parameters of a space, in which forbidden combinations and conditions are written.

They are written as in Python: names of parameters, literals, comparisons (chained, too), ``and``, ``or``, ``not`` and
``+ - * / // %``. Behind ``in`` and ``not in`` stands a list of literals. A name that is no identifier stands in braces:
``{learning rate}``. Python's parser reads them; nothing is evaluated but what this file names.

Numbers are reckoned with exactly, as they are written: ``0.1 + 0.2 == 0.3`` holds.
"""

import ast
import re
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

from lmsearcher_local.errors import SpaceError, brief
from lmsearcher_local.spaces.nodes import (
    EQUALITIES,
    LARGEST,
    Failure,
    Node,
    Value,
    evaluate,
    exact,
    format_value,
    is_number,
    kinds,
    make,
)

LONGEST, DEEPEST = 4000, 50  # characters of an expression; parts within each other
SIGNS: dict[type[ast.AST], str] = {
    **{ast.Lt: "<", ast.LtE: "<=", ast.Gt: ">", ast.GtE: ">=", ast.Eq: "==", ast.NotEq: "!="},
    **{ast.Div: "/", ast.FloorDiv: "//", ast.Mod: "%", ast.And: "and", ast.Or: "or"},
}
ALLOWED = "allowed are names, literals, comparisons, and, or, not, in, and + - * / // %"
QUOTED = re.compile(r"""'(?:\\.|[^'\\])*'|"(?:\\.|[^"\\])*"|\{([^{}]*)\}""")


def parse(text: object, places: Mapping[str, int], options: Sequence[Sequence[Value]]) -> Node:
    """The expression that a text writes, which is true or false.

    ``places`` are the positions of names, ``options`` exact ones by position. A ``SpaceError`` where it is no such
    expression, names what is unknown, or has no value for some options.
    """
    if not isinstance(text, str):
        raise SpaceError(f"an expression is text, not {brief(text)}")
    try:
        if len(text) > LONGEST:
            raise Failure(f"it has more than {LONGEST:,} characters")
        names = {name: name for name in places}
        root = _Reader(names, places, options).node(_syntax(text, names), 0)
        if "boolean" not in kinds(root, options) or len(kinds(root, options)) > 1:
            raise Failure("it is neither true nor false; compare it with something")
    except Failure as error:
        raise SpaceError(f"the expression {brief(text)}: {error}") from error
    return root


def is_expression(text: object, options: Mapping[str, Sequence[Any]]) -> bool:
    """Whether it is an expression over some of these parameters."""
    places = {name: place for place, name in enumerate(options)}
    try:
        return bool(parse(text, places, [[*map(exact, some)] for some in options.values()]).reads)
    except SpaceError:
        return False


def _syntax(text: str, names: dict[str, str]) -> ast.expr:
    """What Python's parser makes of it; ``names`` grows by identifiers that stand for names in braces."""

    def identifier(found: re.Match[str]) -> str:
        if found[1] is None:
            return found[0]
        known = f"braced_{len(names)}_"
        names[known] = found[1].strip()
        return f" {known} "

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about escapes in text, say
            return ast.parse(QUOTED.sub(identifier, text).strip(), mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        reason = error.msg if isinstance(error, SyntaxError) else "it cannot be read"
        raise Failure(f"{reason}; {ALLOWED}") from error


class _Reader:
    """Makes nodes of Python's syntax tree."""

    def __init__(self, names: Mapping[str, str], places: Mapping[str, int], options: Sequence[Sequence[Value]]) -> None:
        self._names, self._places, self._options = names, places, options

    def node(self, tree: ast.expr, depth: int) -> Node:
        if depth > DEEPEST:
            raise Failure(f"it is nested more than {DEEPEST} deep")
        deeper = depth + 1
        match tree:
            case ast.Constant():
                return make("constant", value=_literal(tree))
            case ast.Name(id=name):
                return self._option(name)
            case ast.BoolOp(op=op, values=values):
                return make(SIGNS[type(op)], tuple(self.node(value, deeper) for value in values))
            case ast.UnaryOp(op=ast.Not(), operand=operand):
                return make("not", (self.node(operand, deeper),))
            case ast.UnaryOp(op=ast.USub(), operand=operand):
                return make("product", (self.node(operand, deeper),), -1)
            case ast.UnaryOp(op=ast.UAdd(), operand=operand):
                return self.node(operand, deeper)
            case ast.BinOp(op=ast.Add() | ast.Sub() | ast.Mult()):
                return self._chain(tree, deeper)
            case ast.BinOp(left=left, op=ast.Div() | ast.FloorDiv() | ast.Mod() as op, right=right):
                return make(SIGNS[type(op)], (self.node(left, deeper), self.node(right, deeper)))
            case ast.Compare():
                return self._comparison(tree, deeper)
        raise Failure(f"{_word(tree)} is not allowed; {ALLOWED}")

    def _option(self, name: str) -> Node:
        known = self._names.get(name, name)
        if known not in self._places:
            hint = {"true": "; write True", "false": "; write False", "null": "; write None"}.get(known, "")
            raise Failure(f"{known!r} is no parameter{hint or '; text stands in quotes'}")
        place = self._places[known]
        return make("option", value=place, options=self._options[place])

    def _chain(self, tree: ast.BinOp, depth: int) -> Node:
        """A sum or a product of any length; only what stands in parentheses counts as nested."""
        times = isinstance(tree.op, ast.Mult)
        parts: list[Node] = []
        rest: ast.expr = tree
        while isinstance(rest, ast.BinOp) and isinstance(rest.op, (ast.Mult,) if times else (ast.Add, ast.Sub)):
            part = self.node(rest.right, depth)
            parts.append(make("product", (part,), -1) if isinstance(rest.op, ast.Sub) else part)
            rest = rest.left
        parts.append(self.node(rest, depth))
        return make("product" if times else "sum", tuple(reversed(parts)), int(times))

    def _comparison(self, tree: ast.Compare, depth: int) -> Node:
        found = []
        left = self.node(tree.left, depth)
        for op, other in zip(tree.ops, tree.comparators, strict=True):
            if isinstance(op, (ast.In, ast.NotIn)):
                if not isinstance(other, (ast.List, ast.Tuple)):
                    raise Failure("behind in stands a list of literals")
                listed = tuple(self.node(item, depth) for item in other.elts)
                if any(item.reads for item in listed):
                    raise Failure("behind in stands a list of literals, without names")
                values = tuple(evaluate(item, (), ()) for item in listed)
                self._check_options(left, values)
                inside = make("in", (left,), values)
                found.append(inside if isinstance(op, ast.In) else make("not", (inside,)))
                continue
            sign = SIGNS.get(type(op))
            if sign is None:
                raise Failure(f"'is' is not allowed; {ALLOWED}")
            right = self.node(other, depth)
            if sign in EQUALITIES:
                for one, another in ((left, right), (right, left)):
                    self._check_options(one, (another.value,) if another.kind == "constant" else ())
            found.append(make(sign, (left, right)))
            left = right
        return found[0] if len(found) == 1 else make("and", tuple(found))

    def _check_options(self, node: Node, values: Sequence[Value]) -> None:
        """A parameter is compared with options that it has: anything else is a slip."""
        if node.kind != "option":
            return
        for value in values:
            if value not in self._options[node.value]:
                name = next(name for name, place in self._places.items() if place == node.value)
                allowed = ", ".join(map(format_value, self._options[node.value][:20]))
                raise Failure(f"{name} has no option {format_value(value)}; allowed: {allowed}")


def _literal(tree: ast.Constant) -> Value:
    if not isinstance(tree.value, (str, int, float, type(None))):
        raise Failure(f"{brief(tree.value)} is not allowed; {ALLOWED}")
    value = exact(tree.value)
    if is_number(value) and not abs(value) <= LARGEST:
        raise Failure("a number grows beyond 10^300")
    return value


def _word(tree: ast.AST) -> str:
    """What a part of Python is called that is no part of an expression."""
    words = {ast.Call: "a call", ast.Attribute: "an attribute", ast.Subscript: "an index", ast.IfExp: "if"}
    if isinstance(tree, ast.BinOp):
        return "a power" if isinstance(tree.op, ast.Pow) else f"the operator {type(tree.op).__name__}"
    if isinstance(tree, ast.List | ast.Tuple):
        return "a list that does not stand behind in"
    return words.get(type(tree), type(tree).__name__)
