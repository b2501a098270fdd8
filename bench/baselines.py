"""The search methods that ours is measured against, each a generator: it yields a code and is sent the code's score.

Scores are higher better. A baseline knows the space, the seed and the scores it was sent. Optuna may propose a code
twice, which costs it an evaluation like any other; the others propose a code once.
"""

import logging
import tempfile
import warnings
from collections import deque
from collections.abc import Callable, Generator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from scipy.linalg import cho_solve, cholesky, solve_triangular
from scipy.special import ndtr

from bench.tables import TRIALS
from lmsearcher_local.candidates.history import normal_scores
from lmsearcher_local.spaces.space import SearchSpace

Search = Generator[str, float, None]
Baseline = Callable[[SearchSpace, int], Search]

POPULATION, TOURNAMENT = 50, 10  # regularized evolution
GP_START, GP_REFIT = 10, 10  # random trials first; trials between fits of the kernel
GP_PARENTS, GP_RANDOM = 5, 200  # codes whose neighbours are candidates; random candidates
GP_DRAWS = 60  # kernels tried per fit


def random_search(space: SearchSpace, seed: int) -> Search:
    """Uniform, without repetition."""
    rng, seen = np.random.default_rng(seed), set[str]()
    while (code := _one(space, rng, seen)) is not None:
        seen.add(code)
        yield code


def regularized_evolution(space: SearchSpace, seed: int) -> Search:
    """The best of 10 random members is changed in one position, the child takes the place of the oldest member."""
    rng = np.random.default_rng(seed)
    population: deque[tuple[float, str]] = deque(maxlen=POPULATION)
    seen = set[str]()
    while True:
        fresh = []
        if len(population) == POPULATION:
            drawn = rng.choice(POPULATION, TOURNAMENT, replace=False)
            _, parent = max(population[int(i)] for i in drawn)
            fresh = [code for code in space.neighbours(parent) if code not in seen]
        code = fresh[rng.integers(len(fresh))] if fresh else _one(space, rng, seen)
        if code is None:
            return
        seen.add(code)
        population.append(((yield code), code))


def local_search(space: SearchSpace, seed: int) -> Search:
    """Neighbours in random order, moving to the first that is better; a random start anew where none is."""
    rng, seen = np.random.default_rng(seed), set[str]()
    while (here := _one(space, rng, seen)) is not None:
        seen.add(here)
        best, moved = (yield here), True
        while moved:
            moved = False
            around = space.neighbours(here)
            for code in (around[i] for i in rng.permutation(len(around))):
                if code in seen:
                    continue  # walked past before, by this climb or an earlier one
                seen.add(code)
                score = yield code
                if score > best:
                    here, best, moved = code, score, True
                    break


def gaussian_process(space: SearchSpace, seed: int) -> Search:
    """Exact Gaussian process, one Hamming weight per position; takes the highest expected improvement."""
    rng = np.random.default_rng(seed)
    codes: list[str] = []
    scores: list[float] = []
    weights, noise = np.ones(len(space.sizes)), 0.01
    while True:
        pool = space.sample(rng, 1, codes) if len(codes) < GP_START else _gp_candidates(space, rng, codes, scores)
        if not pool:
            return
        code = pool[0]
        if len(codes) >= GP_START:
            x, y = space.array(codes), normal_scores(np.array(scores), len(scores))
            if len(codes) % GP_REFIT == 0:
                weights, noise = _gp_fit(rng, x, y, weights, noise)
            code = pool[int(np.argmax(_gp_improvement(x, y, space.array(pool), weights, noise)))]
        codes.append(code)
        scores.append((yield code))


def optuna_tpe(space: SearchSpace, seed: int, first: Sequence[str] = ()) -> Search:
    """Optuna's TPESampler as it comes, categorical distributions; codes to begin with are enqueued."""
    from optuna.samplers import TPESampler

    return _optuna(space, TPESampler(seed=seed), first)


def optuna_gp(space: SearchSpace, seed: int, first: Sequence[str] = ()) -> Search:
    """Optuna's GPSampler, categorical distributions, told that the objective has no noise; codes to begin with are
    enqueued."""
    from optuna.samplers import GPSampler

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # its arguments are experimental
        return _optuna(space, GPSampler(seed=seed, deterministic_objective=True), first)


