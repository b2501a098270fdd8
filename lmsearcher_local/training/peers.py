"""What the model is measured against: ridge regression, marginal means, Hamming-kernel Gaussian processes."""

from collections.abc import Callable

import numpy as np

from lmsearcher_local.prompt.compact import normal_scores
from lmsearcher_local.training.trajectories import Task

Peer = Callable[[Task], np.ndarray]  # predictions for the pool, higher is better


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


def marginal(task: Task) -> np.ndarray:
    """Sum over positions of the shrunk mean score of the option."""
    y = _targets(task) - _targets(task).mean()
    same = task.pool[:, None] == task.history
    return ((same * y[:, None]).sum(1) / (same.sum(1) + 1.0)).sum(1)


def gp(task: Task) -> np.ndarray:
    """Gaussian process, kernel ``w ** mismatches``; w and noise of highest marginal likelihood."""
    return _gp(task, (0.2, 0.35, 0.5, 0.65, 0.8, 0.9), (0.001, 0.01, 0.05, 0.2, 0.5))


def gp_fixed(task: Task) -> np.ndarray:
    """The same with w = 0.5 and a noise of 0.01."""
    return _gp(task, (0.5,), (0.01,))


PEERS: dict[str, Peer] = {"ridge": ridge, "marginal": marginal, "gp_fixed": gp_fixed, "gp": gp}


def _gp(task: Task, widths: tuple[float, ...], noises: tuple[float, ...]) -> np.ndarray:
    y = _targets(task) - _targets(task).mean()
    n = len(y)
    apart = (task.history[:, None] != task.history).sum(2)
    apart_new = (task.pool[:, None] != task.history).sum(2)
    best: tuple[float, np.ndarray] = (np.inf, np.zeros(len(task.pool)))
    for width in widths:
        values, vectors = np.linalg.eigh(width**apart)
        z = vectors.T @ y
        for noise in noises:
            spectrum = values.clip(0) + noise
            scale = (z**2 / spectrum).mean()
            cost = n * np.log(scale + 1e-12) + np.log(spectrum).sum()
            best = min(best, (float(cost), width**apart_new @ (vectors @ (z / spectrum))), key=lambda item: item[0])
    return best[1]


def _targets(task: Task) -> np.ndarray:
    return normal_scores(task.scores, len(task.scores))


def _one_hot(task: Task, codes: np.ndarray) -> np.ndarray:
    return np.concatenate([np.eye(n)[codes[:, i]] for i, n in enumerate(task.sizes)], axis=1)
