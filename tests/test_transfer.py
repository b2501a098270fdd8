"""The benchmark of earlier searches: sources kept apart, every row of it searches, a stopped run goes on.

The tables are small ones made here, of two families: those that are measured take long to load.
"""

from collections.abc import Iterator
from contextlib import nullcontext
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from scripted import scripted_ranker

from bench import transfer
from bench.pages import read_rows
from bench.quality import read
from bench.tables import GROUPS, Problem
from lmsearcher_local.candidates.history import History
from lmsearcher_local.spaces.space import SearchSpace

TABLE, OTHER = "hpolib-naval_propulsion", "hpolib-parkinsons_telemonitoring"
SIZES = {"hpolib": [4, 3, 4, 2], "hpobench": [5, 5, 4]}


def made(name: str) -> Problem:
    """A table of its family's space, of effects that the family shares for the most part."""
    sizes = SIZES[name.split("-")[0]]
    space, shared, own = SearchSpace(sizes), np.random.default_rng(0), np.random.default_rng([*name.encode()])
    rows = space.array([*space.enumerate()])
    scores = sum((shared.normal(size=n) + 0.3 * own.normal(size=n))[rows[:, i]] for i, n in enumerate(sizes))
    assert isinstance(scores, np.ndarray)
    by_code = dict(zip(space.codes(rows), scores.tolist(), strict=True))
    return Problem(space, by_code, float(scores.max()), float(np.median(scores)))


