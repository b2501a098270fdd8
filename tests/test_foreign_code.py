"""Whatever an objective does to its argument and to its process, the search is that of a well-behaved one."""

import locale
import os
import signal
import sys
from collections.abc import Iterator
from concurrent.futures import Executor, ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import contextmanager
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest
from rude import change_process, rude, score
from scripted import scripted_ranker

from lmsearcher_local.search.optuna_sampler import LMSearcherSampler
from lmsearcher_local.spaces.files import RESULTS, TABLE
from lmsearcher_local.spaces.space import Configuration, SearchSpace
from lmsearcher_local.study.executors import connect
from lmsearcher_local.study.objectives.command import CommandObjective
from lmsearcher_local.study.objectives.function import FunctionObjective, InProcess
from lmsearcher_local.study.results import Result
from lmsearcher_local.study.run import run

optuna.logging.set_verbosity(optuna.logging.WARNING)
SPACE = SearchSpace({f"x{i}": [0, 1, 2, 3] for i in range(4)})
TRIALS = 24
NAME = "the same"  # a resume compares names


@pytest.fixture(autouse=True)
def process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A working folder; afterwards this process is as it was."""
    monkeypatch.chdir(tmp_path)
    environment, place = dict(os.environ), locale.setlocale(locale.LC_ALL)
    handlers = {number: signal.getsignal(number) for number in signal.valid_signals()}
    errors = np.geterr()
    yield
    os.environ.clear()
    os.environ.update(environment)
    locale.setlocale(locale.LC_ALL, place)
    for number, handler in handlers.items():
        if signal.getsignal(number) != handler and handler is not None:
            signal.signal(number, handler)
    np.seterr(**errors)


def search(out: str, objective: Any, trials: int = TRIALS, **options: Any) -> Result:
    if not isinstance(objective, str):
        objective.name = NAME
    return run(objective, SPACE, scripted_ranker(), out=out, trials=trials, seed=2, **options)


@pytest.fixture(scope="module")
def wanted(tmp_path_factory: pytest.TempPathFactory) -> Result:
    return search(str(tmp_path_factory.mktemp("wanted")), InProcess(score))


def test_in_this_process(tmp_path: Path, wanted: Result) -> None:
    """With paths as a user writes them, stopped in the middle and resumed."""
    for i, storage in enumerate((None, "sqlite:///studies.db", "sqlite:///file:uri.db?uri=true")):
        out = f"out{i}"
        os.chdir(tmp_path)
        search(out, InProcess(rude), TRIALS // 2, storage=storage)
        os.chdir(tmp_path)
        assert search(out, InProcess(rude), storage=storage, resume=True) == wanted
        assert {RESULTS, TABLE} <= {file.name for file in (tmp_path / out).iterdir()}
    assert (tmp_path / "studies.db").exists()
    assert (tmp_path / "uri.db").exists()


@contextmanager
def place(kind: str, request: pytest.FixtureRequest) -> Iterator[Executor | None]:
    if kind == "threads":
        with ThreadPoolExecutor(2) as executor:
            yield executor
    elif kind == "processes":
        with ProcessPoolExecutor(1, get_context("spawn")) as executor:
            yield executor
    elif kind in ("dask", "ray"):
        with connect(f"{kind}:{request.getfixturevalue(kind)}") as (executor, _):
            yield executor
    else:
        yield None


@pytest.mark.parametrize("kind", ["a worker", "threads", "processes", "dask", "ray"])
def test_elsewhere(
    kind: str, request: pytest.FixtureRequest, wanted: Result, capfd: pytest.CaptureFixture[str]
) -> None:
    with place(kind, request) as executor:
        before, out = dict(os.environ), Path("out").absolute()
        os.chdir(Path(__file__).parent)  # a cluster imports from there
        assert search(str(out), FunctionObjective(rude), executor=executor) == wanted
        assert dict(os.environ) == before


def test_as_a_command(wanted: Result) -> None:
    program = (
        f"import json, os, sys; sys.path.insert(0, {str(Path(__file__).parent)!r}); import rude;"
        " c = json.loads(os.environ['LMSEARCHER_CONFIG']); value = rude.score(c); rude.seed = lambda: None;"
        " rude.change_process(); print(value)"
    )
    Path("program.py").write_text(program)
    result = search("out", CommandObjective(f"{sys.executable} program.py", SPACE))
    assert [(trial.code, trial.value) for trial in result.trials] == [
        (trial.code, trial.value) for trial in wanted.trials
    ]


def test_callbacks_get_nothing_of_the_search_s_own(wanted: Result) -> None:
    def spoil(result: Result) -> None:
        for trial in result.trials:
            trial.configuration.clear()

    assert search("out", InProcess(score), on_trial=spoil) == wanted


def test_optuna_s_callbacks_and_objectives_get_nothing_of_the_sampler_s_own() -> None:
    def values(rude: bool) -> list[Any]:
        study = optuna.create_study(sampler=LMSearcherSampler(scripted_ranker(), space=SPACE, seed=2))

        def objective(trial: optuna.Trial) -> float:
            configuration: Configuration = {name: trial.suggest_categorical(name, [0, 1, 2, 3]) for name in SPACE.names}
            if rude:
                trial.params.clear()
                trial.relative_params.clear()  # type: ignore[attr-defined]
                change_process()
            return float(sum(configuration.values()) % 7)  # type: ignore[arg-type]

        def spoil(study: optuna.Study, trial: optuna.trial.FrozenTrial) -> None:
            if rude:
                trial.params.clear()
                trial.distributions.clear()
                for other in study.trials:
                    other.params.clear()

        study.optimize(objective, n_trials=12, callbacks=[spoil])
        return [(trial.params, trial.value) for trial in study.trials]

    assert values(rude=True) == values(rude=False)
