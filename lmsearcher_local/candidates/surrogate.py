"""A Gaussian process over codes: what a history lets expect of others, and would have let expect of its own trials.

Scores enter as normal scores of their ranks; that is the unit of all means and deviations here.

Where there are earlier searches, what they expect of codes enters its mean and, as features, its kernel:

    b m(x)    and    k(x, x') + t (sum_s d_s(x) d_s(x') / S + m(x) m(x')) + c

with the mean ``m`` over the ``S`` sources and the deviation ``d_s`` of each from it. So each gets a weight of its own,
with the right sign. Every slope ``b`` with every trust ``t`` is a hypothesis; that of ``b = t = 0`` has no use for the
sources, and has the probability ``USELESS`` before the first trial; all others share the rest. Then they are as likely
as their marginal likelihood says, and what is expected is the mean over them (Hoeting et al. 1999). The likeliest alone
is often a wrong one while trials are few. How likely a use is, ``Surrogate.trust``, also says which pools of a search
are made with the sources.
"""

from collections.abc import Callable, Sequence
from functools import cached_property
from typing import NamedTuple

import numpy as np
from scipy.linalg import cholesky
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
TRUSTS, SLOPES = (0.0, 0.1, 0.3, 1.0, 3.0), (0.0, 1.0)  # of the hypotheses on the sources
USELESS = 0.8  # probability, before the first trial, that the sources are of no use
LEAST = 0.01  # probability of a hypothesis, as a share of the likeliest one's, under which it is left out
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
    """How far the sources are believed: the probability that they are of use, and of each the agreement, ``[S]``.

    It is the correlation of what a source expects of the trials kept with their scores; 0 where one is constant.
    """

    trust: float
    agreements: np.ndarray


class _Hypothesis(NamedTuple):
    """One way in which the sources may be of use, given the ``n`` trials kept."""

    probability: float
    slope: float
    trust: float
    root: np.ndarray  # [n, n]: the lower Cholesky factor of the kernel with noise
    whitener: np.ndarray  # [n, n]: its inverse
    solved: np.ndarray  # [n]: the target times the inverse of the kernel with noise
    variance: float  # of the signal


