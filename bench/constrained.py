"""The best configuration that holds a limit: accuracy under a latency that one configuration in ten keeps to.

``python -m bench.constrained --problems dev --seeds 3``; the same command goes on where it was stopped. Finished
searches are lines of ``bench/rows/constrained.jsonl``, of which the table and ``curves.png`` are made. Regret is that
of the best that holds: 0 is the best of all that hold, 1 their median; before any was found, that of the worst of them.
Only ``the bundled model`` asks a model; ``surrogate's own pick`` is the same search without one.
"""

import time
import warnings
from collections.abc import Callable, Generator, Sequence
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from bench.quality import append, read
from lmsearcher_local.presets.tables import table
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


def run(method: str, place: tuple[str, str], seed: int) -> dict[str, Any]:
    """One search as a row."""
    found = problem(*place)
    started = time.monotonic()
    proposals = BASELINES[method](found.space, seed)
    seen = [found.seen[next(proposals)]]
    while len(seen) < TRIALS:
        seen.append(found.seen[proposals.send(seen[-1])])
    proposals.close()
    return _row(method, place, seed, found.regret(seen), time.monotonic() - started)


def _row(method: str, place: tuple[str, str], seed: int, regret: Sequence[float], seconds: float) -> dict[str, Any]:
    """The regret as pairs of a trial and what it came down to then."""
    steps = [(i, value) for i, value in enumerate(regret, 1) if i == 1 or value < regret[i - 2]]
    about = {"method": method, "table": place[0], "measure": place[1], "seed": seed, "seconds": round(seconds, 2)}
    return {**about, "regret": steps}


if __name__ == "__main__":
    import sys

    names, group, seeds, out = (
        sys.argv[1].split(";"),
        sys.argv[2],
        range(*map(int, sys.argv[3].split("-"))),
        Path(sys.argv[4]),
    )
    done = {(r["method"], r["table"], r["measure"], r["seed"]) for r in read(out)}
    for seed in seeds:
        for place in PROBLEMS[group]:
            for name in names:
                if (name, *place, seed) not in done:
                    append(out, run(name, place, seed) | provenance())
