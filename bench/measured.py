"""What benches of several measured values share: problems, methods, table, picture, and a command that goes on.

``bench.constrained`` and ``bench.pareto`` use all of it, ``bench.pruning`` the command and the picture.
"""

import time
import warnings
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import click
import numpy as np

from bench.quality import MARKS, append, curve, read, steps
from bench.rankers import JudgeRanker, surrogate
from bench.tables import TRIALS
from lmsearcher_local.model.load import load_ranker
from lmsearcher_local.presets.drawing import new_figure, save_figure
from lmsearcher_local.presets.tables import Table
from lmsearcher_local.search.searcher import Searcher, ask_together
from lmsearcher_local.spaces.space import SearchSpace
from lmsearcher_local.system.provenance import provenance

MODEL = "ours, bundled model"
VIOLATION = "violation"  # the name of what is at most 0 where a limit holds; all other names are goals
NAMES = {"val_acc": "accuracy", "val_loss": "loss", "train_time": "time", "model_size": "size", "latency": "latency"}
MEANS = {"dev": "development, mean", "report": "report, mean"}

Row = dict[str, Any]
Measured = dict[str, float]  # by name, goals higher better
Search = Generator[str, Measured, None]
Groups = Mapping[str, Mapping[str, tuple[str, ...]]]  # problems to develop on and to report: a table, what is measured


def named(words: str, problems: Sequence[tuple[str, ...]]) -> dict[str, tuple[str, ...]]:
    """Problems by what the table of the documentation calls them."""
    return {f"{table.split('-')[1]}: {words.join(map(NAMES.__getitem__, of))}": (table, *of) for table, *of in problems}


def scores_of(found: Table, metric: str) -> np.ndarray:
    """What is measured of every code, higher better: what is minimised as its negative logarithm."""
    column = np.array([found.measure(code, metric) for code in found.values])
    return column if metric == "val_acc" else -np.log(column)


class Problem(NamedTuple):
    """A table: what is measured of every code, and what a search still misses after each of its codes."""

    space: SearchSpace
    measured: dict[str, Measured]
    missing: Callable[[Sequence[str]], Sequence[float]]

    @property
    def goals(self) -> list[str]:
        """Names of what is maximised."""
        return [name for name in next(iter(self.measured.values())) if name != VIOLATION]

    def searcher(self, ranker: Any, seed: int) -> Searcher:
        """Ours."""
        limits = [f"{VIOLATION} <= 0"] if VIOLATION in next(iter(self.measured.values())) else []
        return Searcher(self.space, ranker, seed=seed, goals=[f"{name}:max" for name in self.goals], limits=limits)


def random_search(problem: Problem, seed: int) -> Search:
    """Uniform, without repetition."""
    rng, seen = np.random.default_rng(seed), set[str]()
    while True:
        [code] = problem.space.sample(rng, 1, seen)
        seen.add(code)
        yield code


def optuna_search(sampler: str, **options: Any) -> Callable[[Problem, int], Search]:
    """One of Optuna's samplers, told the violation as a constraint; categorical distributions. It may repeat a code."""

    def search(problem: Problem, seed: int) -> Search:
        import optuna

        optuna.logging.set_verbosity(optuna.logging.ERROR)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # arguments that are experimental
            made = getattr(optuna.samplers, sampler)(seed=seed, **options)
        study = optuna.create_study(directions=["maximize" for _ in problem.goals], sampler=made)
        kinds: dict[str, Any] = {
            f"p{i}": optuna.distributions.CategoricalDistribution(tuple(range(size)))
            for i, size in enumerate(problem.space.sizes)
        }
        while True:
            trial = study.ask(kinds)
            found = yield problem.space.code([trial.params[name] for name in kinds])
            if VIOLATION in found:
                trial.set_constraint("limit", found[VIOLATION])
            study.tell(trial, [found[name] for name in problem.goals])

    return search


def own_pick(problem: Problem, seed: int) -> Search:
    """Ours, with what the surrogate expects most of in the model's place."""
    searcher = problem.searcher(JudgeRanker(surrogate), seed)
    while True:
        [code] = searcher.ask()
        searcher.tell(code, (yield code))


