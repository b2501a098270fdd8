"""kill -9 at random moments: nothing told is lost, and the trials are those of the uninterrupted search."""

import json
import random
import time
from pathlib import Path

from forks import Say, begun
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState
from scripted import scripted_ranker

from lmsearcher_local.spaces.space import Configuration, SearchSpace
from lmsearcher_local.study.objectives.function import FunctionObjective, InProcess
from lmsearcher_local.study.run import JOURNAL, RESULTS, run

KILLS = 20


def search(out: Path, say: Say, own_process: bool = False) -> None:
    def score(configuration: Configuration) -> float:
        say()
        time.sleep(0.01)
        if configuration["p1"] == configuration["p2"]:
            raise ValueError("these two differ")
        return float(sum(map(int, configuration.values())) % 7)

    objective = FunctionObjective(score) if own_process else InProcess(score)
    known = [("000001", 3.0), ("000010", 2.0)]
    space = SearchSpace([5] * 6)
    run(objective, space, scripted_ranker(), out=out, trials=80, seed=1, resume=True, warm_start=known)


def search_with_a_process_of_the_objective_s_own(out: Path, say: Say) -> None:
    search(out, say, own_process=True)


def test_kill_at_random_moments(tmp_path: Path) -> None:
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    with begun(search, whole) as (process, _):
        process.join()
        assert process.exitcode == 0
    rng, told, ended = random.Random(0), [], 0
    while True:
        kind = search if ended % 5 else search_with_a_process_of_the_objective_s_own  # whose start takes a second
        with begun(kind, killed) as (process, hear):
            for _ in range(rng.randint(1, 5)):  # of 82 trials
                hear()
            time.sleep(rng.uniform(0, 0.03))  # some moment in a trial, or between two
            process.kill()
            process.join()
            if process.exitcode == 0:
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
    reads, out = 0, tmp_path / "out"
    with begun(search, out) as (process, _):
        while process.is_alive():
            if (out / RESULTS).exists():
                trials = json.loads((out / RESULTS).read_text())
                assert list(trials) == [f"Trial{i}" for i in range(1, len(trials) + 1)]
                reads += 1
        assert process.exitcode == 0
    assert reads > 80


def told_trials(out: Path) -> list[tuple[dict[str, int], float | None, TrialState]]:
    """Configuration, value and state of every trial that ended by itself."""
    if not (out / JOURNAL).exists():
        return []
    storage = JournalStorage(JournalFileBackend(str(out / JOURNAL)))
    studies = storage.get_all_studies()
    trials = storage.get_all_trials(studies[0]._study_id) if studies else []
    finished = [trial for trial in trials if trial.state.is_finished() and "killed" not in trial.user_attrs]
    return [(trial.params, trial.value, trial.state) for trial in finished]
