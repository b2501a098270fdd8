"""A search with earlier searches of its family's other tables, against the same without and against what people do.

``python -m bench.transfer --tables dev --seeds 3 --out runs/transfer``; the same command goes on where it was stopped.
An earlier search is 100 trials of ours with the surrogate's own pick. So is every search here that is not a baseline's,
but for the two rows of the bundled model. Of development tables the sources are development tables, too; of the report
tables all others of the family are. Finished searches are lines of ``rows.jsonl``, of which ``summary.md`` and
``curves.png`` are made.
"""

import time
from collections.abc import Callable, Sequence
from functools import cache
from itertools import zip_longest
from pathlib import Path
from typing import Any, NamedTuple

import click
import numpy as np

from bench.baselines import Search, optuna_gp, optuna_tpe
from bench.quality import append, read
from bench.rankers import JudgeRanker, search, surrogate
from bench.tables import FAMILIES, GROUPS, problem
from lmsearcher_local.candidates.earlier import Earlier
from lmsearcher_local.candidates.history import History
from lmsearcher_local.model.load import load_ranker
from lmsearcher_local.model.ranker import Ranker
from lmsearcher_local.search.searcher import Searcher
from lmsearcher_local.spaces.space import SearchSpace
from lmsearcher_local.system.provenance import provenance

TRIALS = 100
MARKS = (1, 5, 10, 20, 50, 100)  # evaluations at which the summary reads the curves
BEST = 5  # configurations of each source that a baseline begins with
OTHER = {"nasbench201": "hpobench", "hpobench": "hpolib", "hpolib": "hpobench"}  # family whose tables are useless
WITH, WITHOUT, MODEL = "earlier searches", "no earlier search", "bundled model"
USELESS = ("useless: labels permuted", "useless: another family", "useless: random values")
HARMED, BOUND = (20, 50), 1.1  # evaluations at which useless sources may leave so many times the regret
ALL = "all tables"

Regrets = dict[str, dict[int, list[float]]]  # by table and seed


class Cell(NamedTuple):
    """One search."""

    method: str
    table: str
    seed: int
    sources: tuple[str, ...]  # tables
    useless: tuple[str, ...]


@click.command(context_settings={"show_default": True})
@click.option("--tables", type=click.Choice(sorted(GROUPS)), default="dev", help="The report tables only to report.")
@click.option("--methods", default="all", help="Separated by semicolons.")
@click.option("--seeds", type=click.IntRange(1), default=3, help="Searches per method and table.")
@click.option("--out", type=click.Path(path_type=Path), required=True, help="Folder of the results.")
def main(tables: str, methods: str, seeds: int, out: Path) -> None:
    """Search tables with earlier searches of others, and compare."""
    names = tuple(METHODS) if methods == "all" else tuple(name.strip() for name in methods.split(";"))
    if unknown := [name for name in names if name not in METHODS]:
        raise click.UsageError(f"there is no method {unknown[0]!r}; allowed: {'; '.join(METHODS)}")
    out.mkdir(parents=True, exist_ok=True)
    done = {(row["method"], row["table"], row["seed"]) for row in read(out / "rows.jsonl")}
    for seed in range(seeds):  # outermost: an interrupted run has all tables and methods
        for name in names:
            for table in GROUPS[tables]:
                if (name, table, seed) not in done:
                    row = run(Cell(name, table, seed, *sources_of(table, tables)))
                    append(out / "rows.jsonl", row | provenance())
                    click.echo(f"{name}, {table}, seed {seed}: {row['seconds']} s, regret {row['regret'][-1]}")
    rows = read(out / "rows.jsonl")
    (out / "summary.md").write_text(markdown(rows), encoding="utf-8")
    plot(rows, out / "curves.png")
    click.echo(markdown(rows))