APART: dict[str, Callable[[Problem, int], Search]] = {
    "random": random_search,
    "Optuna NSGA-II": optuna_search("NSGAIISampler"),
    "Optuna TPE": optuna_search("TPESampler"),
    "Optuna GP": optuna_search("GPSampler", deterministic_objective=True),
    "ours, surrogate's own pick": own_pick,
}
METHODS = (*APART, MODEL)


def command(
    name: str,
    words: str,
    groups: Mapping[str, Iterable[str]],
    methods: Sequence[str],
    run: Callable[[str, Sequence[str], int], Iterator[Row]],
    markdown: Callable[[Sequence[Row]], str],
    plot: Callable[[Sequence[Row], Path], None],
) -> click.Command:
    """A command that measures what its rows lack, prints the table and draws the picture, both of all rows.

    Args:
        name: of the files of rows and picture.
        words: what it does.
        groups: names of the problems to develop on, and of those to report.
        run: yields the rows of a method, of problems and a seed.
    """

    @click.command(help=words, context_settings={"show_default": True})
    @click.option("--problems", type=click.Choice([*groups]), default="dev", help="Those to report only to report.")
    @click.option("--methods", "chosen", default="all", help=f"Separated by semicolons, of: {'; '.join(methods)}.")
    @click.option("--seeds", type=click.IntRange(1), default=10, help="Searches per method and problem.")
    @click.option("--rows", type=click.Path(path_type=Path), default=f"bench/rows/{name}.jsonl", help="Of searches.")
    @click.option("--picture", type=click.Path(path_type=Path), default=f"docs/howto/{name}.png", help="Of all rows.")
    def main(problems: str, chosen: str, seeds: int, rows: Path, picture: Path) -> None:
        names = methods if chosen == "all" else [one.strip() for one in chosen.split(";")]
        if unknown := [one for one in names if one not in methods]:
            raise click.UsageError(f"there is no method {unknown[0]!r}; allowed: {'; '.join(methods)}")
        done = {(row["method"], row["problem"], row["seed"]) for row in read(rows)}
        for seed in range(seeds):  # outermost: an interrupted run has all problems and methods
            for method in names:
                left = [problem for problem in groups[problems] if (method, problem, seed) not in done]
                for row in run(method, left, seed) if left else ():
                    append(rows, row | provenance())
                    click.echo(f"{method}, {row['problem']}, seed {seed}: {row['seconds']} s")
        click.echo(markdown(read(rows)))
        plot(read(rows), picture)

    return main


def searches(problem: Callable[[str], Problem], method: str, names: Sequence[str], seed: int) -> Iterator[Row]:
    """A method's searches of problems, as rows; with the model all of them at once, a trial of each at a time."""
    for some in [names] if method == MODEL else [[name] for name in names]:
        problems, started = [problem(name) for name in some], time.process_time()
        found = _together(problems, seed) if method == MODEL else [_alone(APART[method], problems[0], seed)]
        seconds = round((time.process_time() - started) / len(some), 2)
        for name, one, codes in zip(some, problems, found, strict=True):
            missing = steps(np.array(one.missing(codes)))
            yield {"method": method, "problem": name, "seed": seed, "seconds": seconds, "missing": missing}


def _alone(search: Callable[[Problem, int], Search], problem: Problem, seed: int) -> list[str]:
    proposals = search(problem, seed)
    codes = [next(proposals)]
    while len(codes) < TRIALS:
        codes.append(proposals.send(problem.measured[codes[-1]]))
    proposals.close()
    return codes


def _together(problems: Sequence[Problem], seed: int) -> list[list[str]]:
    found: list[list[str]] = [[] for _ in problems]
    with load_ranker(engine="transformers") as ranker:
        searchers = [problem.searcher(ranker, seed) for problem in problems]
        for _ in range(TRIALS):
            asked = ask_together(searchers)
            for problem, searcher, codes, [code] in zip(problems, searchers, found, asked, strict=True):
                searcher.tell(code, problem.measured[code])
                codes.append(code)
    return found


