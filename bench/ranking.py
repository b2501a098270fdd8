"""Ranking quality: which of ten unseen candidates is the best, by the model and by predictors fitted to the history.

``python -m bench.ranking --tables dev --out runs/ranking`` writes ``rows.jsonl`` and ``ranking.png``. A task is asked
twice: `uniform` (history and pool drawn uniformly) and `near` (history of a local search that picks blindly, pool of
neighbours of its best five codes). The histories of all sizes are beginnings of the longest.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import click
import numpy as np

from bench.predictors import BASELINES
from bench.rankers import blind, search, trials
from bench.tables import GROUPS, problem
from lmsearcher_local.candidates.history import History
from lmsearcher_local.candidates.pools import PARENTS
from lmsearcher_local.model.checkpoint import load_checkpoint
from lmsearcher_local.model.engines.registry import ENGINES
from lmsearcher_local.model.load import load_ranker
from lmsearcher_local.model.ranker import Ranker
from lmsearcher_local.model.ranker import Task as Question
from lmsearcher_local.presets.drawing import new_figure
from lmsearcher_local.search.throughput import write_rows
from lmsearcher_local.spaces.space import SearchSpace
from lmsearcher_local.training.evaluate import HELD_OUT, HISTORY_SIZES, POOL, figures
from lmsearcher_local.training.prior import draw_objective, draw_ordinal, draw_sizes, draw_space
from lmsearcher_local.training.trajectories import Task

SYNTHETIC = "synthetic"
KINDS = ("uniform", "near")
METHODS = ("model", *BASELINES)
TITLES = {
    "model": "model",
    "hints alone": "its hints alone",
    "ridge": "ridge on one-hot codes",
    "gp": "Gaussian process",
}
BATCH = 64  # tasks in one engine call

Score = Callable[[str], float]


@click.command(context_settings={"show_default": True})
@click.option("--tables", type=click.Choice([*sorted(GROUPS), SYNTHETIC]), default="dev", help="Where tasks come from.")
@click.option("--tasks", type=click.IntRange(1), default=60, help="Per table, history size and kind.")
@click.option("--out", type=click.Path(path_type=Path), required=True, help="Folder of the results.")
@click.option("--checkpoint", type=click.Path(path_type=Path), help="Checkpoint folder.  [default: the bundled one]")
@click.option("--engine", type=click.Choice([*ENGINES]), default="vllm")
def main(tables: str, tasks: int, out: Path, checkpoint: Path | None, engine: str) -> None:
    """Measure how well the model and its baselines rank."""
    model = {"checkpoint": load_checkpoint(checkpoint).identity, "engine": engine}
    rows: list[dict[str, Any]] = []
    with load_ranker(checkpoint, engine) as ranker:
        for table in GROUPS.get(tables, (SYNTHETIC,)):
            for kind in KINDS:
                drawn = [draw_tasks(table, kind, i) for i in range(tasks)]
                for n, asked in zip(HISTORY_SIZES, zip(*drawn, strict=True), strict=True):
                    for row in measure(ranker, [question for question, _ in asked], [task for _, task in asked]):
                        rows.append({"table": table, "kind": kind, "history": n, "tasks": tasks, **row})
            write_rows(out / "rows.jsonl", rows, tables=tables, **model)
            click.echo(f"{table} is done", err=True)
    means = summarise(rows)
    show(means, tables)
    plot(means, out / "ranking.png", f"{tables}: {len(GROUPS.get(tables, '1'))} x {tasks} tasks a point")


def draw_tasks(table: str, kind: str, number: int) -> list[tuple[Question, Task]]:
    """One task of each history size, as the product asks it and as the baselines take it; always the same."""
    rng = np.random.default_rng((HELD_OUT, number, KINDS.index(kind)))
    longest = max(HISTORY_SIZES)
    space: SearchSpace
    score: Score
    if table == SYNTHETIC:
        sizes = draw_sizes(rng, int(rng.integers(3, 11)), 2.0 * (longest + POOL))
        ordinal = draw_ordinal(rng, len(sizes))
        objective, space = draw_objective(rng, sizes, ordinal), draw_space(rng, sizes, ordinal)
        # Noise is drawn once a code, so that a code asked for twice has one score.
        known: dict[str, float] = {}
        score = lambda code: known.setdefault(code, float(objective(space.array([code]))[0]))  # noqa: E731
    else:
        space, score = problem(table).space, problem(table).scores.__getitem__
    if kind == "uniform":
        codes = space.sample(rng, longest + POOL)
        trail, fresh = codes[POOL:], codes[:POOL]
    else:
        trail = trials(search(space, number, blind, {"policy": "local"}), score, longest)
    tasks = []
    for n in HISTORY_SIZES:
        history = History(tuple(trail[:n]), tuple(map(score, trail[:n])))
        pool = fresh if kind == "uniform" else neighbours(space, history, rng)
        arrays = space.array(history.codes), np.array(history.scores), space.array(pool), np.array([*map(score, pool)])
        tasks.append((Question.of(space, history, pool), Task(space, *arrays)))
    return tasks


def neighbours(space: SearchSpace, history: History, rng: np.random.Generator) -> list[str]:
    """Ten unseen neighbours of the best codes; uniform ones fill up where there are fewer."""
    seen = set(history.codes)
    around = dict.fromkeys(code for best in history.best(PARENTS).codes for code in space.neighbours(best))
    fresh = [code for code in around if code not in seen]
    pool = [fresh[i] for i in rng.permutation(len(fresh))[:POOL]]
    return (pool + space.sample(rng, POOL, seen | set(pool)))[:POOL]


def measure(ranker: Ranker, questions: Sequence[Question], tasks: Sequence[Task]) -> Iterator[dict[str, Any]]:
    """A row of figures for the model and for each baseline, on the same tasks."""
    started = time.monotonic()
    rankings = [ranking for i in range(0, len(questions), BATCH) for ranking in ranker.rank(questions[i : i + BATCH])]
    answers = {"model": ([ranking.log_probs for ranking in rankings], time.monotonic() - started)}
    for name, baseline in BASELINES.items():
        started = time.monotonic()
        answers[name] = ([baseline(task) for task in tasks], time.monotonic() - started)
    truths = [task.truth for task in tasks]
    for name, (predictions, seconds) in answers.items():
        yield {"method": name, **figures(predictions, truths), "seconds": round(seconds, 2)}


Means = dict[tuple[str, int, str], dict[str, float]]  # kind, history size, method -> figures


def summarise(rows: Sequence[dict[str, Any]]) -> Means:
    """Means over the tables."""
    means = {}
    for key in dict.fromkeys((row["kind"], row["history"], row["method"]) for row in rows):
        found = [row for row in rows if (row["kind"], row["history"], row["method"]) == key]
        means[key] = {figure: float(np.mean([row[figure] for row in found])) for figure in ("top1", "rank", "tau")}
    return means


def show(means: Means, title: str) -> None:
    """The table on the screen; the last rows are means of the two kinds."""
    from rich.console import Console
    from rich.table import Table

    table = Table(
        "pool", "history", *METHODS, title=f"{title}: top-1 of {POOL} / mean rank (0: the best) / Kendall's tau"
    )
    for kind in (*KINDS, "both"):
        for n in HISTORY_SIZES:
            cells = []
            for method in METHODS:
                found = [means[one, n, method] for one in KINDS if kind in (one, "both")]
                top, rank, tau = (np.mean([figure[name] for figure in found]) for name in ("top1", "rank", "tau"))
                cells.append(f"{top:.3f}/{rank:.2f}/{tau:.2f}")
            table.add_row(kind, str(n), *cells, end_section=n == HISTORY_SIZES[-1])
    Console(width=max(120, Console().width)).print(table)


def markdown(rows: Sequence[dict[str, Any]]) -> str:
    """The table of the documentation: top-1 and mean rank, means of the two kinds of pool."""
    means = summarise(rows)
    text = f"| history | {' | '.join(TITLES.values())} |\n|{' --- |' * (1 + len(TITLES))}\n"
    for n in HISTORY_SIZES:
        cells = []
        for method in TITLES:
            top, rank = (np.mean([means[kind, n, method][name] for kind in KINDS]) for name in ("top1", "rank"))
            cells.append(f"{top:.2f} / {rank:.1f}")
        text += f"| {n} | {' | '.join(cells)} |\n"
    return text


def plot(means: Means, path: Path, title: str) -> None:
    """Top-1 by history size, one panel per kind of pool."""
    figure = new_figure(9, 4)
    panels = figure.subplots(1, len(KINDS), sharey=True)
    for axes, kind in zip(panels, KINDS, strict=True):
        for method in METHODS:
            style: dict[str, Any] = {"color": "black", "linewidth": 2.4} if method == "model" else {"linewidth": 1.3}
            top = [means[kind, n, method]["top1"] for n in HISTORY_SIZES]
            axes.plot(HISTORY_SIZES, top, marker="o", markersize=4, label=method, **style)
        axes.axhline(1 / POOL, color="0.6", linestyle=":", label="chance")
        axes.set(xscale="log", xlabel="history items", title=f"{kind} history and pool")
        axes.set_xticks(HISTORY_SIZES, [*map(str, HISTORY_SIZES)])
        axes.minorticks_off()
        axes.grid(alpha=0.3)
    panels[0].set_ylabel("best of 10 picked")
    panels[0].legend()
    figure.suptitle(title)
    figure.savefig(path, dpi=130)


if __name__ == "__main__":
    main()
