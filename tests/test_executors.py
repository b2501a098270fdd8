"""Evaluation on processes, Dask and Ray: real clusters of this machine, what dies, and what is asked meanwhile."""

import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import optuna
import pytest
from goals import dies, dies_at_first, hangs, meets, meets_in, raises, score, trains
from optuna.pruners import MedianPruner
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState
from scripted import scripted_ranker

from lmsearcher_local.candidates.history import History
from lmsearcher_local.candidates.surrogate import Surrogate, impute_pending
from lmsearcher_local.errors import LMSearcherError, StudyError
from lmsearcher_local.presets.tables import table
from lmsearcher_local.search.searcher import Searcher
from lmsearcher_local.spaces.space import SearchSpace
from lmsearcher_local.study.executors import connect
from lmsearcher_local.study.objectives.command import CommandObjective
from lmsearcher_local.study.objectives.function import FunctionObjective, InProcess
from lmsearcher_local.study.objectives.table import TableObjective
from lmsearcher_local.study.results import Result, result_of
from lmsearcher_local.study.run import run

optuna.logging.set_verbosity(optuna.logging.WARNING)
SPACE = SearchSpace({f"x{i}": [0, 1, 2, 3] for i in range(5)})
CLUSTER = 4  # workers


def search(out: Path, trials: int = 20, objective: object = score, **options: object) -> Result:
    return run(objective, SPACE, scripted_ranker(), out=out, trials=trials, **options)  # type: ignore[arg-type]


def codes(result: Result) -> list[str]:
    return [trial.code for trial in result.trials]


def study(out: Path) -> optuna.Study:
    storage = JournalStorage(JournalFileBackend(str(out / "study.journal")))
    return optuna.load_study(study_name=None, storage=storage)


@pytest.fixture(params=["dask", "ray"])
def cluster(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """What the command line takes."""
    monkeypatch.chdir(Path(__file__).parent)  # the objectives are imported from there
    return f"{request.param}:{request.getfixturevalue(request.param)}"


def test_clusters_are_used_at_once(tmp_path: Path, cluster: str) -> None:
    """Each evaluation of the first four waits until as many processes are at it."""
    marks = tmp_path / "marks"
    marks.mkdir()
    with connect(cluster) as (executor, slots):
        assert slots == CLUSTER
        objective = FunctionObjective(partial(meets_in, str(marks)))
        result = search(tmp_path / "search", 12, objective, executor=executor, workers=slots)
    assert len({*codes(result)}) == 12
    assert all(trial.value == score(SPACE.decode(trial.code)) for trial in result.trials)


@pytest.mark.perf
def test_a_cluster_s_workers_hardly_wait(tmp_path: Path, cluster: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("slow.py").write_text(
        "import time\ndef half_a_second(c):\n    time.sleep(0.5)\n    return sum(c.values()) % 7\n"
    )
    objective = FunctionObjective("slow:half_a_second")
    with connect(cluster) as (executor, slots):
        assert slots == CLUSTER
        search(tmp_path / "warm", 4, objective, executor=executor, workers=slots)  # workers start and import
        started = time.monotonic()
        result = search(tmp_path / "search", 192, objective, executor=executor, workers=slots)
        seconds = time.monotonic() - started
    assert len({*codes(result)}) == 192
    assert all(trial.value == score(SPACE.decode(trial.code)) for trial in result.trials)
    assert seconds < 1.3 * 192 * 0.5 / CLUSTER


def test_clusters_take_every_objective(tmp_path: Path, cluster: str) -> None:
    cells = table("hpobench-car")
    with connect(cluster) as (executor, slots):
        for i, objective in enumerate(
            (
                CommandObjective("echo {x0}", SPACE),
                FunctionObjective(raises),
                FunctionObjective(hangs, timeout=3),
            )
        ):
            result = search(tmp_path / str(i), 8, objective, executor=executor, workers=slots)
            for trial in result.trials:
                first = int(trial.code[0])
                if i == 0:
                    assert trial.value == first
                elif i == 1:
                    assert trial.reason == f"ValueError: x0 is {first}"
                else:
                    assert trial.reason == ("not done after 3 s" if first == 1 else None)
        tabular = run(
            TableObjective(cells), cells.space, scripted_ranker(), out=tmp_path / "table", trials=8, executor=executor
        )
        assert all(trial.value == cells(trial.code) for trial in tabular.trials)


def test_clusters_report_steps_and_hear_when_to_stop(tmp_path: Path, cluster: str) -> None:
    pruner, objective = MedianPruner(n_startup_trials=2), FunctionObjective("goals:trains")
    with connect(cluster) as (executor, slots):
        result = search(tmp_path, 16, objective, executor=executor, workers=slots, pruner=pruner)
    stopped = [trial for trial in result.trials if trial.pruned]
    assert stopped
    assert all(trial.pruned or trial.value == trains(SPACE.decode(trial.code)) for trial in result.trials)
    assert [trial.last_step for trial in study(tmp_path).trials] == [trial.step for trial in result.trials]
    assert all(trial.step == 9 for trial in result.trials if not trial.pruned)


def test_clusters_survive_their_workers(tmp_path: Path, cluster: str, capfd: pytest.CaptureFixture[str]) -> None:
    with connect(cluster) as (executor, slots):
        # Dask blames a death on all that its worker had to do; where new workers start slowly, that is more than one.
        at_once = 1 if cluster.startswith("dask") else slots
        result = search(tmp_path, 10, InProcess(dies), executor=executor, workers=at_once)
    for trial in result.trials:
        assert (trial.value is None) == (trial.code[0] == "1")
        assert trial.reason is None or trial.reason.startswith("its worker died (")
    assert {trial.code[0] == "1" for trial in result.trials} == {True, False}


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("slurm:here", "an executor is written dask:ADDRESS or ray:ADDRESS, not 'slurm:here'"),
        ("dask", "an executor is written dask:ADDRESS or ray:ADDRESS, not 'dask'"),
        ("dask:tcp://127.0.0.1:1", "no Dask scheduler answers at tcp://127.0.0.1:1: "),
        ("dask:nowhere", "no Dask scheduler answers at nowhere: "),
        ("ray:nowhere", "no Ray cluster answers at nowhere: "),
    ],
)
def test_no_cluster(spec: str, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lmsearcher_local.study.executors.CONNECTING", 1)
    with pytest.raises(StudyError) as error, connect(spec):
        pass
    assert str(error.value).startswith(message)


def test_workers_are_processes_of_their_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MARKS", str(tmp_path))
    result = search(tmp_path / "out", 12, meets, workers=CLUSTER)
    assert len({*codes(result)}) == 12
    assert all(trial.value is not None for trial in result.trials)


@pytest.mark.parametrize("kind", ["threads", "processes"])
def test_executors_take_functions_that_cannot_be_imported(tmp_path: Path, kind: str) -> None:
    offset = 2
    with ThreadPoolExecutor(2) if kind == "threads" else ProcessPoolExecutor(2, get_context("spawn")) as executor:
        result = search(tmp_path, 8, lambda configuration: configuration["x0"] + offset, executor=executor, workers=2)
    assert [trial.value for trial in result.trials] == [int(trial.code[0]) + offset for trial in result.trials]


@pytest.mark.parametrize("workers", [1, 3])
def test_a_trial_whose_process_dies_is_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, workers: int
) -> None:
    monkeypatch.setenv("MARKS", str(tmp_path))
    objective = FunctionObjective(dies_at_first, timeout=60)
    assert all(trial.value is not None for trial in search(tmp_path / "once", 9, objective, workers=workers).trials)
    objective = FunctionObjective(dies, timeout=60)
    result = search(tmp_path / "twice", 9, objective, workers=workers)
    for trial in result.trials:
        assert trial.reason == ("its process ended with exit status -9" if trial.code[0] == "1" else None)


