"""Runs a search and keeps it: an Optuna storage that survives a kill, and its results as files."""

import fcntl
import hashlib
import json
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import takewhile
from pathlib import Path
from typing import Any

import optuna
from optuna.storages import BaseStorage, JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial, TrialState, create_trial

from lmsearcher_local.calibration import RANKING, Choice
from lmsearcher_local.errors import SpaceExhausted, StudyError
from lmsearcher_local.files import RESULTS, write_history
from lmsearcher_local.objective import Function, FunctionObjective, Objective, ObjectiveFailed
from lmsearcher_local.optuna import KILLED, LMSearcherSampler, distributions
from lmsearcher_local.provenance import provenance
from lmsearcher_local.ranking import Ranker
from lmsearcher_local.results import write_results
from lmsearcher_local.searcher import INITIAL, Direction
from lmsearcher_local.space import SearchSpace
from lmsearcher_local.stored import JOURNAL

TABLE = "results.csv"
PLAN = "lmsearcher"  # study user attribute: what was searched, and how
RUNS = "lmsearcher runs"  # study user attribute: versions, device and tokens of each run
REASON = "reason"  # trial user attribute: why there is no value
WARM = "warm start"  # trial user attribute: the value was given, not evaluated

Values = Sequence[tuple[str, float]]


@dataclass(frozen=True, slots=True)
class Plan:
    """Everything that a search's trajectory depends on. A study is resumed with an equal plan or not at all.

    ``objective`` and ``checkpoint`` are names: the objective's, and the checkpoint's identity.
    """

    space: SearchSpace
    objective: str
    checkpoint: str = ""
    direction: Direction = "maximize"
    seed: int = 0
    policy: str = "surrogate"
    pool_size: int = 10
    warm_start: Values = ()

    def describe(self) -> dict[str, Any]:
        """The plan as the storage keeps it."""
        return {
            "space": [[name, options] for name, options in self.space.describe().items()],
            "objective": self.objective,
            "checkpoint": self.checkpoint,
            "direction": self.direction,
            "seed": self.seed,
            "policy": self.policy,
            "pool_size": self.pool_size,
            "warm_start": hashlib.sha256(json.dumps(list(self.warm_start)).encode()).hexdigest()[:16],
        }


@dataclass(frozen=True, slots=True)
class Trial:
    """One evaluation; a failed one has a reason instead of a value."""

    code: str
    value: float | None
    reason: str | None
    given: bool  # by a warm start


@dataclass(frozen=True, slots=True)
class Result:
    """A search so far: its trials in order, and whether the space is used up."""

    space: SearchSpace
    direction: Direction
    trials: tuple[Trial, ...]
    exhausted: bool = False

    @property
    def evaluated(self) -> int:
        """The number of trials that were not given by a warm start."""
        return sum(not trial.given for trial in self.trials)

    @property
    def best(self) -> tuple[str, float] | None:
        """The best code and its value; nothing where no trial has a value."""
        better = max if self.direction == "maximize" else min
        values = [(trial.code, trial.value) for trial in self.trials if trial.value is not None]
        return better(values, key=lambda item: item[1], default=None)

    @property
    def random(self) -> int:
        """How many trials, from the first, were drawn at random or given: the model was not asked yet."""
        seen = list(takewhile(lambda trial: trial.value is None, self.trials))
        return min(max(INITIAL, len(seen) + 1, sum(trial.given for trial in self.trials)), len(self.trials))


