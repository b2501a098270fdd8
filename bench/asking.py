"""What a search itself costs beside the model: ``python -m bench.asking``.

For each space one search of 192 trials by the surrogate's own pick, with the rows that the bundled checkpoint reads.
A line gives milliseconds of processor a trial: in all, of the kernel's fit, of the rows, and of the rest, which is the
surrogate's posterior and the pool. The digest is of the trials' codes: equal digests are equal searches. To hold two
versions against each other, run this file in turns in the folder of each.
"""

import hashlib
import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import click
import numpy as np

from bench.rankers import JudgeRanker, surrogate
from bench.tables import TRIALS, problem
from lmsearcher_local.model.checkpoint import load_checkpoint
from lmsearcher_local.model.codecs.base import Codec
from lmsearcher_local.model.ranker import Pick, Task
from lmsearcher_local.search import state as searching
from lmsearcher_local.search.searcher import Searcher
from lmsearcher_local.search.throughput import write_rows
from lmsearcher_local.spaces.space import SearchSpace

TABLES = ("nasbench201-cifar100", "hpolib-parkinsons_telemonitoring", "hpobench-car")
POSITIONS = 48  # of the wide space, in which the score is a sum over positions with a little noise


class Clock:
    """Processor seconds of functions while they run, by name."""

    def __init__(self) -> None:
        self.spent: dict[str, float] = {}

    def timed(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """The function, whose time counts under that name."""

        def call(*arguments: Any) -> Any:
            started = time.process_time()
            try:
                return function(*arguments)
            finally:
                self.spent[name] = self.spent.get(name, 0.0) + time.process_time() - started

        return call


class Showing(JudgeRanker):
    """The surrogate's own pick, after the rows were made that a model would have read."""

    def __init__(self, prompt: Callable[..., Any]) -> None:
        super().__init__(surrogate)
        self._show = prompt

    def pick(self, tasks: Sequence[Task], *others: Any, **more: Any) -> list[Pick]:
        """What the surrogate likes best."""
        for task in tasks:
            if len(task.pool) > 1:
                self._show(*task)
        return super().pick(tasks)


@click.command(context_settings={"show_default": True})
@click.option("--seeds", type=click.IntRange(1), default=1, help="Searches in each space.")
@click.option("--out", type=click.Path(path_type=Path), help="File of the rows, as JSON lines.")
def main(seeds: int, out: Path | None) -> None:
    """Measure what a search costs beside the model."""
    codec, rows = load_checkpoint().codec(), []
    for name in (*TABLES, f"{POSITIONS} positions"):
        for seed in range(seeds):
            rows.append({"space": name, "seed": seed, "trials": TRIALS} | measure(*objective(name), seed, codec))
            click.echo(json.dumps(rows[-1]))
    if out:
        write_rows(out, rows)


def markdown(rows: Sequence[dict[str, Any]]) -> str:
    """The table of the documentation: the mean over seeds."""
    text = "| space | searches | in all | fit of the kernel | rows of the prompt | posterior and pool |\n|"
    text += f"{' --- |' * 6}\n"
    for name in dict.fromkeys(row["space"] for row in rows):
        spent = [row["ms a trial"] for row in rows if row["space"] == name]
        means = [f"{np.mean([one[part] for one in spent]):.1f}" for part in ("all", "fit", "rows", "rest")]
        text += f"| {name} | {len(spent)} | {' | '.join(means)} |\n"
    return text


def objective(name: str) -> tuple[SearchSpace, Callable[[str], float]]:
    """A space and the score of its codes, higher better."""
    if name in TABLES:
        found = problem(name)
        return found.space, found.scores.__getitem__
    space, rng = SearchSpace([5] * POSITIONS), np.random.default_rng(0)
    effects = rng.normal(size=(POSITIONS, 5))
    return space, lambda code: float(effects[np.arange(POSITIONS), space.indices(code)].sum() + 0.1 * rng.normal())


def measure(space: SearchSpace, score: Callable[[str], float], seed: int, codec: Codec) -> dict[str, Any]:
    """Milliseconds of processor a trial, and the digest of one search."""
    clock = Clock()
    fit_kernel = searching.fit_kernel
    searching.fit_kernel = clock.timed("fit", fit_kernel)
    try:
        searcher = Searcher(space, Showing(clock.timed("rows", codec.prompt)), seed=seed)
    finally:
        searching.fit_kernel = fit_kernel
    ask, codes = clock.timed("all", searcher.ask), []
    for _ in range(TRIALS):
        codes += ask()
        searcher.tell(codes[-1], score(codes[-1]))
    spent = {name: 1000 * seconds / TRIALS for name, seconds in clock.spent.items()}
    spent["rest"] = spent["all"] - spent["fit"] - spent["rows"]
    digest = hashlib.sha256("".join(codes).encode()).hexdigest()[:12]
    return {"ms a trial": {name: round(spent[name], 2) for name in ("all", "fit", "rows", "rest")}, "digest": digest}


if __name__ == "__main__":
    main()
