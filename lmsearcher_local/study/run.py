"""Runs a search and keeps it: an Optuna storage that survives a kill, and its results as files."""

import logging
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor
from contextlib import closing, contextmanager, nullcontext, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import optuna
from optuna.exceptions import StorageInternalError
from optuna.pruners import BasePruner
from optuna.trial import FrozenTrial, TrialState

from lmsearcher_local.errors import (
    NO_ROOM,
    LMSearcherError,
    NothingToPropose,
    ObjectiveError,
    SearchStopped,
    SpaceExhausted,
)
from lmsearcher_local.model.ranker import Ranker
from lmsearcher_local.model.sharing import Gpu, shares
from lmsearcher_local.records.storage import JOURNAL, absolute_url, hide_password
from lmsearcher_local.records.trials import Reader
from lmsearcher_local.search.calibration import RANKING, Choice
from lmsearcher_local.search.groups import KILLED
from lmsearcher_local.search.options import SearchOptions
from lmsearcher_local.search.optuna_sampler import LMSearcherSampler
from lmsearcher_local.spaces.distributions import distributions, trial_of
from lmsearcher_local.spaces.files import RESULTS, TABLE
from lmsearcher_local.spaces.space import Configuration, SearchSpace
from lmsearcher_local.study.endings import complete, fail
from lmsearcher_local.study.evaluations import Evaluations, are_here
from lmsearcher_local.study.objectives.base import Function, Objective, ProcessObjective
from lmsearcher_local.study.objectives.function import FunctionObjective
from lmsearcher_local.study.objectives.processes import end_leftovers
from lmsearcher_local.study.objectives.steps import takes_watch
from lmsearcher_local.study.opening import check_free, claim, create_study, describe, find_study, lock_folder, release
from lmsearcher_local.study.outputs import Outputs
from lmsearcher_local.study.plan import Plan, Values
from lmsearcher_local.study.pruning import end_early, watch_trials
from lmsearcher_local.study.recording import record_run
from lmsearcher_local.study.results import OURS, REASON, WARM, Result, Tally, code_of
from lmsearcher_local.study.timing import Clock
from lmsearcher_local.system import optuna_internals as internals


