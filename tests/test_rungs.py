"""The value of a trial that was stopped early: what its last step supports."""

import math

import numpy as np
import optuna
import pytest
from optuna.pruners import BasePruner, HyperbandPruner, MedianPruner
from optuna.trial import TrialState
from scipy.stats import spearmanr

from lmsearcher_local.candidates.rungs import Curve, supported_values


def whole(*values: float) -> Curve:
    return Curve(dict(enumerate(values, 1)), values[-1])


def stopped(*values: float) -> Curve:
    return Curve(dict(enumerate(values, 1)), None)


def test_the_rank_at_the_same_step_decides() -> None:
    curves = [whole(1, 5, 10), whole(2, 7, 20), whole(3, 8, 40), stopped(2), stopped(1, 6), stopped(2.5)]
    found = supported_values(curves)
    assert found[:3] == [10, 20, 40]
    assert found[4] == 15  # half between 5 and 7 at its step
    # At step 1 the later stopped one counts, too: 1, 1, 2, 3 end at 10, 15, 20, 40.
    assert found[3] == 20
    assert found[5] == 30


def test_outside_of_all_others_the_distance_stays() -> None:
    assert supported_values([whole(4, 10), whole(6, 20), stopped(1), stopped(9)]) == [10, 20, 7, 23]


def test_equal_values_share_a_rank() -> None:
    assert supported_values([whole(4, 10), whole(4, 20), whole(5, 30), stopped(4)])[-1] == 15


def test_steps_that_others_do_not_have() -> None:
    sparse = [Curve({2: 1.0, 10: 4.0}, 4.0), Curve({2: 2.0, 10: 8.0}, 8.0)]
    assert supported_values([*sparse, stopped(0, 1.5, 9.0)])[-1] == 6  # decided at step 2
    assert supported_values([*sparse, Curve({7: 3.0}, None)])[-1] == 3  # no common step: as it is


def test_without_others_the_last_value_counts() -> None:
    assert supported_values([stopped(1, 2), stopped(3)]) == [2, 4]  # the later one is 2 above the other at step 1


def test_what_is_not_finite_is_the_worst() -> None:
    nan = math.nan
    assert supported_values([whole(4, 10), whole(6, 20), stopped(nan), stopped(5, nan)])[2:] == [10, 10]
    assert supported_values([stopped(nan), Curve({}, None)]) == [None, None]
    assert supported_values([Curve({1: nan, 2: 6.0}, 6.0), whole(4, 10), stopped(4)])[-1] == 10


@pytest.mark.parametrize("pruner", [MedianPruner(), HyperbandPruner(min_resource=1, max_resource=27)])
def test_it_is_nearer_to_the_final_values_than_the_last_ones_are(pruner: BasePruner) -> None:
    """Curves that climb at different speeds, stopped by Optuna."""
    study = optuna.create_study(direction="maximize", pruner=pruner, study_name="rungs")
    rng, steps, told, truth = np.random.default_rng(0), np.arange(1, 28), [], []
    for final, speed in zip(rng.normal(0.8, 0.1, 60), rng.uniform(2, 8, 60), strict=True):
        trial = study.ask()
        curve = final * (1 - np.exp(-steps / speed)) + rng.normal(0, 0.005, 27)
        told.append(Curve(_reported(study, trial, dict(zip(steps.tolist(), curve.tolist(), strict=True))), None))
        if len(told[-1].steps) == 27:
            told[-1] = Curve(told[-1].steps, curve[-1])
        truth.append(curve[-1])
    stopped_ones = np.array([curve.final is None for curve in told])
    ours = np.array(supported_values(told), float)
    last = np.array([[*curve.steps.values()][-1] for curve in told])
    assert stopped_ones.sum() > 30
    assert np.abs(ours - truth)[stopped_ones].mean() < np.abs(last - truth)[stopped_ones].mean() / 3
    assert spearmanr(ours, truth).statistic > spearmanr(last, truth).statistic


def _reported(study: optuna.Study, trial: optuna.Trial, curve: dict[int, float]) -> dict[int, float]:
    """What of the curve was reported until the trial ended."""
    for step, value in curve.items():
        trial.report(value, step)
        if trial.should_prune():
            study.tell(trial, state=TrialState.PRUNED)
            return {other: value for other, value in curve.items() if other <= step}
    study.tell(trial, curve[27])
    return curve
