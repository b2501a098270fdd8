"""Many workers, one model: how busy the workers are, in simulated time, and what parallel evaluation costs in regret.

``python -m bench.workers --out runs/workers.jsonl``. A trial takes a lognormal time, an ask what it really took here;
free workers wait for it. The values come from tables.
"""

import heapq
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import click
import numpy as np

from bench.tables import DEVELOPMENT, TRIALS, Problem, problem
from lmsearcher_local.model.load import load_ranker
from lmsearcher_local.model.ranker import Ranker
from lmsearcher_local.search.searcher import Searcher
from lmsearcher_local.search.throughput import write_rows

WORKERS = (1, 4, 16, 64)
SPREAD = 0.5  # of the logarithm of a trial's time


def simulate(ranker: Ranker, searched: Problem, workers: int, seed: int, seconds: float) -> dict[str, float]:
    """One search: times in simulated seconds, regret at the end."""
    searcher = Searcher(searched.space, ranker, seed=seed)
    rng = np.random.default_rng([seed, workers])
    now = busy = asking = 0.0
    under_way: list[tuple[float, str]] = []
    scores: list[float] = []
    asked = 0
    while len(scores) < TRIALS:
        if free := min(workers - len(under_way), TRIALS - asked):
            started = time.perf_counter()
            codes = searcher.ask(free)
            took = time.perf_counter() - started
            now, asking, asked = now + took, asking + took, asked + free
            for code in codes:
                duration = seconds * rng.lognormal(0, SPREAD)
                busy += duration
                heapq.heappush(under_way, (now + duration, code))
        ended, code = heapq.heappop(under_way)
        now = max(now, ended)
        done = [code]
        while under_way and under_way[0][0] <= now:  # while the model was asked
            done.append(heapq.heappop(under_way)[1])
        for code in done:
            searcher.tell(code, searched.scores[code])
            scores.append(searched.scores[code])
    assert len(set(searcher.history.codes)) == TRIALS, "a configuration was evaluated twice"
    regret = searched.regret(scores)
    return {"utilisation": busy / (workers * now), "asking": asking, "regret": float(regret[-1])}


def in_rounds(workers: int, seed: int) -> float:
    """The utilisation of a search that waits for the slowest of each round, with asks that take no time."""
    rng = np.random.default_rng([seed, workers])
    durations = rng.lognormal(0, SPREAD, TRIALS)
    rounds = [durations[i : i + workers] for i in range(0, TRIALS, workers)]
    return float(durations.sum() / (workers * sum(part.max() for part in rounds)))


@click.command()
@click.option("--seconds", default=10.0, show_default=True, help="Median time of a trial.")
@click.option("--seeds", default=2, show_default=True, help="Searches of each table.")
@click.option("--out", type=click.Path(path_type=Path), required=True, help="JSON lines, a row per search.")
def main(seconds: float, seeds: int, out: Path) -> None:
    """Searches of the development tables by 1, 4, 16 and 64 workers."""
    if out.exists():
        sys.exit(f"{out} is there already; name another file")
    rows = []
    with load_ranker() as ranker:
        simulate(ranker, problem(DEVELOPMENT[0]), 64, 0, seconds)  # the engine's first calls are slower
        for workers in WORKERS:
            for name in DEVELOPMENT:
                for seed in range(seeds):
                    row = {"workers": workers, "table": name, "seed": seed, "seconds": seconds}
                    row |= simulate(ranker, problem(name), workers, seed, seconds)
                    rows.append(row | {"in rounds": in_rounds(workers, seed)})
                    write_rows(out, rows)
    click.echo(markdown(rows))


def markdown(rows: Sequence[Mapping[str, Any]]) -> str:
    """The table of the documentation: means over tables and seeds, and the standard error of the regret."""
    text = f"| workers | busy | in rounds | all asks together / s | regret after {TRIALS} |\n|{' --- |' * 5}\n"
    for workers in dict.fromkeys(row["workers"] for row in rows):
        columns = {
            key: np.array([row[key] for row in rows if row["workers"] == workers])
            for key in ("utilisation", "in rounds", "asking", "regret")
        }
        busy, rounds, asking, regret = (float(column.mean()) for column in columns.values())
        error = columns["regret"].std(ddof=1) / np.sqrt(len(columns["regret"]))
        text += f"| {workers} | {busy:.2f} | {rounds:.2f} | {asking:.0f} | {regret:.3f}±{error:.3f} |\n"
    return text


if __name__ == "__main__":
    main()
