"""Search quality on the real tables: methods x tables x seeds, each search 192 evaluations.

``python -m bench.quality --tables dev --seeds 20 --out runs/quality``; the same command goes on where it was stopped.
Finished searches are lines of ``rows.jsonl``, the regret of each as the trials at which it fell; ``summary.md`` and
``curves.png`` are made anew from all of them at the end. Our own searches run in lockstep, all tables and seeds in one
engine call a trial; ``lockstep.jsonl`` holds their trials. A method that changed needs a new folder, or its lines
deleted.
"""

import json
import multiprocessing
import os
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple
from unittest.mock import patch

import click
import numpy as np

from bench.baselines import BASELINES
from bench.rankers import Judge, ShuffledScores, blind, perfect, search, surrogate
from bench.tables import FAMILIES, GROUPS, TRIALS, Problem, problem
from lmsearcher_local.model.checkpoint import load_checkpoint
from lmsearcher_local.model.engines.registry import ENGINES
from lmsearcher_local.model.load import load_ranker
from lmsearcher_local.model.ranker import Ranker
from lmsearcher_local.presets.drawing import new_figure
from lmsearcher_local.search.searcher import Searcher, ask_together
from lmsearcher_local.system.provenance import provenance

MARKS = (50, 100, TRIALS)  # evaluations at which the summary reads the curves
WORKERS = 2
RESAMPLES = 2000
CACHE = 6 << 30  # bytes of keys and values: the histories of all searches in lockstep

PAPER: dict[str, Any] = {"policy": "paper"}
# Our searches: policy, and what stands between the search and the model.
OURS: dict[str, tuple[dict[str, Any], Callable[[Ranker], Ranker]]] = {
    "LM-Searcher": ({}, lambda model: model),
    "LM-Searcher, paper's policy": (PAPER, lambda model: model),
    "ablation: shuffled scores": ({}, ShuffledScores),
}
# The same searches with something else in the model's place.
STAND_INS: dict[str, tuple[dict[str, Any], Callable[[Problem], Judge]]] = {
    "ablation: uniform pick from the pool": ({}, lambda _: blind),
    "ablation: the surrogate's own pick": ({}, lambda _: surrogate),
    "ceiling: paper's policy, perfect ranker": (PAPER, perfect),
    "ceiling: our policy, perfect ranker": ({}, perfect),
}
METHODS = (*BASELINES, *OURS, *STAND_INS)
SHORT = {  # the rows of the README
    "LM-Searcher": "lmsearcher-local, small checkpoint",
    "ablation: the surrogate's own pick": "its surrogate without the model",
    "Gaussian process": "a careful Gaussian process",
    "Optuna TPE": "Optuna TPE",
    "random": "random",
}


class Cell(NamedTuple):
    """One search."""

    method: str
    table: str
    seed: int


