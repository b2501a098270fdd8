"""Search spaces and NCode: round trips, sampling, neighbours, and everything that is no space."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from lmsearcher_local.cli.main import main
from lmsearcher_local.errors import SpaceError, SpaceWarning
from lmsearcher_local.spaces.space import SearchSpace

SIZES = st.lists(st.integers(1, 150), min_size=1, max_size=12)


@given(SIZES, st.integers(0, 2**32))
def test_code_and_configuration_round_trip(sizes: list[int], seed: int) -> None:
    space = SearchSpace(sizes)
    for code in space.sample(np.random.default_rng(seed), 3):
        assert len(code) == space.code_length
        assert space.encode(space.decode(code)) == code
        assert space.code(space.indices(code)) == code
        assert code in space


@given(SIZES, st.text(max_size=30))
def test_any_other_text_is_refused(sizes: list[int], text: str) -> None:
    space = SearchSpace(sizes)
    try:
        indices = space.indices(text)
    except SpaceError:
        assert text not in space
    else:
        assert space.code(indices) == text


def test_ten_options_take_one_digit_and_eleven_take_two() -> None:
    assert SearchSpace([10, 11, 101]).code([9, 9, 9]) == "909009"


def test_upstream_space_reads_digits() -> None:
    space = SearchSpace([5] * 6)
    assert space.size == 15_625
    assert space.indices("012334") == (0, 1, 2, 3, 3, 4)


def test_sampling_is_uniform_and_exhaustive() -> None:
    space = SearchSpace([2, 3])
    rng = np.random.default_rng(0)
    counts = np.zeros(6)
    for _ in range(3000):
        counts[list(space.enumerate()).index(space.sample(rng, 1)[0])] += 1
    assert abs(counts - 500).max() < 100  # 500 expected, standard deviation 20
    assert sorted(space.sample(rng, 10)) == list(space.enumerate())
    assert space.sample(rng, 10, exclude=list(space.enumerate())[1:]) == ["00"]
    assert space.sample(rng, 1, exclude=list(space.enumerate())) == []


def test_a_rare_valid_code_is_found_in_a_large_space() -> None:
    space = SearchSpace([10] * 5, valid=lambda configuration: sum(map(int, configuration.values())) == 45)
    assert space.sample(np.random.default_rng(0), 2) == ["99999"]
    assert space.neighbours("99999") == []


def test_neighbours_differ_in_one_position() -> None:
    space = SearchSpace([3, 2], valid=lambda configuration: configuration["p0"] != 2)
    assert space.neighbours("00") == ["10", "01"]


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: SearchSpace([]), "at least one parameter"),
        (lambda: SearchSpace([5, 0]), "position 1"),
        (lambda: SearchSpace([True]), "whole number"),
        (lambda: SearchSpace("55"), "not str"),  # type: ignore[arg-type]
        (lambda: SearchSpace({"op": []}), "op has no options"),
        (lambda: SearchSpace({"op": ["a", "b", "a"]}), "'a' twice"),
        (lambda: SearchSpace({"op": [1, True, True]}), "True twice"),
        (lambda: SearchSpace({"op": [0.0, -0.0]}), "-0.0 twice"),
        (lambda: SearchSpace({"op": {"a", "b"}}), "a set has none"),  # type: ignore[dict-item]
        (lambda: SearchSpace({"op": "ab"}), "options are a list"),
        (lambda: SearchSpace({"op": [[1]]}), "text, a number"),  # type: ignore[list-item]
        (lambda: SearchSpace({"op": [float("nan")]}), "not nan"),
        (lambda: SearchSpace([3, 3], valid=lambda _: False), "accepts no configuration"),
        (lambda: SearchSpace([3, 3], valid=lambda c: c["q"]), "predicate raised KeyError"),
        (lambda: SearchSpace({"op": ["a"]}).encode({"op": "b"}), "no option 'b'; allowed: 'a'"),
        (lambda: SearchSpace({"op": ["a"]}).encode({"o": "a"}), "exactly op; got o"),
        (lambda: SearchSpace([2, 2]).decode("02"), "p1 has options 0 to 1, not 2"),
        (lambda: SearchSpace([2, 2]).decode("0"), "2 digits"),
        (lambda: SearchSpace([2, 2]).decode("\u0660\u0661"), "2 digits"),  # digits, but not decimal ASCII ones
    ],
)
def test_what_is_no_space_or_code_is_refused_in_words(make: Callable[[], Any], words: str) -> None:
    with pytest.raises(SpaceError, match=words.replace("(", r"\(")):
        make()


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("space.yaml", "rank: [4, 8\n", "not valid YAML"),
        ("space.json", "{", "not valid JSON"),
        ("space.yaml", "7", "must hold a list"),
        ("space.yaml", "rank: [4, 4]", "twice"),
        ("space.json", "[" * 100_000, "not valid JSON"),
        ("space.yaml", "a: [1]\nb: [1]\na: [2]", "line 3: the key 'a' stands twice"),
        ("space.yaml", "rank: {a: 1, a: 2}", "line 1: the key 'a' stands twice"),
        ("space.json", '{"a": [1], "b": [1], "a": [2]}', "the key 'a' stands twice"),
        ("space.json", '{"a": [1, NaN]}', "JSON has no NaN"),
        ("space.json", '{"a": [1, -Infinity]}', "JSON has no -Infinity"),
        ("space.yaml", "- " * 2000, "nested too deeply"),
        ("space.yaml", "a: !!python/object/apply:os.getcwd []", "line 1: could not determine a constructor"),
    ],
)
def test_a_malformed_file_is_named(tmp_path: Path, name: str, text: str, words: str) -> None:
    path = tmp_path / name
    path.write_text(text)
    with pytest.raises(SpaceError, match=words) as caught:
        SearchSpace.load(path)
    assert str(path) in str(caught.value)


def test_files_and_mappings_describe_the_same_space(tmp_path: Path) -> None:
    named = {"rank": [4, 8, 16], "norm": ["layer", None], "bias": [True, False], "rate": [0.1, 1e-3]}
    (tmp_path / "space.json").write_text(json.dumps(named))
    (tmp_path / "space.yaml").write_text(
        "rank: [4, 8, 16]\nnorm: [layer, null]\nbias: [true, false]\nrate: [0.1, 0.001]\n"
    )
    spaces = [SearchSpace(named), SearchSpace.load(tmp_path / "space.json"), SearchSpace.load(tmp_path / "space.yaml")]
    assert spaces[0] == spaces[1] == spaces[2]
    assert spaces[0].describe() == named
    with pytest.raises(SpaceError, match="cannot read"):
        SearchSpace.load(tmp_path / "none.yaml")


def test_yaml_is_that_of_version_1_2(tmp_path: Path) -> None:
    (tmp_path / "space.yaml").write_bytes(
        b"\xef\xbb\xbflr: [1e-4, 3e-4, 1E+3, .5, 2., .inf]\nbias: [yes, no, on, True, null]\n"
        b"n: [010, 0o10, 0x1F, -7]\nwhen: [1:30, 2001-01-01, 0b11]\n"
    )
    space = SearchSpace.load(tmp_path / "space.yaml")
    wanted = {
        "lr": [1e-4, 3e-4, 1e3, 0.5, 2.0, float("inf")],
        "bias": ["yes", "no", "on", True, None],
        "n": [10, 8, 31, -7],
        "when": ["1:30", "2001-01-01", "0b11"],
    }
    assert space == SearchSpace(wanted)
    (tmp_path / "space.json").write_bytes(b'\xef\xbb\xbf{"a": [1, 2.0]}')
    assert SearchSpace.load(tmp_path / "space.json") == SearchSpace({"a": [1, 2.0]})


@pytest.mark.parametrize(("name", "text"), [("s.yaml", "lr: [0.1, '1e-4']"), ("s.json", '{"lr": [0.1, "1e-4"]}')])
def test_text_that_looks_like_a_number_is_mentioned(tmp_path: Path, name: str, text: str) -> None:
    (tmp_path / name).write_text(text)
    with pytest.warns(SpaceWarning, match=rf"{name}: lr offers '1e-4' as text, not as a number"):
        SearchSpace.load(tmp_path / name)
    result = CliRunner().invoke(main, ["search", str(tmp_path / name), "--command", "echo 1", "--checkpoint", "none"])
    assert result.stderr.count("\n") == 2  # the warning, and the error that there is no such checkpoint
    assert result.stderr.startswith(f"Warning: {tmp_path / name}: lr offers '1e-4' as text, not as a number")


@pytest.mark.parametrize("options", [[1, 1.0, "1", True], [True, False, 1, 0], [0, 0.0, False, None, ""]])
def test_options_of_different_types_differ(options: list[Any]) -> None:
    space = SearchSpace({"a": options})
    for i, option in enumerate(options):
        assert space.encode({"a": option}) == str(i)
        assert space.decode(str(i))["a"] is option
    assert SearchSpace({"a": options}) == space
    assert hash(SearchSpace({"a": options})) == hash(space)
    assert SearchSpace({"a": [*options[1:], options[0]]}) != space


def test_equal_values_of_another_type_are_other_spaces_and_no_options() -> None:
    numbers, mixed = SearchSpace({"a": [0, 1, 2]}), SearchSpace({"a": [False, True, 2]})
    assert numbers != mixed
    assert numbers != SearchSpace({"a": [0.0, 1.0, 2.0]})
    assert numbers.encode({"a": 1.0}) == numbers.encode({"a": np.int64(1)}) == "1"  # a number is a number
    assert SearchSpace({"a": [0.5, 1.0]}).encode({"a": 1}) == "1"
    for space, value in ((numbers, True), (mixed, 1), (mixed, np.float64(1)), (numbers, [1]), (numbers, float("nan"))):
        with pytest.raises(SpaceError, match="a has no option"):
            space.encode({"a": value})  # type: ignore[dict-item]


def test_a_predicate_that_changes_its_argument_changes_nothing() -> None:
    def valid(configuration: dict[str, Any]) -> bool:
        fine = configuration.pop("p0") != 2
        configuration["p1"] = configuration["new"] = 9
        return fine

    space, same = SearchSpace([3, 4, 2], valid), SearchSpace([3, 4, 2], lambda configuration: configuration["p0"] != 2)
    assert space.decode("131") == {"p0": 1, "p1": 3, "p2": 1}
    assert space.encode({"p0": 1, "p1": 3, "p2": 1}) == "131"
    assert list(space.enumerate()) == list(same.enumerate())
    assert space.neighbours("131") == same.neighbours("131")
    assert space.sample(np.random.default_rng(0), 16) == same.sample(np.random.default_rng(0), 16)
    with pytest.raises(SpaceError, match=r"refuses: \{'p0': 2, 'p1': 3, 'p2': 1\}"):
        space.decode("231")


@given(SIZES, st.integers(0, 2**32))
def test_many_codes_at_once_are_read_as_one_by_one(sizes: list[int], seed: int) -> None:
    space = SearchSpace(sizes)
    assert space.sample(np.random.default_rng(seed), 0) == []
    codes = space.sample(np.random.default_rng(seed), 20)
    assert space.array(codes).tolist() == [list(space.indices(code)) for code in codes]
    assert space.codes(space.array(codes)) == codes
    near = space.neighbours(codes[0])
    assert len(near) == sum(size - 1 for size in sizes)
    rows = space.array([codes[0], *near])
    assert ((rows[1:] != rows[0]).sum(1) == 1).all()


@pytest.mark.parametrize(
    "codes", [["01234"], ["012345", "5"], ["01234x"], ["01234é"], ["012349"], ["01234", "0123401"]]
)
def test_foreign_codes_are_no_array(codes: list[str]) -> None:
    with pytest.raises(SpaceError):
        SearchSpace([5] * 6).array(codes)
    assert SearchSpace([5] * 6).array([]).shape == (0, 6)
    assert SearchSpace([12, 3]).array(["111"]).tolist() == [[11, 1]]