class Search:
    """A study that is open, checked and locked; nothing is written to it before ``run``. See ``open_search``."""

    def __init__(self, plan: Plan, out: Path, storage: str | None, study: optuna.Study | None) -> None:
        self._plan = plan
        self._out = out
        self._storage = storage
        self._study = study

    def run(
        self,
        objective: Objective,
        ranker: Ranker,
        trials: int,
        on_trial: Callable[[Result], None] | None = None,
    ) -> Result:
        """Search until ``trials`` configurations are evaluated, those of earlier runs included.

        Args:
            on_trial: called with the result so far at the start and after every trial.

        Raises:
            PromptError: the space does not fit the checkpoint.
            EngineError: the model cannot answer. The study can be resumed.
        """
        plan = self._plan
        sampler = LMSearcherSampler(
            ranker, space=plan.space, seed=plan.seed, policy=plan.policy, pool_size=plan.pool_size
        )  # before the study exists: it may refuse
        study = self._started()
        wanted = distributions(plan.space)
        result = self._keep(study, on_trial)
        runs, tokens = [*study.user_attrs.get(RUNS, [])], _tokens(ranker)
        if result.evaluated < trials:
            run = {"trial": len(result.trials) + 1, "engine": type(ranker.engine).__name__, **provenance()}
            runs.append(run)
            study.set_user_attr(RUNS, runs)  # now, because a kill may end it
        try:
            while result.evaluated < trials:
                try:
                    configuration = sampler.propose(study)
                except SpaceExhausted:
                    return replace(result, exhausted=True)
                # The whole trial in one write: Optuna's ask would write, and sync to disk, each parameter on its own.
                study.add_trial(
                    create_trial(
                        state=TrialState.RUNNING,
                        params=configuration,
                        distributions=wanted,
                        user_attrs=_described(sampler.choice),
                    )
                )
                trial = study.get_trials(deepcopy=False)[-1]
                try:
                    value = objective(plan.space.encode(configuration), configuration)
                except ObjectiveFailed as error:
                    _fail(study, trial, REASON, str(error))
                else:
                    study.tell(trial.number, value)
                result = self._keep(study, on_trial)
            return result
        finally:
            objective.close()
            if runs and tokens:
                runs[-1] |= {name: count - tokens[name] for name, count in _tokens(ranker).items()}
                study.set_user_attr(RUNS, runs)

    def _started(self) -> optuna.Study:
        plan = self._plan
        _repair(self._out)
        study = self._study
        if study is None:
            storage, name = _opened(self._out, self._storage), _name(self._out, self._storage)
            study = optuna.create_study(storage=storage, study_name=name, direction=plan.direction)
        if PLAN not in study.user_attrs:
            study.set_user_attr(PLAN, plan.describe())
        _end_running(study)
        given = sum(WARM in trial.user_attrs for trial in study.get_trials(deepcopy=False))
        for code, value in plan.warm_start[given:]:
            params, kinds = plan.space.decode(code), distributions(plan.space)
            study.add_trial(create_trial(params=params, distributions=kinds, value=value, user_attrs={WARM: True}))
        return study

    def _keep(self, study: optuna.Study, on_trial: Callable[[Result], None] | None) -> Result:
        result = _result(study, self._plan.space, self._plan.direction)
        write_history(
            self._out / RESULTS, [(trial.code, trial.value) for trial in result.trials if trial.value is not None]
        )
        write_results(self._out / TABLE, result)
        if on_trial is not None:
            on_trial(result)
        return result


@contextmanager
def open_search(out: Path, plan: Plan, *, storage: str | None = None, resume: bool = False) -> Iterator[Search]:
    """Lock the output folder and make sure that the search can start or go on there, before a model is loaded.

    One process searches in a folder at a time. A study that a kill left behind goes on where it was: the trial under
    way is run again.

    Args:
        storage: an Optuna storage URL, where the study takes the output folder's name; by default a journal file in
            the output folder.
        resume: continue the study that is there, if any.

    Raises:
        StudyError: the folder is in use, or holds a study that ``resume`` does not continue or that has another plan.
    """
    try:
        out.mkdir(parents=True, exist_ok=True)
        lock = os.open(out, os.O_RDONLY)  # the folder itself: no lock file to leave behind
    except OSError as error:
        raise StudyError(f"cannot use the output folder {out}: {error.strerror}") from error
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise StudyError(f"another search is running in {out}; wait for it or choose another folder") from None
        yield Search(plan, out, storage, _existing(out, plan, storage, resume))
    finally:
        os.close(lock)


def run(
    objective: Objective | Function,
    space: SearchSpace,
    ranker: Ranker,
    *,
    out: str | Path,
    trials: int = 100,
    direction: Direction = "maximize",
    seed: int = 0,
    policy: str = "surrogate",
    pool_size: int = 10,
    checkpoint: str = "",
    storage: str | None = None,
    resume: bool = False,
    warm_start: Values = (),
    on_trial: Callable[[Result], None] | None = None,
) -> Result:
    """Search a space for the best value of a function or of an ``Objective``; see ``open_search`` and ``Search.run``.

    Args:
        checkpoint: identity of the ranker's checkpoint, so that a resume with another one is refused.
        warm_start: codes and values known before.
    """
    goal = objective if isinstance(objective, Objective) else FunctionObjective(objective)
    plan = Plan(space, goal.name, checkpoint, direction, seed, policy, pool_size, warm_start)
    with open_search(Path(out), plan, storage=storage, resume=resume) as search:
        return search.run(goal, ranker, trials, on_trial)