class Search:
    """A study that is open, checked and locked; nothing is written to it before ``run``. See ``open_search``."""

    def __init__(self, plan: Plan, out: Path, storage: str | None, study: optuna.Study | None, shared: bool) -> None:
        self._plan = plan
        self._place = hide_password(storage) if storage else str(out)  # as the user wrote it
        self._out = out.resolve()  # foreign code may change the working folder
        self._storage = storage
        self._study = study
        self._shared = shared  # the folder's lock does not keep others out of the study
        self._claimed: optuna.Study | None = None
        self._outputs = Outputs(self._out)
        self._kept: Result | None = None
        self._show: Callable[[Result], None] | None = None

    def prepare(self, objective: Objective, *, here: bool = True) -> None:
        """Say where the search is and, where evaluations run here, start a process for them.

        Called before a model is loaded, it tells at once what cannot be imported.

        Raises:
            ObjectiveError: a function cannot be imported, or there is a pruner and the objective reports no steps.
        """
        if self._plan.pruner and not takes_watch(objective):
            raise ObjectiveError(f"{objective.name} reports no steps, so no pruner can stop its trials")
        if isinstance(objective, ProcessObjective):
            objective.out = str(self._out)
            if here:
                objective.start()

    def run(
        self,
        objective: Objective,
        ranker: Ranker,
        trials: int,
        on_trial: Callable[[Result], None] | None = None,
        *,
        executor: Executor | None = None,
        workers: int = 1,
        gpu: Gpu | None = None,
        budget: float | None = None,
    ) -> Result:
        """Search until ``trials`` configurations are evaluated, those of earlier runs included.

        Whenever workers are free, configurations for all of them are asked in one engine call. Those under way count
        with the value that ``surrogate.impute_pending`` imputes. A trial whose process dies is tried once more.

        Args:
            on_trial: called with the result so far at the start and after every trial.
            executor: where to evaluate; by default this process for one worker, threads of it for several. The study
                does not shut it down.
            workers: trials under way at once.
            gpu: whether the model leaves the card while an objective runs ("shared") or stays there ("kept"). By
                default it leaves where its engine can and evaluations run on this machine and are not looked up in a
                table. Then the next configurations are asked when all trials under way have ended.
            budget: seconds of this run after which no trial is begun; those under way end. A resume counts anew.

        Raises:
            PromptError: the space does not fit the checkpoint.
            ObjectiveError: the executor does not take the objective.
            SearchStopped: the executor, the function's import or the pruner failed, or no space is left to write.
            EngineError: the model cannot answer. After this and ``SearchStopped`` the study can be resumed.
        """
        plan, clock = self._plan, Clock(workers, budget)
        shared = shares(gpu, ranker.engine, useful=are_here(objective, executor))
        self._show = on_trial
        self.prepare(objective, here=False)
        if isinstance(objective, ProcessObjective):
            objective.shared = shared
        # Before the study exists: it may refuse.
        options = plan.options.without("direction", "goals", "limits")  # the study says these
        sampler = LMSearcherSampler(ranker, space=plan.space, **options)
        with _stop_without_room(self._place):
            study = self._start_study()
            tally = Tally(study, plan.space, plan.options)
            result = tally.update()
            self._keep(result)
            first = len(result.trials) + 1
            recording = record_run(study, ranker, first, clock) if result.evaluated < trials else nullcontext()
            with (
                recording,
                watch_trials(study, plan.pruner, executor) as (watched, check),
                closing(Evaluations(objective, plan.space, ranker, executor, clock, shared, watched)) as evaluations,
            ):
                try:
                    return self._loop(study, tally, sampler, evaluations, trials, clock, check)
                except BaseException:
                    with suppress(OSError, StorageInternalError):  # the error says what happened, the storage more
                        self._outputs.close(tally.update())
                    raise

    def _loop(
        self,
        study: optuna.Study,
        tally: Tally,
        sampler: LMSearcherSampler,
        evaluations: Evaluations,
        trials: int,
        clock: Clock,
        check: Callable[[], None],
    ) -> Result:
        """Propose, evaluate and store, until nothing is under way and nothing left to propose."""
        space, waiting, result = self._plan.space, Reader(study), tally.update()
        ended: NothingToPropose | None = None
        while True:
            if evaluations.blocking:
                self._keep(result)
            free = min(evaluations.free, trials - result.evaluated - len(evaluations.under_way))
            for trial in _begin_enqueued(waiting, space, free) if free > 0 and not clock.over else ():
                evaluations.submit(trial)
                free -= 1
            if free > 0 and not ended:
                try:
                    with clock.asking():
                        proposals = sampler.propose(study, free)
                except NothingToPropose as error:
                    proposals, ended = [], error
                for trial in _begin(study, space, proposals):
                    evaluations.submit(trial)
            self._keep(result)  # no worker waits for the files
            if not evaluations.under_way:
                self._outputs.close(result)
                return replace(result, exhausted=isinstance(ended, SpaceExhausted), ended=str(ended or ""))
            try:
                for trial, found in evaluations.ended():
                    check()  # where steps cannot be stored, all trials are stopped
                    if found.pruned and end_early(study, trial):
                        continue
                    if found.value is None:
                        fail(study, trial, REASON, found.reason)
                    else:
                        complete(study, trial, found.value, self._plan.options)
            except LMSearcherError:
                self._keep(tally.update())
                raise
            result = tally.update()

    def _start_study(self) -> optuna.Study:
        plan = self._plan
        _repair(self._out)
        study = self._study or create_study(self._out, plan, self._storage)
        if self._shared:
            claim(study, self._storage)
            self._claimed = study
        describe(study, self._out, plan, self._storage)
        _end_running(study)
        given = sum(WARM in trial.user_attrs for trial in study.get_trials(deepcopy=False))
        for code, value in plan.warm_start[given:]:
            study.add_trial(trial_of(plan.space, plan.space.decode(code), value=value, user_attrs={WARM: True}))
        return study

    def release(self) -> None:
        """Let other processes search in the study."""
        if self._claimed is not None:
            release(self._claimed)

    def _keep(self, result: Result) -> None:
        """Write into the files and show the result, once."""
        if result is not self._kept:
            (self._outputs.write if self._kept is None else self._outputs.add)(result)
            self._kept = result
            if self._show is not None:
                with _stop_without_room("what shows the progress"):
                    self._show(result)


@contextmanager
def _stop_without_room(place: str) -> Iterator[None]:
    """An error of a disk that takes no more ends the search."""
    try:
        yield
    except (OSError, StorageInternalError) as error:
        if isinstance(error, OSError) and error.errno not in NO_ROOM:
            raise
        reason = error.strerror if isinstance(error, OSError) else error
        raise SearchStopped(
            f"cannot write to {place} ({reason}); what was told is kept: make room, then --resume goes on"
        ) from error


