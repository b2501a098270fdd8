"""Earlier searches: what their trials let expect of a new search's codes, as features of its kernel.

Each earlier search has a Gaussian process of its own, over the parameters that it shares with the new one. Its
posterior means are all that is known of it here, in the unit of its own normal scores; so its scale does not matter,
and how far it is believed the new search's own trials decide (``Surrogate``).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from scipy.linalg import cho_factor, cho_solve

from lmsearcher_local.candidates.history import HISTORY_CAP, History, normal_scores, truncate_history
from lmsearcher_local.candidates.kernel import Embedding, fit_kernel, gaussian
from lmsearcher_local.errors import HistoryError
from lmsearcher_local.spaces.space import SearchSpace
from lmsearcher_local.system.blas import one_thread

SOURCES, TRIALS = 50, 1000  # earlier searches at most, and trials of each that are looked at
TABLE = 1 << 16  # codes of a space up to which what a source expects of each is computed once
EACH, STARTS = 3, 15  # codes of each earlier search, and of all, around which a new one looks


@dataclass(frozen=True, slots=True)
class Earlier:
    """An earlier search as the new one sees it.

    Args:
        name: what messages call it.
        space: the parameters that both have, without a predicate, and what of ``where`` and ``when`` reads no others.
        positions: where these are in the new space.
        history: codes of that space and their scores, higher better.
    """

    name: str
    space: SearchSpace
    positions: tuple[int, ...]
    history: History


class Sources:
    """What ``S`` earlier searches expect of codes. Their processes are fitted when they are first asked.

    Raises:
        HistoryError: there are more than ``SOURCES``.
    """

    def __init__(self, earlier: Sequence[Earlier] = ()) -> None:
        check_number(len(earlier))
        self.earlier = tuple(earlier)

    def __len__(self) -> int:
        return len(self.earlier)

    def means(self, rows: np.ndarray) -> np.ndarray:
        """What each source expects, ``[n, S]``, of option indices of the new space ``[n, L]``."""
        if not self.earlier:
            return np.empty((len(rows), 0))
        return np.stack([mean(rows[:, one.positions]) for one, mean in zip(self.earlier, self._means, strict=True)], 1)

    def mean(self, rows: np.ndarray) -> np.ndarray:
        """What they expect on the mean, ``[n]``; 0 without sources."""
        return self.means(rows).mean(1) if self.earlier else np.zeros(len(rows))

    def features(self, rows: np.ndarray) -> np.ndarray:
        """Their mean and, of several, the deviation of each from it over the root of their number: ``[n, F]``."""
        means = self.means(rows)
        if len(self) < 2:
            return means
        mean = means.mean(1, keepdims=True)
        return np.concatenate([mean, (means - mean) / np.sqrt(len(self))], axis=1)

    def best(self, space: SearchSpace, rng: np.random.Generator) -> list[str]:
        """Up to ``STARTS`` valid codes of the new space: the ``EACH`` best of every source, of these the ones of which
        all expect most. Parameters that a source does not have are drawn at random."""
        rows = []
        for one in self.earlier:
            best = one.space.array(one.history.best(EACH).codes)
            row = np.stack([rng.integers(size, size=len(best)) for size in space.sizes], 1)
            row[:, one.positions] = best
            rows.append(row)
        if not rows:
            return []
        whole = np.unique(space.repaired(np.concatenate(rows), rng), axis=0)
        codes = space.codes(whole[np.argsort(-self.mean(whole), kind="stable")])
        return [code for code in codes if space.unrestricted or code in space][:STARTS]

    @cached_property
    def _means(self) -> "list[Mean]":
        return [Mean(one.space, one.history) for one in self.earlier]


def check_number(sources: int) -> None:
    """Make sure that there are not too many.

    Raises:
        HistoryError: there are.
    """
    if sources > SOURCES:
        raise HistoryError(f"{sources} earlier searches were given; at most {SOURCES} can be used")


class Mean:
    """The posterior mean of a Gaussian process over codes, given at most ``TRIALS`` of a history's trials."""

    @one_thread()
    def __init__(self, space: SearchSpace, history: History) -> None:
        kept = truncate_history(history.scores, TRIALS)
        codes, scores = [history.codes[i] for i in kept], np.array([history.scores[i] for i in kept])
        some = kept[:: -(-len(kept) // HISTORY_CAP)]  # evenly spread: the kernel of all would be slow to fit
        theta = fit_kernel(
            space, History(tuple(history.codes[i] for i in some), tuple(history.scores[i] for i in some))
        )
        rows = space.array(codes)
        self._embedding = Embedding(space, rows)
        self._scales = np.exp(theta[:-1] / 2)[self._embedding.groups]
        self._known = self._embedding.features(rows) * self._scales
        kernel = gaussian(self._known, self._known)
        kernel[np.diag_indices_from(kernel)] += np.exp(theta[-1])
        y = normal_scores(scores, len(scores))
        self._solved = cho_solve(cho_factor(kernel, lower=True), y - y.mean())
        self._sizes = space.sizes
        self._found = np.full(math.prod(self._sizes), np.nan) if math.prod(self._sizes) <= TABLE else None

    def __call__(self, rows: np.ndarray) -> np.ndarray:
        """The mean of each code, ``[n]``, given option indices ``[n, L]``."""
        if self._found is None:
            return self._computed(rows)
        places = np.ravel_multi_index(tuple(rows.T), self._sizes)
        new = np.unique(places[np.isnan(self._found[places])])
        if len(new):
            self._found[new] = self._computed(np.stack(np.unravel_index(new, self._sizes), 1))
        return self._found[places]

    @one_thread()
    def _computed(self, rows: np.ndarray) -> np.ndarray:
        mean = gaussian(self._embedding.features(rows) * self._scales, self._known) @ self._solved
        return np.round(mean, 9)  # the last digits depend on what else is computed at once


NO_SOURCES = Sources()
