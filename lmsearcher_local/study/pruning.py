"""Early stopping: which of Optuna's pruners decides, and how it hears of the steps of a trial."""

import copy
import inspect
import json
import math
import warnings
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Executor, ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from threading import Lock
from typing import Any

from optuna import Study
from optuna.exceptions import ExperimentalWarning, StorageInternalError, UpdateFinishedTrialError
from optuna.pruners import BasePruner, HyperbandPruner, MedianPruner, PatientPruner, SuccessiveHalvingPruner
from optuna.trial import FrozenTrial, TrialState

from lmsearcher_local.errors import SearchStopped, StudyError
from lmsearcher_local.search.groups import KILLED
from lmsearcher_local.study.channel import listen
from lmsearcher_local.study.objectives.base import Watch, describe_error
from lmsearcher_local.system import optuna_internals as internals

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
        return _make_pruner(name, given)
    wrapped = given.pop(WRAPPED, "median")
    if wrapped not in PRUNERS or wrapped == name:
        others = ", ".join(other for other in PRUNERS if other != name)
        raise StudyError(f"pruner {name}: no pruner {wrapped!r} can be wrapped; allowed: {others}")
    own: dict[str, str] = {key: given.pop(key) for key in ("patience", "min_delta") if key in given}
    if "patience" not in own:
        raise StudyError("pruner patient needs how many steps: patient:patience=3")
    return _make_pruner(name, own, _make_pruner(wrapped, given))


def _make_pruner(name: str, given: Mapping[str, str], *inner: BasePruner) -> BasePruner:
    allowed = [*inspect.signature(PRUNERS[name]).parameters.values()][len(inner) :]
    kinds = {one.name: str(one.annotation) for one in allowed}
    settings = {setting: _parse_setting(name, setting, value, kinds) for setting, value in given.items()}
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


def _parse_setting(name: str, setting: str, value: str, kinds: Mapping[str, str]) -> Any:
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
        self._study = study
        self._pruner = copy.deepcopy(pruner)
        self._seen = internals.view_without(study, KILLED, self._pruner)
        self._trials: dict[int, FrozenTrial] = {}  # by number
        self._lock = Lock()  # a pruner is for one thread at a time
        self._broken: Exception | None = None

    def add(self, trial: FrozenTrial) -> int:
        """Expect reports of a trial, under its number."""
        self._trials[trial.number] = trial
        return trial.number

    def watch(self, trial: FrozenTrial) -> Watch:
        """What a trial of this process reports to."""
        return partial(self.judge, self.add(trial))

    def judge(self, number: int, step: int, value: float) -> bool:
        """Store a step of the trial of this number; whether the trial is to stop. All are once something fails."""
        with self._lock:
            if self._broken or number not in self._trials:
                return True
            trial = self._trials[number]
            try:
                internals.report(self._study, trial, step, value)
                [seen] = [one for one in self._seen.get_trials(deepcopy=False) if internals.is_same_trial(one, trial)]
                return bool(self._pruner.prune(self._seen, seen))
            except UpdateFinishedTrialError:  # the search has given it up
                return True
            except Exception as error:  # the disk's, or those of a pruner that the user wrote
                self._broken = error
                return True

    def check(self) -> None:
        """Raise what a disk without room raised, or ``SearchStopped`` where the pruner failed."""
        if isinstance(self._broken, (OSError, StorageInternalError)):
            raise self._broken
        if self._broken:
            raise SearchStopped(
                f"the pruner {type(self._pruner).__name__} failed: {describe_error(self._broken)}; mend it, then resume"
                " the study"
            ) from self._broken


@contextmanager
def watch_trials(
    study: Study, pruner: BasePruner | None, executor: Executor | None
) -> Iterator[tuple[Callable[[FrozenTrial], Watch | None], Callable[[], None]]]:
    """What a trial reports to where it is evaluated, if there is a pruner; and what says that something failed.

    Args:
        executor: where trials are evaluated, if not by threads of this process.
    """
    if pruner is None:
        yield lambda trial: None, lambda: None
        return
    judge = Judge(study, pruner)
    if executor is None:
        yield judge.watch, judge.check
        return
    with listen(judge.judge, here=isinstance(executor, (ThreadPoolExecutor, ProcessPoolExecutor))) as watch_of:
        yield lambda trial: watch_of(judge.add(trial)), judge.check


def end_early(study: Study, trial: FrozenTrial) -> bool:
    """Store that a trial was stopped, with the last value that it reported, as Optuna does; not one without any."""
    known = internals.read_trial(study, trial).intermediate_values
    if not known:
        return False
    last = known[max(known)]
    internals.end_trial(study, trial, TrialState.PRUNED, [last] if math.isfinite(last) else None)
    return True