@contextmanager
def open_search(out: Path, plan: Plan, *, storage: str | None = None, resume: bool = False) -> Iterator[Search]:
    """Lock the output folder and make sure that the search can start or go on there, before a model is loaded.

    One process searches in a folder at a time. A study that a kill left behind goes on where it was: the trial under
    way is run again.

    Args:
        storage: an Optuna storage URL, where the study is called after the output folder, with a hash of its absolute
            path; by default a journal file in the output folder.
        resume: continue the study that is there, if any.

    Raises:
        StudyError: the folder is in use, or holds a study that ``resume`` does not continue or that has another plan.
    """
    distributions(plan.space)  # refuses a space that the storage cannot keep
    storage = storage and absolute_url(storage)
    with lock_folder(out) as alone:
        study, shared = find_study(out, plan, storage, resume), storage is not None or not alone
        if study is not None and shared:
            check_free(study, storage)
        if left := end_leftovers(str(out.resolve())):
            logging.getLogger(__name__).warning("ended %d processes that an earlier run had left evaluating", left)
        search = Search(plan, out, storage, study, shared)
        try:
            yield search
        finally:
            search.release()


def run(
    objective: Objective | Function,
    space: SearchSpace,
    ranker: Ranker,
    *,
    out: str | Path,
    trials: int = 100,
    checkpoint: str = "",
    storage: str | None = None,
    resume: bool = False,
    warm_start: Values = (),
    on_trial: Callable[[Result], None] | None = None,
    executor: Executor | None = None,
    workers: int = 1,
    gpu: Gpu | None = None,
    pruner: BasePruner | None = None,
    budget: float | None = None,
    **options: Any,
) -> Result:
    """Search a space for the best value of a function or of an ``Objective``; see ``open_search`` and ``Search.run``.

    A function is evaluated in a process of its own, see ``FunctionObjective``; an ``Objective`` is called as it is.

    Args:
        checkpoint: identity of the ranker's checkpoint, so that a resume with another one is refused.
        warm_start: codes and values known before.
        pruner: one of Optuna's, to stop trials early that report steps.
        options: any of ``SearchOptions``, by name.
    """
    goal = objective if isinstance(objective, Objective) else FunctionObjective(objective)
    plan = Plan(space, goal.name, checkpoint, SearchOptions(**options), warm_start, pruner)
    with closing(goal), open_search(Path(out), plan, storage=storage, resume=resume) as search:
        search.prepare(goal, here=executor is None)
        return search.run(goal, ranker, trials, on_trial, executor=executor, workers=workers, gpu=gpu, budget=budget)


def _begin(
    study: optuna.Study, space: SearchSpace, proposals: Sequence[tuple[Configuration, Choice | None]]
) -> list[FrozenTrial]:
    """Store running trials, each in one write: Optuna's ask would write, and sync to disk, every parameter."""
    return [
        internals.create_trial(
            study, trial_of(space, configuration, state=TrialState.RUNNING, user_attrs=_attributes_of(choice))
        )
        for configuration, choice in proposals
    ]


def _begin_enqueued(reader: Reader, space: SearchSpace, n: int) -> list[FrozenTrial]:
    """Up to ``n`` trials that somebody enqueued, in a dashboard for example, running from now on. Those that do not say
    the whole configuration are left to who enqueued them."""
    study, kinds = reader.study, distributions(space)
    begun: list[FrozenTrial] = []
    for trial in reader.read():
        if trial.state != TrialState.WAITING:
            continue
        code = code_of(internals.enqueued_values(trial), space)
        if code is None or len(begun) == n:
            continue
        if not internals.begin_trial(study, trial):
            continue  # somebody else was quicker
        internals.set_user_attribute(study, trial, OURS, True)
        for name, option in space.decode(code).items():
            internals.set_parameter(study, trial, name, option, kinds[name])
        begun.append(internals.read_trial(study, trial))
    return begun


def _attributes_of(choice: Choice | None) -> dict[str, Any]:
    if choice is None:
        return {OURS: True}
    belief = {} if choice.belief is None else {"trust": choice.belief[0], "agreements": choice.belief[1]}
    expected = {} if choice.expected is None else {"expected": choice.expected}
    return {OURS: True, RANKING: {"pool": choice.pool, "probability": choice.probability, **belief, **expected}}


def _repair(out: Path) -> None:
    """Take away what a kill left behind: a half line of the journal, the lock of its writer, results half written."""
    # Nobody else writes there: this process holds the folder's lock.
    for pattern in (f"{JOURNAL}.lock*", f".{RESULTS}.*", f".{TABLE}.*"):
        for leftover in out.glob(pattern):
            leftover.unlink(missing_ok=True)
    journal = out / JOURNAL
    if journal.exists():
        with journal.open("rb+") as stream:
            stream.truncate(stream.read().rfind(b"\n") + 1)


def _end_running(study: optuna.Study) -> None:
    for trial in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
        if OURS in trial.user_attrs:
            if values := internals.enqueued_values(trial):
                study.enqueue_trial(values)
            fail(study, trial, KILLED, True)
