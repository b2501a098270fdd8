"""Fronts, hypervolumes and expected improvements of them, against brute force and against Optuna's."""

import numpy as np
import pytest
from optuna._hypervolume.wfg import compute_hypervolume
from optuna.study._multi_objective import _calculate_nondomination_rank
from scipy.stats import qmc

from lmsearcher_local.candidates.pareto import (
    chebyshev,
    expected_hypervolume_improvement,
    free_boxes,
    hypervolume,
    layers,
    on_front,
)


def cloud(goals: int, count: int, seed: int = 0, ties: bool = False) -> np.ndarray:
    """Points of which many are on the front."""
    rng = np.random.default_rng([goals, count, seed])
    points = rng.normal(size=(count, goals))
    points -= 0.8 * points.mean(1, keepdims=True)
    return np.round(points, 1) if ties else points


CASES = [(goals, count, ties) for goals in (2, 3) for count in (0, 1, 2, 7, 60, 200) for ties in (False, True)]


@pytest.mark.parametrize(("goals", "count", "ties"), CASES)
def test_front_layers_and_hypervolume_are_those_of_optuna(goals: int, count: int, ties: bool) -> None:
    points = cloud(goals, count, ties=ties)
    expected = _calculate_nondomination_rank(-points) if count else np.empty(0)
    assert layers(points).tolist() == expected.tolist()
    assert (on_front(points) == (expected == 0)).all()
    reference = np.full(goals, -0.7)
    inside = points[(points > reference).all(1)]
    assert hypervolume(points, reference) == pytest.approx(compute_hypervolume(-inside, -reference), abs=1e-12)


def test_layers_beyond_enough_points_share_one() -> None:
    points = cloud(2, 100)
    every, some = layers(points), layers(points, enough=30)
    last = some.max()
    assert (some == np.minimum(every, last)).all()
    assert (some < last).sum() >= 30 > (every < last - 1).sum()
    assert layers(points, enough=200).tolist() == every.tolist()


@pytest.mark.parametrize(("goals", "count", "ties"), CASES)
def test_free_boxes_are_disjoint_and_fill_what_is_not_dominated(goals: int, count: int, ties: bool) -> None:
    points, reference = cloud(goals, count, ties=ties), np.full(goals, -0.7)
    lower, upper = free_boxes(points, reference)
    assert len(lower) <= 2 * count + 1
    drawn = np.random.default_rng(1).uniform(-0.7, 3, size=(2000, goals))
    dominated = (drawn[:, None] <= points).all(2).any(1) if count else np.zeros(2000, dtype=bool)
    holding = ((drawn[:, None] > lower) & (drawn[:, None] <= upper)).all(2).sum(1)
    assert holding.tolist() == (~dominated).astype(int).tolist()


@pytest.mark.parametrize("goals", [2, 3])
def test_the_expected_improvement_is_that_of_draws(goals: int) -> None:
    points, reference = cloud(goals, 40), np.full(goals, -1.0)
    rng = np.random.default_rng(2)
    means, deviations = rng.normal(size=(6, goals)), rng.uniform(0.05, 1.0, size=(6, goals))
    found = expected_hypervolume_improvement(means, deviations, points, reference)
    before = hypervolume(points, reference)
    draws = qmc.MultivariateNormalQMC(np.zeros(goals), seed=0).random(512)
    for mean, deviation, value in zip(means, deviations, found, strict=True):
        drawn = mean + deviation * draws
        gains = [hypervolume(np.vstack([points, one]), reference) - before for one in drawn]
        assert value == pytest.approx(np.mean(gains), rel=0.05, abs=5e-3)


def test_what_is_certain_improves_by_what_it_adds() -> None:
    points, reference = cloud(3, 30), np.full(3, -2.0)
    for one in cloud(3, 5, seed=1):
        [found] = expected_hypervolume_improvement(one[None], np.full((1, 3), 1e-9), points, reference)
        gain = hypervolume(np.vstack([points, one]), reference) - hypervolume(points, reference)
        assert found == pytest.approx(gain, abs=1e-6)


@pytest.mark.parametrize(("candidate", "gain"), [((-0.2, 1.5), 0.9 / 3), ((0.5, 0.5), 0.25), ((1.5, -1.0), 0.5)])
@pytest.mark.parametrize("goals", [2, 3])
def test_beyond_a_best_value_that_many_share_less_is_expected(
    goals: int, candidate: tuple[float, float], gain: float
) -> None:
    # Above the reference three points share the 1 of the second goal; in a third goal the candidate is below all.
    points, one = np.array([[0, 1], [-0.5, 1], [-1, 1], [1, 0], [-3, 1]]), np.array([candidate])
    if goals == 3:
        points, one = np.column_stack([np.linspace(1, 0, 5), points]), np.column_stack([[-1.0], one])
    reference = np.full(goals, -2.0)
    [found] = expected_hypervolume_improvement(one, np.full((1, goals), 1e-9), points, reference)
    assert found == pytest.approx(gain, abs=1e-6)


def test_nothing_evaluated_leaves_the_whole_space_to_gain() -> None:
    [found] = expected_hypervolume_improvement(
        np.zeros((1, 2)), np.full((1, 2), 1e-9), np.empty((0, 2)), np.full(2, -3.0)
    )
    assert found == pytest.approx(9)


def test_every_point_of_the_front_is_best_for_some_weights_and_no_other_is() -> None:
    points = cloud(2, 30)
    drawn = np.random.default_rng(0).dirichlet(np.ones(2), size=3000)
    best = {int(np.argmax(chebyshev(points, weights))) for weights in drawn}
    front = set(np.flatnonzero(on_front(points)).tolist())
    assert best <= front
    assert len(best) >= 0.8 * len(front)
