"""The best configuration that holds a limit: accuracy under a latency that one configuration in ten keeps to.

``python -m bench.constrained --problems dev --seeds 3``; the same command goes on where it was stopped. Finished
searches are lines of ``bench/rows/constrained.jsonl``, of which the table and the picture are made. Regret is that
of the best that holds: 0 is the best of all that hold, 1 their median; before any was found, that of the worst of them.
Only ``the bundled model`` asks a model; ``surrogate's own pick`` is the same search without one.
"""

import time
import warnings
from collections.abc import Callable, Generator, Sequence
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import click
import numpy as np

from bench.quality import append, read
from bench.rankers import JudgeRanker, surrogate
from lmsearcher_local.model.load import load_ranker
from lmsearcher_local.presets.tables import table
from lmsearcher_local.search.searcher import Searcher, ask_together
from lmsearcher_local.spaces.space import SearchSpace
from lmsearcher_local.system.provenance import provenance

TRIALS, MARKS = 192, (50, 100, 192)
SHARE = 0.1  # of the configurations that hold the limit
ROWS = Path(__file__).with_name("rows") / "constrained.jsonl"
PROBLEMS = {  # tables with what is limited in them; the report's may be looked at only to report
    "dev": (
        ("hpolib-naval_propulsion", "model_size"),
        ("hpolib-naval_propulsion", "train_time"),
        ("hpolib-parkinsons_telemonitoring", "train_time"),
        ("hpobench-car", "train_time"),
    ),
    "report": tuple(
        (f"nasbench201-{data}", measure)
        for measure in ("latency", "model_size")
        for data in ("cifar10", "cifar100", "imagenet")
    ),
}
Seen = tuple[float, float]  # a score, higher better, and a violation, at most 0 where the limit holds
Search = Generator[str, Seen, None]


class Problem(NamedTuple):
    """A table with a limit: the score and the violation of every code."""

    space: SearchSpace
    seen: dict[str, Seen]

    def regret(self, found: Sequence[Seen]) -> list[float]:
        """Normalised regret of the best so far that holds the limit, after each trial."""
        holding = np.array([score for score, violation in self.seen.values() if violation <= 0])
        scores = [score if violation <= 0 else holding.min() for score, violation in found]
        regret = (holding.max() - np.maximum.accumulate(scores)) / (holding.max() - np.median(holding))
        return [round(value, 5) for value in regret.tolist()]


@cache
def problem(name: str, measure: str) -> Problem:
    """That table under a limit of the measure which ``SHARE`` of its codes hold."""
    found = table(name)
    scores = np.array([*found.values.values()])
    scores = scores if found.direction == "maximize" else -np.log(scores)
    measured = np.array([found.measure(code, measure) for code in found.values])
    violations = measured - np.quantile(measured, SHARE, method="lower")
    return Problem(
        found.space, dict(zip(found.values, zip(scores.tolist(), violations.tolist(), strict=True), strict=True))
    )


def random_search(space: SearchSpace, seed: int) -> Search:
    """Uniform, without repetition."""
    rng, seen = np.random.default_rng(seed), set[str]()
    while True:
        [code] = space.sample(rng, 1, seen)
        seen.add(code)
        yield code


def optuna_search(sampler: str, **options: Any) -> Callable[[SearchSpace, int], Search]:
    """One of Optuna's samplers, told the violation as a constraint; categorical distributions."""

    def search(space: SearchSpace, seed: int) -> Search:
        import optuna

        optuna.logging.set_verbosity(optuna.logging.ERROR)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # arguments that are experimental
            study = optuna.create_study(
                direction="maximize", sampler=getattr(optuna.samplers, sampler)(seed=seed, **options)
            )
        kinds: dict[str, Any] = {
            f"p{i}": optuna.distributions.CategoricalDistribution(tuple(range(size)))
            for i, size in enumerate(space.sizes)
        }
        while True:
            trial = study.ask(kinds)
            score, violation = yield space.code([trial.params[name] for name in kinds])
            trial.set_constraint("limit", violation)
            study.tell(trial, score)

    return search


