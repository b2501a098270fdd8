"""The process of an evaluation: its environment, how it dies, what is no number, long time-outs."""

import json
import math
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import goals
import pytest
from goals import score
from scripted import scripted_ranker

from lmsearcher_local.errors import SearchStopped
from lmsearcher_local.spaces.space import Configuration, SearchSpace
from lmsearcher_local.study.executors import connect
from lmsearcher_local.study.objectives.function import FunctionObjective
from lmsearcher_local.study.results import Result
from lmsearcher_local.study.run import run

HERE = Path(__file__).parent
SPACE = SearchSpace({f"x{i}": [0, 1, 2, 3] for i in range(4)})
VLLM = """
import sys
from lmsearcher_local.model.load import load_ranker
from lmsearcher_local.study.objectives.command import CommandObjective
from lmsearcher_local.study.objectives.function import FunctionObjective
from lmsearcher_local.spaces.space import SearchSpace
from lmsearcher_local.study.run import run

SPACE = SearchSpace({f"x{i}": [0, 1, 2, 3] for i in range(4)})
with load_ranker(engine="vllm") as ranker:
    goals = FunctionObjective("goals:writes_environment"), CommandObjective(sys.argv[1], SPACE)
    for out, goal in zip(("function", "command", "group"), (*goals, FunctionObjective("goals:joins_a_group"))):
        result = run(goal, SPACE, ranker, out=out, trials=7)
        assert all(trial.value is not None for trial in result.trials), result
"""


def search(out: Path, objective: Any, trials: int = 12, **options: Any) -> Result:
    return run(objective, SPACE, scripted_ranker(), out=out, trials=trials, **options)


def test_evaluations_beside_vllm_see_the_environment_of_the_command(tmp_path: Path) -> None:
    pytest.importorskip("vllm")
    (tmp_path / "marks").mkdir()
    environment = {**os.environ, "MARKS": str(tmp_path / "marks"), "OWN": "value"}
    environment["PYTHONPATH"] = os.pathsep.join([str(HERE), environment.get("PYTHONPATH", "")])
    write = "import json, os; json.dump(dict(os.environ), open(os.environ['FILE'], 'w'))"
    command = f'FILE="${{FILE:-command.json}}" {sys.executable} -c "{write}"; echo 1'
    done = subprocess.run(
        [sys.executable, "-c", VLLM, command],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    seen = [json.loads(file.read_text()) for file in (tmp_path / "marks").iterdir()]
    assert len(seen) == 8  # one of them twice, the second time in a process that was started behind it
    function = {**environment, "LMSEARCHER_OUT": str(tmp_path / "function")}
    assert all(one == function for one in seen)
    subprocess.run(["sh", "-c", command], cwd=tmp_path, env={**environment, "FILE": "plain.json"}, check=True)
    plain, shell = (json.loads((tmp_path / f"{name}.json").read_text()) for name in ("plain", "command"))
    for variables in (plain, shell):
        variables.pop("FILE")
    ours = {name: shell.pop(name) for name in [*shell] if name.startswith("LMSEARCHER_")}
    assert shell == plain
    assert {*ours} == {"LMSEARCHER_OUT", "LMSEARCHER_CONFIG", "LMSEARCHER_NCODE"}
    assert ours["LMSEARCHER_OUT"] == str(tmp_path / "command")


@pytest.mark.parametrize("kind", ["dask", "ray"])
def test_evaluations_on_a_cluster_see_the_environment_of_its_workers(
    kind: str, tmp_path: Path, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(HERE)  # functions are imported from there
    with connect(f"{kind}:{request.getfixturevalue(kind)}") as (executor, _):
        monkeypatch.setenv("MARKS", "of this process, which is none of theirs")
        objective = FunctionObjective("goals:environment_digest")
        result = search(tmp_path, objective, 4, executor=executor)
        theirs = {executor.submit(_digest, str(tmp_path)).result() for _ in range(8)}
    assert {trial.value for trial in result.trials} <= theirs


def _digest(out: str) -> float:
    os.environ["LMSEARCHER_OUT"] = out
    try:
        return goals.environment_digest()
    finally:
        del os.environ["LMSEARCHER_OUT"]


DEATHS = {
    goals.dies: "its process ended with exit status -9",  # as the kernel does for want of memory
    goals.segfault: "its process ended with exit status -11",
    goals.leaves: "its process ended with exit status 7",
    goals.takes_all_memory: "MemoryError: ",
}


@pytest.mark.parametrize(("goal", "workers"), [*((goal, 1) for goal in DEATHS), (goals.dies, 3)])
def test_a_process_that_dies_fails_its_trial_alone(tmp_path: Path, goal: Any, workers: int) -> None:
    result = search(tmp_path, goal, 16, workers=workers)
    assert len(result.trials) == 16
    for trial in result.trials:
        if trial.code[0] == "1":
            assert (trial.value, trial.reason) == (None, DEATHS[goal])
        else:
            assert trial.value == score(SPACE.decode(trial.code))  # type: ignore[arg-type]
    assert {trial.code[0] == "1" for trial in result.trials} == {True, False}


class Custom:
    """An objective of a user's own, in this process."""

    name = "custom"

    def __init__(self, answer: object) -> None:
        self.answer = answer

    def __call__(self, code: str, configuration: Configuration) -> float:
        if isinstance(self.answer, BaseException):
            raise self.answer
        return self.answer  # type: ignore[return-value]

    def close(self) -> None:
        pass


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (ZeroDivisionError("by zero"), "ZeroDivisionError: by zero"),
        (SystemExit(3), "SystemExit: 3"),
        (math.nan, "the objective returned nan; a finite number is needed"),
        ("3", "the objective returned '3', which is no number"),
    ],
    ids=repr,
)
def test_what_an_objective_in_this_process_raises_or_returns_fails_its_trial(
    tmp_path: Path, answer: object, reason: str
) -> None:
    result = search(tmp_path, Custom(answer), 3)
    assert [trial.reason for trial in result.trials] == [reason] * 3


def test_a_function_that_cannot_be_imported_any_more_ends_the_search_and_costs_no_trial(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    module = tmp_path / "vanishing.py"
    module.write_text(f"import os\ndef score(c):\n    os.remove({str(module)!r})\n    os._exit(1)\n")
    with pytest.raises(
        SearchStopped, match="cannot import the objective vanishing:score: ModuleNotFoundError"
    ) as raised:
        search(tmp_path / "out", FunctionObjective("vanishing:score"))
    assert "\n" not in str(raised.value)
    module.write_text("def score(c):\n    return 1\n")
    result = search(tmp_path / "out", FunctionObjective("vanishing:score"), resume=True)
    assert [trial.reason for trial in result.trials] == [None] * 12
    assert [trial.code for trial in result.trials] == [
        trial.code for trial in search(tmp_path / "whole", Custom(1.0)).trials
    ]


@pytest.mark.parametrize("timeout", [30 * 24 * 3600.0, math.inf])
def test_long_time_outs(timeout: float) -> None:
    objective = FunctionObjective(goals.waits, timeout)
    try:
        assert objective("0000", SPACE.decode("0000")) == 0
    finally:
        objective.close()
