"""Is the order of a large pool worth reading far below its first choice? ``python -m bench.large_pools --out FILE``.

Pools of unseen codes of the development tables, behind random histories. Kendall's tau between the true values and the
order by the score that the model predicts, which is the order of ``rank``; beside it the surrogate's mean, which the
model sees as its hint.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click
import numpy as np

from bench.tables import DEVELOPMENT, problem
from lmsearcher_local.candidates.history import History
from lmsearcher_local.model.checkpoint import load_checkpoint
from lmsearcher_local.model.engines.registry import ENGINES
from lmsearcher_local.model.load import load_ranker
from lmsearcher_local.model.ranker import Task
from lmsearcher_local.search.large_pools import expected_scores
from lmsearcher_local.search.throughput import write_rows


@click.command(context_settings={"show_default": True})
@click.option("--checkpoint", type=click.Path(path_type=Path), help="Its folder.  [default: the bundled one]")
@click.option("--engine", type=click.Choice([*ENGINES]), default="vllm")
@click.option("--history", type=click.IntRange(1), default=100)
@click.option("--pool", type=click.IntRange(2), default=2000)
@click.option("--seeds", type=click.IntRange(1), default=3, help="Histories of each table.")
@click.option("--out", type=click.Path(path_type=Path), required=True, help="File of the rows, as JSON lines.")
def main(checkpoint: Path | None, engine: str, history: int, pool: int, seeds: int, out: Path) -> None:
    """Measure how well the order of large pools fits the true one."""
    from scipy.stats import kendalltau

    model = {"checkpoint": load_checkpoint(checkpoint).identity, "engine": engine}
    rows: list[dict[str, Any]] = []
    with load_ranker(checkpoint, engine) as ranker:
        for name in DEVELOPMENT:
            found = problem(name)
            for seed in range(seeds):
                codes = found.space.sample(np.random.default_rng((11, seed)), history + pool)
                known = History(tuple(codes[:history]), tuple(found.scores[code] for code in codes[:history]))
                task = Task.of(found.space, known, codes[history:])
                truth = [found.scores[code] for code in task.pool.codes]
                orders = {"model": expected_scores(ranker, task.pool), "hints": task.pool.means}
                tau = {method: float(kendalltau(truth, order).statistic) for method, order in orders.items()}
                rows.append({"table": name, "seed": seed, "tau": tau})
            write_rows(out, rows, history=history, pool=pool, **model)
    click.echo(markdown(rows))


def markdown(rows: Sequence[dict[str, Any]]) -> str:
    """The table of the documentation: Kendall's tau, the mean over the histories of a table."""
    text = "| table | histories | model | hints |\n| --- | --- | --- | --- |\n"
    for name in (*DEVELOPMENT, ""):
        same = [row["tau"] for row in rows if row["table"].startswith(name)]
        means = [f"{np.mean([tau[method] for tau in same]):.2f}" for method in ("model", "hints")]
        text += f"| {name or 'mean'} | {len(same)} | {' | '.join(means)} |\n"
    return text


if __name__ == "__main__":
    main()
