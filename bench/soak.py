"""A long search in processes that are killed and in a folder that fills up, with an objective that fails and hangs.

``python -m bench.soak OUT TRIALS ENGINE`` is the searching process; ``bench/reliability.py`` starts it again and
again. What it told is read from its output, what was evaluated from the log, what was kept from the storage.
"""

import gc
import hashlib
import os
import random
import subprocess
import sys
import time
import tracemalloc
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import optuna
import psutil
from optuna.storages import JournalStorage
from optuna.trial import TrialState

from lmsearcher_local.errors import LMSearcherError
from lmsearcher_local.records.sources import read_history
from lmsearcher_local.records.storage import JOURNAL, JournalFile, load_study
from lmsearcher_local.search.groups import KILLED
from lmsearcher_local.spaces.files import RESULTS, TABLE
from lmsearcher_local.spaces.space import Configuration, SearchSpace
from lmsearcher_local.study.objectives.function import FunctionObjective
from lmsearcher_local.study.results import Result
from lmsearcher_local.study.run import run

SPACE = SearchSpace([5] * 10)
GIVEN = 200  # trials that a search with a model starts from, so that its prompts are as long as they get
TIMEOUT = 5.0  # seconds; only what hangs takes longer
FAULTS = {"raises": 20, "is no number": 5, "ends its process": 2, "hangs": 2}  # of 1,000 evaluations
ROOM = 96 << 20  # bytes of the folder's file system
LOG = "SOAK_LOG"  # environment variable: where the objective writes down what it evaluates
WINDOW = 100  # trials over which a speed is taken

Told = list[tuple[dict[str, Any], float | None, TrialState]]


def score(configuration: Configuration) -> float:
    """An objective with faults that depend on the configuration alone."""
    code = SPACE.encode(configuration)
    with open(os.environ[LOG], "a", encoding="ascii") as log:
        log.write(f"{code}\n")
    match _fault(code):
        case "ends its process":
            os._exit(3)
        case "hangs":
            time.sleep(10 * TIMEOUT)
        case "raises":
            raise ValueError("on purpose")
        case "is no number":
            return float("nan")
    return _value(code)


def search(out: Path, trials: int, engine: str) -> None:
    """Search, or go on; after each trial say how many there are, the memory, the code and the value."""
    from bench.rankers import Undecided
    from lmsearcher_local.model.checkpoint import load_checkpoint
    from lmsearcher_local.model.load import load_ranker
    from lmsearcher_local.model.ranker import Ranker

    def show(result: Result) -> None:
        if result.evaluated:
            last = result.trials[-1]
            memory = psutil.Process().memory_info().rss
            print(result.evaluated, time.perf_counter(), memory, last.code, last.value, flush=True)

    def start(ranker: Ranker) -> None:
        print("ready", flush=True)
        goal = FunctionObjective(score, TIMEOUT)
        given = SPACE.sample(np.random.default_rng(0), _given(engine))
        known = [(code, _value(code)) for code in given]
        run(goal, SPACE, ranker, out=out, trials=trials, seed=1, resume=True, warm_start=known, on_trial=show)

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    if engine == "none":
        start(Ranker(Undecided(), load_checkpoint().codec()))
    else:
        with load_ranker(None, engine) as ranker:
            start(ranker)


def soak(trials: int, engine: str, kills: int, fills: int) -> dict[str, Any]:
    """An uninterrupted search, then one with kills and full disks, asserted to tell the same and to lose nothing."""
    with TemporaryDirectory() as scratch, _room(Path(scratch) / "disk") as (disk, limited):
        whole, log = Path(scratch) / "whole", Path(scratch) / "log"
        log.touch()
        process = _begin(whole, trials, engine, log)
        assert process.stdout is not None
        lines = [line.split() for line in process.stdout]
        assert process.wait() == 0, process.stderr.read() if process.stderr else ""
        figures = _figures(lines)
        log.write_text("")
        out = disk / "out"
        known, acknowledged, count = _with_faults(out, trials, engine, log, kills, fills if limited else 0)
        assert known == read_told(whole), "the search went on otherwise than the uninterrupted one"
        kept = {(SPACE.encode(params), str(value)) for params, value, _ in known}
        lost = acknowledged - kept
        assert not lost, f"lost: {lost}"
        _check_files(out, whole, known)
        evaluated = Counter(log.read_text().split())
        codes = {SPACE.encode(params) for params, _, _ in known} & evaluated.keys()
        dead = [code for code in codes if _fault(code) == "ends its process"]  # these are tried twice
        again = evaluated.total() - len(evaluated) - len(dead)
        assert again <= 2 * count.total(), f"{again} evaluations too many"
        failed = Counter(_fault(SPACE.encode(params)) for params, value, _ in known if value is None)
        return {
            "engine": engine,
            "trials": len(known) - _given(engine),
            "kills": count["kill"],
            "full disks": count["fill"],
            **failed,
            "lost": len(lost),
            "evaluated again": again,
            **figures,
            "MiB of Optuna's trials": _kept_by_optuna(whole) >> 20,
        }


