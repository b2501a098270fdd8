"""A Gaussian process over codes: what a history lets expect of others, and would have let expect of its own trials.

Scores enter as normal scores of their ranks; that is the unit of all means and deviations here.

Where there are earlier searches, what they expect of codes enters the kernel as features:

    k(x, x') + t (sum_s d_s(x) d_s(x') / S + m(x) m(x')) + c

with the mean ``m`` over the ``S`` sources and the deviation ``d_s`` of each from it. So each gets a weight of its own,
with the right sign. Of the trust ``t`` the history decides; at 0 the sources count for nothing.
"""

from collections.abc import Callable, Sequence
from functools import cached_property
from typing import NamedTuple

import numpy as np
from scipy.linalg import cholesky, solve_triangular
from scipy.linalg.blas import dtrmm
from scipy.linalg.lapack import dtrtri
from scipy.special import ndtr

from lmsearcher_local.candidates.earlier import NO_SOURCES, Sources
from lmsearcher_local.candidates.history import History, normal_scores, scores_at, truncate_history
from lmsearcher_local.candidates.kernel import Embedding, fit_kernel, gaussian
from lmsearcher_local.spaces.space import SearchSpace
from lmsearcher_local.system.blas import one_thread

REFITS = (5, 6, 8, 10, 13, 16, 20, 25, 32, 40, 50, 64, 80, 100, 128, 160, 200)  # trials at which the kernel is fitted
CELLS = 1 << 21  # of a matrix of features or of the kernel, at most
CHUNK = 4096  # codes appraised at a time, at most
CACHED = 512  # codes whose features are made and used at a time: they stay in a processor's cache
TRUSTS = (0.0, 0.1, 0.3, 1.0, 3.0)  # in the sources, of which the likeliest is taken
OFFSET = 10.0  # variance of the level of all scores, which the sources do not know

Fit = Callable[[SearchSpace, History], np.ndarray]
"""Like ``kernel.fit_kernel``: the kernel's logarithms of weights and noise, of a history of at least one trial."""


class Appraisal(NamedTuple):
    """What is expected of each of some codes: three float64 arrays of shape ``[len(codes)]``."""

    means: np.ndarray
    deviations: np.ndarray
    improvements: np.ndarray


class Hindsight(NamedTuple):
    """What was observed of each trial kept and what the others let expect of it: three float64 ``[len(kept)]``."""

    scores: np.ndarray
    means: np.ndarray
    deviations: np.ndarray


class Belief(NamedTuple):
    """How far the sources are believed: the trust ``t``, and for each the correlation of what it expects of the trials
    kept with their scores, float64 ``[S]``; 0 where one of them does not vary."""

    trust: float
    agreements: np.ndarray


class _Process(NamedTuple):
    """The process given the ``n`` trials kept, of ``F`` features."""

    embedding: Embedding
    scales: np.ndarray  # [F]
    known: np.ndarray  # [n, F]: features, scaled
    whitener: np.ndarray  # [n, n]: the inverse of the lower Cholesky factor of the kernel with noise
    root: np.ndarray  # [n, n]: that factor
    target: np.ndarray  # [n]
    trust: float
    told: np.ndarray  # [n, S + 1]: features of the sources, not scaled


