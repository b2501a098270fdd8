"""The command ``bench``, thin: it imports what it runs only when it runs."""

import time
from collections.abc import Sequence
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import click

from lmsearcher_local.cli.main import checkpoint_options

BATCHES, HISTORIES, POOLS = (1, 8, 32, 128), (20, 100, 200), (10, 100)


@click.command(context_settings={"show_default": True})
@checkpoint_options
@click.option("--batch", type=click.IntRange(1), multiple=True, default=BATCHES, help="Pools in one engine call.")
@click.option(
    "--history", type=click.IntRange(0, 200), multiple=True, default=HISTORIES, help="Evaluated trials shown."
)
@click.option("--pool", type=click.IntRange(2, 1000), multiple=True, default=POOLS, help="Candidates in a pool.")
@click.option(
    "--repeats", type=click.IntRange(2), default=3, help="Of a measurement, at least; prompts are fresh in each."
)
@click.option("--out", type=click.Path(path_type=Path), help="File of the rows, as JSON lines.")
def bench(
    checkpoint: Path | None,
    base: Path | None,
    quantization: str | None,
    batch: Sequence[int],
    history: Sequence[int],
    pool: Sequence[int],
    repeats: int,
    out: Path | None,
) -> None:
    """Measure how many pools a second the model ranks here.

    `pick` answers each pool, as a search asks; `ranking` gives every candidate its probability; `prefill` is the least
    that vLLM can do with the same prompts, one token without any constraint. The last lines are a search of 192 trials,
    where most of a prompt is the one before.
    """
    import numpy as np

    from lmsearcher_local.model.load import load_ranker
    from lmsearcher_local.search import throughput

    rows = []
    started = time.perf_counter()
    longest = max(*pool, 10)
    room: dict[str, Any] = {"space": throughput.SPACE, "pool_size": longest, "cache_bytes": throughput.CACHE}
    with load_ranker(checkpoint, base=base, quantization=quantization, **room) as ranker:
        loaded = time.perf_counter() - started
        ranker.rank(throughput.fresh_tasks(np.random.default_rng(0), 1, 0, 10))
        rows.append({"what": "start", "load_s": loaded, "first_answer_s": time.perf_counter() - started})
        methods = {name: partial(method, ranker) for name, method in throughput.METHODS.items()}
        for row in throughput.measure(ranker, methods, list(product(history, pool, batch)), repeats):
            click.echo(throughput.format_row(row))
            rows.append(row)
        rows.append(throughput.search(ranker))
        rows.append({"what": "memory", "peak_bytes": throughput.peak_memory()})
    for row in (rows[0], *rows[-2:]):
        click.echo(throughput.format_row(row))
    if out:
        throughput.write_rows(out, rows)
