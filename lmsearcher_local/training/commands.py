"""The commands ``data build`` and ``train``, thin: what they need is imported when they run."""

from pathlib import Path

import click


@click.group()
def data() -> None:
    """Training data for an 8B checkpoint."""


@data.command()
@click.option("--out", type=click.Path(path_type=Path), required=True, help="A new or empty folder.")
@click.option(
    "--table",
    "tables",
    metavar="NAME",
    multiple=True,
    help="Draw from this benchmark table; may be repeated.  [default: synthetic spaces]",
)
@click.option(
    "--samples", type=click.IntRange(min=1), default=228_000, show_default=True, help="As many as in the paper."
)
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Same seed, same bytes.")
def build(out: Path, tables: tuple[str, ...], samples: int, seed: int) -> None:
    """Write a LLaMA-Factory data set with the settings that fine-tune Llama-3.1-8B as published.

    A sample is a question over a small random part of a space: 100 to 200 codes, ten of them candidates, the others
    evaluated; the answer is the truly best candidate. A model trained on a table has seen it: measure on others.

    \b
    The published amount, from synthetic spaces:
      lmsearcher-local data build --out data
    \b
    From two tables:
      lmsearcher-local data build --out data --table nasbench201-cifar10 --table hpobench-car
    """
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeRemainingColumn

    from lmsearcher_local.tables import table
    from lmsearcher_local.training.data import write_data_set
    from lmsearcher_local.training.subspaces import draw_pruned_tasks, table_source

    sources = [table_source(table(name)) for name in tables]
    console = Console(stderr=True)
    with Progress(
        BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(), console=console, disable=not console.is_terminal
    ) as bar:
        samples_bar = bar.add_task("samples", total=samples)
        write_data_set(out, draw_pruned_tasks(sources, seed, samples), lambda: bar.advance(samples_bar))
    click.echo(f"{samples:,} samples in {out}; train from there, on 8 GPUs:")
    click.echo("  FORCE_TORCHRUN=1 NPROC_PER_NODE=8 llamafactory-cli train llama3_full_sft.yaml")
