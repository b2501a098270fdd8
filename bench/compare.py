"""The best value so far of several searches in one picture: ``python -m bench.compare NAME=FOLDER ... --out FILE``."""

from pathlib import Path

import click
import numpy as np

from lmsearcher_local.presets.drawing import new_figure
from lmsearcher_local.records.storage import load_study
from lmsearcher_local.study.results import result_of


@click.command()
@click.argument("searches", nargs=-1, required=True, metavar="NAME=FOLDER...")
@click.option("--title", default="", help="Above the picture.")
@click.option("--label", default="best value so far", show_default=True, help="Of the values.")
@click.option("--out", type=click.Path(path_type=Path), required=True, help="A PNG or SVG.")
def main(searches: tuple[str, ...], title: str, label: str, out: Path) -> None:
    """Draw the best value so far of searches, each an output folder; failed and given trials are left out."""
    figure = new_figure(7, 4)
    axes = figure.add_subplot()
    for name, _, folder in (search.partition("=") for search in searches):
        result = result_of(load_study(folder))
        found = np.array([trial.value for trial in result.valued if not trial.given])
        best = (np.maximum if result.direction == "maximize" else np.minimum).accumulate(found)
        axes.step(np.arange(1, len(best) + 1), best, where="post", label=name, lw=2)
        marks = [f"{best[n - 1]:.5g} after {n}" for n in (1, 5, 10, 20, 50) if n <= len(best)]
        click.echo(f"{name}: {', '.join(marks)}")
    axes.set(xlabel="evaluations", ylabel=label, title=title)
    axes.grid(alpha=0.3)
    axes.legend(frameon=False)
    figure.savefig(out, dpi=110)


if __name__ == "__main__":
    main()
