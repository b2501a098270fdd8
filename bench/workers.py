"""Many workers, one model: how busy the workers are, in simulated time, and what parallel evaluation costs in regret.

A trial takes a lognormal time, an ask what it really took here; free workers wait for it. The values come from tables.
"""

import heapq
import json
import sys
import time
from pathlib import Path

import click
import numpy as np
from rich.console import Console
from rich.table import Table

from bench.tables import DEVELOPMENT, TRIALS, Problem, problem
from lmsearcher_local.model.load import load_ranker
from lmsearcher_local.model.ranker import Ranker
from lmsearcher_local.search.searcher import Searcher
from lmsearcher_local.system.provenance import provenance

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
    out.parent.mkdir(parents=True, exist_ok=True)
    versions = provenance()
    rows = []
    with load_ranker() as ranker, out.open("w") as stream:
        simulate(ranker, problem(DEVELOPMENT[0]), 64, 0, seconds)  # the engine's first calls are slower
        for workers in WORKERS:
            for name in DEVELOPMENT:
                for seed in range(seeds):
                    row = {"workers": workers, "table": name, "seed": seed, "seconds": seconds}
                    row |= simulate(ranker, problem(name), workers, seed, seconds)
                    row["in rounds"] = in_rounds(workers, seed)
                    rows.append(row)
                    stream.write(json.dumps(row | versions) + "\n")
                    stream.flush()
    shown = Table("workers", "utilisation", "in rounds", "time asking / s", f"regret after {TRIALS}")
    for workers in WORKERS:
        mine = [row for row in rows if row["workers"] == workers]
        means = {
            key: float(np.mean([row[key] for row in mine])) for key in ("utilisation", "in rounds", "asking", "regret")
        }
        shown.add_row(
            str(workers),
            f"{means['utilisation']:.3f}",
            f"{means['in rounds']:.3f}",
            f"{means['asking']:.1f}",
            f"{means['regret']:.3f}",
        )
    Console().print(shown)


if __name__ == "__main__":
    main()
