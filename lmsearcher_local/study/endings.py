"""How a trial's end is stored: with a value, by how much it breaks each limit and what was measured, or as failed."""

import optuna
from optuna.trial import FrozenTrial, TrialState

from lmsearcher_local.candidates.measures import judge
from lmsearcher_local.errors import MeasureError
from lmsearcher_local.search.options import SearchOptions
from lmsearcher_local.study.objectives.base import Measured
from lmsearcher_local.study.results import MEASURED, REASON
from lmsearcher_local.system import optuna_internals as internals


def complete(study: optuna.Study, trial: FrozenTrial, measured: Measured, options: SearchOptions) -> None:
    """Store what was measured; a trial that lacks what a goal or a limit names has failed."""
    try:
        values, violations = judge(measured, options.goals, options.limits)
    except MeasureError as error:
        return fail(study, trial, REASON, str(error))
    for limit, violation in zip(options.limits, violations, strict=True):
        internals.set_constraint(study, trial, str(limit), violation)
    if isinstance(measured, dict):
        internals.set_user_attribute(study, trial, MEASURED, measured)
    internals.end_trial(study, trial, TrialState.COMPLETE, [*values])


def fail(study: optuna.Study, trial: FrozenTrial, attribute: str, value: str | bool) -> None:
    """Store that a trial has no value, and why."""
    internals.set_user_attribute(study, trial, attribute, value)
    internals.end_trial(study, trial, TrialState.FAIL)
