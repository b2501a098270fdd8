"""Forbidden combinations in large spaces: draws, neighbours and pools; inactive parameters in the surrogate."""

import pickle
import time
from collections import Counter
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.stats import chi2
from scripted import scripted_ranker

from lmsearcher_local.candidates.history import History
from lmsearcher_local.candidates.kernel import Embedding
from lmsearcher_local.candidates.policies import POLICIES, policy
from lmsearcher_local.candidates.pools import near
from lmsearcher_local.candidates.surrogate import Surrogate
from lmsearcher_local.errors import NothingToPropose, SpaceError, SpaceExhausted, SpaceWarning
from lmsearcher_local.search.searcher import Searcher
from lmsearcher_local.spaces import diagrams
from lmsearcher_local.spaces.space import SearchSpace

TRILLION = [10] * 12
SUM = " + ".join(f"p{i}" for i in range(12))
WEIGHED = " + ".join(f"{7**i % 10007} * p{i}" for i in range(12))
RARE: dict[str, tuple[list[str], int | None]] = {  # one in a million or fewer is allowed; how many, where counted
    "equalities": ([f"p{i} == p{i + 6}" for i in range(6)], 10**6),
    "sum": ([f"{SUM} == 10"], 352_704),
    "chain": ([" < ".join(f"p{i}" for i in range(8)), "p9 == p10"], 45_000),
    "sum and pairs": ([f"{SUM} <= 20", "p0 == p11 and p1 == p10", "p2 == p9", "p3 == p8", "p4 == p7"], 50_200),
    "implications": ([f"p{i} == 0 or p{i + 1} in [0, 1] and p{i + 1} == p{i}" for i in range(11)] + ["p11 == 0"], 1),
    "weighed sum": ([f"{WEIGHED} == 30011"], None),
    "halves": ([f"{WEIGHED} <= 3000", "p0 != p1 or p2 != p3"], None),
}


@pytest.mark.parametrize("name", RARE)
def test_one_in_a_million_is_found_at_once_and_nothing_else(name: str) -> None:
    where, count = RARE[name]
    space = SearchSpace(TRILLION, where=where)
    [first] = space.sample(np.random.default_rng(0), 1)
    assert first in space
    if name != "implications":
        assert space.count == count
    codes = space.sample(np.random.default_rng(1), 1000)
    assert len({*codes}) == min(1000, space.count or 1000)
    assert space.accepted(space.array(codes)).all()
    assert codes == SearchSpace(TRILLION, where=where).sample(np.random.default_rng(1), 1000)


@pytest.mark.perf
@pytest.mark.parametrize("name", RARE)
def test_one_in_a_million_takes_less_than_a_second(name: str) -> None:
    started = time.process_time()
    SearchSpace(TRILLION, where=RARE[name][0]).sample(np.random.default_rng(0), 1)
    assert time.process_time() - started < 1


@pytest.mark.parametrize(
    ("name", "kind"),
    [*product(["equalities", "sum", "chain"], POLICIES), ("weighed sum", "local"), ("halves", "surrogate")],
)
def test_pools_are_full_of_valid_codes(name: str, kind: str) -> None:
    space = SearchSpace(TRILLION, where=RARE[name][0])
    codes = space.sample(np.random.default_rng(0), 12)
    surrogate = Surrogate(space, History(tuple(codes), tuple(float(sum(map(int, code[:3]))) for code in codes)))
    pool = policy(kind)(surrogate, np.random.default_rng(1), 50, codes)
    assert len({*pool.codes} - {*codes}) == 50
    assert space.accepted(space.array(pool.codes)).all()
    again = policy(kind)(surrogate, np.random.default_rng(1), 50, codes)
    assert again.codes == pool.codes


def test_forbidden_changes_take_along_as_little_as_they_can() -> None:
    space = SearchSpace(TRILLION, where=[f"p{i} == p{i + 6}" for i in range(6)])
    [code] = space.sample(np.random.default_rng(0), 1)
    assert space.neighbours(code) == []
    row = space.array([code])[0]
    moves = near(space, row, np.random.default_rng(0))
    assert len(np.unique(moves, axis=0)) == 54  # nine other digits of six pairs
    assert ((moves != row).sum(1) == 2).all()
    whole = SearchSpace(TRILLION, where=[f"{SUM} == 50"])
    row = whole.array(whole.sample(np.random.default_rng(0), 1))[0]
    moves = near(whole, row, np.random.default_rng(0))
    steps = (moves != row).sum(1)
    assert len(moves) == 108
    assert steps.min() == 2
    assert np.mean(steps == 2) > 0.8
    assert len({int(place) for move in moves for place in np.flatnonzero(move != row)}) == 12  # not always the last


