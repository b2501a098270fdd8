"""Objectives: what counts as a score, and that a timeout really stops what runs."""

import math
import os
import subprocess
import sys
import time
from decimal import Decimal
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from processes import gone

from lmsearcher_local.errors import ObjectiveError
from lmsearcher_local.spaces.space import Configuration, SearchSpace
from lmsearcher_local.study.objectives import worker
from lmsearcher_local.study.objectives.base import ObjectiveFailed, check_measured
from lmsearcher_local.study.objectives.function import FunctionObjective, InProcess

SPACE = SearchSpace({"rate": [0.1, 1e-8], "name": ["a b", "it's; rm -rf $HOME"], "on": [True, False]})
CODE = "010"
CONFIGURATION = SPACE.decode(CODE)


def rate(configuration: Configuration) -> float:
    return float(configuration["rate"])  # type: ignore[arg-type]


def forever(configuration: Configuration) -> float:
    subprocess.Popen(["sleep", "600"], env={**os.environ, "MARK": str(configuration["name"])})
    while True:
        time.sleep(1)


def process_id(configuration: Configuration) -> float:
    if configuration["on"]:
        os._exit(3)
    return os.getpid()


def raises(configuration: Configuration) -> float:
    raise RuntimeError("out of\nluck")


NUMBERS = [
    *(1, 1.5, np.float32(2), np.int64(3), -0.0, Decimal("2.5"), Fraction(1, 4), np.array(2.5), np.float16(2)),
]
NONE = [
    *(math.nan, math.inf, -math.inf, 10**400, None, "91.2", True, [1.0], 1j, b"1", np.str_("1"), Decimal("nan")),
    *(np.array([1.0, 2.0]), np.array("1"), np.bool_(True), np.complex64(1)),
]


@pytest.mark.parametrize("value", NUMBERS, ids=repr)
def test_numbers_are_scores(value: float) -> None:
    assert check_measured(value) == value
    assert type(check_measured(value)) is float


@pytest.mark.parametrize("value", NONE, ids=lambda value: repr(value)[:30])
def test_anything_else_is_none(value: object) -> None:
    with pytest.raises(ObjectiveFailed, match="the objective returned"):
        check_measured(value)


def test_tensors_likewise() -> None:
    import torch  # not above: this module's functions travel by name, and their processes import it

    for value in (torch.tensor(2.5, requires_grad=True), torch.tensor(3), torch.tensor(1.5, dtype=torch.bfloat16)):
        test_numbers_are_scores(value)  # type: ignore[arg-type]
    for none in (torch.ones(2), torch.tensor(True)):
        test_anything_else_is_none(none)
    assert check_measured({"latency": torch.tensor(3)}) == {"latency": 3.0}


def test_several_numbers_by_name_are_measured_values() -> None:
    measured = check_measured({"accuracy": np.float32(0.5), " latency ": np.array(3)})
    assert measured == {"accuracy": 0.5, "latency": 3.0}
    assert {type(value) for value in measured.values()} == {float}  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        ({}, "an empty mapping"),
        ({"": 1.0}, "a mapping with the name ''; names are text"),
        ({3: 1.0}, "a mapping with the name '3'; names are text"),
        ({"a": 1.0, "b": math.nan}, "nan for b; a finite number is needed"),
        ({"a": None}, "'None' for a, which is no number"),
        ({"a": {"b": 1.0}}, "for a, which is no number"),
    ],
    ids=repr,
)
def test_a_mapping_holds_finite_numbers_by_name(value: object, reason: str) -> None:
    with pytest.raises(ObjectiveFailed, match=f"the objective returned .*{reason}"):
        check_measured(value)


def test_a_function_may_run_in_this_process() -> None:
    assert InProcess(lambda configuration: os.getpid())(CODE, CONFIGURATION) == os.getpid()
    with pytest.raises(ObjectiveFailed, match="RuntimeError: out of luck"):
        InProcess(raises)(CODE, CONFIGURATION)
    with pytest.raises(ObjectiveFailed, match="SystemExit: 1"):
        InProcess(lambda configuration: sys.exit(1))(CODE, CONFIGURATION)


def test_a_function_runs_in_one_process_of_its_own() -> None:
    objective = FunctionObjective(process_id)
    try:
        first = objective(CODE, {**CONFIGURATION, "on": False})
        assert first != os.getpid()
        assert objective(CODE, {**CONFIGURATION, "on": False}) == first
        with pytest.raises(ObjectiveFailed, match="its process ended with exit status 3"):
            objective(CODE, {**CONFIGURATION, "on": True})
        assert objective(CODE, {**CONFIGURATION, "on": False}) not in (first, os.getpid())
    finally:
        objective.close()
    failing = FunctionObjective(raises)
    try:
        for _ in range(2):
            with pytest.raises(ObjectiveFailed, match="RuntimeError: out of luck"):
                failing(CODE, CONFIGURATION)
    finally:
        failing.close()


