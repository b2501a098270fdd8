"""Limits on what is measured: what breaks one ranks below all that hold, and how probably a code holds them all.

Notation: ``n`` trials, ``m`` limits. A violation is by how much a trial breaks a limit, above 0; at most 0 it holds;
NaN where nobody measured it, which counts as holding.
"""

import numpy as np
from scipy.special import ndtr

from lmsearcher_local.candidates.history import History, normal_scores
from lmsearcher_local.candidates.surrogate import Fit, Surrogate
from lmsearcher_local.spaces.space import SearchSpace


def broken(violations: np.ndarray) -> np.ndarray:
    """Which trials break a limit, ``[n]``, given violations ``[n, m]``."""
    return np.asarray((violations > 0).any(1))


def excess(violations: np.ndarray) -> np.ndarray:
    """By how much each trial breaks the limits in all, ``[n]``, given ``[n, m]``: the sum of its violations, each in
    units of the deviation of all trials from that limit's mean."""
    spread = np.nanstd(violations, axis=0) if len(violations) else np.ones(violations.shape[1])
    spread = np.where(spread > 0, spread, 1.0)
    return np.nansum(np.maximum(violations, 0) / spread, axis=1)


def ranked(scores: np.ndarray, violations: np.ndarray) -> np.ndarray:
    """Scores as the model is shown them, ``[n]``: a trial that breaks a limit lies below all that hold them, the lower
    the more it breaks them, by up to the range of those that hold."""
    bad = broken(violations)
    if not bad.any():
        return scores
    amount = excess(violations)
    good = scores[~bad]
    if not len(good):
        return -amount
    low = good.min()
    span = max(good.max() - low, 1e-6 * abs(low), 1e-6)
    return np.where(bad, low - span * (0.1 + 0.9 * amount / amount.max()), scores)


class Holding:
    """How probably codes hold a limit, by a Gaussian process on its violations. ``NaN``s are left out."""

    def __init__(self, space: SearchSpace, codes: tuple[str, ...], violations: np.ndarray, fit: Fit) -> None:
        known = ~np.isnan(violations)
        codes = tuple(code for code, is_known in zip(codes, known, strict=True) if is_known)
        slack = -violations[known]
        self._surrogate = Surrogate(space, History(codes, tuple(slack.tolist())), fit)
        kept = slack[self._surrogate.kept]
        scale = np.append(kept, 0.0)
        normal = normal_scores(scale, len(kept))
        self._bound = normal[-1] - normal[:-1].mean()

    def __call__(self, rows: np.ndarray) -> np.ndarray:
        means, deviations = self._surrogate.posterior(rows)
        return ndtr((means - self._bound) / deviations)