class Surrogate:
    """What a history says about codes. Making one costs nothing; what it computes, when first asked, it keeps.

    The kernel is fitted to the first trials, as many as the largest of ``REFITS`` that are there, so that it changes
    seldom and depends on the history alone. Without a history the mean is 0, or what the sources expect on the mean,
    and the deviation 1 everywhere.

    Args:
        fit: fits the kernel.
        sources: earlier searches.
    """

    def __init__(
        self, space: SearchSpace, history: History, fit: Fit = fit_kernel, sources: Sources = NO_SOURCES
    ) -> None:
        self.space = space
        self.history = history
        self.sources = sources
        self._fit = fit

    @cached_property
    def kept(self) -> list[int]:
        """The places in the history of the trials that are shown, at most 200."""
        return truncate_history(self.history.scores)

    def parents(self, n: int, rng: np.random.Generator) -> Sequence[str]:
        """Codes whose neighbourhoods are worth a look: the ``n`` best. Nothing is drawn."""
        return self.history.best(n).codes

    @property
    def best(self) -> float:
        """The highest score, less the mean of all."""
        return float(self._process.target.max()) if self.kept else 0.0

    @one_thread()
    def posterior(self, codes: Sequence[str] | np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Mean and standard deviation of each code's score, both float64 of shape ``[len(codes)]``; 0 is the mean.

        Args:
            codes: NCodes, or option indices ``[n, positions]``.
        """
        rows = codes if isinstance(codes, np.ndarray) else self.space.array(codes)
        if not self.kept:
            return self.sources.mean(rows), np.ones(len(rows))
        at_once = max(1, min(CACHED, CELLS // len(self._process.scales)))
        parts = [self._posterior(rows[start : start + at_once]) for start in range(0, max(1, len(rows)), at_once)]
        mean, deviation = map(np.concatenate, zip(*parts, strict=True))
        return mean, deviation

    def appraise(self, codes: Sequence[str] | np.ndarray) -> Appraisal:
        """Mean, deviation and expected improvement of each code, given as for ``posterior``."""
        mean, deviation = self.posterior(codes)
        return Appraisal(mean, deviation, expected_improvement(mean, deviation, self.best))

    @cached_property
    @one_thread()
    def hindsight(self) -> Hindsight:
        """The scores of the trials kept, and what the process would have expected of each without having seen it.

        The first ``r`` trials, as many as the kernel was fitted to, make scale and zero of the scores. What is expected
        of one of them is what the ``r - 1`` others say (mean and deviation of an observation: Rasmussen and Williams
        2006, equation 5.12), of a later one what the ``r`` say. So between two fits nothing changes about a trial.
        """
        if not self.kept:
            return Hindsight(np.empty(0), np.empty(0), np.empty(0))
        fitted = scale_length(len(self.kept))
        scores = normal_scores(np.array([self.history.scores[i] for i in self.kept]), fitted)
        scores -= scores[:fitted].mean()
        # The first rows of a Cholesky factor are the factor of the first rows.
        whitener, later = self._process.whitener[:fitted, :fitted], self._process.root[fitted:, :fitted]
        before = _before(self._process.told[fitted:], self._process.trust)
        white = whitener @ scores[:fitted]
        variance = _variance(white)
        precision = (whitener**2).sum(0)
        means = np.append(scores[:fitted] - whitener.T @ white / precision, later @ white)
        variances = variance * np.append(1 / precision, np.maximum(before - (later**2).sum(1), 1e-9))
        return Hindsight(scores, means, np.sqrt(variances))

    def scores_of(self, normal: np.ndarray) -> np.ndarray:
        """The scores that ``hindsight`` shows as these numbers, given a history."""
        first = np.array([self.history.scores[i] for i in self.kept[: scale_length(len(self.kept))]])
        return scores_at(normal + normal_scores(first, len(first)).mean(), first)

    @cached_property
    @one_thread()
    def _process(self) -> _Process:
        """The process given what is shown of the history."""
        codes, scores = self.history.codes, self.history.scores
        fitted = scale_length(len(codes))
        theta = self._fit(self.space, History(codes[:fitted], scores[:fitted]))
        rows = self.space.array([codes[i] for i in self.kept])
        embedding = Embedding(self.space, rows)
        scales = np.exp(theta[:-1] / 2)[embedding.groups]
        known = embedding.features(rows) * scales
        kernel = gaussian(known, known)
        kernel[np.diag_indices_from(kernel)] += np.exp(theta[-1])
        y = normal_scores(np.array([scores[i] for i in self.kept]), len(self.kept))
        told, trust = self.sources.features(rows), 0.0
        if self.sources:
            first = slice(min(fitted, len(y)))
            trust = _likeliest(kernel[first, first], told[first], y[first] - y[first].mean())
            kernel += _across(told, told, trust)
        root = cholesky(kernel, lower=True)
        whitener, _ = dtrtri(root, lower=1)
        return _Process(embedding, scales, known, whitener, root, y - y.mean(), trust, told)

    @property
    def belief(self) -> Belief:
        """How far the sources are believed, given a history."""
        y = self._process.target
        means = self.sources.means(self.space.array([self.history.codes[i] for i in self.kept]))
        apart = means - means.mean(0)
        lengths = np.sqrt((apart**2).sum(0) * (y @ y))
        return Belief(self._process.trust, apart.T @ y / np.where(lengths > 0, lengths, np.inf))

    @cached_property
    def _solved(self) -> tuple[np.ndarray, float]:
        """The target times the inverse of the kernel with noise, ``[n]``, and the variance of the signal."""
        white = self._process.whitener @ self._process.target
        return self._process.whitener.T @ white, _variance(white)

    def _posterior(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        embedding, scales, known, whitener, *_ = process = self._process
        solved, variance = self._solved
        features = embedding.features(rows)
        features *= scales
        cross = gaussian(features, known)
        before: float | np.ndarray = 1.0
        if self.sources:
            told = self.sources.features(rows)
            cross += _across(told, process.told, process.trust)
            before = _before(told, process.trust)
        mean = cross @ solved
        white = dtrmm(1.0, whitener, cross.T, lower=1, overwrite_b=1)  # in place: cross.T is in Fortran's order
        return mean, np.sqrt(variance * np.maximum(before - np.einsum("ij,ij->j", white, white), 1e-9))


def impute_pending(surrogate: Surrogate, pending: Sequence[str]) -> History:
    """The history and, behind it, codes under evaluation with the score that the surrogate expects of them.

    This is the kriging believer (Ginsbourger et al. 2010): what is asked meanwhile is not next to what is under way. A
    mean in normal scores becomes a score between those of the history.
    """
    history = surrogate.history
    if not pending or not len(history):
        return history
    scores = np.array([history.scores[i] for i in surrogate.kept])
    y = normal_scores(scores, len(scores))
    mean, _ = surrogate.posterior(pending)
    order = np.argsort(y)
    expected = np.interp(mean + y.mean(), y[order], scores[order])
    return History((*history.codes, *pending), (*history.scores, *expected.tolist()))


def expected_improvement(means: np.ndarray, deviations: np.ndarray, best: float) -> np.ndarray:
    """By how much a normally distributed score is expected to exceed the best one, at least 0 (Jones et al. 1998).

    ``EI = s (z Phi(z) + phi(z))`` with ``z = (mean - best) / s``.
    """
    z = (means - best) / deviations
    return np.asarray(deviations * np.maximum(z * ndtr(z) + np.exp(-z * z / 2) / np.sqrt(2 * np.pi), 0))


def scale_length(n: int) -> int:
    """How many of the first ``n`` trials make kernel and scale: they stay while ``n`` grows, up to the next refit."""
    return max((refit for refit in REFITS if refit <= n), default=n)


def _variance(white: np.ndarray) -> float:
    """The signal's variance of highest posterior density, from the whitened target."""
    return float((white @ white + 1) / (len(white) + 1))


def _likeliest(kernel: np.ndarray, told: np.ndarray, y: np.ndarray) -> float:
    """The trust in the sources of highest marginal likelihood; the signal's variance is integrated out by its mode."""

    def likelihood(trust: float) -> float:
        root = cholesky(kernel + _across(told, told, trust), lower=True)
        variance = _variance(solve_triangular(root, y, lower=True))
        return float(-0.5 * (len(y) + 1) * np.log(variance) - np.log(np.diag(root)).sum())

    return max(TRUSTS, key=likelihood)


def _across(a: np.ndarray, b: np.ndarray, trust: float) -> np.ndarray:
    """What the sources add to the kernel, ``[len(a), len(b)]``."""
    return trust * (a @ b.T) + OFFSET


def _before(told: np.ndarray, trust: float) -> np.ndarray:
    """The kernel of each code with itself, ``[n]``."""
    return 1 + trust * (told**2).sum(1) + (OFFSET if told.shape[1] else 0)