class _Process(NamedTuple):
    """The process given the ``n`` trials kept, of ``F`` features."""

    embedding: Embedding
    scales: np.ndarray  # [F]
    known: np.ndarray  # [n, F]: features, scaled
    target: np.ndarray  # [n]
    told: np.ndarray  # [n, S + 1]: features of the sources, not scaled
    level: float  # what these expect of the first trials on the mean
    hypotheses: list[_Hypothesis]


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

    @cached_property
    def kept_scores(self) -> np.ndarray:
        """The scores of these trials, float64 ``[len(kept)]``."""
        return np.array([self.history.scores[i] for i in self.kept])

    def parents(self, n: int, rng: np.random.Generator) -> Sequence[str]:
        """Codes whose neighbourhoods are worth a look: the ``n`` best. Nothing is drawn."""
        return self.history.best(n).codes

    def with_pending(self, pending: Sequence[str]) -> "Surrogate":
        """The same, where codes under evaluation count with the score that is expected of them."""
        return Surrogate(self.space, impute_pending(self, pending), self._fit, self.sources)

    @property
    def best(self) -> float:
        """The highest score, less the mean of all."""
        return float(self._process.target.max()) if self.kept else 0.0

    def posterior(self, codes: Sequence[str] | np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Mean and standard deviation of each code's score, both float64 ``[len(codes)]``; 0 is the mean of all.

        Codes are NCodes, or option indices ``[n, positions]``.
        """
        return _mixed(*self._expected(codes))

    def appraise(self, codes: Sequence[str] | np.ndarray) -> Appraisal:
        """Mean, deviation and expected improvement of each code, given as for ``posterior``."""
        shares, means, deviations = self._expected(codes)
        improvements = (shares * expected_improvement(means, deviations, self.best)).sum(0)
        return Appraisal(*_mixed(shares, means, deviations), improvements)

    @cached_property
    @one_thread()
    def hindsight(self) -> Hindsight:
        """The scores of the trials kept, and what the process would have expected of each without having seen it.

        The first ``r`` trials, as many as the kernel was fitted to, make scale and zero of the scores. Of one of them
        is expected what the ``r - 1`` others say, of a later one what the ``r`` say: mean and deviation of an
        observation (Rasmussen and Williams 2006, equation 5.12). So between two fits nothing changes about a trial.
        """
        if not self.kept:
            return Hindsight(np.empty(0), np.empty(0), np.empty(0))
        fitted = scale_length(len(self.kept))
        scores = normal_scores(self.kept_scores, fitted)
        scores -= scores[:fitted].mean()
        mean = _mean(self._process.told) - self._process.level
        means, deviations = [], []
        for each in self._process.hypotheses:
            # The first rows of a Cholesky factor are the factor of the first rows.
            whitener, later = each.whitener[:fitted, :fitted], each.root[fitted:, :fitted]
            expected = each.slope * mean
            rest = scores[:fitted] - expected[:fitted]
            white = whitener @ rest
            precision = (whitener**2).sum(0)
            means.append(expected + np.append(rest - whitener.T @ white / precision, later @ white))
            before = _before(self._process.told[fitted:], each.trust) - (later**2).sum(1)
            deviations.append(np.sqrt(_variance(white) * np.append(1 / precision, np.maximum(before, 1e-9))))
        return Hindsight(scores, *_mixed(self._shares, np.stack(means), np.stack(deviations)))

    def scores_of(self, normal: np.ndarray) -> np.ndarray:
        """The scores that ``hindsight`` shows as these numbers, given a history."""
        first = self.kept_scores[: scale_length(len(self.kept))]
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
        kept, told = self.kept_scores, self.sources.features(rows)
        y = normal_scores(kept, len(kept))
        level = float(_mean(told[:fitted]).mean())
        first = normal_scores(kept, fitted)[:fitted]  # what the hypotheses are held against: it stays, as the kernel
        found = _hypotheses(kernel, told, level, y - y.mean(), first - first.mean())
        return _Process(embedding, scales, known, y - y.mean(), told, level, found)

    @property
    def belief(self) -> Belief:
        """How far the sources are believed, given a history."""
        y = self._process.target
        means = self.sources.means(self.space.array([self.history.codes[i] for i in self.kept]))
        apart = means - means.mean(0)
        lengths = np.sqrt((apart**2).sum(0) * (y @ y))
        return Belief(self.trust, apart.T @ y / np.where(lengths > 0, lengths, np.inf))

    @property
    def trust(self) -> float:
        """The probability that the sources are of use, given a history; 0 without sources."""
        return sum(each.probability for each in self._process.hypotheses if each.slope or each.trust)

    @property
    def _shares(self) -> np.ndarray:
        """The probability of each of the ``H`` hypotheses, ``[H, 1]``."""
        return np.array([[each.probability] for each in self._process.hypotheses])

    @one_thread()
    def _expected(self, codes: Sequence[str] | np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Each hypothesis' probability, ``[H, 1]``, and its means and deviations of the codes' scores, ``[H, n]``."""
        rows = codes if isinstance(codes, np.ndarray) else self.space.array(codes)
        if not self.kept:
            return np.ones((1, 1)), self.sources.mean(rows)[None], np.ones((1, len(rows)))
        at_once = max(1, min(CACHED, CELLS // len(self._process.scales)))
        parts = [self._posterior(rows[start : start + at_once]) for start in range(0, max(1, len(rows)), at_once)]
        means, deviations = (np.concatenate(part, 1) for part in zip(*parts, strict=True))
        return self._shares, means, deviations

    def _posterior(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        process = self._process
        features = process.embedding.features(rows)
        features *= process.scales
        near = gaussian(features, process.known)
        told = self.sources.features(rows)
        mean = _mean(told) - process.level
        means, deviations = [], []
        for each in process.hypotheses:
            cross = near + _across(told, process.told, each.trust) if self.sources else near
            before = _before(told, each.trust)
            means.append(cross @ each.solved + each.slope * mean)
            white = dtrmm(1.0, each.whitener, cross.T, lower=1, overwrite_b=1)  # in place: cross.T is Fortran's order
            left = np.maximum(before - np.einsum("ij,ij->j", white, white), 1e-9)
            deviations.append(np.sqrt(each.variance * left))
        return np.stack(means), np.stack(deviations)


def _hypotheses(
    kernel: np.ndarray, told: np.ndarray, level: float, target: np.ndarray, first: np.ndarray
) -> list[_Hypothesis]:
    """The likely ones; without sources the only one.

    ``kernel`` ``[n, n]`` is that of the codes with noise, without the sources. ``first`` is the target of the first
    trials alone, by which the hypotheses are judged: between two fits it stays. The rest is as in ``_Process``.
    """
    found, evidence = [], []
    fitted, sources, mean = len(first), told.shape[1], _mean(told) - level
    for trust in TRUSTS if sources else TRUSTS[:1]:
        root = cholesky(kernel + _across(told, told, trust) if sources else kernel, lower=True)
        whitener, _ = dtrtri(root, lower=1)
        for slope in SLOPES if sources else SLOPES[:1]:
            white = whitener @ (target - slope * mean)
            found.append(_Hypothesis(1.0, slope, trust, root, whitener, whitener.T @ white, _variance(white)))
            white = whitener[:fitted, :fitted] @ (first - slope * mean[:fitted])
            likelihood = -0.5 * (fitted + 1) * np.log(_variance(white)) - np.log(np.diag(root)[:fitted]).sum()
            evidence.append(likelihood)  # the signal's variance is integrated out by its mode
    if sources:
        evidence[0] += np.log(USELESS / (1 - USELESS) * (len(evidence) - 1))
    shares = np.exp(np.array(evidence) - max(evidence))
    shares[shares < LEAST] = 0
    shares /= shares.sum()
    return [each._replace(probability=float(share)) for each, share in zip(found, shares, strict=True) if share]


def _mixed(shares: np.ndarray, means: np.ndarray, deviations: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation, ``[n]``, of what ``H`` hypotheses expect, ``[H, n]``, with these shares."""
    mean = (shares * means).sum(0)
    return mean, np.sqrt((shares * (deviations**2 + (means - mean) ** 2)).sum(0))


def impute_pending(surrogate: Surrogate, pending: Sequence[str]) -> History:
    """The history and, behind it, codes under evaluation with the score that the surrogate expects of them.

    This is the kriging believer (Ginsbourger et al. 2010): what is asked meanwhile is not next to what is under way. A
    mean in normal scores becomes a score between those of the history.
    """
    history = surrogate.history
    if not pending or not len(history):
        return history
    scores = surrogate.kept_scores
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


def _across(a: np.ndarray, b: np.ndarray, trust: float) -> np.ndarray:
    """What the sources add to the kernel, ``[len(a), len(b)]``."""
    return trust * (a @ b.T) + OFFSET


def _mean(told: np.ndarray) -> np.ndarray:
    """What the sources expect on the mean, ``[n]``, of their features; 0 without sources."""
    return np.asarray(told[:, :1].sum(1))


def _before(told: np.ndarray, trust: float) -> np.ndarray:
    """The kernel of each code with itself, ``[n]``."""
    return 1 + trust * (told**2).sum(1) + (OFFSET if told.shape[1] else 0)
