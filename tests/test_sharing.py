"""Sharing the card: the model sleeps whenever an objective runs, and is awake whenever it is asked."""

from collections.abc import Callable, Sequence
from concurrent.futures import Executor, Future
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
import optuna
import pytest
from goals import raises, score
from scripted import AliasCodec, ScriptedEngine, scripted_ranker

from lmsearcher_local.errors import EngineError, StudyError
from lmsearcher_local.model.engines.base import Question
from lmsearcher_local.model.ranker import Ranker
from lmsearcher_local.presets.tables import table
from lmsearcher_local.search.optuna_sampler import LMSearcherSampler
from lmsearcher_local.spaces.space import Configuration, SearchSpace
from lmsearcher_local.study.objectives.base import ObjectiveFailed
from lmsearcher_local.study.objectives.function import FunctionObjective, InProcess
from lmsearcher_local.study.objectives.table import TableObjective
from lmsearcher_local.study.run import run

optuna.logging.set_verbosity(optuna.logging.WARNING)
SPACE = SearchSpace({f"x{i}": [0, 1, 2, 3] for i in range(5)})


class SleepingEngine(ScriptedEngine):
    """Sleeps, writes down what happens, and refuses to answer asleep."""

    can_sleep = True

    def __init__(self) -> None:
        super().__init__()
        self.events: list[str] = []
        self.running = 0
        self._lock = Lock()

    def log_probs(self, questions: Sequence[Question]) -> list[np.ndarray]:
        if self.is_asleep:
            raise EngineError("asked asleep")
        self.note("asked")
        return super().log_probs(questions)

    def sleep(self) -> None:
        self.is_asleep = True
        self.note("asleep")

    def wake_up(self) -> None:
        assert not self.running, "the model comes back while an objective runs"
        self.is_asleep = False
        self.note("awake")

    def note(self, event: str) -> None:
        self.events.append(event)

    def evaluating(self, function: Callable[..., float]) -> InProcess:
        """The function as an objective that fails the test where the model is awake."""

        def evaluated(configuration: Configuration) -> float:
            assert self.is_asleep
            with self._lock:
                self.running += 1
                self.note("objective")
            try:
                return function(configuration)
            finally:
                with self._lock:
                    self.running -= 1

        return InProcess(evaluated)


class ElsewhereExecutor(Executor):
    """Of a kind that may be a cluster."""

    def submit(self, function: Callable[..., Any], /, *args: Any, **kwargs: Any) -> "Future[Any]":
        future: Future[Any] = Future()
        future.set_result(function(*args, **kwargs))
        return future


def ranker(engine: ScriptedEngine) -> Ranker:
    return Ranker(engine, AliasCodec())


def interrupts(configuration: Configuration) -> float:
    if configuration["x0"] == 1:
        raise KeyboardInterrupt
    return score(configuration)


