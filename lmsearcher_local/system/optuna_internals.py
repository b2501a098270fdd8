"""What is used of Optuna beside its documented interface. Tested with Optuna 5.0.0.

A study hides its storage and its own id, a trial its id there; what is asked of the storage is documented. Whatever is
missing in another version raises ``AttributeError``, ``ImportError`` or ``TypeError`` at its use;
``tests/test_internals.py`` tries all of it. ``study`` is an ``optuna.Study``, ``trial`` one of its ``FrozenTrial``.
"""

from collections.abc import Container, Iterable
from copy import copy
from typing import Any

from optuna import Study
from optuna.distributions import BaseDistribution
from optuna.pruners import BasePruner
from optuna.storages import BaseStorage, JournalStorage
from optuna.trial import FrozenTrial, TrialState

CONSTRAINTS = "constraints"  # and a colon: begins the system attributes in which Optuna keeps violations
ENQUEUED = "fixed_params"  # system attribute in which Optuna keeps the values of an enqueued trial


def is_same_study(one: Study, other: Study) -> bool:
    """Whether both are one study of one storage."""
    return (one._storage, one._study_id) == (other._storage, other._study_id)


def list_trials(study: Study, numbers: Iterable[int], start: int) -> list[FrozenTrial]:
    """The trials of these numbers and all from ``start`` on. They are the storage's own: nobody changes them.

    They are all trials of the study. Hyperband shows a sampler one bracket of it only.
    """
    storage, known = study._storage, study._study_id
    if not isinstance(storage, JournalStorage):
        found = storage.get_all_trials(known, deepcopy=False)
        return [*(found[number] for number in numbers), *found[start:]]
    with storage._thread_lock:  # a listing of all would take longer the longer the study is
        storage._sync_with_backend()
        ids, trials = storage._replay_result._study_id_to_trial_ids[known], storage._replay_result._trials
        return [trials[ids[number]] for number in numbers] + [trials[one] for one in ids[start:]]


def read_trial(study: Study, trial: FrozenTrial) -> FrozenTrial:
    """The trial as the storage has it now."""
    return study._storage.get_trial(trial._trial_id)


def create_trial(study: Study, template: FrozenTrial) -> FrozenTrial:
    """Store a trial in one write.

    Not ``Study.add_trial``: in a storage that others share, the last trial of the study may be theirs.
    """
    return study._storage.get_trial(study._storage.create_new_trial(study._study_id, template_trial=template))


def begin_trial(study: Study, trial: FrozenTrial) -> bool:
    """Let a waiting trial run; ``False`` where somebody else was quicker."""
    return study._storage.set_trial_state_values(trial._trial_id, TrialState.RUNNING)


def end_trial(study: Study, trial: FrozenTrial, state: TrialState, values: list[float] | None = None) -> None:
    """Store that a trial ended; not by ``Study.tell``, which in a database looks through all trials for its number."""
    study._storage.set_trial_state_values(trial._trial_id, state, values)


def report(study: Study, trial: FrozenTrial, step: int, value: float) -> None:
    """Store what a running trial reached after a step."""
    study._storage.set_trial_intermediate_value(trial._trial_id, step, value)


def is_same_trial(one: FrozenTrial, other: FrozenTrial) -> bool:
    """Whether both are one trial of one storage, as it was at different times."""
    return one._trial_id == other._trial_id


def view_without(study: Study, mark: str, pruner: BasePruner) -> Study:
    """The study for a pruner, as if there were no trials with this user attribute and the others had been numbered
    without them. Hyperband goes by numbers, and successive halving by attributes that trials keep.

    Nor are there trials that break a constraint: one that holds all is to be compared with its like.
    """
    view = Study(study.study_name, study._storage, study.sampler, pruner)
    view._storage = _Without(study._storage, mark)  # type: ignore[assignment]
    return view


class _Without:
    """A storage without some trials; ``BaseStorage`` otherwise."""

    def __init__(self, storage: BaseStorage, mark: str) -> None:
        self._inner = storage
        self._mark = mark

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    def get_all_trials(
        self, study_id: int, deepcopy: bool = True, states: Container[TrialState] | None = None
    ) -> list[FrozenTrial]:
        trials = self._inner.get_all_trials(study_id, deepcopy=deepcopy)
        kept = [trial for trial in trials if self._mark not in trial.user_attrs]
        if len(kept) < len(trials):
            kept = [_renumber(trial, number) for number, trial in enumerate(kept)]
        kept = [trial for trial in kept if all(violation <= 0 for violation in trial.constraints.values())]
        return [trial for trial in kept if states is None or trial.state in states]


def _renumber(trial: FrozenTrial, number: int) -> FrozenTrial:
    if trial.number == number:
        return trial
    found = copy(trial)
    found.number = number
    return found


def set_parameter(study: Study, trial: FrozenTrial, name: str, option: Any, kind: BaseDistribution) -> None:
    """Store a running trial's value of a parameter."""
    study._storage.set_trial_param(trial._trial_id, name, kind.to_internal_repr(option), kind)


def set_user_attribute(study: Study, trial: FrozenTrial, name: str, value: Any) -> None:
    """Store a user attribute of a trial that has not ended."""
    study._storage.set_trial_user_attr(trial._trial_id, name, value)


def set_system_attribute(study: Study, trial: FrozenTrial, name: str, value: Any) -> None:
    """Store a system attribute of a trial that has not ended."""
    study._storage.set_trial_system_attr(trial._trial_id, name, value)


def set_constraint(study: Study, trial: FrozenTrial, name: str, violation: float) -> None:
    """Store by how much a running trial breaks a constraint, above 0, or holds it; ``trial.constraints`` reads it."""
    set_system_attribute(study, trial, f"{CONSTRAINTS}:{name}", violation)


def enqueued_values(trial: FrozenTrial) -> dict[str, Any]:
    """The values that a trial was enqueued with."""
    values: dict[str, Any] = trial.system_attrs.get(ENQUEUED, {})
    return values


def allows(kind: BaseDistribution, value: Any) -> bool:
    """Whether a distribution allows a value."""
    return kind._contains(kind.to_internal_repr(value))