def test_an_executor_that_breaks_loses_nothing(tmp_path: Path) -> None:
    with (
        ProcessPoolExecutor(2, get_context("spawn")) as executor,
        pytest.raises(StudyError, match="the executor is broken: BrokenProcessPool"),
    ):
        search(tmp_path, 40, InProcess(dies), executor=executor, workers=2)
    known = codes(result_of(study(tmp_path)))
    assert all(code[0] != "1" for code in known)
    with ProcessPoolExecutor(2, get_context("spawn")) as executor:
        objective = FunctionObjective(dies, timeout=20)
        result = search(tmp_path, 40, objective, executor=executor, workers=2, resume=True)
    assert codes(result)[: len(known)] == known
    assert len({*codes(result)}) == 40


def test_an_executor_that_is_broken_when_it_is_asked(tmp_path: Path) -> None:
    with ProcessPoolExecutor(1, get_context("spawn")) as executor:
        executor.submit(os.kill, executor.submit(os.getpid).result(), signal.SIGKILL).exception()
        with pytest.raises(StudyError, match="the executor is broken: BrokenProcessPool"):
            search(tmp_path, 4, executor=executor, workers=2)
    result = search(tmp_path, 4, resume=True)
    assert len({*codes(result)}) == 4


def test_an_executor_that_cannot_take_the_objective(tmp_path: Path) -> None:
    with (
        ProcessPoolExecutor(2, get_context("spawn")) as executor,
        pytest.raises(StudyError, match="the executor cannot run the objective: "),
    ):
        search(tmp_path, 4, InProcess(lambda configuration: 1.0), executor=executor, workers=2)


def test_no_space_left_while_trials_are_under_way(tmp_path: Path) -> None:
    small = SearchSpace({"x0": [0, 1, 2], "x1": [0, 1]})
    result = run(score, small, scripted_ranker(), out=tmp_path, trials=20, workers=4)
    assert result.exhausted
    assert sorted(codes(result)) == sorted(small.code([a, b]) for a in range(3) for b in range(2))


