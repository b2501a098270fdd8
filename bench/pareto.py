"""Several goals on real tables: methods x problems x seeds, each search 192 evaluations.

``python -m bench.pareto --problems dev --seeds 10 --out runs/pareto``; the same command goes on where it was stopped.
Finished searches are lines of ``rows.jsonl``, of which ``summary.md`` and ``curves.png`` are made. The model is asked
for as many seeds as ``--model-seeds`` says, all problems in one engine call a trial; beside it the surrogate's own pick
stands in for it.
"""

import time
from collections.abc import Callable, Generator, Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import click
import numpy as np
from scipy.stats import rankdata

from bench.quality import append, read
from bench.rankers import JudgeRanker, surrogate
from bench.tables import TRIALS
from lmsearcher_local.candidates.history import Direction
from lmsearcher_local.candidates.pareto import hypervolume
from lmsearcher_local.model.engines.registry import ENGINES
from lmsearcher_local.model.load import load_ranker
from lmsearcher_local.presets.tables import table
from lmsearcher_local.search.searcher import Searcher, ask_together
from lmsearcher_local.spaces.space import SearchSpace
from lmsearcher_local.system.provenance import provenance

MARKS = (50, 100, TRIALS)  # evaluations at which the summary reads the curves
MODEL = "LM-Searcher"
NAMES = {"val_acc": "accuracy", "val_loss": "loss", "train_time": "time", "model_size": "size", "latency": "latency"}
DEVELOPMENT = (
    ("hpolib-naval_propulsion", ("val_loss", "model_size")),
    ("hpolib-parkinsons_telemonitoring", ("val_loss", "train_time")),
    ("hpobench-car", ("val_acc", "train_time")),
    ("hpobench-kc1", ("val_acc", "train_time")),
)
REPORT = (
    ("nasbench201-cifar10", ("val_acc", "latency")),
    ("nasbench201-cifar100", ("val_acc", "latency")),
    ("nasbench201-cifar100", ("val_acc", "model_size")),
    ("nasbench201-imagenet", ("val_acc", "model_size")),
)
GROUPS = {
    group: {
        f"{name.split('-')[1]}: {', '.join(map(NAMES.__getitem__, metrics))}": (name, metrics)
        for name, metrics in found
    }
    for group, found in (("dev", DEVELOPMENT), ("report", REPORT))
}

Scores = tuple[float, ...]  # higher better
Search = Generator[str, Scores, None]


class Problem:
    """A table with several goals: scores of every code, higher better, and how much of the front codes miss.

    What is minimised is scored by its negative logarithm. The unit of the hypervolume is ranks among all codes, from
    the worst of each goal on, so what a value is measured in says nothing.
    """

    def __init__(self, name: str, metrics: Sequence[str]) -> None:
        found = table(name)
        codes = [*found.values]
        columns = [np.array([found.measure(code, metric) for code in codes]) for metric in metrics]
        scores = [
            column if metric == "val_acc" else -np.log(column) for metric, column in zip(metrics, columns, strict=True)
        ]
        ranks = np.stack([rankdata(column) / len(codes) for column in scores], 1)
        self.space: SearchSpace = found.space
        self.goals = [f"{metric}:max" for metric in metrics]
        self.metrics = metrics
        self.scores: dict[str, Scores] = dict(
            zip(codes, zip(*(column.tolist() for column in scores), strict=True), strict=True)
        )
        self._ranks = dict(zip(codes, ranks, strict=True))
        self._worst = np.zeros(len(metrics))
        self._whole = hypervolume(ranks, self._worst)

    def missing(self, codes: Sequence[str]) -> list[float]:
        """The share of the table's hypervolume that is missing after each of the codes."""
        front, found = np.empty((0, len(self.metrics))), []
        for code in codes:
            rank = self._ranks[code]
            if not (front >= rank).all(1).any():
                front = np.vstack([front[~(front <= rank).all(1)], rank])
            found.append(1 - hypervolume(front, self._worst) / self._whole)
        return found


@cache
def problem(name: str) -> Problem:
    """The problem of that name, loaded once."""
    return Problem(*next(found[name] for found in GROUPS.values() if name in found))


def random_search(problem: Problem, seed: int) -> Search:
    """Uniform, without repetition."""
    rng, seen = np.random.default_rng(seed), set[str]()
    while True:
        [code] = problem.space.sample(rng, 1, seen)
        seen.add(code)
        yield code


