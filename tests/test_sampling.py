"""Sampling under a predicate: valid codes only, all that exist are found, and "used up" is said when it is true."""

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chi2
from scripted import scripted_ranker

from lmsearcher_local.candidates.policies import POLICIES
from lmsearcher_local.errors import NothingToPropose, SpaceError, SpaceExhausted
from lmsearcher_local.search.searcher import Searcher
from lmsearcher_local.spaces import space as module
from lmsearcher_local.spaces.sampling import TRIES
from lmsearcher_local.spaces.space import Configuration, SearchSpace
from lmsearcher_local.study.run import run

RANKER = scripted_ranker()
BILLION = [10] * 9
FEW: dict[str, Callable[[dict[str, Any]], bool]] = {  # valid are 1 in 10^4 to 10^6, as people write such conditions
    "pairs": lambda c: all(c[f"p{i}"] == c[f"p{i + 1}"] for i in (0, 2, 4, 6)),
    "triples": lambda c: (
        c["p0"] == c["p1"] == c["p2"] and c["p3"] == c["p4"] == c["p5"] and c["p6"] == c["p7"] == c["p8"]
    ),
    "sum": lambda c: sum(c.values()) == 9,
    "order": lambda c: [*c.values()] == sorted(c.values()),
    "keywords": lambda c: (lambda p0, p1, p2, p3, p4, **_: p0 == p1 == p2 == p3 == p4)(**c),
}


def allowing(sizes: list[int], share: float, seed: int) -> SearchSpace | None:
    """A space of which about that share of codes is valid, at random."""
    table = np.random.default_rng(seed).random(sizes) < share
    return SearchSpace(sizes, lambda c: bool(table[tuple(c.values())])) if table.any() else None


@pytest.mark.parametrize("largest", [module.ENUMERABLE, 0])
@settings(max_examples=20, deadline=None, derandomize=True)
@given(st.lists(st.integers(1, 5), min_size=1, max_size=4), st.floats(0.01, 1), st.integers(0, 99), st.integers(1, 700))
def test_everything_valid_is_found_and_nothing_else(
    largest: int, sizes: list[int], share: float, seed: int, n: int
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "ENUMERABLE", largest)  # 0: as in a large space, where all that exists can be seen
        space = allowing(sizes, share, seed)
        if space is None:
            return
        valid, rng = set(space.enumerate()), np.random.default_rng(seed)
        found: list[str] = []
        while more := space.sample(rng, n, {*found, "stranger", "9" * len(sizes)}):
            assert not largest or len(more) == min(n, len(valid) - len(found))
            found += more
        assert len(found) == len(set(found))
        assert set(found) == valid


@pytest.mark.parametrize("share", [0.002, 0.3])
def test_every_valid_code_of_a_space_that_can_be_listed_is_equally_likely(share: float) -> None:
    space = allowing([10, 10, 30], share, 4)
    assert space is not None
    valid, rng = list(space.enumerate()), np.random.default_rng(0)
    gone = set(valid[: len(valid) // 3])
    counts = Counter(code for _ in range(4000) for code in space.sample(rng, 1, gone))
    expected = 4000 / (len(valid) - len(gone))
    statistic = sum((counts[code] - expected) ** 2 / expected for code in valid if code not in gone)
    assert counts.total() == 4000
    assert statistic < chi2.ppf(1 - 1e-6, len(valid) - len(gone) - 1)


@pytest.mark.parametrize("name", FEW)
def test_few_valid_codes_of_a_billion_are_found_and_spread(name: str) -> None:
    space = SearchSpace(BILLION, FEW[name])
    codes = space.sample(np.random.default_rng(0), 200)
    assert len(set(codes)) == 200
    assert all(code in space for code in codes)
    assert len({code[0 if name != "keywords" else 8] for code in codes}) >= 4  # five equal ones are hard to leave
    assert codes == SearchSpace(BILLION, FEW[name]).sample(np.random.default_rng(0), 200)
    [another] = space.sample(np.random.default_rng(0), 1, codes)
    assert another not in codes
    assert space.sample(np.random.default_rng(0), 1, reversed(codes)) == [another]  # nothing is remembered


@pytest.mark.parametrize("policy", list(POLICIES))
def test_a_search_with_a_hundred_thousand_valid_codes_left_goes_on(policy: str) -> None:
    space = SearchSpace(BILLION, lambda c: c["p0"] == c["p1"] == c["p2"] == c["p3"] == c["p4"])
    searcher = Searcher(space, RANKER, policy=policy)
    for _ in range(12):
        for code in searcher.ask(3):
            searcher.tell(code, float(sum(map(int, code))))
    assert len(searcher.history) == 36
    assert all(code in space for code in searcher.history.codes)


def test_a_space_is_listed_once() -> None:
    calls = 0

    def valid(configuration: Configuration) -> bool:
        nonlocal calls
        calls += 1
        return sum(configuration.values()) == 3  # type: ignore[arg-type]

    searcher = Searcher(SearchSpace([8] * 5, valid), RANKER)
    asked = []
    for _ in range(20):
        before = calls
        [code] = searcher.ask()
        searcher.tell(code, float(code[0]))
        asked.append(calls - before)
    assert sorted(asked)[-2] < 3000 < 8**5


def increasing(c: dict[str, Any]) -> bool:
    return all(c[f"p{i}"] < c[f"p{i + 1}"] for i in range(8))  # ten codes of a billion


def test_what_cannot_be_known_to_be_used_up_is_not_called_so(tmp_path: Path) -> None:
    space = SearchSpace(BILLION, increasing)
    searcher = Searcher(space, RANKER)
    for _ in range(10):
        [code] = searcher.ask()
        searcher.tell(code, 1.0)
    with pytest.raises(NothingToPropose, match=f"the 10 evaluated or under way was found in {TRIES:,} tries") as raised:
        searcher.ask()
    assert not isinstance(raised.value, SpaceExhausted)
    result = run(lambda c: float(str(c["p0"])), space, RANKER, out=tmp_path, trials=40)
    assert (len(result.trials), result.exhausted) == (10, False)
    assert "there may be more" in result.ended
    small = SearchSpace([10] * 3, lambda c: c["p0"] == c["p1"] == c["p2"])
    result = run(lambda c: float(str(c["p0"])), small, RANKER, out=tmp_path / "small", trials=40)
    assert (len(result.trials), result.exhausted) == (10, True)


def test_a_predicate_that_accepts_nothing_that_was_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "FIRST_TRIES", 3000)
    monkeypatch.setattr("lmsearcher_local.spaces.sampling.FIRST_TRIES", 3000)
    with pytest.raises(SpaceError, match="accepted none of 3,000 configurations tried"):
        SearchSpace(BILLION, lambda c: False)
    with pytest.raises(SpaceError, match="predicate raised TypeError"):
        SearchSpace(BILLION, lambda c: c["p0"] < "text")


def test_a_predicate_that_takes_plain_dictionaries_only() -> None:
    def valid(configuration: Configuration) -> bool:
        if type(configuration) is not dict:
            raise TypeError
        return sum(configuration.values()) == 9  # type: ignore[arg-type]

    assert len(SearchSpace(BILLION, valid).sample(np.random.default_rng(0), 20)) == 20