@click.command(context_settings={"show_default": True})
@click.option("--tables", type=click.Choice(sorted(GROUPS)), default="dev", help="The report tables only to report.")
@click.option("--methods", default="all", help=f"Separated by semicolons, of: {'; '.join(METHODS)}.")
@click.option("--seeds", type=click.IntRange(1), default=20, help="Searches per method and table.")
@click.option("--out", type=click.Path(path_type=Path), required=True, help="Folder of the results.")
@click.option("--checkpoint", type=click.Path(path_type=Path), help="Checkpoint folder.  [default: the bundled one]")
@click.option("--engine", type=click.Choice([*ENGINES]), default="vllm")
def main(tables: str, methods: str, seeds: int, out: Path, checkpoint: Path | None, engine: str) -> None:
    """Search real tables with our methods and their baselines, and compare."""
    names = METHODS if methods == "all" else tuple(name.strip() for name in methods.split(";"))
    if unknown := [name for name in names if name not in METHODS]:
        raise click.UsageError(f"there is no method {unknown[0]!r}; allowed: {'; '.join(METHODS)}")
    if "SMAC3" in names and find_spec("smac") is None:
        click.echo("SMAC3 is left out: it is not installed; pip install 'lmsearcher-local[smac]'")
        names = tuple(name for name in names if name != "SMAC3")
    out.mkdir(parents=True, exist_ok=True)
    model = {"checkpoint": load_checkpoint(checkpoint).identity, "engine": engine}
    rows = read(out / "rows.jsonl")
    _refuse_other_checkpoints([*rows, *read(out / "lockstep.jsonl")], model["checkpoint"], out)
    done = {Cell(row["method"], row["table"], row["seed"]) for row in rows}
    # Seeds outermost: an interrupted run has all tables and methods.
    cells = [Cell(name, table, seed) for seed in range(seeds) for name in names for table in GROUPS[tables]]
    cells = [cell for cell in cells if cell not in done]
    if apart := [cell for cell in cells if cell.method not in OURS]:
        run_apart(apart, out)
    if ours := [cell for cell in cells if cell.method in OURS]:
        with load_ranker(checkpoint, engine, cache_bytes=CACHE if engine == "vllm" else None) as ranker:
            for name in names:
                run_lockstep([cell for cell in ours if cell.method == name], ranker, model, out)
    summary = summarise(read(out / "rows.jsonl"))
    (out / "summary.md").write_text(markdown(summary), encoding="utf-8")
    plot(summary, out / "curves.png")
    click.echo(markdown(summary))


def run_apart(cells: Sequence[Cell], out: Path) -> None:
    """Searches that need no model, in processes of one thread each."""
    about, started = provenance(), time.monotonic()
    context = multiprocessing.get_context("spawn")
    one_thread = patch.dict(os.environ, OMP_NUM_THREADS="1")
    with one_thread, ProcessPoolExecutor(WORKERS, context, os.nice, (10,)) as pool:
        futures = [pool.submit(run, cell) for cell in cells]
        try:
            for i, future in enumerate(as_completed(futures), 1):
                row = future.result()
                append(out / "rows.jsonl", row | about)
                click.echo(
                    f"{i}/{len(cells)} {time.monotonic() - started:.0f} s: {row['method']}, {row['table']},"
                    f" seed {row['seed']}, {row['seconds']} s, regret {row['regret'][-1][1]}"
                )
        except BaseException:  # an interrupt must not wait for the searches still queued
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def run(cell: Cell) -> dict[str, Any]:
    """One search without a model, as a row."""
    found = problem(cell.table)
    if cell.method in BASELINES:
        proposals = BASELINES[cell.method](found.space, cell.seed)
    else:
        policy, judge = STAND_INS[cell.method]
        proposals = search(found.space, cell.seed, judge(found), policy)
    started = time.monotonic()
    scores = [found.scores[next(proposals)]]
    while len(scores) < TRIALS:
        scores.append(found.scores[proposals.send(scores[-1])])
    proposals.close()
    return _row(cell, found.regret(scores), time.monotonic() - started)


def run_lockstep(cells: Sequence[Cell], ranker: Ranker, model: dict[str, str], out: Path) -> None:
    """Searches of one of our methods, one trial of all of them at a time."""
    if not cells:
        return
    policy, shown_by = OURS[cells[0].method]
    ranker = shown_by(ranker)
    searchers = {cell: Searcher(problem(cell.table).space, ranker, seed=cell.seed, **policy) for cell in cells}
    scores: dict[Cell, list[float]] = {cell: [] for cell in cells}
    seconds = dict.fromkeys(cells, 0.0)

    def tell(cell: Cell, code: str, share: float) -> None:
        scores[cell].append(problem(cell.table).scores[code])
        searchers[cell].tell(code, scores[cell][-1])
        seconds[cell] += share

    # A search depends on what it was told alone, so trials of an earlier run are told and the search goes on.
    for trial in read(out / "lockstep.jsonl"):
        for table, seed, code in trial["codes"] if trial["method"] == cells[0].method else ():
            if (cell := Cell(trial["method"], table, seed)) in searchers:
                tell(cell, code, trial["seconds"] / len(trial["codes"]))
    about = provenance() | model
    while going := [cell for cell in cells if len(scores[cell]) < TRIALS]:
        started = time.monotonic()
        codes = [code for [code] in ask_together([searchers[cell] for cell in going])]
        took = time.monotonic() - started
        trial = {"method": cells[0].method, "seconds": took, "checkpoint": model["checkpoint"]}
        trial["codes"] = [(cell.table, cell.seed, code) for cell, code in zip(going, codes, strict=True)]
        append(out / "lockstep.jsonl", trial)
        for cell, code in zip(going, codes, strict=True):
            tell(cell, code, took / len(going))
        shortest = min(map(len, scores.values()))
        click.echo(f"{cells[0].method}: trial {shortest}/{TRIALS} of {len(going)} searches, {took:.1f} s")
    for cell in cells:
        append(out / "rows.jsonl", _row(cell, problem(cell.table).regret(scores[cell]), seconds[cell]) | about)


