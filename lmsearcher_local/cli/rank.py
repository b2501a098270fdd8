"""The command ``rank``, thin: what it needs is imported when it runs."""

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from lmsearcher_local.cli.inputs import say
from lmsearcher_local.cli.main import choose_direction, choose_space, model_options, space_options
from lmsearcher_local.system.plain import plain, quantity

if TYPE_CHECKING:
    from lmsearcher_local.candidates.history import Direction, History
    from lmsearcher_local.model.ranker import Ranking
    from lmsearcher_local.search.large_pools import Show
    from lmsearcher_local.spaces.space import SearchSpace
    from lmsearcher_local.study.plan import Values

ROWS = 20  # of the table on the screen
WIDEST = 1_000_000  # characters of a row in a file


@click.command()
@space_options
@click.option(
    "--history",
    required=True,
    metavar="HISTORY",
    help="What was evaluated: JSON, CSV, the output folder of a search, or an Optuna study STORAGE_URL#NAME.",
)
@click.option(
    "--pool",
    required=True,
    type=click.Path(path_type=Path),
    help="Candidates: one code a line, or a CSV with a column per parameter.",
)
@click.option(
    "--direction",
    type=click.Choice(["maximize", "minimize"]),
    help="[default: what the history or the table says, else maximize]",
)
@click.option("--top", type=click.IntRange(min=1), help=f"Rows to print.  [default: {ROWS}; as JSON, all]")
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of a table.")
@model_options
def rank(
    space_file: Path | None,
    preset: str | None,
    table: str | None,
    history: str,
    pool: Path,
    direction: str | None,
    top: int | None,
    as_json: bool,
    **model: Any,
) -> None:
    """Rank candidates, given what was evaluated so far.

    The bundled checkpoint predicts scores: it orders all candidates by them, and picks among the first 16. Another one
    ranks a pool too large for one prompt by tournament; of thousands of candidates a Gaussian process first keeps the
    most promising. The probabilities are exact: those with which the model, held to its last pool, answers each
    candidate; all others follow with probability 0. Beside each stands the value of the nearest evaluated
    configuration, and in how many parameters they differ.

    \b
    Which of these cells next?
      lmsearcher-local rank --preset nasbench201 --history runs/mine/historical_results.json --pool pool.txt
    \b
    The whole ranking of a hundred thousand, for another program:
      lmsearcher-local rank space.yaml --history tried.csv --pool pool.csv --json > ranking.json
    """
    from lmsearcher_local.records.sources import read_history
    from lmsearcher_local.spaces.files import read_pool

    space, _, measured = choose_space(space_file, preset, table)
    choose_direction(direction, measured)  # refuses two, before files are read
    source, (candidates, note) = read_history(history, space), read_pool(pool, space)
    direction = choose_direction(direction, measured, source.direction)
    source.check(direction)
    say(source.note, note)
    click.echo(f"{quantity(len(candidates), 'candidate')}; loading the model ...", err=True)
    ranking, seen = ranking_of(space, source.entries, candidates, direction, model)
    if as_json:
        print_json(space, ranking, seen, top)
    else:
        print_table(space, ranking, seen, top or ROWS)


def ranking_of(
    space: "SearchSpace", entries: "Values", candidates: list[str], direction: "Direction", model: dict[str, Any]
) -> "tuple[Ranking, History]":
    """The ranking of the candidates, and what was evaluated, in its own direction."""
    from lmsearcher_local.candidates.history import History
    from lmsearcher_local.model.load import load_ranker
    from lmsearcher_local.model.ranker import Task
    from lmsearcher_local.search.large_pools import rank_pool
    from lmsearcher_local.search.searcher import Searcher

    loading = load_ranker(**model, space=space, pool_size=len(candidates))
    with loading as ranker, progress() as show:
        fits = min(len(candidates), ranker.codec.group)  # what is checked to fit; more may not
        known = Searcher(space, ranker, direction=direction, pool_size=fits)
        for code, value in entries:
            known.tell(code, value)
        ranking = rank_pool(ranker, Task.of(space, known.history, candidates), show)
    sign = 1 if direction == "maximize" else -1
    return ranking, History(known.history.codes, tuple(sign * score for score in known.history.scores))


