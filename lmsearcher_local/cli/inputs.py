"""What a search is given: its objective, and what was evaluated before. What is left out of a source is said."""

from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from lmsearcher_local.candidates.earlier import Earlier
    from lmsearcher_local.candidates.history import Direction
    from lmsearcher_local.presets.tables import Table
    from lmsearcher_local.spaces.space import SearchSpace
    from lmsearcher_local.study.objectives.base import Objective
    from lmsearcher_local.study.plan import Values


def choose_objective(
    space: "SearchSpace",
    table: "Table | None",
    function: str | None,
    command: str | None,
    timeout: float | None,
    names: Collection[str],
) -> "Objective":
    """What to optimise; of a table, what it measured by these names, if any."""
    from lmsearcher_local.study.objectives.command import CommandObjective
    from lmsearcher_local.study.objectives.function import FunctionObjective
    from lmsearcher_local.study.objectives.table import TableObjective

    if sum(given is not None for given in (table, function, command)) == 1:
        if table is not None:
            return TableObjective(table, names)
        if command is not None:
            return CommandObjective(command, space, timeout)
        if function is not None:
            return FunctionObjective(function, timeout)
    raise click.UsageError("name one objective: --objective MODULE:FUNCTION, --command SHELL or --table NAME")


def read_warm_start(source: str | None, space: "SearchSpace", direction: "Direction") -> "Values":
    """The values that ``--warm-start`` names; what was left out of them is said."""
    from lmsearcher_local.records.sources import read_history

    if source is None:
        return ()
    known = read_history(source, space)
    known.check(direction)
    say(known.note)
    return known.entries


def read_sources(runs: Sequence[str], space: "SearchSpace", direction: "Direction") -> "list[Earlier]":
    """The searches that ``--earlier`` names; what of them does not count is said."""
    from lmsearcher_local.records.earlier_runs import read_earlier

    found = [read_earlier(run, space, direction) for run in runs]
    say(*(note for run in found for note in run.notes))
    return [run.earlier for run in found]


def read_first_codes(source: str | None, space: "SearchSpace") -> Sequence[str]:
    """The codes that ``--first`` names; what was left out of them is said."""
    from lmsearcher_local.records.sources import read_first

    if source is None:
        return ()
    found = read_first(source, space)
    say(found.note)
    return found.codes


def say(*notes: str) -> None:
    """Notes about what was left out, on stderr; empty ones are none."""
    for note in filter(None, notes):
        click.echo(note, err=True)
