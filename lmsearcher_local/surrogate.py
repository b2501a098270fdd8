"""A Gaussian process over codes: which of many candidates are worth showing to the model.

The kernel is Gaussian over an embedding of the code, with one weight per group of features: the one-hot option of each
position (this alone is the Hamming kernel), the place of the option where a position's options are numbers in order,
and how often each option occurs where all positions offer the same ones. Scores enter as normal scores of their ranks.
"""

from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from scipy.linalg import cho_solve, cholesky, solve_triangular
from scipy.optimize import minimize
from scipy.special import ndtr

from lmsearcher_local.blas import one_thread
from lmsearcher_local.history import History, normal_scores, shown
from lmsearcher_local.space import SearchSpace

REFITS = (5, 6, 8, 10, 13, 16, 20, 25, 32, 40, 50, 64, 80, 100, 128, 160, 200)
WIDE = 1024  # options of a space above which only those that a history holds have features of their own
CELLS = 1 << 21  # of a matrix of such features, at most
CHUNK = 4096  # codes appraised at a time: bounds the size of their kernel matrix, however many there are
# Prior of the logarithms of weights and noise: means for one position and for the whole code, standard deviations.
ONE_HOT, ORDERED, ORDERED_ONE_HOT, COUNTS, NOISE = 3.0, 1.0, 1.0, 1.0, 0.02
SPREAD, NOISE_SPREAD = 1.2, 1.5


class Embedding(NamedTuple):
    """Features of codes: ``groups`` holds the weight's number of each feature, ``prior`` each weight's usual value."""

    features: np.ndarray  # [codes, features]
    groups: np.ndarray  # [features]
    prior: np.ndarray  # [weights]


