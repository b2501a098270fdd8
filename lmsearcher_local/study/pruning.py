"""Early stopping: which of Optuna's pruners decides, and how it hears of the steps of a trial."""

import copy
import inspect
import json
import math
import warnings
from collections.abc import Callable, Container, Mapping
from threading import Lock
from typing import Any

from optuna import Study
from optuna.exceptions import ExperimentalWarning, StorageInternalError, UpdateFinishedTrialError
from optuna.pruners import BasePruner, HyperbandPruner, MedianPruner, PatientPruner, SuccessiveHalvingPruner
from optuna.trial import FrozenTrial, TrialState

from lmsearcher_local.errors import SearchStopped, StudyError
from lmsearcher_local.search.groups import KILLED
from lmsearcher_local.study.objectives.base import Watch, describe_error

PRUNERS: dict[str, Callable[..., BasePruner]] = {
    "median": MedianPruner,
    "hyperband": HyperbandPruner,
    "successive-halving": SuccessiveHalvingPruner,
    "patient": PatientPruner,
}
WRAPPED = "wrapped"  # setting of the patient pruner: the name of the one that decides once patience has ended


def parse_pruner(text: str) -> BasePruner:
    """The pruner that ``NAME`` or ``NAME:SETTING=VALUE,SETTING=VALUE`` writes; settings are called as in Optuna.

    ``patient:patience=3,wrapped=median`` has those of the wrapped pruner as well; by default that is the median one.

    Raises:
        StudyError: there is no such pruner or setting, or a value is not allowed.
    """
    name, _, rest = text.partition(":")
    if name not in PRUNERS:
        raise StudyError(f"there is no pruner {name!r}; allowed: {', '.join(PRUNERS)}")
    given: dict[str, str] = {}
    for part in rest.split(",") if rest else ():
        setting, equals, value = (piece.strip() for piece in part.partition("="))
        if not equals or setting in given:
            raise StudyError(f"pruner {name}: settings are written NAME=VALUE, each once, with commas, not {rest!r}")
        given[setting] = value
    if name != "patient":
        return _made(name, given)
    wrapped = given.pop(WRAPPED, "median")
    if wrapped not in PRUNERS or wrapped == name:
        others = ", ".join(other for other in PRUNERS if other != name)
        raise StudyError(f"pruner {name}: no pruner {wrapped!r} can be wrapped; allowed: {others}")
    own: dict[str, str] = {key: given.pop(key) for key in ("patience", "min_delta") if key in given}
    if "patience" not in own:
        raise StudyError("pruner patient needs how many steps: patient:patience=3")
    return _made(name, own, _made(wrapped, given))


def _made(name: str, given: Mapping[str, str], *inner: BasePruner) -> BasePruner:
    allowed = [*inspect.signature(PRUNERS[name]).parameters.values()][len(inner) :]
    kinds = {one.name: str(one.annotation) for one in allowed}
    settings = {setting: _value(name, setting, value, kinds) for setting, value in given.items()}
    try:
        if name == "hyperband":  # which looks at its settings when a trial reports
            SuccessiveHalvingPruner(**{key: value for key, value in settings.items() if key != "max_resource"})
            most, least = settings.get("max_resource", "auto"), settings.get("min_resource", 1)
            if most != "auto" and most < least:
                raise ValueError(f"max_resource is at least min_resource, {least}, not {most}")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ExperimentalWarning)  # of the patient one, since years
            return PRUNERS[name](*inner, **settings)
    except ValueError as error:
        raise StudyError(f"pruner {name}: {' '.join(str(error).split())}") from error


def _value(name: str, setting: str, value: str, kinds: Mapping[str, str]) -> Any:
    """A setting's value, of the kind that Optuna's signature names: ``int``, ``float`` or ``str | int``."""
    if setting not in kinds:
        raise StudyError(f"pruner {name} has no setting {setting!r}; allowed: {', '.join(kinds)}")
    if value == "auto" and "str" in kinds[setting]:
        return value
    try:
        number: float = float(value) if kinds[setting] == "float" else int(value)
    except ValueError:
        number = math.nan
    if math.isfinite(number):
        return number
    what = "a number" if kinds[setting] == "float" else "a whole number"
    what += " or auto" if "str" in kinds[setting] else ""
    raise StudyError(f"pruner {name}: {setting} is {what}, not {value!r}")


def describe_pruner(pruner: BasePruner | None) -> str | None:
    """A pruner in words, by which a resume tells it from another; of one that has not been used yet."""
    if pruner is None:
        return None
    parts = {key.strip("_"): value for key, value in sorted(vars(pruner).items())}
    plain = {
        key: describe_pruner(value) if isinstance(value, BasePruner) else value
        for key, value in parts.items()
        if isinstance(value, (bool, int, float, str, BasePruner))
    }
    return f"{type(pruner).__name__} {json.dumps(plain)}"


class Judge:
    """Stores what trials report, from any thread, and asks the pruner whether they are to stop.

    The pruner sees the study as if no process had been killed: such trials are not there, and numbers have no gaps. A
    search that goes on after a kill then stops the same trials as one that was never interrupted.

    Args:
        pruner: it may keep what it estimates, so a copy is used.
    """

    def __init__(self, study: Study, pruner: BasePruner) -> None:
        self._storage = study._storage
        self._pruner = copy.deepcopy(pruner)
        self._seen = Study(study.study_name, study._storage, study.sampler, self._pruner)
        self._seen._storage = Counting(study._storage)  # type: ignore[assignment]
        self._lock = Lock()  # a pruner is for one thread at a time
        self._broken: Exception | None = None

    def watch(self, trial: FrozenTrial) -> Watch:
        """What a trial reports to."""
        return lambda step, value: self.judge(trial._trial_id, step, value)

    def judge(self, trial: int, step: int, value: float) -> bool:
        """Store a step of the trial with this id; whether the trial is to stop. All are once something fails."""
        with self._lock:
            if self._broken:
                return True
            try:
                self._storage.set_trial_intermediate_value(trial, step, value)
                [frozen] = [one for one in self._seen.get_trials(deepcopy=False) if one._trial_id == trial]
                return bool(self._pruner.prune(self._seen, frozen))
            except UpdateFinishedTrialError:  # the search has given it up
                return True
            except Exception as error:  # the disk's, or those of a pruner that the user wrote
                self._broken = error
                return True

    def check(self) -> None:
        """Say what failed, where something did.

        Raises:
            OSError, StorageInternalError: what was reported cannot be stored.
            SearchStopped: the pruner raised an error.
        """
        if isinstance(self._broken, (OSError, StorageInternalError)):
            raise self._broken
        if self._broken:
            raise SearchStopped(
                f"the pruner {type(self._pruner).__name__} failed: {describe_error(self._broken)}; mend it, then resume"
                " the study"
            ) from self._broken


class Counting:
    """A storage in which trials that a kill ended are not there, and the others have numbers without gaps."""

    def __init__(self, storage: Any) -> None:
        self._inner = storage

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    def get_all_trials(
        self, study_id: int, deepcopy: bool = True, states: Container[TrialState] | None = None
    ) -> list[FrozenTrial]:
        """The trials that count."""
        trials = self._inner.get_all_trials(study_id, deepcopy=deepcopy)
        kept = [trial for trial in trials if KILLED not in trial.user_attrs]
        if len(kept) < len(trials):
            kept = [_numbered(trial, number) for number, trial in enumerate(kept)]
        return [trial for trial in kept if states is None or trial.state in states]


def _numbered(trial: FrozenTrial, number: int) -> FrozenTrial:
    if trial.number == number:
        return trial
    found = copy.copy(trial)
    found.number = number
    return found
