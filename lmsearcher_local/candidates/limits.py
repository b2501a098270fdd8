"""Limits on what is measured: what breaks one ranks below all that hold, and how probably a code holds them all.

Notation: ``n`` trials, ``m`` limits. A violation is by how much a trial breaks a limit, above 0; at most 0 it holds.
NaN is one that nobody measured, as of a trial that was stopped early: what the other trials let expect stands in for
it, and while none was measured it counts as holding.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy.special import ndtr

from lmsearcher_local.candidates.earlier import NO_SOURCES, Sources
from lmsearcher_local.candidates.history import History, normal_scores, truncate_history
from lmsearcher_local.candidates.surrogate import Appraisal, Fit, Surrogate, expected_improvement, impute_pending
from lmsearcher_local.spaces.space import SearchSpace

DISTANCES = np.linspace(-6, 6, 2401)  # of a mean from the best score, in deviations
EXPECTED = expected_improvement(DISTANCES, np.ones(len(DISTANCES)), 0.0)
NEAR = 0.1  # of the range of scores that hold: how far below them what breaks a limit begins


class Points(NamedTuple):
    """Codes in order of evaluation, their scores ``[n]``, higher better, and their violations ``[n, m]``.

    Of several goals the scores are ``[n, goals]``.
    """

    codes: tuple[str, ...]
    scores: np.ndarray
    violations: np.ndarray


def breaks_limits(violations: np.ndarray) -> np.ndarray:
    """Which trials break a limit, bool ``[n]``, given violations ``[n, m]``."""
    return np.asarray((violations > 0).any(1))


def excess(violations: np.ndarray) -> np.ndarray:
    """By how much each trial breaks the limits in all, float64 ``[n]``, given violations ``[n, m]``.

    It is the sum of those above 0, each divided by the standard deviation of that limit's.
    """
    known = ~np.isnan(violations)
    amounts = np.where(known, violations, 0.0)
    spread = np.array(
        [column[here].std() if here.any() else 0.0 for column, here in zip(amounts.T, known.T, strict=True)]
    )
    return np.asarray((np.maximum(amounts, 0) / np.where(spread > 0, spread, 1.0)).sum(1))


def rank_scores(scores: np.ndarray, violations: np.ndarray) -> np.ndarray:
    """Scores as the model is shown them, float64 ``[n]``: what breaks a limit lies below all that hold them.

    The more it breaks them the lower, down to as far as the scores of those that hold reach.
    """
    bad = breaks_limits(violations)
    if not bad.any():
        return scores
    amounts = excess(violations)
    if bad.all():
        return -amounts
    low, high = scores[~bad].min(), scores[~bad].max()
    reach = max(high / 2 - low / 2, 1e-6 * abs(low), 1e-6)  # halved: finite for scores near the largest float
    with np.errstate(over="ignore"):
        below = low - reach * (NEAR + (1 - NEAR) * amounts / amounts.max())
    return np.where(bad, np.maximum(below, -np.finfo(float).max), scores)


class LimitedSurrogate(Surrogate):
    """What trials say about codes where some break limits. The history that it shows has the scores of ``rank_scores``.

    What improves a code is its expected improvement on the best trial that holds, times the probability that it holds
    every limit (Gardner et al. 2014); while none holds, that probability alone. The improvement is that of a process on
    the scores of all trials, and each limit's probability that of one on its violations.

    ``holding`` says how probable codes are to hold the limits.
    """

    def __init__(self, space: SearchSpace, points: Points, fit: Fit, sources: Sources = NO_SOURCES) -> None:
        (codes, scores, violations), fit = points, by_rank(fit)
        self._violations = completed(space, points, fit)
        super().__init__(space, History(codes, tuple(rank_scores(scores, self._violations).tolist())), fit, sources)
        self._points = points
        self._scores = Surrogate(space, History(codes, tuple(scores.tolist())), fit, sources)
        self._scores.kept = self.kept
        self.holding = Holding(space, codes, violations, self.kept, fit)

    def appraise(self, codes: Sequence[str] | np.ndarray) -> Appraisal:
        """Mean, deviation and expected improvement of each code's score within the limits.

        The mean is the one that makes this improvement with this deviation. A model that is shown both must not be told
        of a high score that breaks a limit.
        """
        rows = codes if isinstance(codes, np.ndarray) else self.space.array(codes)
        chances = self.holding.chances(rows)
        holds = ~breaks_limits(self._violations[self.kept])
        if not holds.any():
            return Appraisal(*self.posterior(rows), chances)
        means, deviations = self._scores.posterior(rows)
        improvements = chances * expected_improvement(means, deviations, self._scores._process.target[holds].max())
        return Appraisal(self.best + deviations * shortfall(improvements / deviations), deviations, improvements)

    def with_pending(self, pending: Sequence[str]) -> "LimitedSurrogate":
        """The same with codes under evaluation, of which score and violations are what is expected of them."""
        codes, scores = (history := impute_pending(self._scores, pending)).codes, np.array(history.scores)
        violations = np.concatenate([self._points.violations, self.holding.expected(pending)])
        return LimitedSurrogate(self.space, Points(codes, scores, violations), self._fit, self.sources)


def completed(space: SearchSpace, points: Points, fit: Fit) -> np.ndarray:
    """The violations, with what is expected of those that nobody measured, ``[n, m]``."""
    codes, scores, violations = points
    missing = np.flatnonzero(np.isnan(violations).any(1))
    if not len(missing):
        return violations
    holding = Holding(space, codes, violations, truncate_history(scores.tolist()), fit)
    found = violations.copy()
    found[missing] = np.where(
        np.isnan(violations[missing]), holding.expected([codes[i] for i in missing]), violations[missing]
    )
    return found


def shortfall(improvements: np.ndarray) -> np.ndarray:
    """The inverse of ``z Phi(z) + phi(z)``, at least -6: a mean's distance from the best score, in deviations."""
    return np.interp(improvements, EXPECTED, DISTANCES)


