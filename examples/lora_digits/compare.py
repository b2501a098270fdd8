"""The search against random choice at the same budget: a table and a picture. Can be stopped and started again."""

import hashlib
import json
import multiprocessing
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, ProcessPoolExecutor
from dataclasses import asdict
from pathlib import Path

import click
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from objective import SEEDS, Outcome, evaluate
from scipy.stats import t

from lmsearcher_local import Searcher, SearchSpace, load_ranker

HERE = Path(__file__).parent
SPACE = SearchSpace.load(HERE / "space.yaml")
TRIALS = 40
RUNS = range(5)  # seeds of the searches
FRESH = (2, 3)  # seeds of trainings that no search saw
NOISE_CODES = 20
COLOURS = {"LM-Searcher": "tab:orange", "random": "tab:blue"}

Measure = Callable[[str, tuple[int, ...]], Outcome]
Runs = dict[str, list[list[str]]]  # the codes of each seed, by method


@click.command()
@click.option("--out", type=click.Path(path_type=Path), default=Path("runs/lora_digits"), show_default=True)
def main(out: Path) -> None:
    """Compare; the output folder keeps every value measured, and gets the table and the picture."""
    out.mkdir(parents=True, exist_ok=True)
    # The trainings have a process of their own: in this one, vLLM's CPU build sets the threads of torch, which would
    # slow down steps this small and change their last digits.
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as trainer:
        compare(out, remembered(out, trainer))


def compare(out: Path, measure: Measure) -> None:
    """Run both methods and write what came out."""
    runs: Runs = {"random": [list(shown("random", seed, random(seed), measure)) for seed in RUNS]}
    with load_ranker() as ranker:
        # A search replays what is in the output folder already: equal arguments give equal answers.
        searches = (Searcher(SPACE, ranker, direction="minimize", seed=seed) for seed in RUNS)
        runs["LM-Searcher"] = [
            list(shown("LM-Searcher", seed, searched(searcher, measure), measure))
            for seed, searcher in zip(RUNS, searches, strict=True)
        ]
    text = f"{noise(runs, measure)}\n\n{curves_table(runs, measure)}\n\n{winners_table(runs, measure)}\n"
    (out / "table.md").write_text(text)
    picture(runs, measure, out / "compare.png")
    click.echo(f"\n{text}\nTable: {out / 'table.md'}\nPicture: {out / 'compare.png'}")


def remembered(out: Path, trainer: Executor) -> Measure:
    """``evaluate`` by code; what was measured before, in this run or an earlier one, is read from a file."""
    # Another objective or space has another file: its values are never taken for these.
    version = hashlib.sha256((HERE / "objective.py").read_bytes() + (HERE / "space.yaml").read_bytes()).hexdigest()
    path = out / f"values-{version[:8]}.jsonl"
    path.touch()
    complete = path.read_text().rpartition("\n")[0]  # a kill may leave half a line
    path.write_text(complete + "\n" if complete else "")
    known = {
        (row["code"], tuple(row["seeds"])): Outcome(**row["outcome"]) for row in map(json.loads, complete.splitlines())
    }

    def measure(code: str, seeds: tuple[int, ...]) -> Outcome:
        if (code, seeds) not in known:
            outcome = known[code, seeds] = trainer.submit(evaluate, SPACE.decode(code), seeds).result()
            with path.open("a") as stream:
                row = {"code": code, "seeds": seeds, "outcome": asdict(outcome)}
                stream.write(json.dumps(row, separators=(",", ":")) + "\n")
        return known[code, seeds]

    return measure


def random(seed: int) -> Iterator[str]:
    """Distinct codes, uniform over the space; the first few are those that the search starts with."""
    seen: list[str] = []
    while True:
        seen += SPACE.sample(np.random.default_rng([seed, len(seen)]), 1, seen)
        yield seen[-1]


def searched(searcher: Searcher, measure: Measure) -> Iterator[str]:
    """The codes that the search asks for."""
    while True:
        [code] = searcher.ask()
        searcher.tell(code, measure(code, SEEDS).cost)
        yield code


def shown(method: str, seed: int, codes: Iterator[str], measure: Measure) -> Iterator[str]:
    """The first codes, measured, with a line for every tenth."""
    best = np.inf
    for trial, code in zip(range(1, TRIALS + 1), codes, strict=False):  # the codes never end
        best = min(best, measure(code, SEEDS).cost)
        if trial % 10 == 0:
            click.echo(f"{method}, seed {seed}, trial {trial}/{TRIALS}: best {best:.4f}")
        yield code