class GaussianProcess:
    """What a history says about codes never evaluated.

    The kernel's weights are those of highest posterior density on a prefix of the history, so that they change seldom
    and depend on the history alone.
    """

    @one_thread()
    def __init__(self, space: SearchSpace, history: History) -> None:
        fitted = max((n for n in REFITS if n <= len(history)), default=len(history))
        theta = _fit(space, history.codes[:fitted], history.scores[:fitted])
        kept = shown(history.scores)
        codes = [history.codes[i] for i in kept]
        scores = [history.scores[i] for i in kept]
        self._rows = space.array(codes)
        features, groups, _ = embed(space, self._rows)
        y = normal_scores(np.array(scores), len(scores))
        self._space = space
        self._scales = np.exp(theta[:-1] / 2)[groups]
        self._known = features * self._scales
        self._target = y - y.mean()
        kernel = _kernel(self._known, self._known)
        self._root = cholesky(kernel + np.exp(theta[-1]) * np.eye(len(y)), lower=True)
        self._solved = cho_solve((self._root, True), self._target)
        self._variance = (self._target @ self._solved + 1) / (len(y) + 1)
        self._appraised: dict[str, tuple[float, float]] = {}

    def expected_improvement(self, codes: Sequence[str]) -> np.ndarray:
        """How much each code is expected to exceed the best score, in units of the history's normal scores.

        ``EI = s (z Phi(z) + phi(z))`` with ``z = (mean - best) / s`` (Jones et al. 1998).

        Returns:
            float64 of shape ``[len(codes)]``, at least 0.
        """
        return self.appraise(codes)[:, 1]

    def appraise(self, codes: Sequence[str]) -> np.ndarray:
        """Posterior mean and expected improvement of each code, float64 of shape ``[len(codes), 2]``.

        A code is computed once: what makes a pool and what shows it, in groups or whole, ask about the same codes.
        """
        new = [code for code in dict.fromkeys(codes) if code not in self._appraised]
        for start in range(0, len(new), CHUNK):
            part = new[start : start + CHUNK]
            mean, deviation = self.posterior(part)
            z = (mean - self._target.max()) / deviation
            improvement = deviation * np.maximum(z * ndtr(z) + np.exp(-z * z / 2) / np.sqrt(2 * np.pi), 0)
            self._appraised.update(zip(part, zip(mean.tolist(), improvement.tolist(), strict=True), strict=True))
        return np.array([self._appraised[code] for code in codes]).reshape(-1, 2)

    @one_thread()
    def posterior(self, codes: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        """Mean and standard deviation of each code's score, both float64 of shape ``[len(codes)]``.

        The unit is the history's normal scores; 0 is their mean.
        """
        rows = self._space.array(codes)
        at_once = max(1, CELLS // len(self._scales)) if _is_wide(self._space) else len(rows)
        if len(rows) > at_once:
            parts = [self.posterior(codes[start : start + at_once]) for start in range(0, len(rows), at_once)]
            mean, deviation = map(np.concatenate, zip(*parts, strict=True))
            return mean, deviation
        new = embed(self._space, rows, self._rows).features * self._scales
        cross = _kernel(new, self._known)
        explained = (solve_triangular(self._root, cross.T, lower=True, check_finite=False) ** 2).sum(0)
        return cross @ self._solved, np.sqrt(self._variance * np.maximum(1 - explained, 1e-9))


@lru_cache(maxsize=32)  # the policy that makes a pool and the codec that shows it ask about the same history
def process(space: SearchSpace, history: History) -> GaussianProcess:
    """The process of that history, made once."""
    return GaussianProcess(space, history)


def forget() -> None:
    """Empty what is remembered of histories, so that a benchmark pays for each of its ways."""
    process.cache_clear()
    _fit.cache_clear()


def believed(space: SearchSpace, history: History, pending: Sequence[str]) -> History:
    """The history and, behind it, codes under evaluation with the score that the process expects of them.

    This is the kriging believer (Ginsbourger et al. 2010): what is asked meanwhile is not next to what is under way. A
    mean in normal scores becomes a score between those of the history.
    """
    if not pending or not len(history):
        return history
    scores = np.array(history.scores)
    y = normal_scores(scores, len(scores))
    mean, _ = process(space, history).posterior(pending)
    order = np.argsort(y)
    expected = np.interp(mean + y.mean(), y[order], scores[order])
    return History((*history.codes, *pending), (*history.scores, *expected.tolist()))


def embed(space: SearchSpace, rows: np.ndarray, known: np.ndarray | None = None) -> Embedding:
    """The features of option indices ``[n, positions]``, such that half a squared distance of 1 means one change.

    In a space of more than ``WIDE`` options the features are those of the options that the rows ``known``, or else
    ``rows``, have; all others share one. That changes no distance to a row of ``known``.
    """
    known = rows if known is None else known
    columns, sizes = rows, space.sizes
    if wide := _is_wide(space):
        seen = [np.unique(position) for position in known.T]
        columns = np.stack([_places_among(*pair) for pair in zip(seen, rows.T, strict=True)], axis=1)
        sizes = tuple(len(options) + 1 for options in seen)
    anywhere = np.unique(known) if wide and _counted(space) else np.arange(space.sizes[0])
    places, groups, prior = _layout(space, sizes, len(anywhere) + wide)
    features = np.zeros((len(rows), len(groups)))
    every = np.arange(len(rows))
    for i, place in enumerate(places):
        features[every, place.first + columns[:, i]] = 1
        if place.ordered:
            features[:, place.first + place.size] = np.sqrt(2) * rows[:, i] / (space.sizes[i] - 1)
    if _counted(space):
        first = len(groups) - len(anywhere) - wide
        if wide:
            features[:, first:] = _counts(anywhere, rows)
        else:
            for place in places:
                features[:, first:] += features[:, place.first : place.first + place.size]
        features[:, first:] /= np.sqrt(len(places))
    return Embedding(features, groups, prior)


def _is_wide(space: SearchSpace) -> bool:
    return sum(space.sizes) > WIDE


def _places_among(seen: np.ndarray, options: np.ndarray) -> np.ndarray:
    """The place of each option among those seen, which are sorted; one past them for any other."""
    places = np.searchsorted(seen, options)
    return np.where(seen[np.minimum(places, len(seen) - 1)] == options, places, len(seen))


def _counts(seen: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """How often each option seen occurs in each row; last the length of the vector of all other counts."""
    places = _places_among(seen, rows.ravel()).reshape(rows.shape)
    found = np.zeros((len(rows), len(seen) + 1))
    each, position = np.nonzero(places < len(seen))
    np.add.at(found, (each, places[each, position]), 1)
    each, position = np.nonzero(places == len(seen))
    others, counts = np.unique(np.stack([each, rows[each, position]]), axis=1, return_counts=True)
    np.add.at(found[:, -1], others[0], counts**2)
    found[:, -1] = np.sqrt(found[:, -1])
    return found


class Place(NamedTuple):
    """Where the features of one position begin: one for each of its ``size`` options, one more if they are numbers."""

    first: int
    size: int
    ordered: bool


@lru_cache(maxsize=64)
def _layout(space: SearchSpace, sizes: tuple[int, ...], counted: int) -> tuple[list[Place], np.ndarray, np.ndarray]:
    """The features of each position, and of an :class:`Embedding` its ``groups`` and ``prior``.

    ``sizes`` says how many options have a feature at each position, ``counted`` how many are counted in all of them.
    """
    places: list[Place] = []
    groups: list[int] = []
    prior: list[float] = []
    for size, ordered in zip(sizes, _ordered(space), strict=True):
        places.append(Place(len(groups), size, ordered))
        groups += [len(prior)] * size
        prior.append((ORDERED_ONE_HOT if ordered else ONE_HOT) / len(sizes))
        if ordered:
            groups.append(len(prior))
            prior.append(ORDERED)
    if _counted(space):
        groups += [len(prior)] * counted
        prior.append(COUNTS)
    return places, np.array(groups), np.array(prior)


@lru_cache(maxsize=64)
def _ordered(space: SearchSpace) -> list[bool]:
    """Of which positions the options are numbers in order."""
    return list(space.ordered)


@lru_cache(maxsize=64)
def _counted(space: SearchSpace) -> bool:
    """Whether all positions offer the same options, so that it means something how often each of them occurs."""
    return len(space.options) > 1 and set(space.alike) == {0}


@lru_cache(maxsize=4096)  # one for each refit of some hundred searches that ask together; each is small
def _fit(space: SearchSpace, codes: tuple[str, ...], scores: tuple[float, ...]) -> np.ndarray:
    """Logarithms of the weights, then of the noise.

    The search for them starts from the prior: from those of the prefix before it would take hardly fewer steps, and a
    long history met for the first time would pay for all its prefixes.
    """
    features, groups, prior = embed(space, space.array(codes))
    usual = np.log([*prior, NOISE])
    spread = np.array([*[SPREAD] * len(prior), NOISE_SPREAD])
    y = normal_scores(np.array(scores), len(scores))
    y, squares = y - y.mean(), features**2

    def cost(theta: np.ndarray) -> tuple[float, np.ndarray]:
        """Negative log posterior, the signal's variance integrated out by its mode, and its gradient."""
        weights, noise = np.exp(theta[:-1]), np.exp(theta[-1])
        scaled = features * np.sqrt(weights)[groups]
        kernel = _kernel(scaled, scaled)
        root = cholesky(kernel + noise * np.eye(len(y)), lower=True)
        inverse = cho_solve((root, True), np.eye(len(y)))
        solved = inverse @ y
        scale = (y @ solved + 1) / (len(y) + 1)
        slope = 0.5 * (inverse - np.outer(solved, solved) / scale)
        weighed = slope * kernel  # by feature: half the sum of weighed * squared difference
        by_feature = weighed.sum(1) @ squares - (features * (weighed @ features)).sum(0)
        gradient = [*(-weights * np.bincount(groups, by_feature, len(weights))), np.trace(slope) * noise]
        away = (theta - usual) / spread
        value = 0.5 * (len(y) + 1) * np.log(scale) + np.log(np.diag(root)).sum() + 0.5 * away @ away
        return float(value), np.array(gradient) + away / spread

    limits = list(zip(usual - 3 * spread, usual + 3 * spread, strict=True))  # within them the kernel can be factored
    return np.asarray(minimize(cost, usual, jac=True, method="L-BFGS-B", bounds=limits, options={"maxiter": 30}).x)


def _kernel(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """``exp(-|a - b|^2 / 2)`` for all pairs."""
    exponent = a @ b.T
    exponent -= (a**2).sum(1)[:, None] / 2
    exponent -= (b**2).sum(1) / 2
    np.minimum(exponent, 0, out=exponent)
    return np.exp(exponent, out=exponent)
