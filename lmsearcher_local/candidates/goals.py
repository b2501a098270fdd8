"""Several goals: a Gaussian process for each, pools by what they let expect of the front, one score to show the model.

The unit of each goal is its process's, normal scores of ranks, so the scales of the values say nothing.

Notation: ``n`` trials, ``M`` goals. Scores ``[n, M]`` are higher better in every goal.
"""

from collections.abc import Sequence
from functools import cached_property

import numpy as np
from scipy.stats import rankdata

from lmsearcher_local.candidates.history import HISTORY_CAP, History, normal_scores
from lmsearcher_local.candidates.kernel import fit_kernel
from lmsearcher_local.candidates.limits import Holding, Points, breaks_limits, excess, rank_scores
from lmsearcher_local.candidates.pareto import chebyshev, expected_hypervolume_improvement, layers
from lmsearcher_local.candidates.pools import Pool
from lmsearcher_local.candidates.surrogate import Appraisal, Fit, Surrogate, impute_pending
from lmsearcher_local.spaces.space import SearchSpace

BELOW = 0.5  # how far below the lowest score of each goal the hypervolume begins: its best ones count, too
DRAWN = 16  # weights, of which those are taken under which the pool's order is most like that of the front's gain


class GoalsSurrogate(Surrogate):
    """What trials of several goals say about codes: the surrogate of one weighed score, whose improvements are those
    of the front.

    The score is the Chebyshev one of all goals (``pareto.chebyshev``), and its kernel lies between theirs. An
    improvement is the expected one of the hypervolume, times the chance that the code holds all limits.

    Args:
        weights: of the goals in the score, ``[M]``; equal ones by default.
        fit: fits the kernel of one goal or limit.
    """

    def __init__(
        self, space: SearchSpace, points: Points, fit: Fit = fit_kernel, weights: np.ndarray | None = None
    ) -> None:
        codes, scores, violations = points
        self.points = points
        self.weights = np.ones(scores.shape[1]) / scores.shape[1] if weights is None else weights
        self.holds = ~breaks_limits(violations)
        self._fit_one = fit
        score = rank_scores(chebyshev(_normal(scores), self.weights), violations)
        super().__init__(space, History(codes, tuple(score.tolist())), self._blend)

    def weighed(self, weights: np.ndarray) -> "GoalsSurrogate":
        """The same trials under other weights."""
        found = GoalsSurrogate(self.space, self.points, self._fit_one, weights)
        found.goals, found.holding = self.goals, self.holding
        return found

    def with_pending(self, pending: Sequence[str]) -> "GoalsSurrogate":
        """The same, where codes under evaluation count with what the processes expect of them."""
        if not pending or not len(self.history):
            return self
        columns = [impute_pending(goal, pending) for goal in self.goals]
        scores = np.array([column.scores for column in columns]).T
        expected = self.holding.expected(pending) if self.points.violations.shape[1] else np.empty((len(pending), 0))
        violations = np.concatenate([self.points.violations, expected])
        return GoalsSurrogate(self.space, Points(columns[0].codes, scores, violations), self._fit_one, self.weights)

    def parents(self, n: int, rng: np.random.Generator) -> Sequence[str]:
        """Codes of the front, drawn, and where it has fewer than ``n`` of the layers behind it."""
        order = np.lexsort((rng.random(len(self.history)), standing(self.points, n)))
        return [self.history.codes[i] for i in order[:n]]

    def appraise(self, codes: Sequence[str] | np.ndarray) -> Appraisal:
        """Mean and deviation of each code's weighed score, and its improvement."""
        means, deviations = self.posterior(codes)
        return Appraisal(means, deviations, self.improvements(codes))

    def improvements(self, codes: Sequence[str] | np.ndarray) -> np.ndarray:
        """By how much each code is expected to raise the hypervolume, float64 ``[len(codes)]``."""
        rows = codes if isinstance(codes, np.ndarray) else self.space.array(codes)
        means, deviations = self.expected(rows)
        front, reference = self._targets[self.holds[self._modelled]], self._targets.min(0, initial=0) - BELOW
        return self.holding.chances(rows) * expected_hypervolume_improvement(means, deviations, front, reference)

    def expected(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Means and deviations of every goal, both float64 ``[len(rows), M]``."""
        found = [goal.posterior(rows) for goal in self.goals]
        return np.stack([mean for mean, _ in found], 1), np.stack([deviation for _, deviation in found], 1)

    @cached_property
    def goals(self) -> list[Surrogate]:
        """The process of each goal; all of them see the same trials."""
        found = [
            Surrogate(self.space, History(self.history.codes, tuple(column)), self._fit_one)
            for column in self.points.scores.T.tolist()
        ]
        for goal in found:
            goal.kept = self._modelled
        return found

    @cached_property
    def holding(self) -> Holding:
        """How probable codes are to hold the limits."""
        return Holding(self.space, self.history.codes, self.points.violations, self._modelled, self._fit_one)

    @cached_property
    def _modelled(self) -> list[int]:
        """Which trials the processes see: all, or over ``HISTORY_CAP`` the outer layers' and the latest ones."""
        n = len(self.history)
        if n <= HISTORY_CAP:
            return list(range(n))
        half = HISTORY_CAP // 2
        outer = np.argsort(standing(self.points, half), kind="stable")[:half]
        kept = set(outer.tolist())
        latest = [i for i in reversed(range(n)) if i not in kept]
        return sorted({*kept, *latest[: HISTORY_CAP - len(kept)]})

    @cached_property
    def _targets(self) -> np.ndarray:
        """Scores of the trials modelled, in the unit of the processes."""
        points = _normal(self.points.scores[self._modelled])
        return np.asarray(points - points.mean(0)) if len(points) else points

    def _blend(self, space: SearchSpace, history: History) -> np.ndarray:
        """The kernel of the weighed score: the mean of the goals' kernels, by weight."""
        columns = self.points.scores[: len(history)].T.tolist()
        fitted = [self._fit_one(space, History(history.codes, tuple(column))) for column in columns]
        return np.asarray(self.weights @ np.array(fitted))


def reweigh(pool: Pool, rng: np.random.Generator) -> Pool:
    """The pool as the model sees it: with several goals, its surrogate is that of weights drawn for it.

    Of ``DRAWN`` weights those are taken under which the scores expected of the candidates are in an order most like
    that of their improvements.
    """
    surrogate = pool.surrogate
    if not isinstance(surrogate, GoalsSurrogate) or len(pool) < 2 or not len(surrogate.history):
        return pool
    drawn = rng.dirichlet(np.ones(len(surrogate.goals)), size=DRAWN)
    means, _ = surrogate.expected(surrogate.space.array(pool.codes))
    best = surrogate._targets.max(0)
    gains = rankdata(pool.improvements)
    apart = [((rankdata(chebyshev(means, weights, best)) - gains) ** 2).sum() for weights in drawn]
    weighed = surrogate.weighed(drawn[int(np.argmin(apart))])
    improvements = pool.improvements
    return Pool(pool.codes, weighed, lambda: Appraisal(*weighed.posterior(pool.codes), improvements))


def standing(points: Points, enough: int | None = None) -> np.ndarray:
    """Where each trial stands, float64 ``[n]``: the number of its layer, 0 on the front, until ``enough`` have one.

    Those that break limits stand behind all others, in order of how much.
    """
    bad = breaks_limits(points.violations)
    found = np.zeros(len(bad))
    found[~bad] = layers(points.scores[~bad], enough)
    found[bad] = len(bad) + rankdata(excess(points.violations)[bad])
    return found


def select_essential(points: Points) -> Points:
    """The trials that count, at most three times ``HISTORY_CAP``, in order of evaluation: the first ones, to which
    kernels are fitted, those that stand best, and the latest ones."""
    n = len(points.codes)
    if n <= 2 * HISTORY_CAP:
        return points
    best = np.argsort(standing(points, HISTORY_CAP), kind="stable")[:HISTORY_CAP].tolist()
    kept = sorted({*range(HISTORY_CAP), *best, *range(n - HISTORY_CAP, n)})
    return Points(tuple(points.codes[i] for i in kept), points.scores[kept], points.violations[kept])


def _normal(scores: np.ndarray) -> np.ndarray:
    """Normal scores of ranks, each goal by itself."""
    if not len(scores):
        return scores
    return np.stack([normal_scores(column, len(column)) for column in scores.T], 1)