def noise(runs: Runs, measure: Measure) -> str:
    """How much the choice matters, and how much chance does."""
    drawn = [code for codes in runs["random"] for code in codes]
    spread = np.std([measure(code, SEEDS).cost for code in drawn])
    again = [measure(code, SEEDS).cost - measure(code, FRESH).cost for code in drawn[:NOISE_CODES]]
    by_chance = np.sqrt(np.mean(np.square(again)) / 2)  # a difference has the noise of both
    return (
        f"Standard deviation of the cost over {len(drawn)} random configurations: {spread:.3f}; of one"
        f" configuration's cost over training seeds: {by_chance:.3f} ({NOISE_CODES} configurations measured twice)."
    )


def best_so_far(codes: list[list[str]], measure: Measure) -> np.ndarray:
    """Seeds x trials."""
    return np.minimum.accumulate([[measure(code, SEEDS).cost for code in run] for run in codes], axis=1)


def interval(values: np.ndarray) -> np.ndarray:
    """Half the width of the 95 % confidence interval of the mean over seeds (Student's t)."""
    half: np.ndarray = t.ppf(0.975, len(values) - 1) * values.std(axis=0, ddof=1) / np.sqrt(len(values))
    return half


def with_interval(values: np.ndarray) -> str:
    """Mean and half interval of one value per seed."""
    return f"{values.mean():.3f} ± {interval(values):.3f}"


def curves_table(runs: Runs, measure: Measure) -> str:
    """The best cost after some trials."""
    at = [TRIALS // 4, TRIALS // 2, TRIALS]
    lines = ["| best cost after | " + " | ".join(f"{trial} trials" for trial in at) + " |", "| --- | --- | --- | --- |"]
    for method in COLOURS:
        curves = best_so_far(runs[method], measure)[:, np.array(at) - 1]
        lines.append(f"| {method} | {' | '.join(map(with_interval, curves.T))} |")
    ours, random_choice = (best_so_far(runs[method], measure)[:, np.array(at) - 1] for method in COLOURS)
    # Paired: both methods start with the same codes, and how lucky those are is no difference between the methods.
    lines.append(f"| difference, paired by seed | {' | '.join(map(with_interval, (ours - random_choice).T))} |")
    return "\n".join(lines)


def winners_table(runs: Runs, measure: Measure) -> str:
    """What the best configurations of the runs are worth once trained anew, beside one rank for all modules."""
    rows = {
        f"{method}'s best, mean of {len(RUNS)}": [
            min(run, key=lambda code: measure(code, SEEDS).cost) for run in runs[method]
        ]
        for method in COLOURS
    }
    rows |= {f"rank {rank} everywhere": [SPACE.encode(dict.fromkeys(SPACE.names, rank))] for rank in SPACE.options[0]}
    lines = ["| trained with fresh seeds | cost | parameters | test accuracy |", "| --- | --- | --- | --- |"]
    for name, codes in rows.items():
        outcomes = [measure(code, FRESH) for code in codes]
        costs = np.array([outcome.cost for outcome in outcomes])
        cost = with_interval(costs) if len(costs) > 1 else f"{costs[0]:.3f}"
        parameters = np.mean([outcome.parameters for outcome in outcomes])
        accuracy = np.mean([outcome.test_accuracy for outcome in outcomes])
        lines.append(f"| {name} | {cost} | {parameters:,.0f} | {accuracy:.3f} |")
    return "\n".join(lines)


def picture(runs: Runs, measure: Measure, path: Path) -> None:
    """The best cost so far, mean over seeds with its confidence interval."""
    figure = Figure(figsize=(8, 4.5), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    trials = np.arange(1, TRIALS + 1)
    for method, colour in COLOURS.items():
        curves = best_so_far(runs[method], measure)
        mean, half = curves.mean(0), interval(curves)
        axes.plot(trials, mean, color=colour, label=method)
        axes.fill_between(trials, mean - half, mean + half, color=colour, alpha=0.2)
    axes.set_xlabel("trial")
    axes.set_ylabel("best cost so far: validation loss plus price")
    axes.set_title(f"LoRA ranks on rotated digits, mean of {len(RUNS)} seeds with 95 % interval")
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(path, dpi=100)


if __name__ == "__main__":
    main()