def optuna_search(sampler: str, **options: Any) -> Callable[[Problem, int], Search]:
    """One of Optuna's samplers as it comes, categorical distributions. It may propose a code twice."""

    def search(problem: Problem, seed: int) -> Search:
        import optuna

        optuna.logging.set_verbosity(optuna.logging.ERROR)
        directions: list[Direction] = ["maximize"] * len(problem.metrics)
        study = optuna.create_study(
            directions=directions, sampler=getattr(optuna.samplers, sampler)(seed=seed, **options)
        )
        kinds: dict[str, Any] = {
            f"p{i}": optuna.distributions.CategoricalDistribution(tuple(range(size)))
            for i, size in enumerate(problem.space.sizes)
        }
        while True:
            trial = study.ask(kinds)
            scores = yield problem.space.code([trial.params[name] for name in kinds])
            study.tell(trial, scores)

    return search


def stand_in(problem: Problem, seed: int) -> Search:
    """Our search, which picks what the surrogate expects most of."""
    searcher = Searcher(problem.space, JudgeRanker(surrogate), goals=problem.goals, seed=seed)
    while True:
        [code] = searcher.ask()
        searcher.tell(code, dict(zip(problem.metrics, (yield code), strict=True)))


APART: dict[str, Callable[[Problem, int], Search]] = {
    "random": random_search,
    "Optuna NSGA-II": optuna_search("NSGAIISampler"),
    "Optuna TPE": optuna_search("TPESampler"),
    "Optuna GP": optuna_search("GPSampler", deterministic_objective=True),
    "LM-Searcher, the surrogate's own pick": stand_in,
}
METHODS = (*APART, MODEL)


@click.command(context_settings={"show_default": True})
@click.option("--problems", type=click.Choice(sorted(GROUPS)), default="dev", help="The report ones only to report.")
@click.option("--methods", default="all", help=f"Separated by semicolons, of: {'; '.join(METHODS)}.")
@click.option("--seeds", type=click.IntRange(1), default=10, help="Searches per method and problem.")
@click.option("--model-seeds", type=click.IntRange(0), default=3, help="Those of them with the model.")
@click.option("--engine", type=click.Choice([*ENGINES]), default="transformers")
@click.option("--out", type=click.Path(path_type=Path), required=True, help="Folder of the results.")
def main(problems: str, methods: str, seeds: int, model_seeds: int, engine: str, out: Path) -> None:
    """Search real tables for fronts, and compare."""
    names = METHODS if methods == "all" else tuple(name.strip() for name in methods.split(";"))
    if unknown := [name for name in names if name not in METHODS]:
        raise click.UsageError(f"there is no method {unknown[0]!r}; allowed: {'; '.join(METHODS)}")
    out.mkdir(parents=True, exist_ok=True)
    done = {(row["method"], row["problem"], row["seed"]) for row in read(out / "rows.jsonl")}
    for seed in range(seeds):  # outermost: an interrupted run has all problems and methods
        for name in names:
            left = [one for one in GROUPS[problems] if (name, one, seed) not in done]
            found = _with_model(left, seed, engine) if name == MODEL else _apart(name, left, seed)
            for row in found if name != MODEL or seed < model_seeds else ():
                append(out / "rows.jsonl", row | provenance())
                click.echo(f"{name}, {row['problem']}, seed {seed}: {row['seconds']} s, {row['missing'][-1]}")
    rows = read(out / "rows.jsonl")
    (out / "summary.md").write_text(markdown(rows), encoding="utf-8")
    plot(rows, out / "curves.png")
    click.echo(markdown(rows))


def _apart(name: str, problems: Sequence[str], seed: int) -> Iterator[dict[str, Any]]:
    """Searches without the model, as rows."""
    for one in problems:
        found, started = problem(one), time.process_time()
        proposals = APART[name](found, seed)
        codes = [next(proposals)]
        while len(codes) < TRIALS:
            codes.append(proposals.send(found.scores[codes[-1]]))
        proposals.close()
        yield _row(name, one, seed, time.process_time() - started, codes)