WHILE_IT_STARTS_A_THREAD = """
start = threading.Thread.start
def interrupted(thread):
    run, threading.Thread.start = thread.run, start
    thread.run = lambda: (time.sleep(1), run())
    start(thread)
    signal.raise_signal(signal.SIGINT)
threading.Thread.start = interrupted
"""
WHILE_IT_HOLDS_THE_JOURNAL = """
from optuna.storages.journal import JournalFileSymlinkLock
release, times = JournalFileSymlinkLock.release, itertools.count(1)
def interrupted(lock):
    if next(times) == 7:  # the fourth trial's
        signal.raise_signal(signal.SIGINT)
    release(lock)
JournalFileSymlinkLock.release = interrupted
"""


@pytest.mark.parametrize(
    "prepare",
    ["", WHILE_IT_STARTS_A_THREAD, WHILE_IT_HOLDS_THE_JOURNAL],
    ids=["while it waits", "while it starts a thread", "while it holds the journal"],
)
def test_ctrl_c_ends_what_is_under_way(tmp_path: Path, prepare: str) -> None:
    program = (
        "import itertools, threading\n"
        "from goals import *\nfrom test_executors import *\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"  # whoever started the tests may ignore it
        f"{prepare}\n"
        "search(Path(sys.argv[1]), 8, sleeps, workers=4)"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", program, str(tmp_path)], cwd=Path(__file__).parent, stderr=subprocess.PIPE, text=True
    )
    if not prepare:
        journal = tmp_path / "study.journal"
        while not journal.exists() or journal.read_text().count('"params":{') < 4:
            assert process.poll() is None
            time.sleep(0.1)
        process.send_signal(signal.SIGINT)
    try:
        assert process.wait(60) != 0
    finally:
        process.kill()
    assert process.stderr is not None
    assert process.stderr.read().rstrip().endswith("KeyboardInterrupt")
    known = {trial.number: trial.state for trial in study(tmp_path).trials}
    assert known == dict.fromkeys(range(4), TrialState.RUNNING)
    assert not [*tmp_path.glob("study.journal.lock*")]


def test_ctrl_c_reaches_processes_that_an_executor_forks(tmp_path: Path) -> None:
    program = (
        "from goals import *\nfrom test_executors import *\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "with ProcessPoolExecutor(2, get_context('fork')) as executor:\n"
        "    search(Path(sys.argv[1]), 8, InProcess(naps), executor=executor, workers=2)"
    )
    environment = {**os.environ, "MARKS": str(tmp_path)}
    process = subprocess.Popen(
        [sys.executable, "-c", program, str(tmp_path / "out")],
        cwd=Path(__file__).parent,
        env=environment,
        start_new_session=True,
        stderr=subprocess.DEVNULL,
    )
    while len([*tmp_path.glob("*.process")]) < 2:
        assert process.poll() is None
        time.sleep(0.1)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does
    try:
        assert process.wait(60) != 0
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)


def test_pending_codes_are_believed() -> None:
    history = History(("00000", "11111", "22222", "33333", "01230"), (0.0, 4.0, 1.0, -2.0, 3.0))
    assert impute_pending(Surrogate(SPACE, history), []) == history
    assert impute_pending(Surrogate(SPACE, History()), ["00000"]) == History()
    both = impute_pending(Surrogate(SPACE, history), ["11112", "33332"])
    assert both.codes == (*history.codes, "11112", "33332")
    assert both.scores[:5] == history.scores
    near, far = both.scores[5:]
    assert -2 <= far < near <= 4
    before = Surrogate(SPACE, history).posterior(["11113"])[1]
    assert Surrogate(SPACE, both).posterior(["11113"])[1] < before


def test_what_is_under_way_changes_what_is_asked() -> None:
    """Asked one after the other without an answer, codes spread as those of one call do."""
    searcher, rng = Searcher(SPACE, scripted_ranker(), seed=1), np.random.default_rng(0)
    for _ in range(20):
        [code] = searcher.ask()
        searcher.tell(code, float(rng.normal()))
    alone = Searcher(SPACE, scripted_ranker(), seed=1)
    for code, value in zip(searcher.history.codes, searcher.history.scores, strict=True):
        alone.tell(code, value)
    [first] = searcher.ask()
    alone.close(first)  # known to have failed, so nothing is imputed
    asked = len(searcher.ranker.engine.asked)  # type: ignore[attr-defined]
    [second] = searcher.ask()
    [other] = alone.ask()
    assert first not in (second, other)
    prompts = searcher.ranker.engine.asked[asked:], alone.ranker.engine.asked[-1:]  # type: ignore[attr-defined]
    assert len(prompts[0][0].prefix) > len(prompts[1][0].prefix)  # the pending code is shown
    searcher.begin(other)
    with pytest.raises(LMSearcherError):
        searcher.begin("9")
