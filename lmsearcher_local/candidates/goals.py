"""Several goals: a Gaussian process for each, pools by what they let expect of the front, one score to show the model.

The unit of each goal is its process's, normal scores of ranks, so the scales of the values say nothing.

Notation: ``n`` trials, ``M`` goals. Scores ``[n, M]`` are higher better in every goal.
"""

from collections.abc import Callable, Sequence
from functools import cached_property

import numpy as np
from scipy.stats import rankdata

from lmsearcher_local.candidates.history import HISTORY_CAP, History, normal_scores
from lmsearcher_local.candidates.kernel import fit_kernel
from lmsearcher_local.candidates.pareto import chebyshev, expected_hypervolume_improvement, layers
from lmsearcher_local.candidates.pools import Pool
from lmsearcher_local.candidates.surrogate import Appraisal, Fit, Surrogate, impute_pending
from lmsearcher_local.spaces.space import SearchSpace

BELOW = 0.5  # how far below the lowest score of each goal the hypervolume begins: its best ones count, too
DRAWN = 16  # weights, of which those are taken under which the pool's order is most like that of the front's gain

Chances = Callable[[np.ndarray], np.ndarray]
"""How probably each code holds all limits, ``[k]``, of option indices ``[k, positions]``."""


class GoalsSurrogate(Surrogate):
    """What trials of several goals say about codes: the surrogate of one weighed score, whose improvements are those
    of the front.

    The score is the Chebyshev one of all goals (``pareto.chebyshev``), and its kernel lies between theirs. An
    improvement is the expected one of the hypervolume, times the chance that the code holds all limits.

    Args:
        codes: of the trials, in order of evaluation.
        scores: float64 ``[n, M]``.
        weights: of the goals in the score, ``[M]``; equal ones by default.
        fit: fits the kernel of one goal.
        holds: which trials hold all limits, bool ``[n]``; only they make the front.
        chances: of other codes to hold them.
    """

    def __init__(
        self,
        space: SearchSpace,
        codes: Sequence[str],
        scores: np.ndarray,
        weights: np.ndarray | None = None,
        fit: Fit = fit_kernel,
        holds: np.ndarray | None = None,
        chances: Chances | None = None,
    ) -> None:
        self.scores = scores
        self.weights = np.ones(scores.shape[1]) / scores.shape[1] if weights is None else weights
        self.holds = np.ones(len(scores), dtype=bool) if holds is None else holds
        self.chances = chances
        self._fit_one = fit
        shown = History(tuple(codes), tuple(chebyshev(_normal(scores), self.weights).tolist()))
        super().__init__(space, shown, self._blend)

    def weighed(self, weights: np.ndarray) -> "GoalsSurrogate":
        """The same trials under other weights."""
        found = GoalsSurrogate(
            self.space, self.history.codes, self.scores, weights, self._fit_one, self.holds, self.chances
        )
        found.goals = self.goals
        return found

    def with_pending(self, pending: Sequence[str]) -> "GoalsSurrogate":
        """The same, where codes under evaluation count with what the goals' processes expect of them."""
        if not pending or not len(self.scores):
            return self
        columns = [impute_pending(goal, pending) for goal in self.goals]
        scores = np.array([column.scores for column in columns]).T
        holds = np.append(self.holds, np.ones(len(pending), dtype=bool))
        return GoalsSurrogate(self.space, columns[0].codes, scores, self.weights, self._fit_one, holds, self.chances)

    def parents(self, n: int, rng: np.random.Generator) -> Sequence[str]:
        """Codes of the front, drawn, and where it has fewer than ``n`` of the layers behind it."""
        ranks = np.where(self.holds, layers(self.scores, n), len(self.scores))
        order = np.lexsort((rng.random(len(ranks)), ranks))
        return [self.history.codes[i] for i in order[:n]]

    def appraise(self, codes: Sequence[str] | np.ndarray) -> Appraisal:
        """Mean and deviation of each code's weighed score, and its improvement."""
        means, deviations = self.posterior(codes)
        return Appraisal(means, deviations, self.improvements(codes))

    def improvements(self, codes: Sequence[str] | np.ndarray) -> np.ndarray:
        """By how much each code is expected to raise the hypervolume, float64 ``[len(codes)]``."""
        rows = codes if isinstance(codes, np.ndarray) else self.space.array(codes)
        means, deviations = self.expected(rows)
        front = self._points[self.holds[self._modelled]]
        gains = expected_hypervolume_improvement(means, deviations, front, self._points.min(0, initial=0) - BELOW)
        return gains if self.chances is None else gains * self.chances(rows)

    def expected(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Means and deviations of every goal, both float64 ``[len(rows), M]``."""
        found = [goal.posterior(rows) for goal in self.goals]
        return np.stack([mean for mean, _ in found], 1), np.stack([deviation for _, deviation in found], 1)

    @cached_property
    def goals(self) -> list[Surrogate]:
        """The process of each goal; all of them see the same trials."""
        found = [
            Surrogate(self.space, History(self.history.codes, tuple(column)), self._fit_one)
            for column in self.scores.T.tolist()
        ]
        for goal in found:
            goal.kept = self._modelled
        return found

    @cached_property
    def _modelled(self) -> list[int]:
        """Which trials the processes see: all, or over ``HISTORY_CAP`` the outer layers' and the latest ones."""
        n = len(self.scores)
        if n <= HISTORY_CAP:
            return list(range(n))
        half = HISTORY_CAP // 2
        outer = np.argsort(np.where(self.holds, layers(self.scores, half), n), kind="stable")[:half]
        kept = set(outer.tolist())
        latest = [i for i in reversed(range(n)) if i not in kept]
        return sorted({*kept, *latest[: HISTORY_CAP - len(kept)]})

    @cached_property
    def _points(self) -> np.ndarray:
        """Scores of the trials modelled, in the unit of the processes."""
        points = _normal(self.scores[self._modelled])
        return np.asarray(points - points.mean(0)) if len(points) else points

    def _blend(self, space: SearchSpace, history: History) -> np.ndarray:
        """The kernel of the weighed score: the mean of the goals' kernels, by weight."""
        columns = self.scores[: len(history)].T.tolist()
        fitted = [self._fit_one(space, History(history.codes, tuple(column))) for column in columns]
        return np.asarray(self.weights @ np.array(fitted))


def shown(pool: Pool, rng: np.random.Generator) -> Pool:
    """The pool as the model sees it: with several goals, its surrogate is that of weights drawn for it.

    Of ``DRAWN`` weights those are taken under which the scores expected of the candidates are in an order most like
    that of their improvements.
    """
    surrogate = pool.surrogate
    if not isinstance(surrogate, GoalsSurrogate) or len(pool) < 2 or not len(surrogate.scores):
        return pool
    drawn = rng.dirichlet(np.ones(len(surrogate.goals)), size=DRAWN)
    means, _ = surrogate.expected(surrogate.space.array(pool.codes))
    best = surrogate._points.max(0)
    gains = rankdata(pool.improvements)
    agreements = [np.corrcoef(rankdata(chebyshev(means, weights, best)), gains)[0, 1] for weights in drawn]
    weighed = surrogate.weighed(drawn[int(np.nanargmax([-2.0, *agreements])) - 1])
    improvements = pool.improvements
    return Pool(pool.codes, weighed, lambda: Appraisal(*weighed.posterior(pool.codes), improvements))


def essential(scores: np.ndarray) -> list[int]:
    """Which of the trials ``[n, M]`` count, at most three times ``HISTORY_CAP``, in their order: the first ones,
    to which kernels are fitted, those of the outer layers, and the latest ones."""
    n = len(scores)
    if n <= 2 * HISTORY_CAP:
        return list(range(n))
    outer = np.argsort(layers(scores, HISTORY_CAP), kind="stable")[:HISTORY_CAP].tolist()
    return sorted({*range(HISTORY_CAP), *outer, *range(n - HISTORY_CAP, n)})


def _normal(scores: np.ndarray) -> np.ndarray:
    """Normal scores of ranks, each goal by itself."""
    if not len(scores):
        return scores
    return np.stack([normal_scores(column, len(column)) for column in scores.T], 1)
