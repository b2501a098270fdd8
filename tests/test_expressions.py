"""Expressions: what they mean, against Python and three-valued logic, and everything that is none."""

import ast
import json
import operator
from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from lmsearcher_local.cli.main import main
from lmsearcher_local.errors import SpaceError
from lmsearcher_local.spaces import diagrams
from lmsearcher_local.spaces.space import SearchSpace

OPTIONS: dict[str, list[Any]] = {
    "a": [1, 2, 5],
    "b": [0.5, 1, 4],
    "c": [True, False],
    "d": ["x", "y", "z"],
    "e": [0, 3],
}
NUMBERS = st.recursive(
    st.sampled_from(["a", "b", "e", "c", "2", "0.5", "3"]),
    lambda inner: (
        st.builds("({} {} {})".format, inner, st.sampled_from("+-*"), inner)
        | st.builds("(-{})".format, inner)
        | st.builds(
            "({} {} {})".format, inner, st.sampled_from(["/", "//", "%"]), st.sampled_from(["a", "b", "2", "3"])
        )
    ),
    max_leaves=5,
)
SIGNS = st.sampled_from(["<", "<=", ">", ">=", "==", "!="])
TRUTHS = st.recursive(
    st.builds("0 + {} {} {} * 1".format, NUMBERS, SIGNS, NUMBERS)
    | st.builds("0 + {} {} {} * 1 < {}".format, NUMBERS, SIGNS, NUMBERS, NUMBERS)
    | st.sampled_from(["c", "d == 'x'", "d != 'z'", "d in ['x', 'y']", "a not in (1, 5)", "d < 'y'", "c == True"]),
    lambda inner: (
        st.builds("({}) {} ({})".format, inner, st.sampled_from(["and", "or"]), inner)
        | st.builds("not ({})".format, inner)
    ),
    max_leaves=5,
)
CONDITIONS = st.dictionaries(st.sampled_from("be"), TRUTHS.filter(lambda text: not {*"be"} & names_of(text)))


def names_of(text: str) -> set[str]:
    return {node.id for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Name)}


def known(text: str, values: dict[str, Any]) -> bool | None:
    """What is known of an expression whose names may be missing; Python's own evaluation of its comparisons."""
    tree = ast.parse(text, mode="eval").body

    def of(node: ast.expr) -> bool | None:
        if isinstance(node, ast.BoolOp):
            parts, end = [of(value) for value in node.values], isinstance(node.op, ast.Or)
            return end if end in parts else None if None in parts else not end
        if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
            inner = of(node.operand)
            return None if inner is None else not inner
        if isinstance(node, ast.Compare) and len(node.ops) > 1:
            sides = [node.left, *node.comparators]
            pairs = [ast.Compare(sides[i], [op], [sides[i + 1]]) for i, op in enumerate(node.ops)]
            return of(ast.BoolOp(ast.And(), list(pairs)))
        if not {part.id for part in ast.walk(node) if isinstance(part, ast.Name)} <= values.keys():
            return None
        return bool(eval(compile(ast.fix_missing_locations(ast.Expression(node)), "", "eval"), {}, dict(values)))

    return of(tree)


def expected(where: list[str], when: dict[str, str]) -> list[dict[str, Any]]:
    """The configurations, by trying all."""
    found: dict[str, dict[str, Any]] = {}
    for options in product(*OPTIONS.values()):
        values = dict(zip(OPTIONS, options, strict=True))
        held = {name: text for name, text in values.items() if name not in when}
        active = {name: value for name, value in values.items() if name not in when or known(when[name], held)}
        if all(known(text, active) is not False for text in where):
            found[json.dumps(active)] = active
    return [*found.values()]