def smac3(space: SearchSpace, seed: int) -> Search:
    """SMAC3's hyperparameter facade (random forest), categorical parameters."""
    from ConfigSpace import Categorical, ConfigurationSpace
    from smac import HyperparameterOptimizationFacade, Scenario
    from smac.runhistory import TrialValue

    names = [f"p{i}" for i in range(len(space.sizes))]
    parameters = [Categorical(name, list(range(size))) for name, size in zip(names, space.sizes, strict=True)]
    with tempfile.TemporaryDirectory() as folder:
        scenario = Scenario(
            ConfigurationSpace(space=parameters, seed=seed),
            deterministic=True,
            n_trials=TRIALS,
            seed=seed,
            output_directory=Path(folder),
        )
        smac = HyperparameterOptimizationFacade(
            scenario, lambda configuration, seed: 0.0, overwrite=True, logging_level=logging.ERROR
        )
        while True:
            trial = smac.ask()
            score = yield space.code([int(trial.config[name]) for name in names])
            smac.tell(trial, TrialValue(cost=-score), save=False)


BASELINES: dict[str, Baseline] = {
    "random": random_search,
    "regularized evolution": regularized_evolution,
    "local search": local_search,
    "Optuna TPE": optuna_tpe,
    "Optuna GP": optuna_gp,
    "SMAC3": smac3,
    "Gaussian process": gaussian_process,
}


def _one(space: SearchSpace, rng: np.random.Generator, seen: set[str]) -> str | None:
    return next(iter(space.sample(rng, 1, seen)), None)


def _optuna(space: SearchSpace, sampler: Any, first: Sequence[str] = ()) -> Search:
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    study = optuna.create_study(direction="maximize", sampler=sampler)
    distributions: dict[str, Any] = {
        f"p{i}": optuna.distributions.CategoricalDistribution(tuple(range(size))) for i, size in enumerate(space.sizes)
    }
    for code in first:
        study.enqueue_trial(dict(zip(distributions, space.indices(code), strict=True)))
    while True:
        trial = study.ask(distributions)
        score = yield space.code([trial.params[name] for name in distributions])
        study.tell(trial, score)


def _gp_candidates(
    space: SearchSpace, rng: np.random.Generator, codes: Sequence[str], scores: Sequence[float]
) -> list[str]:
    seen = set(codes)
    pool: dict[str, None] = {}  # a set that keeps its order
    for i in np.argsort(-np.array(scores), kind="stable")[:GP_PARENTS]:
        pool |= dict.fromkeys(code for code in space.neighbours(codes[i]) if code not in seen)
    return [*pool, *space.sample(rng, GP_RANDOM, seen | set(pool))]


def _gp_fit(
    rng: np.random.Generator, x: np.ndarray, y: np.ndarray, weights: np.ndarray, noise: float
) -> tuple[np.ndarray, float]:
    """Weights and noise of highest marginal likelihood among the old ones, changes of them and fresh draws."""
    apart = (x[:, None] != x).astype(float)
    centred = y - y.mean()
    tried = [(weights, noise)]
    for i in range(GP_DRAWS):
        if i % 2:
            tried.append(
                (weights * np.exp(0.5 * rng.standard_normal(len(weights))), noise * np.exp(rng.normal(0, 0.5)))
            )
        else:
            tried.append((np.exp(rng.normal(0, 1, len(weights))), np.exp(rng.uniform(np.log(1e-3), np.log(0.3)))))

    def cost(kernel: tuple[np.ndarray, float]) -> float:
        root = cholesky(np.exp(-apart @ kernel[0]) + kernel[1] * np.eye(len(y)), lower=True)
        return float(len(y) / 2 * np.log(centred @ cho_solve((root, True), centred)) + np.log(np.diag(root)).sum())

    return min(tried, key=cost)


def _gp_improvement(x: np.ndarray, y: np.ndarray, new: np.ndarray, weights: np.ndarray, noise: float) -> np.ndarray:
    """Expected improvement of new codes over the best score."""
    centred = y - y.mean()
    root = cholesky(np.exp((x[:, None] != x) @ -weights) + noise * np.eye(len(y)), lower=True)
    solved = cho_solve((root, True), centred)
    scale = centred @ solved / len(y)
    across = np.exp((new[:, None] != x) @ -weights)
    spread = np.sqrt(scale * (1 - (solve_triangular(root, across.T, lower=True) ** 2).sum(0)).clip(1e-12))
    z = (across @ solved - centred.max()) / spread
    return spread * (z * ndtr(z) + np.exp(-(z**2) / 2) / np.sqrt(2 * np.pi))
