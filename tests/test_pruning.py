"""Early stopping in a search: what is stored, shown and saved, on executors and after kills; and the budget."""

import json
import random
import re
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import nullcontext
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import optuna
import pytest
from forks import Say, begun
from goals import score, trains
from optuna.pruners import BasePruner, HyperbandPruner, MedianPruner
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial, TrialState
from scripted import scripted_ranker

from lmsearcher_local.errors import ObjectiveError, SearchStopped, StudyError
from lmsearcher_local.presets.tables import table
from lmsearcher_local.records.sources import read_history
from lmsearcher_local.report.page import page_of
from lmsearcher_local.spaces.files import RESULTS, TABLE
from lmsearcher_local.spaces.space import SearchSpace
from lmsearcher_local.study.objectives.function import FunctionObjective, InProcess
from lmsearcher_local.study.objectives.steps import RunningTrial
from lmsearcher_local.study.objectives.table import TableObjective
from lmsearcher_local.study.results import Result, result_of
from lmsearcher_local.study.run import run
from lmsearcher_local.study.savings import savings
from lmsearcher_local.study.timing import Clock, in_units, parse_budget

HERE = Path(__file__).parent
SPACE = SearchSpace([4] * 4)
BRACKETS = HyperbandPruner(min_resource=1, max_resource=9, reduction_factor=3)


def search(
    out: Path, objective: Any = None, trials: int = 24, pruner: BasePruner | None = BRACKETS, **more: Any
) -> Result:
    chosen = InProcess(trains) if objective is None else objective
    return run(chosen, SPACE, scripted_ranker(), out=out, trials=trials, pruner=pruner, **more)


def stored(out: Path) -> list[FrozenTrial]:
    study = optuna.load_study(study_name=None, storage=JournalStorage(JournalFileBackend(str(out / "study.journal"))))
    return [trial for trial in study.trials if "killed" not in trial.user_attrs]


def ways(out: Path) -> list[tuple[dict[str, Any], TrialState, dict[int, float]]]:
    return [(trial.params, trial.state, trial.intermediate_values) for trial in stored(out)]


def test_stopped_trials_are_kept_as_such(tmp_path: Path) -> None:
    result = search(tmp_path)
    stopped = [trial for trial in result.trials if trial.pruned]
    assert len(result.trials) == result.evaluated == 24
    assert 3 < len(stopped) < 22
    for trial, found in zip(stored(tmp_path), result.trials, strict=True):
        assert trial.state == (TrialState.PRUNED if found.pruned else TrialState.COMPLETE)
        assert trial.last_step == found.step == (max(trial.intermediate_values))
        assert found.value == (None if found.pruned else trains(found.configuration))
        assert not found.pruned or trial.value == found.reported == trial.intermediate_values[found.step]
    assert result.best is not None
    assert result.best[1] == max(trial.value for trial in result.trials if trial.value is not None)
    lines = (tmp_path / TABLE).read_text().splitlines()[1:]
    marked = [line for line in lines if re.match(r"\d+,\d+,,pruned at step \d: 0\.\d+,", line)]
    assert len(marked) == len(stopped)
    entries = json.loads((tmp_path / RESULTS).read_text()).values()
    assert [entry.get("stopped after step") for entry in entries] == [
        t.step if t.pruned else None for t in result.trials
    ]
    for source in (TABLE, RESULTS, "study.journal"):  # no other search takes the value of a step for one of the end
        known = read_history(tmp_path / source if source != "study.journal" else tmp_path, SPACE)
        assert len(known.entries) == 24 - len(stopped)
    found = savings(result)
    assert (found.reported, found.pruned) == (24, len(stopped))
    assert found.saved_steps == sum(9 - (trial.step or 0) for trial in stopped)
    assert re.fullmatch(
        rf"Early stopping: {len(stopped)} of 24 trials were pruned, which saved about {found.saved_steps} steps of"
        r" training \(\d+ %\) and .* s of evaluation\.",
        str(found),
    )


