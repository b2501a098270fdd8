"""The surrogate's kernel: features of codes, a weight for each group of them, and the weights that fit a history.

The kernel is Gaussian over an embedding of the code, with these groups of features:

- the one-hot option of each position, which alone is the Hamming kernel;
- the place of the option, where a position's options are numbers in order;
- for each set of positions that share their options, how often each of these occurs among them.

An inactive parameter has the features of the middle of all its options, and is not counted in its set. That is as far
from each option, and nearer than they are to each other.

Notation: ``n`` codes, ``L`` positions, ``F`` features, ``W`` weights. ``theta`` holds the logarithms of the weights,
then of the noise, ``[W + 1]``.
"""

import numpy as np
from scipy.linalg import cho_solve, cholesky
from scipy.optimize import minimize

from lmsearcher_local.candidates.history import History, normal_scores
from lmsearcher_local.spaces.space import SearchSpace
from lmsearcher_local.system.blas import one_thread

WIDE = 1024  # options of a space above which only those that a history holds have features of their own
# Prior of theta: means of the weights for one position and for a whole code, standard deviations.
ONE_HOT, ORDERED, ORDERED_ONE_HOT, COUNTS, NOISE = 3.0, 1.0, 1.0, 1.0, 0.02
SPREAD, NOISE_SPREAD = 1.2, 1.5


class Embedding:
    """Features of codes, such that half a squared distance of 1 means one change.

    In a space of more than ``WIDE`` options the features are those of the options that the codes ``known`` have; all
    others share one. That changes no distance to one of ``known``.

    Args:
        known: option indices ``[n, L]``.

    Attributes:
        groups: the number of each feature's weight, ``[F]``.
        usual: the mean of ``theta`` in a space of which nothing is known, ``[W + 1]``.
        spread: its standard deviations.
    """

    def __init__(self, space: SearchSpace, known: np.ndarray) -> None:
        wide = sum(space.sizes) > WIDE
        self._space = space
        self._seen = [np.unique(column) for column in known.T] if wide else []
        alike = np.where(np.array(space.sizes) > 1, space.alike, -1)
        sets = [np.flatnonzero(alike == number) for number in range(alike.max() + 1) if number in alike]
        self._sets = [(places, np.unique(known[:, places])) for places in sets]
        sizes = np.array([len(seen) + 1 for seen in self._seen] if wide else space.sizes)
        ordered = np.array(space.ordered)
        self._first = np.cumsum(sizes + ordered) - sizes - ordered  # the first feature of each position
        self._ordered = np.flatnonzero(ordered)
        self._last = np.array(space.sizes)[ordered] - 1
        self._numbers = (self._first + sizes)[ordered]
        self._sizes = sizes
        counted = [len(seen) + 1 if wide else int(sizes[places[0]]) for places, seen in self._sets]
        widths = np.column_stack([sizes, ordered])
        prior = np.column_stack([np.where(ordered, ORDERED_ONE_HOT, ONE_HOT) / len(sizes), [ORDERED] * len(sizes)])
        widths = np.array([*widths[widths > 0], *counted])
        self.groups = np.repeat(np.arange(len(widths)), widths)
        counts = [COUNTS * len(places) / len(sizes) for places, _ in self._sets]
        self.usual = np.log([*prior[np.column_stack([sizes, ordered]) > 0], *counts, NOISE])
        self.spread = np.array([*[SPREAD] * len(widths), NOISE_SPREAD])

    def features(self, rows: np.ndarray) -> np.ndarray:
        """Features ``[n, F]`` of option indices ``[n, L]``."""
        active = self._space.active(rows) if self._space.when else None
        columns = rows
        if self._seen:
            columns = np.stack([_places_among(*pair) for pair in zip(self._seen, rows.T, strict=True)], axis=1)
        features = np.zeros((len(rows), len(self.groups)))
        features.ravel()[np.arange(len(rows))[:, None] * features.shape[1] + self._first + columns] = 1.0
        features[:, self._numbers] = np.sqrt(2) * rows[:, self._ordered] / self._last
        if active is not None:
            self._take_middle(features, active)
        start = int(self._first[-1] + self._sizes[-1] + (len(self._sizes) - 1 in self._ordered))
        for places, seen in self._sets:
            counted = np.ones((len(rows), len(places)), dtype=bool) if active is None else active[:, places]
            if self._seen:
                counts = _counts(seen, rows[:, places], counted)
            else:
                options = int(self._sizes[places[0]])
                each = np.arange(len(rows))[:, None] * options + rows[:, places]
                counts = np.bincount(each[counted], minlength=len(rows) * options).reshape(len(rows), options)
            features[:, start : start + counts.shape[1]] = counts / np.sqrt(len(places))
            start += counts.shape[1]
        return features

    def _take_middle(self, features: np.ndarray, active: np.ndarray) -> None:
        """Give inactive positions, ``[n, L]``, the features of the middle of their options."""
        numbers = dict(zip(self._ordered.tolist(), self._numbers.tolist(), strict=True))
        for place in np.flatnonzero(~active.all(0)).tolist():
            rows = np.flatnonzero(~active[:, place])
            first, size = int(self._first[place]), int(self._sizes[place])
            features[rows, first : first + size] = 1 / size
            if place in numbers:
                features[rows, numbers[place]] = np.sqrt(2) / 2