BASELINES: dict[str, Callable[[SearchSpace, int], Search]] = {
    "random": random_search,
    "Optuna NSGA-II": optuna_search("NSGAIISampler"),
    "Optuna TPE": optuna_search("TPESampler"),
    "Optuna GP": optuna_search("GPSampler", deterministic_objective=True),
}


def ours(space: SearchSpace, seed: int) -> Search:
    """Our search by the surrogate's own pick."""
    searcher = Searcher(space, JudgeRanker(surrogate), seed=seed, goals=["score:max"], limits=["violation <= 0"])
    while True:
        [code] = searcher.ask()
        score, violation = yield code
        searcher.tell(code, {"score": score, "violation": violation})


MODEL = "the bundled model"
METHODS = {**BASELINES, "surrogate's own pick": ours}


@click.command(context_settings={"show_default": True})
@click.option("--problems", type=click.Choice(sorted(PROBLEMS)), default="dev", help="The report's only to report.")
@click.option("--methods", default="all", help=f"Separated by semicolons, of: {'; '.join([*METHODS, MODEL])}.")
@click.option("--seeds", type=click.IntRange(1), default=10, help="Searches per method and problem.")
@click.option("--rows", type=click.Path(path_type=Path), default=ROWS, help="File of finished searches.")
@click.option("--picture", type=click.Path(path_type=Path), default="constrained.png", help="The curves.")
def main(problems: str, methods: str, seeds: int, rows: Path, picture: Path) -> None:
    """Search tables under a limit, and compare."""
    names = [*METHODS, MODEL] if methods == "all" else [name.strip() for name in methods.split(";")]
    if unknown := [name for name in names if name not in (*METHODS, MODEL)]:
        raise click.UsageError(f"there is no method {unknown[0]!r}; allowed: {'; '.join([*METHODS, MODEL])}")
    done = {(row["method"], row["table"], row["measure"], row["seed"]) for row in read(rows)}
    about = provenance()
    for seed in range(seeds):  # outermost: an interrupted run has all problems and methods
        for name in names:
            places = [place for place in PROBLEMS[problems] if (name, *place, seed) not in done]
            for row in run_lockstep(places, seed) if name == MODEL and places else ():
                append(rows, row | about)
            for place in places if name != MODEL else ():
                append(rows, row := run(name, place, seed) | about)
                click.echo(f"{name}, {' '.join(place)}, seed {seed}: {row['seconds']} s, {row['regret'][-1]}")
    click.echo(markdown(read(rows)))
    plot(read(rows), picture)


def run(method: str, place: tuple[str, str], seed: int) -> dict[str, Any]:
    """One search as a row."""
    found = problem(*place)
    started = time.monotonic()
    proposals = METHODS[method](found.space, seed)
    seen = [found.seen[next(proposals)]]
    while len(seen) < TRIALS:
        seen.append(found.seen[proposals.send(seen[-1])])
    proposals.close()
    return _row(method, place, seed, found.regret(seen), time.monotonic() - started)


def run_lockstep(places: Sequence[tuple[str, str]], seed: int) -> list[dict[str, Any]]:
    """Our search with the bundled model, one trial of all problems at a time, as rows."""
    started, seen = time.monotonic(), {place: list[Seen]() for place in places}
    with load_ranker(engine="transformers") as ranker:
        searchers = [
            Searcher(problem(*place).space, ranker, seed=seed, goals=["score:max"], limits=["violation <= 0"])
            for place in places
        ]
        for _ in range(TRIALS):
            for place, searcher, [code] in zip(places, searchers, ask_together(searchers), strict=True):
                score, violation = problem(*place).seen[code]
                searcher.tell(code, {"score": score, "violation": violation})
                seen[place].append((score, violation))
    seconds = (time.monotonic() - started) / len(places)
    return [_row(MODEL, place, seed, problem(*place).regret(seen[place]), seconds) for place in places]


