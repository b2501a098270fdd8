"""Trials that report steps: functions, commands, the channel from elsewhere, and names of pruners."""

import json
import os
import socket
import sys
import time
from collections.abc import Callable
from pathlib import Path

import optuna
import pytest
from goals import climbs, score
from processes import gone

from lmsearcher_local.errors import ObjectiveError, StudyError
from lmsearcher_local.spaces.space import SearchSpace
from lmsearcher_local.study.channel import RemoteWatch, listen
from lmsearcher_local.study.executors import evaluate
from lmsearcher_local.study.objectives.base import Objective, ObjectiveFailed
from lmsearcher_local.study.objectives.command import CommandObjective
from lmsearcher_local.study.objectives.function import FunctionObjective, InProcess
from lmsearcher_local.study.objectives.steps import RunningTrial
from lmsearcher_local.study.pruning import describe_pruner, parse_pruner

SPACE = SearchSpace({f"x{i}": [0, 1, 2, 3] for i in range(2)})


class Recorder:
    """A watch that stops a trial at a step."""

    def __init__(self, last: int = 99) -> None:
        self.last = last
        self.heard: list[tuple[int, float]] = []

    def __call__(self, step: int, value: float) -> bool:
        self.heard.append((step, value))
        return step >= self.last


def ends(objective: Objective, watch: Recorder | None) -> object:
    try:
        found = evaluate(objective, "13", SPACE.decode("13"), watch)
        return "stopped" if found.pruned else found.value if found.value is not None else found.reason
    finally:
        objective.close()


@pytest.mark.parametrize("make", [FunctionObjective, InProcess])
def test_a_function_reports_and_is_stopped(make: Callable[..., Objective]) -> None:
    whole, half = Recorder(), Recorder(2)
    assert ends(make(climbs), whole) == 4.0
    assert whole.heard == [(1, 1.0), (2, 2.0), (3, 3.0), (4, 4.0)]
    assert ends(make(climbs), half) == "stopped"
    assert half.heard == [(1, 1.0), (2, 2.0)]
    assert ends(make(climbs), None) == 4.0  # without a pruner, reports go nowhere
    assert ends(make(score), Recorder()) == 4.0  # it takes no trial


def test_a_process_goes_on_after_a_stop() -> None:
    objective = FunctionObjective(climbs)
    try:
        for last in (2, 99, 1):
            watch = Recorder(last)
            assert evaluate(objective, "13", SPACE.decode("13"), watch).pruned == (last < 5)
            assert len(watch.heard) == min(last, 4)
        assert len(objective._idle) == 1
    finally:
        objective.close()


@pytest.mark.parametrize(
    ("how", "found"),
    [
        ("returns", "stopped"),  # told to stop, it is stopped, whatever it does then
        ("raises", "stopped"),
        ("prunes", "stopped"),
        ("never asks", 7.0),
        ("prunes unasked", "stopped"),
        ("prunes unreported", "TrialPruned: by itself"),
        ("step", "ValueError: a step is a whole number of at least 0, not 0.5"),
        ("value", "ValueError: the value of step 1 is no number: 'good'"),
    ],
)
def test_how_functions_end(how: str, found: object) -> None:
    def function(configuration: dict[str, int], trial: RunningTrial) -> float:
        if how == "prunes unreported":
            raise optuna.TrialPruned("by itself")
        trial.report(*{"step": (0.5, 1), "value": (1, "good")}.get(how, (1, 0.5)))  # type: ignore[arg-type]
        if how == "prunes unasked":
            raise optuna.TrialPruned
        if how != "never asks" and trial.should_stop() and how != "returns":
            raise optuna.TrialPruned if how == "prunes" else ValueError("in its clean-up")
        return 7.0

    assert ends(InProcess(function), Recorder(1)) == found


def test_what_takes_a_trial() -> None:
    def more(configuration: object, epochs: int = 3) -> float:
        return epochs

    def named(configuration: object, trial: RunningTrial | None = None) -> float:
        assert trial is not None
        return 1.0

    assert ends(InProcess(more), Recorder()) == 3
    assert ends(InProcess(named), Recorder()) == 1


def test_a_command_reports_and_is_ended_whole() -> None:
    mark = f"lmsearcher-{os.getpid()}-steps"
    program = (
        "import subprocess, time; subprocess.Popen(['sleep', '600']); print('step 1 0.5'); print('step 2 nonsense');"
        " print('a step 3 0.1'); print('\\rstep 2 0.25'); time.sleep(600)"
    )
    watch = Recorder(2)
    started = time.monotonic()
    assert ends(CommandObjective(f'MARK={mark} {sys.executable} -c "{program}"', SPACE), watch) == "stopped"
    assert watch.heard == [(1, 0.5), (2, 0.25)]
    assert time.monotonic() - started < 300
    assert gone(mark)


@pytest.mark.parametrize(("last", "found"), [(2, "stopped"), (99, 4.0), (4, 4.0)])
def test_a_quick_command_stops_at_the_same_step(last: int, found: object) -> None:
    """It has ended long before anybody looks."""
    watch = Recorder(last)
    assert ends(CommandObjective("echo step 1 3; echo step 2 nan; echo step 3 5; echo 4", SPACE), watch) == found
    assert [step for step, _ in watch.heard] == [1, 2, 3][: min(last, 3)]


