"""How quick a search stays that runs long, and what memory it takes: ``python -m bench.long_search --out FILE``.

The engine is scripted and the objective a sum, both in this process, so that what is measured is our own work and
Optuna's. Of the three searches of ``SEARCHES`` the first makes pools at random, the second by the surrogate; the third
shows them to the engine as the bundled checkpoint's codec does, the others as digits.

Before anything is measured, a search that is stopped and resumed must equal the uninterrupted one, and its results.csv
must hold every trial once. Then each search, in a process of its own, grows to the last of the numbers of trials. A row
for each number gives trials a second and milliseconds of processor a trial over the last 200 trials, and by how much
the process has grown. Other work on the machine changes the second figure less. The last row of a search also says how
much memory Optuna alone takes to read the study.
"""

import csv
import gc
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
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
from lmsearcher_local.search.throughput import write_rows
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


SEARCHES: dict[str, tuple[str, Callable[[], Codec]]] = {  # policy and codec
    "pools at random": ("paper", Digits),
    "pools by the surrogate": ("surrogate", Digits),
    "and rows of the bundled checkpoint": ("surrogate", lambda: load_checkpoint().codec()),
}


def score(configuration: Configuration) -> float:
    values = [int(str(value)) for value in configuration.values()]
    return float(sum(value * (i + 1) for i, value in enumerate(values)) % 101)


def search(out: Path, trials: int, name: str, **options: Any) -> Result:
    policy, codec = SEARCHES[name]
    ranker = Ranker(Scripted(), codec())
    return run(InProcess(score), SPACE, ranker, out=out, trials=trials, policy=policy, **options)


def check(name: str) -> None:
    """Stopped and resumed it is the uninterrupted one, and its table holds every trial once."""
    with tempfile.TemporaryDirectory() as folder:
        whole, parts = Path(folder, "whole"), Path(folder, "parts")
        expected = search(whole, 260, name)
        for trials in (120, 121, 260):
            found = search(parts, trials, name, resume=True)
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
storage.get_all_trials(storage.get_all_studies()[0]._study_id, deepcopy=False)
print(round((psutil.Process().memory_info().rss - before) / 2**20))
"""


def memory() -> float:
    """Of this process, in MiB."""
    gc.collect()
    return float(psutil.Process().memory_info().rss / 2**20)


def measure(name: str, marks: Sequence[int]) -> list[dict[str, Any]]:
    """One search as rows, one for each number of trials."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    check(name)
    with tempfile.TemporaryDirectory() as folder:
        before, starts = memory(), {mark - min(WINDOW, mark - 1): (0.0, 0.0) for mark in marks}
        rows: list[dict[str, Any]] = []

        def note(result: Result) -> None:
            done = len(result.trials)
            if done in marks and done not in [row["trials"] for row in rows]:
                window = min(WINDOW, done - 1)
                wall, processor = starts[done - window]
                rate = window / (time.perf_counter() - wall)
                spent = 1000 * (time.process_time() - processor) / window
                about = {"search": name, "trials": done, "trials a second": round(rate, 1)}
                rows.append({**about, "ms a trial": round(spent, 1), "MiB": round(memory() - before)})
            if done in starts:
                starts[done] = time.perf_counter(), time.process_time()

        search(Path(folder), max(marks), name, on_trial=note)
        command = [sys.executable, "-c", ALONE, str(Path(folder, JOURNAL))]
        rows[-1]["MiB of Optuna"] = int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    return rows


def markdown(rows: Sequence[dict[str, Any]]) -> str:
    """The table of the documentation."""
    text = "| search | trials | ms of processor a trial | trials a second | MiB more | of these Optuna's |\n"
    text += "| --- |" + " ---: |" * 5 + "\n"
    for row in rows:
        cells = (f"{row['trials']:,}", row["ms a trial"], row["trials a second"], row["MiB"])
        text += f"| {row['search']} | {' | '.join(map(str, cells))} | {row.get('MiB of Optuna', '')} |\n"
    return text


@click.command(context_settings={"show_default": True})
@click.option("--trials", default="1000,5000,20000", help="Numbers of trials of which there is a row.")
@click.option("--searches", default=";".join(SEARCHES), help="Which of them, separated by semicolons.")
@click.option("--out", type=click.Path(path_type=Path), required=True, help="File of rows.")
def main(trials: str, searches: str, out: Path) -> None:
    """Search long, and see what a trial costs."""
    rows = []
    for name in searches.split(";"):
        with ProcessPoolExecutor(1, get_context("spawn")) as process:
            rows += process.submit(measure, name, [int(number) for number in trials.split(",")]).result()
    write_rows(out, rows)
    click.echo(markdown(rows))


if __name__ == "__main__":
    main()