def gaussian(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """``exp(-|a - b|^2 / 2)`` for all pairs, ``[len(a), len(b)]``."""
    exponent = a @ b.T
    exponent -= np.einsum("ij,ij->i", a, a)[:, None] / 2
    exponent -= np.einsum("ij,ij->i", b, b) / 2
    np.minimum(exponent, 0, out=exponent)
    return np.exp(exponent, out=exponent)


def usual_kernel(space: SearchSpace) -> tuple[np.ndarray, np.ndarray]:
    """Means and standard deviations of ``theta`` in a space of which nothing is known, both ``[W + 1]``."""
    embedding = Embedding(space, np.zeros((1, len(space.sizes)), dtype=np.int64))
    return embedding.usual, embedding.spread


@one_thread()
def fit_kernel(space: SearchSpace, history: History) -> np.ndarray:
    """The ``theta`` of highest posterior density on a history of at least one trial.

    The search for it starts from the prior. From the ``theta`` of a shorter history it would take hardly fewer steps.
    """
    rows = space.array(history.codes)
    embedding = Embedding(space, rows)
    features, groups = embedding.features(rows), embedding.groups
    usual, spread = embedding.usual, embedding.spread
    y = normal_scores(np.array(history.scores), len(history))
    y, squares = y - y.mean(), features**2

    def cost(theta: np.ndarray) -> tuple[float, np.ndarray]:
        """Negative log posterior, the signal's variance integrated out by its mode, and its gradient."""
        weights, noise = np.exp(theta[:-1]), np.exp(theta[-1])
        scaled = features * np.sqrt(weights)[groups]
        kernel = gaussian(scaled, scaled)
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


def _places_among(seen: np.ndarray, options: np.ndarray) -> np.ndarray:
    """The place of each option among those seen, which are sorted; one past them for any other."""
    places = np.searchsorted(seen, options)
    return np.where(seen[np.minimum(places, len(seen) - 1)] == options, places, len(seen))


def _counts(seen: np.ndarray, rows: np.ndarray, counted: np.ndarray) -> np.ndarray:
    """How often each option seen occurs in each row, and last the length of the vector of all other counts.

    Only what is ``counted``, bool ``[n, L]``, counts.
    """
    places = _places_among(seen, rows.ravel()).reshape(rows.shape)
    found = np.zeros((len(rows), len(seen) + 1))
    each, position = np.nonzero((places < len(seen)) & counted)
    np.add.at(found, (each, places[each, position]), 1)
    each, position = np.nonzero((places == len(seen)) & counted)
    others, counts = np.unique(np.stack([each, rows[each, position]]), axis=1, return_counts=True)
    np.add.at(found[:, -1], others[0], counts**2)
    found[:, -1] = np.sqrt(found[:, -1])
    return found
