"""Early stopping on real training against none: the best value against all steps trained.

``python -m bench.pruning --problems dev --seeds 5``; the same command goes on where it was stopped.
A trial trains a perceptron of scikit-learn for up to 27 epochs on data that come with it, and reports the validation
loss after each. All searches end after as many epochs as 30 whole trainings take. Ours picks what the surrogate expects
most of: no model is needed.
"""

import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
import optuna
from optuna.pruners import BasePruner, HyperbandPruner, MedianPruner, NopPruner, SuccessiveHalvingPruner
from optuna.samplers import BaseSampler, TPESampler
from optuna.trial import TrialState

from bench import measured
from bench.measured import Row
from bench.rankers import JudgeRanker, surrogate
from lmsearcher_local.search.optuna_sampler import LMSearcherSampler
from lmsearcher_local.spaces.space import SearchSpace

EPOCHS = 27  # of a whole training
WHOLE = 30  # trainings that the budget pays
DIVERGED = 10.0  # loss of a training whose weights are not finite any more
MARKS = (5, 10, 15, 20, 30)  # whole trainings at which the summary reads the curves
PROBLEMS = {"dev": ["breast_cancer"], "report": ["digits"]}  # data sets of scikit-learn
SPACE = SearchSpace(
    {
        "hidden": [4, 8, 16, 32, 64],
        "layers": [1, 2],
        "rate": [0.001, 0.003, 0.01, 0.03, 0.1, 0.3],
        "batch": [16, 32, 64, 128],
        "alpha": [0.0, 0.0001, 0.01, 0.1],
        "activation": ["relu", "tanh", "logistic"],
        "momentum": [0.0, 0.5, 0.9],
    }
)


def ours(seed: int) -> BaseSampler:
    """Our sampler, with the surrogate's own pick."""
    return LMSearcherSampler(JudgeRanker(surrogate), space=SPACE, seed=seed)


def tpe(seed: int) -> BaseSampler:
    """Optuna's default sampler."""
    return TPESampler(seed=seed)


class Method(NamedTuple):
    """Who samples, and who stops."""

    sampler: Callable[[int], BaseSampler]
    pruner: Callable[[], BasePruner]


METHODS = {
    "ours, none": Method(ours, NopPruner),
    "ours, median": Method(ours, MedianPruner),
    "ours, hyperband": Method(ours, lambda: HyperbandPruner(1, EPOCHS, 3)),
    "ours, successive-halving": Method(ours, lambda: SuccessiveHalvingPruner(1, 3)),
    "Optuna TPE, none": Method(tpe, NopPruner),
    "Optuna TPE, hyperband": Method(tpe, lambda: HyperbandPruner(1, EPOCHS, 3)),
}