def test_the_page_tells_of_it(tmp_path: Path) -> None:
    result = search(tmp_path, trials=12)
    html = page_of(str(tmp_path))
    assert f'<b id="pruned">{sum(trial.pruned for trial in result.trials)}</b>' in html
    assert '<b id="failed">0</b>' in html
    assert f'<p id="savings">{savings(result)}</p>' in html
    [cells] = re.findall(r'<table id="time".*?(<tr><td.*?)</table>', html, re.DOTALL)
    assert re.findall(r">([^<]+)</td>", cells)[0:2] == ["1", "1"]
    [kept] = optuna.load_study(
        study_name=None, storage=JournalStorage(JournalFileBackend(str(tmp_path / "study.journal")))
    ).user_attrs["lmsearcher runs"]
    seconds = kept["seconds"]
    assert seconds["evaluating"] + seconds["waiting"] == pytest.approx(seconds["wall"], abs=0.01)
    assert 0 < seconds["asking"] < seconds["wall"]


def test_equal_seeds_stop_the_same_trials(tmp_path: Path) -> None:
    for name in "ab":
        search(tmp_path / name, trials=16, seed=3)
    assert ways(tmp_path / "a") == ways(tmp_path / "b")
    search(tmp_path / "c", seed=3, trials=9)
    search(tmp_path / "c", trials=16, seed=3, resume=True)
    assert ways(tmp_path / "a") == ways(tmp_path / "c")