def _row(method: str, place: tuple[str, str], seed: int, regret: Sequence[float], seconds: float) -> dict[str, Any]:
    """The regret as pairs of a trial and what it came down to then."""
    steps = [(i, value) for i, value in enumerate(regret, 1) if i == 1 or value < regret[i - 2]]
    about = {"method": method, "table": place[0], "measure": place[1], "seed": seed, "seconds": round(seconds, 2)}
    return {**about, "regret": steps}


def curves(rows: Sequence[dict[str, Any]], group: str) -> dict[str, tuple[np.ndarray, int, int]]:
    """By method the mean regret after each trial, ``[TRIALS]``, over problems and seeds, and how many these are.

    A method counts with the seeds that it finished on every problem that any method searched.
    """
    kept = [row for row in rows if (row["table"], row["measure"]) in PROBLEMS[group]]
    places = {(row["table"], row["measure"]) for row in kept}
    found: dict[str, tuple[np.ndarray, int, int]] = {}
    for name in [*METHODS, MODEL]:
        seeds: dict[int, list[np.ndarray]] = {}
        for row in kept:
            if row["method"] == name:
                starts, values = zip(*row["regret"], strict=True)
                seeds.setdefault(row["seed"], []).append(np.repeat(values, np.diff([*starts, TRIALS + 1])))
        whole = [np.mean(each, 0) for each in seeds.values() if len(each) == len(places)]
        if whole:
            found[name] = np.mean(whole, 0), len(places), len(whole)
    return found


def markdown(rows: Sequence[dict[str, Any]]) -> str:
    """The table of the documentation."""
    text = (
        f"Normalised regret of the best that holds the limit, after {' / '.join(map(str, MARKS))} evaluations (0: the"
        " best of all that hold, 1: their median), mean over problems and seeds; in brackets the number of seeds.\n\n"
    )
    groups = {group: found for group in PROBLEMS if (found := curves(rows, group))}
    heads = {"dev": "development", "report": "NAS-Bench-201"}
    titles = [f"{heads[group]} ({len(PROBLEMS[group])} problems)" for group in groups]
    text += f"| method | {' | '.join(titles)} |\n| --- |{' --- |' * len(groups)}\n"
    for name in [*METHODS, MODEL]:
        cells = [found.get(name) for found in groups.values()]
        if any(cells):
            text += f"| {name} | {' | '.join(_marked(*cell) if cell else '-' for cell in cells)} |\n"
    return text


def _marked(mean: np.ndarray, places: int, seeds: int) -> str:
    return " / ".join(f"{mean[mark - 1]:.3f}".removeprefix("0") for mark in MARKS) + f" ({seeds})"


def plot(rows: Sequence[dict[str, Any]], path: Path) -> None:
    """The curves, a panel for development and one for the report."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    groups = {group: found for group in PROBLEMS if (found := curves(rows, group))}
    figure = Figure(figsize=(4.6 * len(groups) + 1, 4.6), layout="constrained")
    FigureCanvasAgg(figure)  # no window system, and no global state of pyplot
    handles: dict[str, Any] = {}
    for i, (group, found) in enumerate(groups.items(), 1):
        axes = figure.add_subplot(1, len(groups), i)
        for name, (mean, _, _) in found.items():
            style: dict[str, Any] = {
                "color": f"C{[*METHODS, MODEL].index(name)}",
                "lw": 1.2 if name in BASELINES else 2.4,
            }
            [handles[name]] = axes.plot(np.arange(1, TRIALS + 1), mean.clip(1e-3), **style)
        title = f"accuracy within a limit, {group} problems"
        axes.set(yscale="log", title=title, xlabel="evaluations", xlim=(1, TRIALS))
        axes.grid(alpha=0.3, which="both")
        if i == 1:
            axes.set_ylabel("normalised regret within the limit, mean")
    figure.legend(list(handles.values()), list(handles), loc="outside lower center", ncols=3, frameon=False)
    figure.savefig(path, dpi=120)


if __name__ == "__main__":
    main()