def run(name: str, problems: Sequence[str], seed: int) -> Iterator[Row]:
    """Searches of a method as rows."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    warnings.simplefilter("ignore")  # of trainings that diverge, which is their result
    for problem in problems:
        yield run_one(name, problem, seed)


def run_one(name: str, problem: str, seed: int) -> Row:
    """One search as a row: the best loss of a whole training, after as many epochs as each number of them takes."""
    started, method = time.monotonic(), METHODS[name]
    study = optuna.create_study(sampler=method.sampler(seed), pruner=method.pruner(), study_name=f"{problem}-{seed}")
    best: list[float] = []  # after each epoch, in all
    while len(best) < WHOLE * EPOCHS:
        trial = study.ask()
        options = {key: trial.suggest_categorical(key, choices) for key, choices in SPACE.describe().items()}
        training = _training(problem, SPACE.encode(options))
        for epoch in range(1, EPOCHS + 1):
            loss = training.loss(epoch)
            trial.report(loss, epoch)
            best.append(best[-1] if best else np.inf)
            if epoch < EPOCHS and trial.should_prune():
                study.tell(trial, state=TrialState.PRUNED)
                break
        else:
            study.tell(trial, loss)
            best[-1] = min(best[-1], loss)
    states = [trial.state for trial in study.trials]
    found = [None if not np.isfinite(one) else round(one, 5) for one in best[EPOCHS - 1 :: EPOCHS][:WHOLE]]
    counts = {"trials": len(states), "pruned": states.count(TrialState.PRUNED)}
    place = {"method": name, "problem": problem, "seed": seed}
    return {**place, "seconds": round(time.monotonic() - started, 1), **counts, "best": found}


class Training:
    """A network that is trained no further than it is asked for; a search sees the same curve whenever it comes."""

    def __init__(self, problem: str, code: str) -> None:
        from sklearn.neural_network import MLPClassifier

        options = SPACE.decode(code)
        self._data = _data(problem)
        self._losses: list[float] = []
        self._model = MLPClassifier(
            (options["hidden"],) * int(options["layers"] or 1),
            activation=options["activation"],
            solver="sgd",
            alpha=options["alpha"],
            batch_size=options["batch"],
            learning_rate_init=options["rate"],
            momentum=options["momentum"],
            random_state=0,
        )

    def loss(self, epoch: int) -> float:
        """The validation loss after an epoch, from 1."""
        from sklearn.metrics import log_loss

        train, labels, valid, truth = self._data
        classes = np.unique(labels)
        while len(self._losses) < epoch:
            try:
                self._model.partial_fit(train, labels, classes=classes)
                self._losses.append(float(log_loss(truth, self._model.predict_proba(valid), labels=classes)))
            except ValueError as error:
                if "non-finite" not in str(error):
                    raise
                self._losses.append(DIVERGED)
        return self._losses[epoch - 1]


@cache
def _training(problem: str, code: str) -> Training:
    return Training(problem, code)


@cache
def _data(problem: str) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    from sklearn import datasets
    from sklearn.model_selection import train_test_split
    from sklearn.preprocessing import StandardScaler

    inputs, labels = getattr(datasets, f"load_{problem}")(return_X_y=True)
    train, valid, known, truth = train_test_split(inputs, labels, test_size=0.5, random_state=0, stratify=labels)
    scaler = StandardScaler().fit(train)
    return scaler.transform(train), known, scaler.transform(valid), truth


def curves(rows: Sequence[Row], problem: str) -> dict[str, np.ndarray]:
    """By method the best loss after each number of whole trainings' steps, ``[seeds, WHOLE]``; NaN before the first."""
    found: dict[str, list[list[float]]] = {}
    for row in rows:
        if row["problem"] == problem:
            found.setdefault(row["method"], []).append([np.nan if one is None else one for one in row["best"]])
    return {name: np.array(found[name]) for name in METHODS if name in found}


def markdown(rows: Sequence[Row]) -> str:
    """The table of the documentation."""
    text = (
        f"Best validation loss of a whole training, mean over seeds, after as many epochs as"
        f" {', '.join(map(str, MARKS))} whole trainings take; then trials per search and the share of them that was"
        " stopped.\n"
    )
    for problem in dict.fromkeys(row["problem"] for row in rows):
        head = " | ".join(map(str, MARKS))
        text += f"\n| {problem} | {head} | trials | stopped |\n| --- |{' ---: |' * (len(MARKS) + 2)}\n"
        for name, curve in curves(rows, problem).items():
            own = [row for row in rows if row["method"] == name and row["problem"] == problem]
            trials, pruned = (sum(row[key] for row in own) for key in ("trials", "pruned"))
            cells = [
                "-" if np.isnan(mean) else f"{mean:.4f}" for mean in curve[:, [mark - 1 for mark in MARKS]].mean(0)
            ]
            text += f"| {name} ({len(own)}) | {' | '.join(cells)} | {trials / len(own):.0f} | {pruned / trials:.0%} |\n"
    return text


def plot(rows: Sequence[Row], path: Path) -> None:
    """The best loss against epochs, a panel for each data set."""
    panels = {name: found for names in PROBLEMS.values() for name in names if (found := curves(rows, name))}
    steps = EPOCHS * np.arange(1, WHOLE + 1)
    labels = {"xlabel": "epochs trained, in all", "ylabel": "best validation loss, mean"}
    measured.plot(panels, [*METHODS], path, steps, **labels)


main = measured.command(
    "pruning", "Search with and without early stopping, and compare.", PROBLEMS, [*METHODS], run, markdown, plot
)

if __name__ == "__main__":
    main()