@pytest.mark.parametrize("workers", [1, 4])
def test_the_model_sleeps_whenever_an_objective_runs(tmp_path: Path, workers: int) -> None:
    engine = SleepingEngine()
    result = run(engine.evaluating(score), SPACE, ranker(engine), out=tmp_path, trials=20, workers=workers)
    assert [trial.reason for trial in result.trials] == [None] * 20
    assert engine.events.count("objective") == 20
    assert engine.events.count("asleep") == -(-15 // workers) + 1  # the first five are asked without the model
    assert not engine.is_asleep
    kept = run(InProcess(score), SPACE, scripted_ranker(), out=tmp_path / "kept", trials=20, workers=1)
    if workers == 1:
        assert [trial.code for trial in result.trials] == [trial.code for trial in kept.trials]


@pytest.mark.parametrize("workers", [1, 3])
def test_afterwards_the_model_is_awake(tmp_path: Path, workers: int) -> None:
    engine = SleepingEngine()
    result = run(engine.evaluating(raises), SPACE, ranker(engine), out=tmp_path / "a", trials=20, workers=workers)
    assert [trial.reason for trial in result.trials] == [
        f"ValueError: x0 is {trial.code[0]}" for trial in result.trials
    ]
    assert engine.events.count("objective") == 20
    assert not engine.is_asleep
    engine = SleepingEngine()
    with pytest.raises(KeyboardInterrupt):
        run(engine.evaluating(interrupts), SPACE, ranker(engine), out=tmp_path / "b", trials=200, workers=workers)
    assert not engine.is_asleep


def test_a_model_that_fails_amid_a_search_is_not_left_asleep(tmp_path: Path) -> None:
    class Failing(SleepingEngine):
        def log_probs(self, questions: Sequence[Question]) -> list[np.ndarray]:
            if self.events.count("objective") == 9:
                raise EngineError("out of memory")
            return super().log_probs(questions)

    engine = Failing()
    with pytest.raises(EngineError, match="out of memory"):
        run(engine.evaluating(score), SPACE, ranker(engine), out=tmp_path, trials=20)
    assert not engine.is_asleep


def test_where_the_model_stays(tmp_path: Path) -> None:
    engine, cells = SleepingEngine(), table("hpobench-car")
    run(TableObjective(cells), cells.space, ranker(engine), out=tmp_path / "table", trials=8)
    run(InProcess(score), SPACE, ranker(engine), out=tmp_path / "kept", trials=8, gpu="kept")
    with ElsewhereExecutor() as executor:
        run(InProcess(score), SPACE, ranker(engine), out=tmp_path / "elsewhere", trials=8, executor=executor)
    assert "asleep" not in engine.events
    run(TableObjective(cells), cells.space, ranker(engine), out=tmp_path / "asked", trials=8, gpu="shared")
    assert "asleep" in engine.events


def test_engines_that_cannot_sleep_never_get_the_call(tmp_path: Path) -> None:
    # The base class raises where they do.
    result = run(InProcess(score), SPACE, scripted_ranker(), out=tmp_path / "default", trials=8)
    assert len(result.trials) == 8
    with pytest.raises(StudyError, match="the model cannot leave the card: ScriptedEngine cannot sleep here"):
        run(InProcess(score), SPACE, scripted_ranker(), out=tmp_path / "shared", trials=8, gpu="shared")
    assert not [*(tmp_path / "shared").iterdir()]
    with pytest.raises(StudyError, match="cannot sleep here"):
        LMSearcherSampler(scripted_ranker(), space=SPACE, gpu="shared")


@pytest.mark.parametrize("shared", [True, False])
def test_with_shared_a_process_ends_with_its_trial(shared: bool) -> None:
    objective = FunctionObjective("goals:process_id")
    objective.shared = shared
    try:
        objective.start()
        configuration = SPACE.decode("00000")
        pids = [objective("00000", configuration) for _ in range(3)]
        assert len({*pids}) == (3 if shared else 1)
        assert all(Path(f"/proc/{int(pid)}").exists() != shared for pid in pids)
    finally:
        objective.close()


@pytest.mark.parametrize("fixed", [True, False])
def test_the_sampler_puts_the_model_to_sleep(fixed: bool) -> None:
    engine = SleepingEngine()
    study = optuna.create_study(
        sampler=LMSearcherSampler(ranker(engine), space=SPACE if fixed else None), direction="maximize"
    )

    def objective(trial: optuna.Trial) -> float:
        value = engine.evaluating(score)(
            "", {name: trial.suggest_categorical(name, [0, 1, 2, 3]) for name in SPACE.names}
        )
        if trial.number == 9:
            raise ObjectiveFailed("on purpose")
        return value

    study.optimize(objective, n_trials=20, catch=ObjectiveFailed)
    assert engine.events.count("objective") == 20
    assert "asked" in engine.events
    assert engine.is_asleep  # until somebody asks
    kept = SleepingEngine()
    study = optuna.create_study(sampler=LMSearcherSampler(ranker(kept), space=SPACE, gpu="kept"))
    study.optimize(lambda trial: trial.suggest_categorical("x0", [0, 1, 2, 3]), n_trials=8)
    assert "asleep" not in kept.events
