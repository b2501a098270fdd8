"""What the model's ranking is measured against: predictors of a user's own tool box, on the same histories."""

from collections.abc import Callable

import numpy as np

from lmsearcher_local.candidates.history import normal_scores
from lmsearcher_local.candidates.surrogate import Surrogate
from lmsearcher_local.training.trajectories import Task

Baseline = Callable[[Task], np.ndarray]  # predictions for the pool, higher is better


def ridge(task: Task) -> np.ndarray:
    """Ridge on one-hot codes, strength chosen by leave-one-out error."""
    x, y, new = _one_hot(task, task.history), _targets(task), _one_hot(task, task.pool)
    mean = x.mean(0)
    u, s, vt = np.linalg.svd(x - mean, full_matrices=False)
    best: tuple[float, np.ndarray] = (np.inf, np.zeros(len(new)))
    for alpha in (0.03, 0.1, 0.3, 1, 3, 10, 30, 100):
        shrink = s**2 / (s**2 + alpha)
        hat = (u**2 * shrink).sum(1) + 1 / len(y)
        rest = (y - y.mean() - u @ (shrink * (u.T @ (y - y.mean())))) / (1 - hat).clip(1e-3)
        weights = vt.T @ (s / (s**2 + alpha) * (u.T @ (y - y.mean())))
        best = min(best, (float((rest**2).sum()), (new - mean) @ weights), key=lambda item: item[0])
    return best[1]


def gp(task: Task) -> np.ndarray:
    """Gaussian process, kernel ``width ** mismatches``; width and noise of highest marginal likelihood."""
    y = _targets(task) - _targets(task).mean()
    n = len(y)
    apart, apart_new = _mismatches(task.history, task.history), _mismatches(task.pool, task.history)
    best: tuple[float, np.ndarray] = (np.inf, np.zeros(len(task.pool)))
    for width in (0.2, 0.35, 0.5, 0.65, 0.8, 0.9):
        values, vectors = np.linalg.eigh(width**apart)
        z = vectors.T @ y
        for noise in (0.001, 0.01, 0.05, 0.2, 0.5):
            spectrum = values.clip(0) + noise
            scale = (z**2 / spectrum).mean()
            cost = n * np.log(scale + 1e-12) + np.log(spectrum).sum()
            best = min(best, (float(cost), width**apart_new @ (vectors @ (z / spectrum))), key=lambda item: item[0])
    return best[1]


def forest(task: Task) -> np.ndarray:
    """scikit-learn's random forest as it comes, on one-hot codes."""
    from sklearn.ensemble import RandomForestRegressor

    fitted = RandomForestRegressor(random_state=0).fit(_one_hot(task, task.history), _targets(task))
    return np.asarray(fitted.predict(_one_hot(task, task.pool)))


def nearest(task: Task) -> np.ndarray:
    """Nearest to the best code, among equally near ones to the second best, and so on through the best five."""
    best = task.history[np.argsort(-task.scores, kind="stable")[:5]]
    return -_mismatches(task.pool, best) @ (1.0 + len(task.space.sizes)) ** -np.arange(len(best))


def hints(task: Task) -> np.ndarray:
    """What the surrogate behind the model's hints expects: what the model would answer if it believed them."""
    history, pool = task.question()
    return Surrogate(task.space, history).posterior(pool)[0]


BASELINES: dict[str, Baseline] = {"ridge": ridge, "gp": gp, "forest": forest, "nearest": nearest, "hints alone": hints}


def _mismatches(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return (a[:, None] != b).sum(2)


def _targets(task: Task) -> np.ndarray:
    return normal_scores(task.scores, len(task.scores))


def _one_hot(task: Task, codes: np.ndarray) -> np.ndarray:
    return np.concatenate([np.eye(n)[codes[:, i]] for i, n in enumerate(task.space.sizes)], axis=1)