def test_timeout_stops_a_function_and_its_children() -> None:
    objective = FunctionObjective(forever, timeout=0.5)
    mark = f"lmsearcher-{os.getpid()}-function"
    try:
        for _ in range(2):
            with pytest.raises(ObjectiveFailed, match=r"not done after 0\.5 s"):
                objective(CODE, {**CONFIGURATION, "name": mark})
            assert gone(mark)
    finally:
        objective.close()


def test_a_function_that_cannot_travel() -> None:
    open_generator = (i for i in range(3))
    with pytest.raises(ObjectiveError, match=r"cannot be sent to a process of its own .*InProcess") as raised:
        FunctionObjective(lambda configuration: next(open_generator))
    assert "\n" not in str(raised.value)
    for timeout in (0, -1.0, math.nan):
        with pytest.raises(ObjectiveError, match="the time-out of a trial is above 0 s"):
            FunctionObjective(rate, timeout)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("train.score", "an objective is written module:function, not 'train.score'"),
        ("dying_objective:f", "cannot import the objective dying_objective:f: its process ended with exit status 5"),
        ("no_such_module:f", "cannot import the objective no_such_module:f: ModuleNotFoundError"),
        ("math:no_such", "cannot import the objective math:no_such: AttributeError"),
        ("math:pi", "cannot import the objective math:pi: it is no function but float"),
        ("broken_objective:f", "cannot import the objective broken_objective:f: SystemExit: no"),
    ],
)
def test_objectives_that_cannot_be_imported(
    spec: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "broken_objective.py").write_text("raise SystemExit('no')")
    (tmp_path / "dying_objective.py").write_text("import os\nos._exit(5)")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ObjectiveError, match=message):
        start_and_end(spec)


def test_an_import_that_hangs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "hanging_objective.py").write_text("import time\ntime.sleep(600)")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(worker, "STARTING", 0.5)
    with pytest.raises(
        ObjectiveError, match=r"cannot import the objective hanging_objective:score: its imports took more than 0\.5 s"
    ):
        start_and_end("hanging_objective:score")


def start_and_end(spec: str) -> None:
    objective = FunctionObjective(spec)
    try:
        objective.start()
    finally:
        objective.close()


def test_objectives_of_the_working_folder_are_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "my_objective.py").write_text("def score(configuration):\n    return configuration['rate']\n")
    monkeypatch.chdir(tmp_path)
    objective = FunctionObjective("my_objective:score")
    assert objective(CODE, CONFIGURATION) == 0.1
    objective.close()
    assert "my_objective" not in sys.modules  # imported there only


PROGRAMS = {
    "lambda": "run(lambda c: c['x'] * 2, {ARGS})",
    "function of the program": "def score(c):\n    return helper(c['x'])\ndef helper(x):\n    return x * FACTOR\n"
    "FACTOR = 2\nrun(score, {ARGS})",
    "partial": "import functools, operator\nrun(functools.partial(lambda factor, c: factor * c['x'], 2), {ARGS})",
}


# What travels is found in the main module, however that was started: one function for the second way.
@pytest.mark.parametrize(
    ("how", "program"),
    [*(("-c", name) for name in PROGRAMS), ("script without a main guard", "function of the program")],
)
def test_functions_of_programs_that_cannot_be_imported(how: str, program: str, tmp_path: Path) -> None:
    arguments = "SearchSpace({'x': [1, 2, 3]}), scripted_ranker(), out='out', trials=3, workers=2"
    text = (
        "from scripted import scripted_ranker\nfrom lmsearcher_local.spaces.space import SearchSpace\n"
        "from lmsearcher_local.study.run import run as search\nprint('once')\n"
        "def run(*a, **k):\n    print(sorted((t.code, t.value, t.reason) for t in search(*a, **k).trials))\n"
    ) + PROGRAMS[program].replace("{ARGS}", arguments)
    (tmp_path / "program.py").write_text(text)
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")]),
    }
    done = subprocess.run(
        [sys.executable, *(["-c", text] if how == "-c" else ["program.py"])],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout == "once\n[('0', 2.0, None), ('1', 4.0, None), ('2', 6.0, None)]\n", done.stderr