def read(file: Path) -> list[dict[str, Any]]:
    """The rows of a file; a last line that a crash cut short is cut off."""
    if not file.exists():
        return []
    content = file.read_bytes()
    whole = content[: content.rfind(b"\n") + 1]
    if whole != content:
        file.write_bytes(whole)
    return [json.loads(line) for line in whole.splitlines()]


def append(file: Path, row: dict[str, Any]) -> None:
    """Add one row to a file."""
    with file.open("a", encoding="utf-8") as stream:
        stream.write(json.dumps(row) + "\n")


class Line(NamedTuple):
    """One method on one group of tables: mean regret after each trial and its 95 % interval, ``[TRIALS]`` each."""

    mean: np.ndarray
    low: np.ndarray
    high: np.ndarray
    seeds: int


Summary = dict[str, dict[str, Line]]  # group of tables -> method -> line


def summarise(rows: Iterable[dict[str, Any]]) -> Summary:
    """Means over the tables of each family and over all tables, intervals from resampled seeds.

    A method counts with the seeds that it finished on every table of the group.
    """
    curves: dict[str, dict[str, dict[int, np.ndarray]]] = {}  # method -> table -> seed -> regret
    for row in rows:
        curves.setdefault(row["method"], {}).setdefault(row["table"], {})[row["seed"]] = curve(row["regret"])
    tables = sorted({table for by_table in curves.values() for table in by_table})
    groups = {
        f"{title} ({len(found)})": found
        for prefix, title in FAMILIES.items()
        if (found := [table for table in tables if table.startswith(prefix)])
    }
    if len(groups) > 1:
        groups[f"all tables ({len(tables)})"] = tables
    summary: Summary = {}
    for group, members in groups.items():
        summary[group] = {}
        for method in sorted(curves, key=METHODS.index):
            by_table = [curves[method].get(table, {}) for table in members]
            seeds = sorted(set.intersection(*map(set, by_table)))
            if seeds:
                by_seed = np.array([np.mean([found[seed] for found in by_table], axis=0) for seed in seeds])
                summary[group][method] = _line(by_seed)
    return summary


def markdown(summary: Summary) -> str:
    """The table of the documentation."""
    methods = sorted({name for lines in summary.values() for name in lines}, key=METHODS.index)
    marks = " / ".join(map(str, MARKS))
    text = (
        f"Normalised regret after {marks} evaluations (0: the optimum, 1: the median of the table), mean over a"
        " family's tables ± half of the 95 % bootstrap interval over seeds.\n\n"
        f"| method | seeds | {' | '.join(summary)} |\n| --- | --- |{' --- |' * len(summary)}\n"
    )
    for name in methods:
        found = [lines.get(name) for lines in summary.values()]
        seeds = sorted({line.seeds for line in found if line})
        text += f"| {name} | {' to '.join(map(str, {seeds[0]: 0, seeds[-1]: 0}))} |"
        text += "".join(f" {_at_marks(line) if line else '-'} |" for line in found) + "\n"
    return text