def test_a_watched_command_has_its_time_out() -> None:
    with pytest.raises(ObjectiveFailed, match=r"not done after 0\.5 s"):
        CommandObjective("echo step 1 3; sleep 600", SPACE, timeout=0.5)("13", SPACE.decode("13"), Recorder())


def test_long_output_in_pieces(tmp_path: Path) -> None:
    program = "for i in range(3): print('x' * 200_000); print('step', i, i / 4)"
    (tmp_path / "long.py").write_text(f"{program}\nprint(1)\n")
    watch = Recorder()
    assert ends(CommandObjective(f"{sys.executable} {tmp_path}/long.py", SPACE), watch) == 1
    assert watch.heard == [(0, 0.0), (1, 0.25), (2, 0.5)]


def test_the_channel_answers_who_knows_the_token() -> None:
    heard: list[tuple[int, int, float]] = []

    def judge(trial: int, step: int, value: float) -> bool:
        heard.append((trial, step, value))
        return step > 1

    with listen(judge, here=True) as watch_of:
        watch = watch_of(5)
        assert [watch(1, 0.5), watch(2, float("inf"))] == [False, True]
        stranger = RemoteWatch(watch.host, watch.addresses, watch.port, "guessed", 5)
        with pytest.raises(ObjectiveError, match="it does not answer"):
            stranger(1, 0.5)
        with socket.create_connection(("127.0.0.1", watch.port)) as connection:
            connection.sendall(b"GET / HTTP/1.1\r\n\r\n")
            assert connection.recv(100) == b""
        assert watch(1, 1.0) is False
    assert heard == [(5, 1, 0.5), (5, 2, float("inf")), (5, 1, 1.0)]
    with pytest.raises(ObjectiveError, match=r"cannot reach the search at 127\.0\.0\.1, port \d+ \(.*refused\)"):
        watch(1, 1.0)


def test_the_channel_is_open_to_a_cluster() -> None:
    with listen(lambda trial, step, value: True, here=False) as watch_of:
        watch = watch_of(5)
        elsewhere = RemoteWatch("another machine", watch.addresses, watch.port, watch.token, 5)
        assert elsewhere(1, 1.0) is True


def test_a_worker_that_cannot_reach_the_search_ends_it() -> None:
    watch = RemoteWatch(socket.gethostname(), (), 9, "", 5)
    found = evaluate(FunctionObjective(climbs), "13", SPACE.decode("13"), watch)
    assert found.stops
    assert "cannot reach the search" in found.reason


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("mean", "there is no pruner 'mean'; allowed: median, hyperband, successive-halving, patient"),
        ("median:5", "pruner median: settings are written NAME=VALUE, each once, with commas, not '5'"),
        ("median:n_min_trials=1,n_min_trials=1", "pruner median: settings are written NAME=VALUE, each once"),
        (
            "median:patience=3",
            "pruner median has no setting 'patience'; allowed: n_startup_trials, n_warmup_steps, interval_steps",
        ),
        ("median:n_warmup_steps=2.5", "pruner median: n_warmup_steps is a whole number, not '2.5'"),
        ("median:n_startup_trials=-1", "pruner median: Number of startup trials cannot be negative"),
        ("hyperband:max_resource=all", "pruner hyperband: max_resource is a whole number or auto, not 'all'"),
        ("hyperband:min_resource=0", "pruner hyperband: The value of `min_resource` is 0, but must be"),
        (
            "hyperband:min_resource=9,max_resource=3",
            "pruner hyperband: max_resource is at least min_resource, 9, not 3",
        ),
        ("hyperband:reduction_factor=1", "pruner hyperband: The value of `reduction_factor` is 1, but must be"),
        ("patient", "pruner patient needs how many steps: patient:patience=3"),
        ("patient:patience=2,min_delta=nan", "pruner patient: min_delta is a number, not 'nan'"),
        ("patient:patience=2,wrapped=patient", "pruner patient: no pruner 'patient' can be wrapped; allowed: median,"),
        ("patient:patience=2,min_resource=1", "pruner median has no setting 'min_resource'"),
    ],
)
def test_unknown_pruners_and_settings(text: str, message: str) -> None:
    with pytest.raises(StudyError) as error:
        parse_pruner(text)
    assert str(error.value).startswith(message)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("median", {"n_startup_trials": 5, "percentile": 50.0}),
        ("hyperband:min_resource=1,max_resource=27", {"min_resource": 1, "max_resource": 27, "reduction_factor": 3}),
        ("successive-halving:min_resource=auto", {"reduction_factor": 4}),
        ("patient: patience=3, wrapped=hyperband, max_resource=auto", {"patience": 3, "min_delta": 0.0}),
    ],
)
def test_pruners_are_described(text: str, found: dict[str, object]) -> None:
    described = describe_pruner(parse_pruner(text))
    assert described is not None
    settings = json.loads(described.partition(" ")[2])
    assert settings.items() >= found.items()
    assert describe_pruner(parse_pruner(text)) == described
    if text.startswith("patient"):
        assert settings["wrapped_pruner"].startswith("HyperbandPruner")
