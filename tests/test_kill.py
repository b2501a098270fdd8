"""kill -9 at random moments: nothing told is lost, and the trials are those of the uninterrupted search."""

import json
import random
import subprocess
import sys
import time
from pathlib import Path

from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState

from lmsearcher_local.study.run import JOURNAL, RESULTS

KILLS = 20
PROGRAM = """
import sys, time
from scripted import scripted_ranker
from lmsearcher_local.spaces.space import SearchSpace
from lmsearcher_local.study.run import run

def score(configuration):
    print("trial", flush=True)
    time.sleep(0.01)
    if configuration["p1"] == configuration["p2"]:
        raise ValueError("these two differ")
    return sum(configuration.values()) % 7

print("ready", flush=True)
run(score, SearchSpace([5] * 6), scripted_ranker(), out=sys.argv[1], trials=80, seed=1, resume=True,
    warm_start=[("000001", 3.0), ("000010", 2.0)])
"""


def test_kill_at_random_moments(tmp_path: Path) -> None:
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    with begin(whole) as process:
        assert process.wait() == 0
    rng, told, ended = random.Random(0), [], 0
    while True:
        with begin(killed) as process:
            assert process.stdout is not None
            for _ in range(rng.randint(1, 5)):  # of 82 trials
                process.stdout.readline()
            time.sleep(rng.uniform(0, 0.03))  # some moment in a trial, or between two
            process.kill()
            if process.wait() == 0:
                break
        ended += 1
        assert ended < 10 * KILLS
        now = told_trials(killed)
        assert now[: len(told)] == told
        told = now
    assert ended >= KILLS
    assert told_trials(killed) == told_trials(whole)
    assert (killed / RESULTS).read_bytes() == (whole / RESULTS).read_bytes()
    assert len(told_trials(whole)) == 82
    assert {state for _, _, state in told_trials(whole)} == {TrialState.COMPLETE, TrialState.FAIL}


def test_the_results_file_is_whole_at_every_moment(tmp_path: Path) -> None:
    reads = 0
    with begin(tmp_path) as process:
        while process.poll() is None:
            if (tmp_path / RESULTS).exists():
                trials = json.loads((tmp_path / RESULTS).read_text())
                assert list(trials) == [f"Trial{i}" for i in range(1, len(trials) + 1)]
                reads += 1
    assert process.returncode == 0
    assert reads > 80


def begin(out: Path) -> "subprocess.Popen[str]":
    """The search in a process of its own, past its imports."""
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, str(out)], cwd=Path(__file__).parent, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return process


def told_trials(out: Path) -> list[tuple[dict[str, int], float | None, TrialState]]:
    """Configuration, value and state of every trial that ended by itself."""
    if not (out / JOURNAL).exists():
        return []
    storage = JournalStorage(JournalFileBackend(str(out / JOURNAL)))
    studies = storage.get_all_studies()
    trials = storage.get_all_trials(studies[0]._study_id) if studies else []
    finished = [trial for trial in trials if trial.state.is_finished() and "killed" not in trial.user_attrs]
    return [(trial.params, trial.value, trial.state) for trial in finished]