def _with_model(problems: Sequence[str], seed: int, engine: str) -> Iterator[dict[str, Any]]:
    """Searches with the bundled checkpoint, as rows."""
    if not problems:
        return
    started = time.process_time()
    codes: dict[str, list[str]] = {one: [] for one in problems}
    with load_ranker(engine=engine) as ranker:
        searchers = {one: Searcher(problem(one).space, ranker, goals=problem(one).goals, seed=seed) for one in problems}
        for _ in range(TRIALS):
            for one, [code] in zip(problems, ask_together([*searchers.values()]), strict=True):
                codes[one].append(code)
                found = problem(one)
                searchers[one].tell(code, dict(zip(found.metrics, found.scores[code], strict=True)))
    for one in problems:
        yield _row(MODEL, one, seed, (time.process_time() - started) / len(problems), codes[one])


def _row(method: str, name: str, seed: int, seconds: float, codes: Sequence[str]) -> dict[str, Any]:
    missing = [round(share, 4) for share in problem(name).missing(codes)]
    return {"method": method, "problem": name, "seed": seed, "seconds": round(seconds, 1), "missing": missing}


def curves(rows: Sequence[dict[str, Any]]) -> dict[str, dict[str, tuple[np.ndarray, int]]]:
    """By problem, and of all of a group's, and method: the mean of what is missing after each trial, and seeds."""
    found: dict[str, dict[str, tuple[np.ndarray, int]]] = {}
    for group, problems in GROUPS.items():
        for name in METHODS:
            by_seed: dict[int, dict[str, list[float]]] = {}
            for row in rows:
                if row["method"] == name and row["problem"] in problems:
                    by_seed.setdefault(row["seed"], {})[row["problem"]] = row["missing"]
            whole = [one for one in by_seed.values() if len(one) == len(problems)]
            if whole:
                every = np.array([[one[name] for name in problems] for one in whole])
                for i, one in enumerate(problems):
                    found.setdefault(one, {})[name] = every[:, i].mean(0), len(whole)
                found.setdefault(f"all {group}", {})[name] = every.mean((0, 1)), len(whole)
    return found


def markdown(rows: Sequence[dict[str, Any]]) -> str:
    """The table of the documentation."""
    found = curves(rows)
    text = (
        f"Missing hypervolume after {' / '.join(map(str, MARKS))} evaluations, in ranks, mean over seeds (0: the whole"
        f" front is found).\n\n| method | seeds | {' | '.join(found)} |\n| --- | --- |{' --- |' * len(found)}\n"
    )
    for name in METHODS:
        lines = [methods.get(name) for methods in found.values()]
        seeds = sorted({line[1] for line in lines if line})
        if seeds:
            text += f"| {name} | {' to '.join(map(str, seeds))} |"
            text += "".join(f" {_marked(line[0]) if line else '-'} |" for line in lines) + "\n"
    return text


def _marked(mean: np.ndarray) -> str:
    return " / ".join(f"{mean[mark - 1]:.3f}".removeprefix("0") for mark in MARKS)


def plot(rows: Sequence[dict[str, Any]], path: Path) -> None:
    """The curves, a panel for each problem."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    found = curves(rows)
    figure = Figure(figsize=(3.6 * ((len(found) + 1) // 2), 7.4), layout="constrained")
    FigureCanvasAgg(figure)  # no window system, and no global state of pyplot
    handles: dict[str, Any] = {}
    for i, (title, methods) in enumerate(found.items(), 1):
        axes = figure.add_subplot(2, (len(found) + 1) // 2, i)
        for name, (mean, _) in methods.items():
            ours = name.startswith(MODEL)
            style: dict[str, Any] = {"color": "black" if ours else f"C{METHODS.index(name)}", "lw": 2 if ours else 1.2}
            style["ls"] = "--" if ours and name != MODEL else "-"
            [handles[name]] = axes.plot(np.arange(1, TRIALS + 1), mean.clip(1e-3), **style)
        axes.set(yscale="log", xlim=(1, TRIALS), xlabel="evaluations")
        axes.set_title(title, fontsize="medium")
        axes.grid(alpha=0.3, which="both")
    figure.supylabel("missing hypervolume, mean", fontsize="medium")
    figure.legend(list(handles.values()), list(handles), loc="outside lower center", ncols=3, frameon=False)
    figure.savefig(path, dpi=130)


if __name__ == "__main__":
    main()
