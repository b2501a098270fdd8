"""What a search found, in words and as a picture."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from lmsearcher_local.system.plain import plain, quantity

if TYPE_CHECKING:
    from lmsearcher_local.presets.tables import Table
    from lmsearcher_local.study.results import Result

LINES = 20  # of a front on the terminal


def draw(result: "Result", picture: Path, shown: Path, title: str, table: "Table | None") -> None:
    """Write the search's picture, which is called ``shown`` where it cannot be written."""
    from lmsearcher_local.report.figures import plot_search

    label = table.metric if table else "value"
    optimum = table.optimum[1] if table and not result.limits else None
    try:
        plot_search(result, picture, title, label, optimum)
    except OSError as error:
        raise click.ClickException(f"cannot write {shown}: {error.strerror}; the results are kept") from error


def report(result: "Result", table: "Table | None") -> None:
    """What was found, in words."""
    from lmsearcher_local.presets.registry import preset_of

    if result.exhausted:
        click.echo("The space is used up: every valid configuration was evaluated.")
    elif result.ended:
        click.echo(f"The search ended early: {result.ended}.")
    if result.front:
        return report_front(result)
    if result.best is None:
        if not result.nearest and any(trial.pruned for trial in result.trials):
            click.echo("No trial ran to its end: the pruner stopped them, or they failed.")
        elif (trial := result.nearest) is not None:
            click.echo(f"No trial holds every limit; the nearest, {trial.code}, breaks {plain(trial.breaks)}.")
        elif result.trials:
            click.echo(f"No trial gave a value; the last one failed: {plain(result.trials[-1].reason)}")
        return
    code, value = result.best
    configuration = result.space.decode(code)
    width = max(len(plain(name)) for name in configuration)
    click.echo(f"\nBest of {quantity(len(result.trials), 'trial')}: {code}")
    for key, option in configuration.items():
        click.echo(f"  {plain(key):<{width}}  {plain(option)}")
    if known := preset_of(result.space):
        click.echo(known.summary(configuration))
    click.echo(f"{table.metric if table else 'Value'}: {value:.6g}")
    if result.limits:
        broken = sum(bool(trial.breaks) for trial in result.trials)
        measured = dict(next(trial for trial in result.trials if trial.code == code and trial.holds).measured)
        for limit in result.limits:
            click.echo(f"{plain(limit.name)}: {measured[limit.name]:.6g} ({plain(limit)})")
        click.echo(f"{quantity(broken, 'trial')} broke a limit")
    elif table is not None:
        best, optimum = table.optimum
        click.echo(f"The table's optimum: {optimum:.6g} ({best})")
        click.echo(f"Found: rank {table.rank(code):,} of {len(table.values):,}")


def report_front(result: "Result") -> None:
    """The front as a table, best in the first goal first; of a long one as many lines as fit a page."""
    names = [goal.name for goal in result.goals]
    count, trials = quantity(len(result.front), "configuration"), quantity(len(result.trials), "trial")
    click.echo(f"\nThe front, {count} of {trials} that no other beats in every goal:")
    rows = [[trial.code, *(f"{value:.6g}" for value in trial.values)] for trial in result.front]
    lines = [["code", *map(str, result.goals)], *rows[:LINES]]
    widths = [max(len(plain(line[i])) for line in lines) for i in range(len(names) + 1)]
    for line in lines:
        click.echo("  " + "  ".join(f"{plain(cell):>{width}}" for cell, width in zip(line, widths, strict=True)))
    if len(rows) > LINES:
        click.echo(f"  and {len(rows) - LINES} more in the file")
    if result.limits:
        click.echo(f"{quantity(sum(bool(trial.breaks) for trial in result.trials), 'trial')} broke a limit")