@pytest.mark.parametrize("place", ["workers", "threads", "processes"])
def test_several_at_once(tmp_path: Path, place: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(HERE)
    pools: dict[str, Callable[[], Any]] = {
        "workers": nullcontext,
        "threads": lambda: ThreadPoolExecutor(2),
        "processes": lambda: ProcessPoolExecutor(2, mp_context=get_context("spawn")),
    }
    objective = FunctionObjective("goals:trains") if place == "workers" else InProcess(trains)
    with pools[place]() as executor:
        result = search(tmp_path, objective, 16, MedianPruner(n_startup_trials=2), executor=executor, workers=2)
    assert all(trial.pruned or trial.value == trains(trial.configuration) for trial in result.trials)
    assert any(trial.pruned for trial in result.trials)
    assert all(trial.intermediate_values for trial in stored(tmp_path))


def test_a_command_is_stopped(tmp_path: Path) -> None:
    (tmp_path / "space.yaml").write_text("a: [1, 2, 3, 4]\nb: [1, 2, 3, 4]\n")
    command = "A={a}; B={b}; for i in 1 2 3; do echo step $i $((A * B * i)); done; echo $((A * B * 3))"
    line = ["search", "space.yaml", "--command", command, "--trials", "12", "--out", "out"]
    settings = "median:n_startup_trials=1"
    done = cli(tmp_path, *line, "--pruner", settings)
    assert done.returncode == 0, done.stderr
    states = [trial.state for trial in stored(tmp_path / "out")]
    assert states.count(TrialState.PRUNED) + states.count(TrialState.COMPLETE) == 12
    assert f"Early stopping: {states.count(TrialState.PRUNED)} of 12 trials were pruned, which saved" in done.stdout
    assert re.search(r"trial 10/12: .*, \d+ pruned, best .*, ends about \d\d:\d\d\n", done.stdout)
    refused = cli(tmp_path, *line, "--pruner", "best")
    assert refused.returncode == 2
    assert "Error: there is no pruner 'best'; allowed: median" in refused.stderr


def cli(folder: Path, *words: str) -> "subprocess.CompletedProcess[str]":
    line = [sys.executable, str(HERE / "scripted_search.py"), *words]
    return subprocess.run(line, cwd=folder, capture_output=True, text=True)


def test_trials_of_others_that_reported_nothing(tmp_path: Path) -> None:
    search(tmp_path, trials=2)
    storage = JournalStorage(JournalFileBackend(str(tmp_path / "study.journal")))
    study = optuna.load_study(study_name=None, storage=storage)
    [params, *_] = [trial.params for trial in study.trials]
    study.add_trial(
        optuna.trial.create_trial(state=TrialState.PRUNED, params=params, distributions=study.trials[0].distributions)
    )
    *_, last = result_of_folder(tmp_path).trials
    assert (last.pruned, last.value, last.reason) == (True, None, "pruned before any step")
    assert len(search(tmp_path, trials=4, resume=True).trials) == 4
    assert "pruned before any step" in (tmp_path / TABLE).read_text()


def test_several_goals_are_refused(tmp_path: Path) -> None:
    with pytest.raises(StudyError, match="a pruner compares trials by one goal; with several goals leave it out"):
        search(tmp_path, goals=("accuracy:max", "latency:min"))


def test_what_reports_no_steps_is_refused(tmp_path: Path) -> None:
    cells = table("hpobench-car")
    with pytest.raises(ObjectiveError, match="table hpobench-car reports no steps, so no pruner can stop its trials"):
        run(TableObjective(cells), cells.space, scripted_ranker(), out=tmp_path, pruner=BRACKETS)
    assert str(savings(search(tmp_path / "silent", InProcess(score), 6))) == (
        "No trial reported a step, so none could be stopped early."
    )


def test_a_pruner_that_fails_ends_the_search(tmp_path: Path) -> None:
    class Faulty(BasePruner):
        def prune(self, study: optuna.Study, trial: FrozenTrial) -> bool:
            raise LookupError("no such step")

    with pytest.raises(
        SearchStopped, match="the pruner Faulty failed: LookupError: no such step; mend it, then resume"
    ):
        search(tmp_path, pruner=Faulty())
    with pytest.raises(StudyError, match=r"holds a study with another pruner \(Faulty \{\}, not HyperbandPruner "):
        search(tmp_path, resume=True)


def search_slowly(out: Path, say: Say) -> None:
    def slowly(configuration: dict[str, int], trial: RunningTrial) -> float:
        say()
        time.sleep(0.01)
        return trains(configuration, trial)

    search(out, InProcess(slowly), 14, resume=True)


def test_kills_change_nothing(tmp_path: Path) -> None:
    """Hyperband goes by numbers of trials, and successive halving by what trials noted of themselves."""
    whole, killed, rng, kills = tmp_path / "whole", tmp_path / "killed", random.Random(0), 0
    with begun(search_slowly, whole) as (process, _):
        process.join()
        assert process.exitcode == 0
    while True:
        with begun(search_slowly, killed) as (process, hear):
            for _ in range(rng.randint(2, 4)):
                hear()
            time.sleep(rng.uniform(0, 0.03))
            process.kill()
            process.join()
            if process.exitcode == 0:
                break
        kills += 1
        assert kills < 40
    assert kills >= 3
    assert ways(killed) == ways(whole)
    assert {state for _, state, _ in ways(whole)} == {TrialState.PRUNED, TrialState.COMPLETE}


@pytest.mark.parametrize(("text", "seconds"), [("90m", 5400), ("8h", 28800), ("1.5d", 129600), ("30 s", 30)])
def test_budgets(text: str, seconds: float) -> None:
    assert parse_budget(text) == seconds


@pytest.mark.parametrize("text", ["8", "h", "8 hours", "-1h", "0s", "1h30m", "nan h", ""])
def test_no_budget(text: str) -> None:
    with pytest.raises(StudyError, match="a budget is a number above 0 with its unit, s, m, h or d, like 8h, not"):
        parse_budget(text)


def test_times_in_words() -> None:
    assert [*map(in_units, (0.0123, 59, 5400, 7200, 129600))] == ["0.0123 s", "59 s", "1.5 h", "2 h", "1.5 d"]
    assert in_units(90) == "1.5 min"


def test_a_budget_ends_a_search(tmp_path: Path) -> None:
    """Each trial takes longer than the budget, so each run has at most one; what is under way ends."""

    def slow(configuration: dict[str, int]) -> float:
        time.sleep(0.3)
        return score(configuration)

    for runs in (1, 2):
        result = search(tmp_path, InProcess(slow), 9, None, budget=0.2, resume=True)
        assert result.ended == "its budget of 0.2 s is over"
        assert len(result.trials) <= runs  # none where the machine was too busy even to begin
        assert all(trial.value is not None for trial in result.trials)
    assert not result.exhausted
    assert len(result_of_folder(tmp_path).trials) == len(result.trials)
    whole = search(tmp_path / "whole", InProcess(score), 5, None, budget=3600)
    assert (len(whole.trials), whole.ended) == (5, "")


def result_of_folder(out: Path) -> Result:
    storage = JournalStorage(JournalFileBackend(str(out / "study.journal")))
    return result_of(optuna.load_study(study_name=None, storage=storage))


def test_a_clock_adds_up() -> None:
    clock = Clock(workers=2)
    clock.evaluated(0.5)
    with clock.asking():
        time.sleep(0.6)
    seconds = clock.seconds()
    assert not clock.over
    assert 0.6 <= seconds["asking"] <= seconds["wall"]
    assert seconds["evaluating"] == 0.5
    assert seconds["waiting"] == pytest.approx(2 * seconds["wall"] - 0.5, abs=0.01)
