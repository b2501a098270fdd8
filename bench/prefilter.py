"""Recall of the prefilter: is the best candidate of a whole table among those kept?

``python -m bench.prefilter --tables nasbench201 --out runs/prefilter.jsonl``. A pool is every unseen code of a table,
behind a history of codes drawn uniformly or of a search (our pools, the surrogate's own pick). Found is the best
candidate, or one that equals it. Beside the score that the prefilter uses stand others of the same Gaussian process,
the mean of the nearest evaluated codes, and chance.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import click
import numpy as np

from bench.rankers import search, surrogate, trials
from bench.tables import FAMILIES, GROUPS, problem
from lmsearcher_local.candidates.history import History, normal_scores
from lmsearcher_local.model.ranker import Task
from lmsearcher_local.presets.tables import TABLES
from lmsearcher_local.search.large_pools import KEEP, promise
from lmsearcher_local.search.throughput import write_rows

CHOICES = {**GROUPS, "nasbench201": tuple(name for name in TABLES if name.startswith("nasbench201-"))}
KINDS = ("uniform", "search")
SIZES = (5, 20, 100)  # histories
KEPT = (128, 500, 1000, KEEP)
NEAREST, SCALE = 32, 0.5  # codes that a mean is taken over; how fast their weight falls with the distance


@click.command(context_settings={"show_default": True})
@click.option("--tables", type=click.Choice(sorted(CHOICES)), default="dev", help="The report tables only to report.")
@click.option("--seeds", type=click.IntRange(1), default=20, help="Histories per table, size and kind.")
@click.option("--out", type=click.Path(path_type=Path), required=True, help="File of the rows, as JSON lines.")
def main(tables: str, seeds: int, out: Path) -> None:
    """Measure which score keeps the best candidate of a table."""
    rows: list[dict[str, Any]] = []
    for name in CHOICES[tables]:
        for seed in range(seeds):
            for kind in KINDS:
                rows += measure(name, kind, seed)
        write_rows(out, rows, tables=tables)
        click.echo(f"{name} is done", err=True)
    click.echo(markdown(rows))


def measure(name: str, kind: str, seed: int) -> Iterator[dict[str, Any]]:
    """For each size of history and each score the place of the best candidate, 0 the first."""
    codes = trail(name, kind, seed, max(SIZES))
    found = problem(name)
    for n in SIZES:
        history = History(tuple(codes[:n]), tuple(found.scores[code] for code in codes[:n]))
        seen = set(history.codes)
        pool = [code for code in found.scores if code not in seen]
        values = np.array([found.scores[code] for code in pool])
        best = np.flatnonzero(values == values.max())
        rng = np.random.default_rng(seed)
        order = rng.permutation(len(pool))  # so that among equal scores a table's order does not matter
        task = Task.of(found.space, history, [pool[i] for i in order])
        for method, score in SCORES.items():
            started = time.perf_counter()
            scores = np.empty(len(pool))
            scores[order] = rng.random(len(pool)) if score is None else score(task)
            seconds = time.perf_counter() - started
            ranks = np.empty(len(pool), dtype=np.int64)
            ranks[order[np.argsort(-scores[order], kind="stable")]] = np.arange(len(pool))
            about = {"table": name, "kind": kind, "history": n, "seed": seed, "method": method, "pool": len(pool)}
            yield about | {"place": int(ranks[best].min()), "seconds": round(seconds, 4)}


def trail(name: str, kind: str, seed: int, n: int) -> list[str]:
    """Evaluated codes, in order; always the same."""
    found = problem(name)
    if kind == "uniform":
        return found.space.sample(np.random.default_rng((7, seed)), n)
    return trials(search(found.space, seed, surrogate, {}), found.scores.__getitem__, n)


def nearest(task: Task) -> np.ndarray:
    """Mean of the nearest evaluated codes' normal scores, weighed by their distance."""
    codes = task.space.array(task.history.codes)
    apart = np.array([(row != codes).sum(1) for row in task.space.array(task.pool.codes)])
    indices = apart.argsort(axis=1, kind="stable")[:, :NEAREST]
    distances = np.take_along_axis(apart, indices, 1)
    weights = np.exp(-distances / SCALE)
    known = normal_scores(np.array(task.history.scores), len(task.history))
    mean: np.ndarray = (weights * known[indices]).sum(1) / weights.sum(1)
    return mean


SCORES: dict[str, Callable[[Task], np.ndarray] | None] = {
    "upper bound (shipped)": lambda task: promise(task.pool),
    "mean + 1 deviation": lambda task: task.pool.means + task.pool.deviations,
    "mean": lambda task: task.pool.means,
    "expected improvement": lambda task: task.pool.improvements,
    "nearest codes": nearest,
    "chance": None,
}


def markdown(rows: Sequence[dict[str, Any]]) -> str:
    """Recall by how many are kept, a table per family, history and method; means over tables and seeds."""
    seeds = 1 + max(row["seed"] for row in rows)
    lines = [
        f"Recall of the best candidate when {' / '.join(map(str, KEPT))} are kept; {seeds} histories per table."
        " Seconds are medians for a whole table; those of the shipped score include the fit, which the others reuse.",
        "",
        "| tables | history | score | uniform | search | s |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for prefix, family in FAMILIES.items():
        ours = [row for row in rows if row["table"].startswith(f"{prefix}-")]
        tables = len({row["table"] for row in ours})
        for n in SIZES if ours else ():
            for method in SCORES:
                same = [row for row in ours if (row["history"], row["method"]) == (n, method)]
                cells = []
                for kind in KINDS:
                    places = np.array([row["place"] for row in same if row["kind"] == kind])
                    cells.append(" / ".join(f"{np.mean(places < keep):.2f}" for keep in KEPT))
                seconds = float(np.median([row["seconds"] for row in same]))
                lines.append(f"| {family} ({tables}) | {n} | {method} | {' | '.join(cells)} | {seconds:.2f} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
