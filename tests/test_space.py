"""Search spaces and NCode: round trips, sampling, neighbours, and everything that is no space."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lmsearcher_local.errors import SpaceError
from lmsearcher_local.space import SearchSpace

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
        (lambda: SearchSpace({"op": [1, True]}), "True twice"),
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
