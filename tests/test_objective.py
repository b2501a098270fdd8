"""Objectives: what counts as a score, and that a timeout really stops what runs."""

import math
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from processes import gone

from lmsearcher_local.errors import ObjectiveError
from lmsearcher_local.objectives.base import ObjectiveFailed, checked
from lmsearcher_local.objectives.function import FunctionObjective, load_function
from lmsearcher_local.space import Configuration, SearchSpace

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


@pytest.mark.parametrize("value", [1, 1.5, np.float32(2), np.int64(3), -0.0])
def test_numbers_are_scores(value: float) -> None:
    assert checked(value) == value
    assert type(checked(value)) is float


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, 10**400, None, "91.2", True, [1.0], 1j])
def test_anything_else_is_none(value: object) -> None:
    with pytest.raises(ObjectiveFailed, match="the objective returned"):
        checked(value)


def test_function_runs_in_this_process() -> None:
    assert FunctionObjective(lambda configuration: os.getpid())(CODE, CONFIGURATION) == os.getpid()
    with pytest.raises(ObjectiveFailed, match="RuntimeError: out of luck"):
        FunctionObjective(raises)(CODE, CONFIGURATION)
    with pytest.raises(ObjectiveFailed, match="SystemExit: 1"):
        FunctionObjective(lambda configuration: sys.exit(1))(CODE, CONFIGURATION)


def test_with_a_timeout_a_function_runs_in_one_process_of_its_own() -> None:
    objective = FunctionObjective(process_id, timeout=20)
    try:
        first = objective(CODE, {**CONFIGURATION, "on": False})
        assert first != os.getpid()
        assert objective(CODE, {**CONFIGURATION, "on": False}) == first
        with pytest.raises(ObjectiveFailed, match="its process ended with exit status 3"):
            objective(CODE, {**CONFIGURATION, "on": True})
        assert objective(CODE, {**CONFIGURATION, "on": False}) not in (first, os.getpid())
    finally:
        objective.close()
    failing = FunctionObjective(raises, timeout=20)
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


def test_timeout_needs_an_importable_function() -> None:
    with pytest.raises(ObjectiveError, match="must be a function that can be imported"):
        FunctionObjective(lambda configuration: 1.0, timeout=1)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("train.score", "an objective is written module:function, not 'train.score'"),
        ("no_such_module:f", "cannot import the objective no_such_module:f: ModuleNotFoundError"),
        ("math:no_such", "cannot import the objective math:no_such: AttributeError"),
        ("math:pi", "the objective math:pi is no function but float"),
        ("broken_objective:f", "cannot import the objective broken_objective:f: SystemExit: no"),
    ],
)
def test_objectives_that_cannot_be_imported(
    spec: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "broken_objective.py").write_text("raise SystemExit('no')")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    with pytest.raises(ObjectiveError, match=message):
        load_function(spec)


def test_objectives_of_the_working_folder_are_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "my_objective.py").write_text("def score(configuration):\n    return configuration['rate']\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    assert load_function("my_objective:score")(CONFIGURATION) == 0.1
    timed = FunctionObjective(load_function("my_objective:score"), timeout=20)
    assert timed(CODE, CONFIGURATION) == 0.1
    timed.close()
