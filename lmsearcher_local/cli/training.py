"""The commands ``data build`` and ``train``, thin: what they need is imported when they run."""

from pathlib import Path
from typing import Any

import click

EVERY = 50  # steps between lines of the trainer


@click.group()
def data() -> None:
    """Training data for a checkpoint that reads text."""


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
@click.option(
    "--model",
    type=click.Path(path_type=Path),
    help="Folder of another model to fine-tune, whose own chat template the prompts carry.  [default: Llama-3.1-8B]",
)
def build(out: Path, tables: tuple[str, ...], samples: int, seed: int, model: Path | None) -> None:
    """Write a LLaMA-Factory data set with the settings that fine-tune Llama-3.1-8B as published.

    A sample is a question over a small random part of a space: 100 to 200 codes, ten of them candidates, the others
    evaluated; the answer is the truly best candidate. A model trained on a table has seen it: measure on others.
    Copy `lmsearcher.json`, which says how the checkpoint is prompted, beside the fine-tuned weights.

    \b
    The published amount, from synthetic spaces:
      lmsearcher-local data build --out data
    \b
    From two tables:
      lmsearcher-local data build --out data --table nasbench201-cifar10 --table hpobench-car
    \b
    For a model with another chat template (Qwen, SmolLM, Gemma, ...):
      lmsearcher-local data build --out data --model /models/Qwen3-4B
    """
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeRemainingColumn

    from lmsearcher_local.presets.tables import table
    from lmsearcher_local.training.data import LLAMA, target_of, write_data_set
    from lmsearcher_local.training.subspaces import draw_pruned_tasks, table_source

    target = target_of(model) if model else LLAMA
    sources = [table_source(table(name)) for name in tables]
    console = Console(stderr=True)
    with Progress(
        BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(), console=console, disable=not console.is_terminal
    ) as bar:
        samples_bar = bar.add_task("samples", total=samples)
        write_data_set(out, draw_pruned_tasks(sources, seed, samples), lambda: bar.advance(samples_bar), target)
    click.echo(f"{samples:,} samples in {out}; train from there, on 8 GPUs:")
    click.echo(f"  FORCE_TORCHRUN=1 NPROC_PER_NODE=8 llamafactory-cli train {target.settings}")


@click.command()
@click.option("--out", type=click.Path(path_type=Path), required=True, help="Folder of the run.")
@click.option("--seed", type=click.IntRange(min=0), default=1, show_default=True, help="Of weights and data.")
@click.option("--steps", type=click.IntRange(min=1), default=3000, show_default=True, help="Optimiser steps in all.")
def train(out: Path, seed: int, steps: int) -> None:
    """Train a small checkpoint like the bundled one, on a GPU where there is one.

    The same command goes on after Ctrl-C, a crash or `kill -9`, losing at most 100 steps, and ends as the
    uninterrupted run would have; with more --steps it goes on with a finished run. The folder gets `log.jsonl` and
    `curves.png` (losses, accuracy on held-out spaces), `state.pt`, and in the end `checkpoint`.

    \b
    Then search with it:
      lmsearcher-local train --out runs/small
      lmsearcher-local search --table nasbench201-cifar100 --checkpoint runs/small/checkpoint
    """
    try:
        import torch

        from lmsearcher_local.training.train import train as run
    except ImportError as error:
        raise click.UsageError(f"training needs the package {error.name}, which comes with vLLM") from error

    device = "cuda" if torch.cuda.is_available() else "cpu"
    click.echo(f"training on {device}, a line every {EVERY} steps ...", err=True)

    def show(row: dict[str, Any]) -> None:
        if row["step"] % EVERY and "held_out" not in row and row["step"] != steps:
            return
        line = f"step {row['step']}/{steps}, {row['seconds']:.0f} s: loss of the answer {row['answer']:.3f}"
        line += f", best of the pool picked {row['top1']:.0%}"
        if "held_out" in row:
            picks = {name[5:]: held["top1"] for name, held in row["held_out"].items() if name.startswith("pick")}
            line += "; held out, of 10 after n trials: " + ", ".join(f"{n} {top:.0%}" for n, top in picks.items())
        click.echo(line)

    checkpoint = run(out, seed, steps, device=device, show=show)
    click.echo(f"\nCheckpoint: {checkpoint}\nCurves: {out / 'curves.png'}, {out / 'log.jsonl'}")