def result_of(study: optuna.Study) -> Result:
    """What a stored study of ``run`` holds.

    Raises:
        StudyError: it is a study of another program.
    """
    plan = study.user_attrs.get(PLAN)
    if not isinstance(plan, dict):
        raise StudyError(f"{study.study_name} is a study of another program, not of a search")
    return _result(study, SearchSpace(dict(plan["space"])), plan["direction"])


def _result(study: optuna.Study, space: SearchSpace, direction: Direction) -> Result:
    ended = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE, TrialState.FAIL))
    trials = [trial for trial in ended if KILLED not in trial.user_attrs]
    return Result(space, direction, tuple(_trial(trial, space) for trial in trials))


def _trial(trial: FrozenTrial, space: SearchSpace) -> Trial:
    code = space.encode(trial.params)
    return Trial(code, trial.value, trial.user_attrs.get(REASON), WARM in trial.user_attrs)


def _described(choice: Choice | None) -> dict[str, Any]:
    return {} if choice is None else {RANKING: {"pool": choice.pool, "probability": choice.probability}}


def _tokens(ranker: Ranker) -> dict[str, int]:
    """The engine's counts, where it keeps them."""
    names = ("prompt_tokens", "computed_tokens")
    return {name: getattr(ranker.engine, name) for name in names if hasattr(ranker.engine, name)}


def _existing(out: Path, plan: Plan, storage: str | None, resume: bool) -> optuna.Study | None:
    study = None
    if storage is not None or (out / JOURNAL).exists():
        try:
            study = optuna.load_study(study_name=_name(out, storage), storage=_opened(out, storage))
        except KeyError:
            pass  # the storage has no study of this name
        except Exception as error:  # whatever a damaged journal or a database's driver raises
            reason = " ".join(str(error).split())
            raise StudyError(f"cannot open the storage {storage or out / JOURNAL}: {reason}") from error
    if study is None:
        if (out / RESULTS).exists():
            raise StudyError(f"{out} holds the {RESULTS} of another study; choose another folder")
        return None
    found = study.user_attrs.get(PLAN)
    if found is None and not study.get_trials(deepcopy=False) and study.direction.name.lower() == plan.direction:
        return study  # killed right after it was created
    where = str(out) if storage is None else f"study {study.study_name} of {storage}"
    if not resume:
        raise StudyError(f"{where} already holds a study: add --resume to continue it, or choose another folder")
    if not isinstance(found, dict):
        raise StudyError(f"{where} holds a study of another program; choose another folder")
    for key, value in plan.describe().items():
        if found.get(key) != value:
            name = key.replace("_", " ")
            detail = "" if key in ("space", "warm_start") else f" ({found.get(key)}, not {value})"
            raise StudyError(
                f"{where} holds a study with another {name}{detail}: resume it with the same, or choose another folder"
            )
    return study


def _opened(out: Path, storage: str | None) -> BaseStorage | str:
    return JournalStorage(JournalFileBackend(str(out / JOURNAL))) if storage is None else storage


def _name(out: Path, storage: str | None) -> str:
    return "search" if storage is None else out.resolve().name


def _repair(out: Path) -> None:
    """Take away what a kill left in the journal: a line half written, and the lock of the writer.

    Only the process that holds the output folder's lock writes the journal.
    """
    for leftover in out.glob(f"{JOURNAL}.lock*"):
        leftover.unlink(missing_ok=True)
    journal = out / JOURNAL
    if journal.exists():
        with journal.open("rb+") as stream:
            stream.truncate(stream.read().rfind(b"\n") + 1)


def _end_running(study: optuna.Study) -> None:
    for trial in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
        _fail(study, trial, KILLED, True)


def _fail(study: optuna.Study, trial: FrozenTrial, attribute: str, value: str | bool) -> None:
    study._storage.set_trial_user_attr(trial._trial_id, attribute, value)
    study.tell(trial.number, state=TrialState.FAIL)