def best_rows(space: "SearchSpace", ranking: "Ranking", seen: "History", top: int | None) -> Iterator[dict[str, Any]]:
    """The best candidates, made one by one, because there may be hundreds of thousands."""
    import numpy as np

    order = np.argsort(-ranking.log_probs, kind="stable")[:top]
    codes = [ranking.pool[place] for place in order]
    chances = np.exp(ranking.log_probs[order]).tolist()
    for i, (code, chance, near) in enumerate(zip(codes, chances, nearest(space, codes, seen), strict=True), 1):
        yield {"rank": i, "code": code, "probability": chance, "configuration": space.decode(code), **near}


def nearest(space: "SearchSpace", codes: list[str], seen: "History") -> Iterator[dict[str, Any]]:
    """For each code, under ``nearest``, the evaluated one that differs in the fewest parameters, the first of several.

    What is inactive in one of them is no difference. Where nothing was evaluated there is none.
    """
    if not len(seen):
        yield from [{}] * len(codes)
        return
    theirs, rows = space.array(seen.codes), space.array(codes)
    known = space.active(theirs)
    for mine, active in zip(rows, space.active(rows), strict=True):
        changes = ((mine != theirs) & known & active).sum(1)
        place = int(changes.argmin())
        yield {"nearest": {"code": seen.codes[place], "value": seen.scores[place], "changes": int(changes[place])}}


def print_json(space: "SearchSpace", ranking: "Ranking", seen: "History", top: int | None) -> None:
    """One object, a candidate a line."""
    sys.stdout.write(f'{{"greedy": {json.dumps(ranking.greedy)}, "ranking": [')
    for row in best_rows(space, ranking, seen, top):
        sys.stdout.write(("" if row["rank"] == 1 else ",") + "\n " + json.dumps(row))
    sys.stdout.write("\n]}\n")


def print_table(space: "SearchSpace", ranking: "Ranking", seen: "History", top: int) -> None:
    """The best candidates, and how many more there are."""
    from rich.console import Console
    from rich.table import Column, Table
    from rich.text import Text

    names = ("rank", "code", "probability", "configuration", "nearest evaluated")
    grid = Table(*(Column(name, overflow="fold") for name in names))
    for row in best_rows(space, ranking, seen, top):
        options = ", ".join(f"{plain(key)}={plain(option)}" for key, option in row["configuration"].items())
        near = (
            f"{row['nearest']['value']:.6g}, {describe_distance(row['nearest']['changes'])}" if "nearest" in row else ""
        )
        cells = (str(row["rank"]), row["code"], f"{row['probability']:.4f}", options, near)
        grid.add_row(*map(Text, cells))  # an option is no markup
    console = Console()
    if not console.is_terminal:  # a file or another program: a row a line, however long
        console.width = max(console.width, console.measure(grid, options=console.options.update(width=WIDEST)).maximum)
    console.print(grid)
    if (more := len(ranking.pool) - top) > 0:
        click.echo(f"and {more:,} more: --top N prints N of them, --json all")


def describe_distance(changes: int) -> str:
    """How far away an evaluated configuration is, in words."""
    return f"{changes} change{'s' * (changes > 1)} away" if changes else "the same"


@contextmanager
def progress() -> "Iterator[Show]":
    """A bar for each stage that takes a while, on stderr; where that is no terminal, a line at its end."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal) as bar:
        bars: dict[str, TaskID] = {}

        def show(stage: str, done: int, total: int) -> None:
            if stage not in bars:
                bars[stage] = bar.add_task(stage, total=total)
            bar.update(bars[stage], completed=done)
            if done == total and not console.is_terminal:
                click.echo(f"{stage}: {total:,} done", err=True)

        yield show