def test_every_code_that_is_allowed_is_equally_likely() -> None:
    space = SearchSpace([10] * 9, where=[" + ".join(f"p{i}" for i in range(9)) + " == 3"])
    rng = np.random.default_rng(0)
    counts = Counter(code for _ in range(100) for code in space.sample(rng, 100))
    assert space.count == len(counts) == 165
    expected = 10_000 / 165
    statistic = sum((count - expected) ** 2 / expected for count in counts.values())
    assert statistic < chi2.ppf(1 - 1e-6, 164)
    gone = [*counts][:160]
    assert {*space.sample(rng, 10, gone)} == {*counts} - {*gone}


def test_a_space_that_can_be_counted_is_known_to_be_used_up() -> None:
    space = SearchSpace(TRILLION, where=[f"{SUM} == 1", "p3 == 0"])
    searcher = Searcher(space, scripted_ranker())
    for _ in range(11):
        [code] = searcher.ask()
        searcher.tell(code, float(code[5]))
    with pytest.raises(SpaceExhausted, match="all 11 valid configurations"):
        searcher.ask()


def test_a_space_that_cannot_be_counted_is_not_called_used_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(diagrams, "LARGEST", 0)
    for name in ("TRIES", "MORE_TRIES"):
        monkeypatch.setattr(f"lmsearcher_local.spaces.sampling.{name}", 1000)
    monkeypatch.setattr("lmsearcher_local.spaces.space.ENUMERABLE", 10)
    space = SearchSpace([10] * 7, where=["p0 + p1 + p2 + p3 + p4 + p5 + p6 == 1"])
    codes = space.sample(np.random.default_rng(0), 20)
    assert len({*codes}) == 7
    searcher = Searcher(space, scripted_ranker())
    for code in codes:
        searcher.tell(code, 1.0)
    with pytest.raises(NothingToPropose, match="there may be more") as raised:
        searcher.ask()
    assert not isinstance(raised.value, SpaceExhausted)


def test_wide_and_long_sums() -> None:
    long = SearchSpace([2] * 400, where=["+".join(f"p{i}" for i in range(400)) + " == 200"])
    codes = long.sample(np.random.default_rng(0), 20)
    assert [code.count("1") for code in codes] == [200] * 20
    assert len(near(long, long.array(codes)[0], np.random.default_rng(0))) > 100
    wide = SearchSpace({"a": range(9000), "b": range(9000), "c": range(9000)}, where=["a * 7 + b == 3 * c + 1"])
    codes = wide.sample(np.random.default_rng(0), 20)
    assert wide.accepted(wide.array(codes)).all()
    assert len(codes) == 20


def test_a_predicate_beside_expressions() -> None:
    space = SearchSpace(TRILLION, lambda c: c["p0"] % 3 == 1, where=[f"p{i} == p{i + 6}" for i in range(6)])
    codes = space.sample(np.random.default_rng(0), 100)
    assert len({*codes}) == 100
    assert all(code[0] in "147" and code[:6] == code[6:] for code in codes)
    assert "0" * 12 not in space


LAYERS: dict[str, Any] = {
    "depth": [1, 2, 3],
    "optimizer": ["adam", "sgd"],
    "momentum": [0.0, 0.5, 0.9],
    "op1": ["conv", "pool"],
    "op2": ["conv", "pool"],
    "op3": ["conv", "pool"],
}
WHEN = {"momentum": "optimizer == 'sgd'", "op2": "depth >= 2", "op3": "depth >= 3"}


def test_inactive_parameters_have_one_code_and_no_value() -> None:
    space = SearchSpace(LAYERS, where=["not (op1 == 'pool' and op2 == 'pool')"], when=WHEN)
    assert space.count == 4 * (2 + 3 + 6)
    assert space.decode("000000") == {"depth": 1, "optimizer": "adam", "op1": "conv"}
    assert space.encode({"depth": 1, "optimizer": "adam", "op1": "conv"}) == "000000"
    assert space.encode({**space.decode("000000"), "momentum": 0.9, "op3": "pool"}) == "000000"  # of no account
    assert "001000" not in space
    with pytest.raises(SpaceError, match="breaks 'momentum is inactive, so its code is that of its first option'"):
        space.decode("001000")
    with pytest.raises(SpaceError, match=r"every active one of .* got depth, optimizer, op1"):
        space.encode({"depth": 1, "optimizer": "sgd", "op1": "conv"})
    assert "000100" in space  # op2 is inactive, so it forbids nothing
    with pytest.raises(SpaceError, match=r"breaks .not \(op1 == 'pool' and op2 == 'pool'"):
        space.encode({"depth": 2, "optimizer": "adam", "op1": "pool", "op2": "pool"})


