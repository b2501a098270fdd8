"""How quick a search stays that runs long, and what memory it takes: ``python -m bench.long_search``.

The engine is scripted and the objective a sum, both in this process, so that what is measured is our own work and
Optuna's. Of the three ways of ``WAYS`` the first makes pools at random, the second by the surrogate; the third shows
them to the engine as the bundled checkpoint's codec does, the others as digits.

Before anything is measured, a search that is stopped and resumed must equal the uninterrupted one, and its results.csv
must hold every trial once. Then for each way one search grows to the last of the numbers of trials; a line for each
number gives, over the last 200 trials before it, trials a second and milliseconds of processor a trial, which other
work on the machine changes less, and by how much the memory of the process has grown. The last line of a way says by
how much that of another process grows in which Optuna alone reads the study.
"""

import csv
import gc
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any
from zlib import crc32

import click
import numpy as np
import optuna
import psutil

from lmsearcher_local.candidates.history import History
from lmsearcher_local.candidates.pools import Pool
from lmsearcher_local.model.checkpoint import load_checkpoint
from lmsearcher_local.model.codecs.base import Codec
from lmsearcher_local.model.engines.base import Engine, Question
from lmsearcher_local.model.ranker import Ranker
from lmsearcher_local.records.storage import JOURNAL
from lmsearcher_local.spaces.files import TABLE
from lmsearcher_local.spaces.space import Configuration, SearchSpace
from lmsearcher_local.study.objectives.function import InProcess
from lmsearcher_local.study.results import Result
from lmsearcher_local.study.run import run

SPACE = SearchSpace([8] * 8)
WINDOW = 200  # trials over which a rate is taken


class Scripted(Engine):
    """Answers by a hash of the question."""

    max_length = 4096

    def log_probs(self, questions: Sequence[Question]) -> list[np.ndarray]:
        return [self._answer(question) for question in questions]

    @staticmethod
    def _answer(question: Question) -> np.ndarray:
        weights = np.random.default_rng(crc32(np.asarray(question.prefix).tobytes())).random(len(question.tokens)) + 0.1
        return np.asarray(np.log(weights / weights.sum()))

    def close(self) -> None:
        pass


class Digits:
    """A codec that shows the digits of the latest trials and of the pool, and names candidates by their places."""

    max_pool = group = 128

    def prompt(self, space: SearchSpace, history: History, pool: Pool) -> list[int]:
        return [*map(int, "".join((*history.codes[-200:], *pool.codes)))]

    def answers(self, space: SearchSpace, codes: Sequence[str]) -> list[list[int]]:
        return [[10 + place] for place in range(len(codes))]

    def longest_prompt(self, space: SearchSpace, pool_size: int) -> int:
        return (200 + pool_size) * space.code_length


WAYS: dict[str, tuple[str, Callable[[], Codec]]] = {
    "paper": ("paper", Digits),
    "surrogate": ("surrogate", Digits),
    "bundled": ("surrogate", lambda: load_checkpoint().codec()),
}


def score(configuration: Configuration) -> float:
    values = [int(str(value)) for value in configuration.values()]
    return float(sum(value * (i + 1) for i, value in enumerate(values)) % 101)


def search(out: Path, trials: int, way: str, **options: Any) -> Result:
    policy, codec = WAYS[way]
    ranker = Ranker(Scripted(), codec())
    return run(InProcess(score), SPACE, ranker, out=out, trials=trials, policy=policy, **options)


def check(way: str) -> None:
    """Stopped and resumed it is the uninterrupted one, and its table holds every trial once."""
    with tempfile.TemporaryDirectory() as folder:
        whole, parts = Path(folder, "whole"), Path(folder, "parts")
        expected = search(whole, 260, way)
        for trials in (120, 121, 260):
            found = search(parts, trials, way, resume=True)
        assert found == expected
        for out in (whole, parts):
            with (out / TABLE).open(newline="") as stream:
                rows = [*csv.DictReader(stream)]
            assert [(int(row["trial"]), row["code"], float(row["value"])) for row in rows] == [
                (trial.number, trial.code, trial.value) for trial in expected.trials
            ]


ALONE = """
import sys, psutil, optuna
from optuna.storages.journal import JournalFileBackend
before = psutil.Process().memory_info().rss
storage = optuna.storages.JournalStorage(JournalFileBackend(sys.argv[1]))
trials = storage.get_all_trials(storage.get_all_studies()[0]._study_id, deepcopy=False)
print(f"{len(trials):,} {(psutil.Process().memory_info().rss - before) / 2**20:.0f}")
"""


def memory() -> float:
    """Of this process, in MiB."""
    gc.collect()
    return float(psutil.Process().memory_info().rss / 2**20)


def measure(way: str, marks: Sequence[int]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        before, starts = memory(), {mark - min(WINDOW, mark - 1): (0.0, 0.0) for mark in marks}

        def note(result: Result) -> None:
            done = len(result.trials)
            if done in marks:
                window = min(WINDOW, done - 1)
                wall, processor = starts[done - window]
                rate = window / (time.perf_counter() - wall)
                spent = 1000 * (time.process_time() - processor) / window
                print(f"{way:<10} {done:>7,} {rate:>9.1f} {spent:>9.1f} {memory() - before:>9.0f}", flush=True)
            if done in starts:
                starts[done] = time.perf_counter(), time.process_time()

        search(Path(folder), max(marks), way, on_trial=note)
        command = [sys.executable, "-c", ALONE, str(Path(folder, JOURNAL))]
        trials, more = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()
        print(f"{'Optuna':<10} {trials:>7} {'':>9} {'':>9} {more:>9}", flush=True)


@click.command()
@click.option("--trials", default="1000,5000,20000", help="Numbers of trials at which a line is printed.")
@click.option("--ways", default=",".join(WAYS), help="How pools are made and shown, one search for each.")
def main(trials: str, ways: str) -> None:
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    for way in ways.split(","):
        check(way)
    print(f"{'way':<10} {'trials':>7} {'trials/s':>9} {'ms CPU':>9} {'MiB more':>9}")
    for way in ways.split(","):
        measure(way, [int(number) for number in trials.split(",")])


if __name__ == "__main__":
    main()