def sources_of(table: str, group: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The tables that a table's search may learn from, and as many that say nothing about it."""
    allowed = GROUPS["dev"] if group == "dev" else tuple(name for names in GROUPS.values() for name in names)
    family = table.split("-")[0]
    sources = [name for name in allowed if name.startswith(family) and name != table]
    useless = [name for name in allowed if name.startswith(OTHER[family])]
    return tuple(sources), tuple(useless[: len(sources)])


def run(cell: Cell) -> dict[str, Any]:
    """One search as a row."""
    found = problem(cell.table)
    for table in (*cell.sources, *cell.useless):
        history_of(table, cell.seed)  # not part of the time
    started = time.monotonic()
    proposals = METHODS[cell.method](cell)
    scores = [found.scores[next(proposals)]]
    while len(scores) < TRIALS:
        scores.append(found.scores[proposals.send(scores[-1])])
    proposals.close()
    regret = [round(float(value), 6) for value in found.regret(scores)]
    place = {"method": cell.method, "table": cell.table, "seed": cell.seed, "sources": len(cell.sources)}
    return {**place, "seconds": round(time.monotonic() - started, 2), "regret": regret}


@cache
def history_of(table: str, seed: int) -> History:
    """An earlier search of a table."""
    found = problem(table)
    proposals = search(found.space, seed, surrogate, {})
    codes = [next(proposals)]
    while len(codes) < TRIALS:
        codes.append(proposals.send(found.scores[codes[-1]]))
    return History(tuple(codes), tuple(found.scores[code] for code in codes))


def earlier(table: str, seed: int) -> Earlier:
    """An earlier search of a table, as a source for another table with the same space."""
    return _source(table, problem(table).space, history_of(table, seed))


def permuted(table: str, seed: int) -> Earlier:
    """An earlier search that says nothing: the labels of each parameter's options are permuted."""
    space, history, rng = problem(table).space, history_of(table, seed), np.random.default_rng([seed, 1])
    rows = space.array(history.codes)
    rows = np.stack([rng.permutation(size)[column] for size, column in zip(space.sizes, rows.T, strict=True)], 1)
    return _source(table, space, History(tuple(space.codes(rows)), history.scores))


def renamed(table: str, seed: int, space: SearchSpace) -> Earlier:
    """An earlier search of another space whose parameters are taken for those of this one, in turn."""
    history, rows = history_of(table, seed), problem(table).space.array(history_of(table, seed).codes)
    columns = [rows[:, i % rows.shape[1]] % size for i, size in enumerate(space.sizes)]
    scores = dict(zip(reversed(space.codes(np.stack(columns, 1))), reversed(history.scores), strict=True))
    return _source(table, space, History(tuple(scores), tuple(scores.values())))


def random_values(table: str, seed: int) -> Earlier:
    """An earlier search that says nothing: codes drawn at random, with a search's scores in random order."""
    space, history, rng = problem(table).space, history_of(table, seed), np.random.default_rng([seed, 2])
    codes = space.sample(rng, len(history))
    return _source(table, space, History(tuple(codes), tuple(rng.permutation(history.scores).tolist())))


def _source(name: str, space: SearchSpace, history: History) -> Earlier:
    return Earlier(name, SearchSpace(space.describe()), tuple(range(len(space.sizes))), history)


def learning(cell: Cell, sources: Sequence[Earlier], ranker: Ranker | None = None) -> Search:
    """Our search with these sources; without a ranker it picks what the surrogate expects most of."""
    searcher = Searcher(space_of(cell), ranker or JudgeRanker(surrogate), seed=cell.seed, earlier=sources)
    while True:
        [code] = searcher.ask()
        searcher.tell(code, (yield code))


def with_sources(cell: Cell, most: int | None = None) -> Search:
    """Our search with the family's other tables."""
    return learning(cell, [earlier(table, cell.seed) for table in cell.sources[:most]])


def with_model(cell: Cell, most: int | None = None) -> Search:
    """Our search with the family's other tables and the bundled model, whose loading counts as time."""
    with load_ranker(None, "transformers") as ranker:
        yield from learning(cell, [earlier(table, cell.seed) for table in cell.sources[:most]], ranker)


def with_permuted(cell: Cell) -> Search:
    """Our search with sources of permuted labels."""
    return learning(cell, [permuted(table, cell.seed) for table in cell.sources])


def with_renamed(cell: Cell) -> Search:
    """Our search with tables of another family."""
    return learning(cell, [renamed(table, cell.seed, space_of(cell)) for table in cell.useless])


def with_random(cell: Cell) -> Search:
    """Our search with sources of random values."""
    return learning(cell, [random_values(table, cell.seed) for table in cell.sources])


def added(cell: Cell) -> Search:
    """Our search, told the trials of all sources as if they were its own."""
    searcher = Searcher(space_of(cell), JudgeRanker(surrogate), seed=cell.seed)
    for table in cell.sources:
        history = history_of(table, cell.seed)
        for code, score in zip(history.codes, history.scores, strict=True):
            searcher.tell(code, score)
    while True:
        [code] = searcher.ask()
        searcher.tell(code, (yield code))


def in_order(cell: Cell) -> Search:
    """The best configuration of each source, then the second ones, and so on."""
    ranked = [history_of(table, cell.seed).best(TRIALS).codes for table in cell.sources]
    turns = [code for turn in zip_longest(*ranked) for code in turn if code is not None]
    order = iter(dict.fromkeys(turns))
    while True:
        yield next(order, turns[0])  # the first again where nothing new is left


def best_codes(cell: Cell) -> list[str]:
    """The best configurations of each source, each once."""
    codes = [code for table in cell.sources for code in history_of(table, cell.seed).best(BEST).codes]
    return list(dict.fromkeys(codes))


def space_of(cell: Cell) -> SearchSpace:
    """The space that is searched."""
    return problem(cell.table).space


METHODS: dict[str, Callable[[Cell], Search]] = {
    WITHOUT: lambda cell: search(space_of(cell), cell.seed, surrogate, {}),
    WITH: with_sources,
    f"{MODEL}, {WITHOUT}": lambda cell: with_model(cell, 0),
    f"{MODEL}, {WITH}": with_model,
    f"{WITH}: 1": lambda cell: with_sources(cell, 1),
    f"{WITH}: 3": lambda cell: with_sources(cell, 3),
    USELESS[0]: with_permuted,
    USELESS[1]: with_renamed,
    USELESS[2]: with_random,
    "all trials as its own": added,
    "the sources' best in order": in_order,
    f"Optuna TPE, best {BEST} enqueued": lambda cell: optuna_tpe(space_of(cell), cell.seed, best_codes(cell)),
    f"Optuna GP, best {BEST} enqueued": lambda cell: optuna_gp(space_of(cell), cell.seed, best_codes(cell)),
}


def curves(rows: Sequence[dict[str, Any]]) -> dict[str, dict[str, tuple[np.ndarray, int]]]:
    """By family, last all, and method the mean regret after each trial, ``[TRIALS]``, and how many searches that is.

    Of a family, the mean over its tables of the mean over seeds. Of all, only methods that have searched each table.
    """
    return {
        family: {
            name: (np.mean([np.mean([*seeds.values()], 0) for seeds in by_table.values()], 0), _searches(by_table))
            for name, by_table in sorted(methods.items(), key=lambda item: [*METHODS].index(item[0]))
            if family != ALL or by_table.keys() == {row["table"] for row in rows}
        }
        for family, methods in _by_family(rows).items()
    }


def harm(rows: Sequence[dict[str, Any]]) -> str:
    """The table of the documentation on useless sources: regret with them over regret without.

    A ratio ``r = mean(a) / mean(b)`` over seeds, of means over tables; its standard error is that of ``a - r b`` over
    the mean of ``b``, as the searches ``a`` and ``b`` of a seed are of the same tables.
    """
    found = _by_family(rows)
    text = (
        f"Regret with useless sources as a multiple of that without sources, after {' / '.join(map(str, HARMED))}"
        f" evaluations, mean over tables and seeds, ± its standard error over seeds (the bound is {BOUND}).\n\n"
        f"| sources | {' | '.join(found)} |\n| --- |{' --- |' * len(found)}\n"
    )
    for name in (name for name in USELESS if name in found[ALL]):
        cells = [[_ratio(methods[name], methods[WITHOUT], mark) for mark in HARMED] for methods in found.values()]
        text += f"| {name} | {' | '.join(' / '.join(cell) for cell in cells)} |\n"
    return text


def _by_family(rows: Sequence[dict[str, Any]]) -> dict[str, dict[str, Regrets]]:
    """By family, last all, and method."""
    found: dict[str, dict[str, Regrets]] = {}
    for family in (*FAMILIES.values(), ALL):
        for row in rows:
            if family in (ALL, FAMILIES[row["table"].split("-")[0]]):
                by_table = found.setdefault(family, {}).setdefault(row["method"], {})
                by_table.setdefault(row["table"], {})[row["seed"]] = row["regret"]
    return found


def _searches(by_table: Regrets) -> int:
    return sum(map(len, by_table.values()))


def _ratio(useless: Regrets, without: Regrets, mark: int) -> str:
    """The ratio of their mean regrets after so many evaluations, and its standard error."""
    seeds = sorted(set.intersection(*(set(regrets) for found in (useless, without) for regrets in found.values())))
    a, b = (np.mean([[by[s][mark - 1] for s in seeds] for by in found.values()], 0) for found in (useless, without))
    ratio = a.mean() / b.mean()
    error = np.std(a - ratio * b, ddof=1) / np.sqrt(len(seeds)) / b.mean()
    return f"{ratio:.2f} ± {error:.2f}"


def markdown(rows: Sequence[dict[str, Any]]) -> str:
    """The table of the documentation."""
    summary = curves(rows)
    marks = [mark for mark in MARKS if mark <= min(len(row["regret"]) for row in rows)]
    text = (
        f"Normalised regret after {' / '.join(map(str, marks))} evaluations (0: the optimum, 1: the median of the"
        f" table), mean over tables and seeds; in brackets the number of searches.\n\n"
        f"| method | {' | '.join(summary)} |\n| --- |{' --- |' * len(summary)}\n"
    )
    for name in METHODS:
        if any(name in methods for methods in summary.values()):
            cells = [methods.get(name) for methods in summary.values()]
            text += f"| {name} | {' | '.join(_marked(*cell, marks) if cell else '-' for cell in cells)} |\n"
    return text


def _marked(mean: np.ndarray, searches: int, marks: Sequence[int]) -> str:
    return " / ".join(f"{mean[mark - 1]:.3f}".removeprefix("0") for mark in marks) + f" ({searches})"


def plot(rows: Sequence[dict[str, Any]], path: Path) -> None:
    """The curves, a panel for each family."""
    from matplotlib import colormaps
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    summary = {family: methods for family, methods in curves(rows).items() if family != ALL}
    figure = Figure(figsize=(4.6 * len(summary), 5), layout="constrained")
    FigureCanvasAgg(figure)  # no window system, and no global state of pyplot
    handles: dict[str, Any] = {}
    for i, (family, methods) in enumerate(summary.items(), 1):
        axes = figure.add_subplot(1, len(summary), i)
        for name, (mean, _) in methods.items():
            style: dict[str, Any] = {"lw": 2.4, "color": "black"} if name in (WITH, WITHOUT) else {"lw": 1.2}
            style |= {"ls": ":"} if name.startswith("useless") or name == WITHOUT else {}
            style |= {} if "color" in style else {"color": colormaps["tab20"]([*METHODS].index(name))}
            [handles[name]] = axes.plot(np.arange(1, TRIALS + 1), mean.clip(1e-3), **style)
        axes.set(xscale="log", yscale="log", title=family, xlabel="evaluations", xlim=(1, TRIALS))
        axes.grid(alpha=0.3, which="both")
        if i == 1:
            axes.set_ylabel("normalised regret, mean")
    figure.legend(list(handles.values()), list(handles), loc="outside lower center", ncols=4, frameon=False)
    figure.savefig(path, dpi=130)


if __name__ == "__main__":
    main()