@pytest.fixture(autouse=True)
def _short(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(transfer, "TRIALS", 8)
    monkeypatch.setattr(transfer, "MARKS", (1, 5, 8))
    monkeypatch.setattr(transfer, "problem", made)
    monkeypatch.setattr(transfer, "load_ranker", lambda *_: nullcontext(scripted_ranker()))
    transfer.history_of.cache_clear()
    yield
    transfer.history_of.cache_clear()


def cell(method: str, table: str = TABLE) -> transfer.Cell:
    return transfer.Cell(method, table, 0, *transfer.sources_of(table, "dev"))


def test_development_tables_learn_from_development_tables_alone() -> None:
    for group, tables in GROUPS.items():
        for table in tables:
            sources, useless = transfer.sources_of(table, group)
            assert table not in sources
            assert sources
            assert {name.split("-")[0] for name in sources} == {table.split("-")[0]}
            assert all(name.split("-")[0] != table.split("-")[0] for name in useless)
            assert group != "dev" or {*sources, *useless} <= {*GROUPS["dev"]}


@pytest.mark.parametrize("method", [name for name in transfer.METHODS if "Optuna GP" not in name])
def test_every_method_searches_and_repeats_itself(method: str) -> None:
    first, again = transfer.run(cell(method)), transfer.run(cell(method))
    assert first["regret"] == again["regret"]
    assert len(first["regret"]) == 8
    assert first["sources"] == 1


def test_what_the_peers_begin_with_are_the_best_of_the_sources() -> None:
    best = transfer.best_codes(cell("any"))
    history = transfer.history_of(OTHER, 0)
    assert best == [*history.best(5).codes]
    proposals = transfer.METHODS["Optuna TPE, best 5 enqueued"](cell("any"))
    codes = [next(proposals)]
    codes += [proposals.send(0.0) for _ in range(4)]
    assert codes == best
    assert [*islice(transfer.in_order(cell("any")), 5)] == best


def test_useless_sources_keep_their_scores_and_lose_their_meaning() -> None:
    space = made(TABLE).space
    history = transfer.history_of("hpobench-car", 0)
    for useless in (
        transfer.renamed("hpobench-car", 0, space),
        transfer.permuted(TABLE, 0),
        transfer.random_values(TABLE, 0),
    ):
        assert all(code in space for code in useless.history.codes)
    renamed = transfer.renamed("hpobench-car", 0, space).history
    assert {*renamed.scores} <= {*history.scores}
    own: History = transfer.history_of(TABLE, 0)
    permuted = transfer.permuted(TABLE, 0).history
    assert permuted.scores == own.scores
    assert permuted.codes != own.codes
    values = transfer.random_values(TABLE, 0).history
    assert sorted(values.scores) == sorted(own.scores)
    assert values.scores != own.scores
    assert values.codes != own.codes


def test_a_run_that_was_stopped_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(transfer.GROUPS, "dev", (TABLE, OTHER))
    arguments = ["--out", str(tmp_path), "--methods", f"{transfer.WITHOUT}; {transfer.WITH}", "--seeds"]
    for seeds in ("1", "2", "2"):
        found = CliRunner().invoke(transfer.main, [*arguments, seeds])
        assert found.exit_code == 0, found.output
    rows = read(tmp_path / "rows.jsonl")
    assert len(rows) == len({(row["method"], row["table"], row["seed"]) for row in rows}) == 8
    assert (tmp_path / "summary.md").read_text().count("(4)") == 4  # two methods, of the family and of all tables
    assert (tmp_path / "curves.png").stat().st_size > 10_000
    assert CliRunner().invoke(transfer.main, [*arguments[:3], "nothing"]).exit_code == 2


def test_a_table_shows_the_marks_that_all_searches_reached() -> None:
    row = {"method": transfer.WITH, "table": TABLE, "seed": 0, "regret": [0.5, 0.4, 0.3, 0.2, 0.1, 0.1]}
    assert f"| {transfer.WITH} | .500 / .100 (1) |" in transfer.markdown([row])
    assert f"| {transfer.WITH} | .500 / .100 / .000 (1) |" in transfer.markdown(
        [row | {"regret": [*row["regret"], 0, 0]}]
    )


def test_harm_is_the_ratio_of_means_with_the_error_of_paired_seeds() -> None:
    def rows(method: str, regrets: dict[int, float]) -> list[dict[str, Any]]:
        row = {"method": method, "table": TABLE}
        return [row | {"seed": seed, "regret": [regret] * 50} for seed, regret in regrets.items()]

    without = rows(transfer.WITHOUT, {0: 0.1, 1: 0.3, 2: 9.0})
    found = transfer.harm(
        [
            *without,
            *rows(transfer.USELESS[0], {0: 0.2, 1: 0.6}),  # the third seed was not searched: it is left out
            *rows(transfer.USELESS[1], {0: 0.3, 1: 0.3, 2: 9.0}),
        ]
    )
    assert f"| {transfer.USELESS[0]} | 2.00 ± 0.00 / 2.00 ± 0.00 | 2.00 ± 0.00 / 2.00 ± 0.00 |" in found
    a, b = np.array([0.3, 0.3, 9.0]), np.array([0.1, 0.3, 9.0])
    ratio = a.mean() / b.mean()
    error = np.std(a - ratio * b, ddof=1) / np.sqrt(3) / b.mean()
    assert f"| {transfer.USELESS[1]} | {ratio:.2f} ± {error:.2f} / " in found


def test_the_column_of_all_tables_has_only_methods_that_searched_each() -> None:
    rows = [{"method": transfer.WITH, "table": table, "seed": 0, "regret": [0.5] * 8} for table in (TABLE, OTHER)]
    rows.append(rows[0] | {"method": transfer.WITHOUT})
    text = transfer.markdown(rows)
    assert f"| {transfer.WITH} | .500 / .500 / .500 (2) | .500 / .500 / .500 (2) |" in text
    assert f"| {transfer.WITHOUT} | .500 / .500 / .500 (1) | - |" in text


@pytest.mark.parametrize("tables", ["transfer-dev", "transfer"])
def test_the_kept_rows_hold_what_the_page_says(tables: str) -> None:
    rows = read_rows(tables)
    regrets = {
        family: {name: {mark: mean[mark - 1] for mark in (5, 10, 20, 50)} for name, (mean, _) in methods.items()}
        for family, methods in transfer.curves(rows).items()
    }
    for methods in regrets.values():
        assert methods[transfer.WITH][50] <= methods[transfer.WITHOUT][50]
    found = regrets[transfer.ALL]
    ours = [name for name in found if name.startswith((transfer.WITH, transfer.MODEL))]
    for mark in (5, 10, 20) if tables == "transfer" else (10, 20, 50):
        assert found[transfer.WITH][mark] < min(found[name][mark] for name in {*found} - {*ours})
    for name in transfer.USELESS:
        for mark in transfer.HARMED:
            assert found[name][mark] <= transfer.BOUND * found[transfer.WITHOUT][mark]
    if tables == "transfer":  # goals after ten evaluations
        goals = {"NAS-Bench-201": 0.03, "HPOBench": 0.09, "HPOLib": 0.13}
        assert all(regrets[family][transfer.WITH][10] <= goal for family, goal in goals.items())