def short_markdown(rows: Iterable[dict[str, Any]]) -> str:
    """The table of the README: a few methods, the mean over all tables."""
    *_, lines = summarise(rows).values()
    text = "| method | seeds | nine tables |\n| --- | --- | --- |\n"
    for method, words in SHORT.items():
        text += f"| {words} | {lines[method].seeds} | {_at_marks(lines[method])} |\n"
    return text


def plot(summary: Summary, path: Path) -> None:
    """The curves, one panel per family; ablations are left to the table."""
    figure = new_figure(4.6 * len(summary), 5.6)
    handles: dict[str, Any] = {}
    trials = np.arange(1, TRIALS + 1)
    coloured = [name for name in METHODS if name not in OURS and not name.startswith("ablation")]
    for i, (group, lines) in enumerate(summary.items(), 1):
        axes = figure.add_subplot(1, len(summary), i)
        for name, line in lines.items():
            if name.startswith("ablation"):
                continue
            style: dict[str, Any] = {"color": f"C{coloured.index(name)}" if name in coloured else "black", "lw": 1.2}
            if name in OURS:
                style |= {"lw": 2.4, "ls": "-" if name == "LM-Searcher" else ":"}
            elif name in STAND_INS:
                style["ls"] = "--"
            [handles[name]] = axes.plot(trials, line.mean.clip(1e-4), **style)
            axes.fill_between(trials, line.low.clip(1e-4), line.high.clip(1e-4), color=style["color"], alpha=0.12, lw=0)
        lowest = max(1e-3, 0.6 * min(line.mean[-1] for line in lines.values()))
        axes.set(title=group, xlabel="evaluations", yscale="log", xlim=(1, TRIALS), ylim=(lowest, 1.2))
        axes.grid(alpha=0.3, which="both")
        if i == 1:
            axes.set_ylabel("normalised regret, mean and 95 % interval")
    figure.legend(list(handles.values()), list(handles), loc="outside lower center", ncols=4, frameon=False)
    figure.savefig(path, dpi=130)


def _row(cell: Cell, regret: np.ndarray, seconds: float) -> dict[str, Any]:
    return {**cell._asdict(), "seconds": round(seconds, 2), "regret": steps(regret)}


def steps(regret: np.ndarray) -> list[tuple[int, float]]:
    """A curve as the numbers of the trials, from 1, at which it fell, and its value from there on."""
    fell = np.flatnonzero(np.diff(regret, prepend=np.inf))
    return [(int(i) + 1, round(float(regret[i]), 6)) for i in fell]


def curve(found: Sequence[tuple[int, float]]) -> np.ndarray:
    """The regret after each of the trials, ``[TRIALS]``, of such steps."""
    starts, values = zip(*found, strict=True)
    return np.repeat(values, np.diff([*starts, TRIALS + 1]))


def _line(by_seed: np.ndarray) -> Line:
    drawn = np.random.default_rng(0).integers(len(by_seed), size=(RESAMPLES, len(by_seed)))
    low, high = np.percentile(by_seed[drawn].mean(1), [2.5, 97.5], axis=0)
    return Line(by_seed.mean(0), low, high, len(by_seed))


def _at_marks(line: Line) -> str:
    """Such as ``.025±.004 / .004±.001 / .003±.001``."""
    pairs = [(line.mean[n - 1], (line.high[n - 1] - line.low[n - 1]) / 2) for n in MARKS]
    return " / ".join("±".join(f"{value:.3f}".lstrip("0") for value in pair) for pair in pairs)


def _refuse_other_checkpoints(rows: Iterable[dict[str, Any]], identity: str, out: Path) -> None:
    others = {row["checkpoint"] for row in rows if "checkpoint" in row} - {identity}
    if others:
        raise click.UsageError(
            f"{out} holds results of the checkpoint {others.pop()}, not {identity}; use another --out"
        )


if __name__ == "__main__":
    main()