@pytest.mark.parametrize("largest", [diagrams.LARGEST, 0])
@settings(max_examples=40, derandomize=True, phases=[Phase.explicit, Phase.generate])
@given(st.lists(TRUTHS, max_size=3), CONDITIONS, st.integers(0, 99))
def test_a_space_holds_what_its_expressions_say(
    largest: int, where: list[str], when: dict[str, str], seed: int
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(diagrams, "LARGEST", largest)  # 0: solutions are searched for
        wanted = expected(where, when)
        if not wanted:
            with pytest.raises(SpaceError, match="satisfies where and when"):
                SearchSpace(OPTIONS, where=where, when=when)
            return
        space = SearchSpace(OPTIONS, where=where, when=when)
        found = [space.decode(code) for code in space.enumerate()]
        assert sorted(map(json.dumps, found)) == sorted(map(json.dumps, wanted))
        assert space.count == (len(wanted) if largest or not (where or when) else space.count)
        rng = np.random.default_rng(seed)
        codes = space.sample(rng, 1000)
        assert sorted(codes) == [*space.enumerate()]
        for code in codes[:3]:
            assert space.encode(space.decode(code)) == code
            rows = space.constraints.near(rng.integers(0, space.sizes, (4, 5)), rng) if space.constraints else []
            assert all(space.accepts(row) for row in rows)
            for other in space.neighbours(code):
                assert other in space
                assert other != code


@pytest.mark.parametrize(
    ("text", "holds"),
    [
        ("0.1 + 0.2 == 0.3", True),
        ("{learning rate} < 1 and {if} == 'then'", True),
        ("'{if}' == '{if}' and '\\'{' != '}' and {if} >= 'a'", True),
        ("1 < {learning rate} < 2 or True", True),
        ("7 // 2 == 3 and -7 // 2 == -4 and 7 % 2.5 == 2", True),
        ("zero == 0 or 1 / zero > 2", True),
        ("mixed == 'auto' or mixed > 5", True),
        ("+".join(["zero"] * 700) + " == 0", True),
        ("nothing == None and 1 == 1.0", True),
    ],
)
def test_what_is_allowed(text: str, holds: bool) -> None:
    options = {"learning rate": [0.1, 0.5], "if": ["then"], "zero": [0, 1], "mixed": ["auto", 8], "nothing": [None]}
    space = SearchSpace(options, where=[text])
    assert ("00000" in space) is holds


BAD = [
    ("__import__('os').system('touch pwned')", "a call is not allowed"),
    ("rank.__class__ == 4", "an attribute is not allowed"),
    ("9 ** 9 ** 9 ** 9 > rank", "a power is not allowed"),
    ("rank[0] == 4", "an index is not allowed"),
    ("(lambda: rank)() == 4", "a call is not allowed"),
    ("[rank for rank in [1]] == 4", "ListComp is not allowed"),
    ("f'{rank}' == 'a'", "JoinedStr is not allowed"),
    ("rank << 1000 > 4", "the operator LShift is not allowed"),
    ("(x := 4) == rank", "NamedExpr is not allowed"),
    ("rank is 4", "'is' is not allowed"),
    ("rank", "it is neither true nor false"),
    ("rank + 'a' == 4", "'a' cannot be reckoned with"),
    ("name * 1000000000 == 'a'", "cannot be reckoned with"),
    ("rank / (rank - rank) > 1", "divides by zero"),
    ("name < 4", "'a' cannot be compared with 4 by <"),
    ("rank and True", "4 is neither true nor false"),
    ("alpha <= 4", "'alpha' is no parameter"),
    ("flag == true", "'true' is no parameter; write True"),
    ("name == 'd'", "name has no option 'd'; allowed: 'a', 'b'"),
    ("rank in [4, 5]", "rank has no option 5; allowed: 4, 8"),
    ("rank in name", "behind in stands a list of literals"),
    ("rank in [rank]", "behind in stands a list of literals, without names"),
    ("rank ==", "invalid syntax"),
    ("", "invalid syntax"),
    ("rank == 4; rank", "invalid syntax"),
    ("rank == b'4'", "b'4' is not allowed"),
    ("(" * 300 + "rank" + ")" * 300 + " == 4", "too many nested parentheses"),
    ("not " * 900 + "rank == 4", "deep"),
    ("-" * 3000 + "rank == 4", ""),
    ("rank == 4 or " * 400 + "rank == 8", "more than 4,000 characters"),
    ("rank * 1" + "0" * 400 + " > 1", "grows beyond 10^300"),
    ("*".join(["rank"] * 700) + " > 1", "grow"),
    ("rank == 4\x00", ""),
    ("rank == '\\ud800'", ""),
    ("1 == 2", "no configuration of this space satisfies where and when"),
    (7, "an expression is text, not 7"),
]


@pytest.mark.parametrize(("text", "words"), BAD, ids=range(len(BAD)))
def test_what_is_none_is_one_sentence_and_exit_status_2(tmp_path: Path, text: object, words: str) -> None:
    parameters = {"rank": [4, 8], "name": ["a", "b"], "flag": [True, False]}
    (tmp_path / "space.json").write_text(json.dumps({"parameters": parameters, "where": [text]}))
    result = CliRunner().invoke(main, ["search", str(tmp_path / "space.json"), "--command", "echo 1"])
    assert result.exit_code == 2, result.output
    assert result.stderr.count("\n") == 1
    assert result.stderr.startswith(f"Error: {tmp_path / 'space.json'}: ")
    assert words in result.stderr
    assert len(result.stderr) < 500 + len(str(tmp_path))
    assert [*tmp_path.iterdir()] == [tmp_path / "space.json"]


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: {"where": "rank == 4"}, "where is a list of expressions, not 'rank == 4'"),
        (lambda: {"when": ["rank == 4"]}, "when is a mapping from parameter to expression"),
        (lambda: {"when": {"alpha": "rank == 4"}}, "when names 'alpha', which is no parameter; there are rank, name"),
        (lambda: {"when": {"name": "name == 'a'"}}, "in a circle: name -> name"),
        (lambda: {"when": {"name": "rank == 4", "rank": "name == 'a'"}}, "in a circle: "),
        (lambda: {"where": ["rank == 4", "rank == 8"]}, "no configuration of this space satisfies where and when"),
        (
            lambda: {"where": ["rank == 4"], "valid": lambda c: c["rank"] == 8},
            "and that the validity predicate accepts",
        ),
        (lambda: {"where": ["rank == 4"] * 1001}, "at most 1,000 expressions"),
    ],
)
def test_what_spaces_refuse(make: Callable[[], dict[str, Any]], words: str) -> None:
    with pytest.raises(SpaceError, match=words):
        SearchSpace({"rank": [4, 8], "name": ["a", "b"]}, **make())


def test_numbers_of_numpy_are_reckoned_with_as_others() -> None:
    space = SearchSpace({"x": [*np.linspace(0, 1, 3)], "y": [0.0, 0.5, 1.0]}, where=["x <= y"])
    assert space.count == 6
    assert {type(option) for option in space.options[0]} == {float}


def test_long_chains_of_conditions() -> None:
    chain = {f"p{i}": f"p{i - 1} != 0 and p{i - 1} == 1" for i in range(1, 20)}
    space = SearchSpace([2] * 20, when=chain)
    assert space.count == 21  # one less deep for each zero
    assert {len(space.decode(code)) for code in space.enumerate()} == {*range(1, 21)}
    with pytest.raises(SpaceError, match="more than 50 conditions depend on each other in a row"):
        SearchSpace([2] * 100, when={f"p{i}": f"p{i - 1} == 1" for i in range(1, 100)})
    assert operator.contains(space, "1" * 20)