class Holding:
    """How probably codes hold limits, each by a Gaussian process on its violations in the trials ``kept``."""

    def __init__(
        self, space: SearchSpace, codes: tuple[str, ...], violations: np.ndarray, kept: Sequence[int], fit: Fit
    ) -> None:
        self._slacks = []
        for column in violations.T:
            known = np.flatnonzero(~np.isnan(column))
            history = History(tuple(codes[i] for i in known), tuple((-column[known]).tolist()))
            slack = Surrogate(space, history, fit)
            slack.kept = np.flatnonzero(np.isin(known, kept)).tolist()
            self._slacks.append(slack)

    def chances(self, rows: np.ndarray) -> np.ndarray:
        """The probability of each code to hold every limit, float64 ``[len(rows)]``, given option indices."""
        chances = np.ones(len(rows))
        for slack in self._slacks:
            if slack.kept:
                means, deviations = slack.posterior(rows)
                chances *= ndtr((means - _border(slack)) / deviations)
        return chances

    def expected(self, codes: Sequence[str]) -> np.ndarray:
        """The violations that are expected of codes, ``[len(codes), m]``."""
        columns = [
            -np.array(impute_pending(slack, codes).scores[len(slack.history) :] or [np.nan] * len(codes))
            for slack in self._slacks
        ]
        return np.stack(columns, 1)


def _border(slack: Surrogate) -> float:
    """Where no slack is left, in the unit of the process. Between the trials on either side of it, in proportion; a
    trial that just holds is within."""
    scores = slack.kept_scores
    below = scores[scores < 0].max(initial=-np.inf)
    least = 0.0 if scores[scores >= 0].min(initial=np.inf) > 0 or np.isinf(below) else below / 2
    normal = normal_scores(np.append(scores, least), len(scores))
    return float(normal[-1] - normal[:-1].mean())


def by_rank(fit: Fit) -> Fit:
    """The same fit, which ranks of scores decide: told the ranks, it remembers what it was told before."""

    def fitted(space: SearchSpace, history: History) -> np.ndarray:
        _, ranks = np.unique(np.array(history.scores), return_inverse=True)
        return fit(space, History(history.codes, tuple(ranks.ravel().astype(float).tolist())))

    return fitted
