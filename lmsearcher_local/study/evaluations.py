"""The trials of a search that are under way, and the model's sleep meanwhile."""

from collections.abc import Iterator
from concurrent.futures import Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import nullcontext, suppress
from queue import SimpleQueue
from threading import Thread

from optuna.trial import FrozenTrial

from lmsearcher_local.errors import EngineError, LMSearcherError
from lmsearcher_local.model.ranker import Ranker
from lmsearcher_local.spaces.space import SearchSpace
from lmsearcher_local.study.executors import Inline, Outcome, outcome, submitted
from lmsearcher_local.study.objectives.base import Objective
from lmsearcher_local.study.objectives.table import TableObjective
from lmsearcher_local.system.interrupts import undisturbed


def are_here(objective: Objective, executor: Executor | None) -> bool:
    """Whether evaluations run on this machine, and not only look into a table."""
    here = executor is None or isinstance(executor, (ThreadPoolExecutor, ProcessPoolExecutor))
    return here and not isinstance(objective, TableObjective)


class Evaluations:
    """Trials that are evaluated. With ``shared`` the model sleeps before one starts, and ``close`` wakes it."""

    def __init__(
        self,
        objective: Objective,
        space: SearchSpace,
        ranker: Ranker,
        executor: Executor | None,
        workers: int,
        shared: bool,
    ) -> None:
        self.under_way: dict[Future[Outcome], FrozenTrial] = {}
        self._objective = objective
        self._space = space
        self._ranker = ranker
        self._workers = workers
        self._shared = shared
        self._own = None if executor else Inline() if workers == 1 else ThreadPoolExecutor(workers)
        self._place: Executor = executor or self._own  # type: ignore[assignment]
        self._done: SimpleQueue[Future[Outcome]] = SimpleQueue()
        self._again: set[int] = set()

    @property
    def blocking(self) -> bool:
        """Whether to submit a trial takes as long as its evaluation."""
        return isinstance(self._place, Inline)

    @property
    def free(self) -> int:
        """How many more trials can be evaluated now; none while another runs on a card that the model needs."""
        if self._shared and self.under_way:
            return 0
        return self._workers - len(self.under_way)

    def submit(self, trial: FrozenTrial) -> None:
        """Start a trial.

        Raises:
            ObjectiveError: the executor does not take the objective.
            EngineError: the model cannot leave the card.
        """
        if self._shared:
            self._ranker.sleep()
        # Threads alone: an evaluation in this one may take hours, and a process forked here must hear Ctrl-C.
        with undisturbed() if isinstance(self._place, ThreadPoolExecutor) else nullcontext():
            code, configuration = (
                self._space.encode(trial.params),
                dict(trial.params),
            )  # its own, to do with as it likes
            future = submitted(self._place, self._objective, code, configuration)
            self.under_way[future] = trial
            future.add_done_callback(self._done.put)

    def ended(self) -> Iterator[tuple[FrozenTrial, Outcome]]:
        """Wait for a trial's end and say what came of those that ended; one whose process died is tried once more.

        Raises:
            StudyError: the executor cannot go on, after the others have had their say.
            ObjectiveError: likewise, the objective cannot be called.
        """
        ready = [self._done.get()]
        while not self._done.empty():
            ready.append(self._done.get())
        broken: LMSearcherError | None = None
        for future in sorted(ready, key=lambda future: self.under_way[future].number):
            trial = self.under_way.pop(future)
            try:
                found = outcome(future)
            except LMSearcherError as error:
                broken = error
                continue
            if found.lost and trial.number not in self._again:
                self._again.add(trial.number)
                self.submit(trial)
            else:
                yield trial, found
        if broken:
            raise broken

    def close(self) -> None:
        """End what is under way."""
        try:
            for future in self.under_way:
                future.cancel()
            if self._own:
                ending = Thread(target=self._own.shutdown)
                ending.start()
                while ending.is_alive():
                    self._objective.close()  # again: a thread may start now what Ctrl-C found not started
                    ending.join(0.1)
            self._objective.close()
        finally:
            if self._shared:
                with suppress(EngineError):  # somebody else has the card; whoever asks next is told
                    self._ranker.wake_up()