def _with_faults(
    out: Path, trials: int, engine: str, log: Path, kills: int, fills: int
) -> tuple[Told, set[tuple[str, str]], "Counter[str]"]:
    """A search with faults at random moments, begun again until it ends by itself.

    Returns what was told, the codes and values that were said to be told, and how often each fault struck.
    """
    rng = random.Random(0)
    faults = ["kill"] * kills + ["fill"] * fills
    rng.shuffle(faults)
    count: Counter[str] = Counter()
    known: Told = []
    acknowledged: set[tuple[str, str]] = set()
    while True:
        fault = faults.pop() if faults else ""
        left = trials + _given(engine) - len(known)
        lasts = rng.randint(1, max(1, 2 * left // (len(faults) + 2)))
        status, error, said = _one_life(out, trials, engine, log, fault, lasts, rng.uniform(0, 0.05))
        acknowledged |= said
        now = read_told(out)
        assert now[: len(known)] == known, "what was told is lost"
        known = now
        if status == 0:
            return known, acknowledged, count
        count[fault] += 1
        if fault == "fill":
            _check_refusal(status, error, out, engine)
        assert status in (2, -9), f"exit status {status}: {error}"


def _one_life(
    out: Path, trials: int, engine: str, log: Path, fault: str, lasts: int, delay: float
) -> tuple[int, str, set[tuple[str, str]]]:
    """A search that a fault strikes after ``lasts`` trials: exit status, what stderr says, what was said to be told."""
    said: set[tuple[str, str]] = set()
    filler = out.parent / "filler"
    with _begin(out, trials, engine, log) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        for number, line in enumerate(process.stdout, 1):
            said.add((line.split()[3], line.split()[4]))
            if fault and number >= lasts:
                break
        if fault == "kill":
            time.sleep(delay)
            process.kill()
        elif fault == "fill":
            _fill(filler)
        said |= {(line.split()[3], line.split()[4]) for line in process.stdout if line.endswith("\n")}
        status, error = process.wait(), process.stderr.read()
    filler.unlink(missing_ok=True)
    return status, error, said


def _check_refusal(status: int, error: str, out: Path, engine: str) -> None:
    """A full disk is said in one sentence."""
    assert status == 2, f"exit status {status}: {error}"
    *before, last = error.splitlines()
    assert engine != "none" or not before, error  # without a model no library shows that it loads
    assert last.startswith(f"SearchStopped: cannot write to {out} (No space left on device)"), error
    assert "Traceback" not in error, error


def _check_files(out: Path, whole: Path, known: Told) -> None:
    """The files are those of the uninterrupted search, and nothing else lies beside them."""
    for name in (RESULTS, TABLE):
        assert (out / name).read_bytes() == (whole / name).read_bytes(), f"another {name}"
    assert len(read_history(out, SPACE).entries) == sum(value is not None for _, value, _ in known)
    assert sorted(file.name for file in out.iterdir()) == sorted([JOURNAL, RESULTS, TABLE]), "leftovers"


def read_told(out: Path) -> Told:
    """What the storage holds of the trials that ended by themselves."""
    if not (out / JOURNAL).exists():
        return []
    storage = JournalStorage(JournalFile(str(out / JOURNAL)))
    studies = storage.get_all_studies()
    trials = storage.get_all_trials(studies[0]._study_id, deepcopy=False) if studies else []
    ended = [trial for trial in trials if trial.state.is_finished() and KILLED not in trial.user_attrs]
    return [(trial.params, trial.value, trial.state) for trial in ended]


def _kept_by_optuna(out: Path) -> int:
    """Bytes that Optuna takes to hold the trials of a stored study."""
    tracemalloc.start()
    held = load_study(out)
    gc.collect()
    size, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert held
    return size


def _given(engine: str) -> int:
    return 0 if engine == "none" else GIVEN


def _value(code: str) -> float:
    return float(sum(int(digit) * (i + 1) for i, digit in enumerate(code)) % 101)


def _begin(out: Path, trials: int, engine: str, log: Path) -> "subprocess.Popen[str]":
    command = [sys.executable, "-m", "bench.soak", str(out), str(trials), engine]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env={**os.environ, LOG: str(log)}
    )
    assert process.stdout is not None
    for line in process.stdout:
        if line == "ready\n":
            break
    return process


@contextmanager
def _room(folder: Path) -> Iterator[tuple[Path, bool]]:
    """A file system of little room, where this may be mounted (as root); else a plain folder."""
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={ROOM}", "tmpfs", str(folder)]
    limited = subprocess.run(mount, capture_output=True, check=False).returncode == 0
    try:
        yield folder, limited
    finally:
        if limited:
            subprocess.run(["umount", str(folder)], check=True)


def _fill(filler: Path) -> None:
    with filler.open("wb", buffering=0) as stream, suppress(OSError):
        while True:
            stream.write(bytes(4096))


def _fault(code: str) -> str:
    number = int.from_bytes(hashlib.sha256(code.encode()).digest()[:4], "little") % 1000
    for fault, share in FAULTS.items():
        if number < share:
            return fault
        number -= share
    return ""


def _figures(lines: list[list[str]]) -> dict[str, Any]:
    """Memory and speed of the uninterrupted search, after its first tenth and at its end."""
    seconds = {int(line[0]): float(line[1]) for line in lines}
    memory = {int(line[0]): int(line[2]) >> 20 for line in lines}
    first, last = max(seconds) // 10, max(seconds)
    window = min(WINDOW, first // 2)
    found: dict[str, Any] = {}
    for at in (first, last):
        found[f"MiB at {at}"] = memory[at]
        found[f"trials/s at {at}"] = round(window / (seconds[at] - seconds[at - window]), 1)
    return found


if __name__ == "__main__":
    try:
        search(Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3])
    except LMSearcherError as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        sys.exit(2)