Curves = dict[str, dict[str, np.ndarray]]  # by problem, or mean of a group's, and method: ``[seeds, steps]``


def curves(rows: Sequence[Row], groups: Groups) -> Curves:
    """What is missing after each trial; a group's mean is of the seeds that have all its problems."""
    by_seed: dict[str, dict[str, dict[int, np.ndarray]]] = {}
    for row in rows:
        by_seed.setdefault(row["problem"], {}).setdefault(row["method"], {})[row["seed"]] = curve(row["missing"])
    found: Curves = {}
    for group, names in groups.items():
        for method in METHODS:
            each = [by_seed.get(name, {}).get(method, {}) for name in names]
            for name, seeds in zip(names, each, strict=True):
                if seeds:
                    found.setdefault(name, {})[method] = np.array([*seeds.values()])
            if whole := set.intersection(*map(set, each)):
                mean = [np.mean([seeds[seed] for seeds in each], 0) for seed in sorted(whole)]
                found.setdefault(MEANS[group], {})[method] = np.array(mean)
    return found


def markdown(groups: Groups, words: str, rows: Sequence[Row]) -> str:
    """The table of the documentation: a line for each problem and for each group's mean, the least of each in bold."""
    found = curves(rows, groups)
    shown = [method for method in METHODS if any(method in line for line in found.values())]
    heads = []
    for method in shown:
        seeds = sorted({len(line[method]) for line in found.values() if method in line})
        heads.append(f"{method} ({' to '.join(map(str, dict.fromkeys([seeds[0], seeds[-1]])))})")
    text = (
        f"{words}, after {' / '.join(map(str, MARKS))} evaluations, mean over seeds; in brackets how many.\n\n"
        f"| problem | {' | '.join(heads)} |\n| --- |{' --- |' * len(heads)}\n"
    )
    for name, line in found.items():
        cells = {method: [f"{line[method].mean(0)[mark - 1]:.3f}" for mark in MARKS] for method in line}
        least = [min(each) for each in zip(*cells.values(), strict=True)]
        text += f"| {name} | " + " | ".join(_marked(cells.get(method), least) for method in shown) + " |\n"
    return text


def _marked(cell: Sequence[str] | None, least: Sequence[str]) -> str:
    if not cell:
        return "-"
    pairs = zip(cell, least, strict=True)
    return " / ".join(f"**{one[one[0] == '0' :]}**" if one == low else one[one[0] == "0" :] for one, low in pairs)


def plot_means(groups: Groups, label: str, rows: Sequence[Row], path: Path) -> None:
    """A panel for each group."""
    found = curves(rows, groups)
    panels = {title: found[title] for title in MEANS.values() if title in found}
    plot(panels, METHODS, path, np.arange(1, TRIALS + 1), xlabel="evaluations", ylabel=label)


def plot(panels: Curves, methods: Sequence[str], path: Path, x: np.ndarray, **labels: Any) -> None:
    """A panel for each problem: the mean of each method's curves, with its standard error; ours are thick."""
    figure = new_figure(5.2 * len(panels), 5.2)
    handles: dict[str, Any] = {}
    for axes, (title, found) in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels.items(), strict=True):
        for method, each in found.items():
            mean, error = each.mean(0).clip(1e-4), each.std(0) / np.sqrt(max(1, len(each) - 1))
            style = {
                "color": f"C{methods.index(method)}",
                "lw": 1.2 if method.startswith(("Optuna", "random")) else 2.4,
            }
            [handles[method]] = axes.plot(x, mean, **style)
            axes.fill_between(x, (mean - error).clip(1e-4), mean + error, color=style["color"], alpha=0.12, lw=0)
        axes.set(yscale="log", title=title, xlim=(x[0], x[-1]), **labels)
        axes.grid(alpha=0.3, which="both")
    figure.legend([*handles.values()], [*handles], loc="outside lower center", ncols=3, frameon=False)
    save_figure(figure, path, dpi=120)