def test_neighbours_change_what_is_active() -> None:
    space = SearchSpace(LAYERS, when=WHEN)
    found = {code: space.decode(code) for code in space.neighbours("212011")}
    assert found.keys() == {"012000", "112010", "200011", "210011", "211011", "212111", "212001", "212010"}
    assert {*space.neighbours("000000")} == {"100000", "200000", "010000", "000100"}
    rows = near(space, space.array(["000000"])[0], np.random.default_rng(0))
    assert "012000" in space.codes(rows)  # what a condition asks for may come along


@pytest.mark.parametrize("wide", [0, 1200])
def test_an_inactive_parameter_is_no_difference_to_the_surrogate(wide: int) -> None:
    space = SearchSpace({**LAYERS, "more": [*range(wide or 3)]}, when={**WHEN, "more": "depth == 3"})
    more = "0000" if wide else "0"
    rows = space.array([f"{code}{more}" for code in ("010000", "011000", "012000", "000000", "000100", "200000")])
    embedding = Embedding(space, rows)
    features = embedding.features(rows)
    pairs = ((features[:, None] - features[None]) ** 2).sum(2) / 2
    apart = pairs[0, 3] - 1  # adam has no momentum: beside the optimizer little differs
    assert 0 < apart < pairs[0, 1]
    assert apart <= pairs[0, 2]
    plain = SearchSpace({**LAYERS, "more": [*range(wide or 3)]})
    other = Embedding(plain, rows).features(rows)
    theirs = ((other[:, None] - other[None]) ** 2).sum(2) / 2
    assert theirs[2, 3] > pairs[2, 3]  # there the momentum counts in full


def test_equality_hash_pickle_and_repr() -> None:
    space = SearchSpace(LAYERS, where=["depth <= 2"], when=WHEN)
    same, other = SearchSpace(LAYERS, where=["depth <= 2"], when=WHEN), SearchSpace(LAYERS, when=WHEN)
    assert space == same
    assert hash(space) == hash(same)
    assert space not in (other, SearchSpace(LAYERS))
    copy = pickle.loads(pickle.dumps(space))
    assert copy == space
    assert [*copy.enumerate()] == [*space.enumerate()]
    rng = np.random.default_rng
    large = SearchSpace(TRILLION, where=RARE["weighed sum"][0])
    assert pickle.loads(pickle.dumps(large)).sample(rng(0), 3) == large.sample(rng(0), 3)
    assert space == SearchSpace(LAYERS, where=["depth <= 2"], when=dict(reversed(WHEN.items())))
    assert hash(space) == hash(SearchSpace(LAYERS, where=["depth <= 2"], when=dict(reversed(WHEN.items()))))
    assert repr(space) == f"SearchSpace(6 parameters, {space.count} configurations)"


def test_space_files(tmp_path: Path) -> None:
    (tmp_path / "space.yaml").write_text(
        "parameters:\n  rank: [4, 8]\n  alpha: [4, 8]\n  kind: [a, b]\n"
        "where:\n  - rank <= alpha\nwhen:\n  alpha: kind == 'b'\n"
    )
    space = SearchSpace.load(tmp_path / "space.yaml")
    named = {"rank": [4, 8], "alpha": [4, 8], "kind": ["a", "b"]}
    assert space == SearchSpace(named, where=["rank <= alpha"], when={"alpha": "kind == 'b'"})
    (tmp_path / "plain.yaml").write_text("parameters: [a, b]\nwhere: [x, rank]\nwhen: [1, 2]\n")
    assert SearchSpace.load(tmp_path / "plain.yaml").names == ("parameters", "where", "when")
    (tmp_path / "slip.yaml").write_text("rank: [4, 8]\nwhere: ['rank <= 4']\n")
    with pytest.warns(SpaceWarning, match="where is a parameter here"):
        SearchSpace.load(tmp_path / "slip.yaml")
    for text, words in (
        ("parameters: {a: [1, 2]}\nb: [1, 2]", "'b' stands beside parameters; allowed there: where, when"),
        ("a: [1, 2]\nwhen: {a: b}", "when stands beside a mapping called parameters"),
        ("parameters: {a: [1, 2]}\nwhere: a == 1", "where is a list of expressions, not 'a == 1'"),
    ):
        (tmp_path / "bad.yaml").write_text(text)
        with pytest.raises(SpaceError, match=f"bad.yaml: {words}"):
            SearchSpace.load(tmp_path / "bad.yaml")
