"""What a search found, in words and as a picture."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from lmsearcher_local.system.plain import plain, quantity

if TYPE_CHECKING:
    from lmsearcher_local.presets.tables import Table
    from lmsearcher_local.study.results import Result, Trial

LINES = 20  # of a front on the terminal


def draw(result: "Result", picture: Path, shown: Path, title: str, table: "Table | None") -> None:
    """Write the search's picture, which is called ``shown`` where it cannot be written."""
    from lmsearcher_local.presets.drawing import save_figure
    from lmsearcher_local.report.figures import draw_result

    label = table.metric if table else "value"
    optimum = table.optimum[1] if table and not result.limits else None
    try:
        save_figure(draw_result(result, title, label, optimum), picture, dpi=150)
    except OSError as error:
        raise click.ClickException(f"cannot write {shown}: {error.strerror}; the results are kept") from error


def report(result: "Result", table: "Table | None") -> None:
    """What was found, in words."""
    if result.exhausted:
        click.echo("The space is used up: every valid configuration was evaluated.")
    elif result.ended:
        click.echo(f"The search ended early: {result.ended}.")
    if result.front:
        _report_front(result)
    elif result.best_trial:
        _report_best(result, result.best_trial, table)
    elif nearest := result.nearest:
        click.echo(f"No trial holds every limit; the nearest, {nearest.code}, breaks {plain(nearest.breaks)}.")
    elif any(trial.pruned for trial in result.trials):
        click.echo("No trial ran to its end: the pruner stopped them, or they failed.")
    elif result.trials:
        click.echo(f"No trial gave a value; the last one failed: {plain(result.trials[-1].reason)}")
    if result.limits and (result.front or result.best):
        click.echo(f"{quantity(len(result.breaking), 'trial')} broke a limit")


def _report_best(result: "Result", best: "Trial", table: "Table | None") -> None:
    from lmsearcher_local.presets.registry import preset_of

    configuration = best.configuration
    width = max(len(plain(name)) for name in configuration)
    click.echo(f"\nBest of {quantity(len(result.trials), 'trial')}: {best.code}")
    for key, option in configuration.items():
        click.echo(f"  {plain(key):<{width}}  {plain(option)}")
    if known := preset_of(result.space):
        click.echo(known.summary(configuration))
    click.echo(f"{table.metric if table else 'Value'}: {best.value:.6g}")
    for limit in result.limits:
        click.echo(f"{plain(limit.name)}: {dict(best.measured)[limit.name]:.6g} ({plain(limit)})")
    if table is not None and not result.limits:
        code, optimum = table.optimum
        click.echo(f"The table's optimum: {optimum:.6g} ({code})")
        click.echo(f"Found: rank {table.rank(best.code):,} of {len(table.values):,}")


def _report_front(result: "Result") -> None:
    """The front as a table, best in the first goal first; of a long one as many lines as fit a page."""
    count, trials = quantity(len(result.front), "configuration"), quantity(len(result.trials), "trial")
    click.echo(f"\nThe front, {count} of {trials} that no other beats in every goal:")
    rows = [[trial.code, *(f"{value:.6g}" for value in trial.values)] for trial in result.front]
    lines = [["code", *(plain(goal) for goal in result.goals)], *rows[:LINES]]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    for line in lines:
        click.echo("  " + "  ".join(f"{cell:>{width}}" for cell, width in zip(line, widths, strict=True)))
    if len(rows) > LINES:
        click.echo(f"  and {len(rows) - LINES} more in the file")
