"""The trials of a search that are under way, and the model's sleep meanwhile."""

import time
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import nullcontext, suppress
from queue import Empty, SimpleQueue
from threading import Thread

from optuna.trial import FrozenTrial

from lmsearcher_local.errors import EngineError, LMSearcherError
from lmsearcher_local.model.ranker import Ranker
from lmsearcher_local.spaces.space import SearchSpace
from lmsearcher_local.study.executors import Inline, Outcome, outcome_of, submit
from lmsearcher_local.study.objectives.base import Objective, Watch
from lmsearcher_local.study.objectives.table import TableObjective
from lmsearcher_local.study.timing import Clock
from lmsearcher_local.system.interrupts import LOOK, defer_signals


def are_here(objective: Objective, executor: Executor | None) -> bool:
    """Whether evaluations run on this machine, and not only look into a table."""
    here = executor is None or isinstance(executor, (ThreadPoolExecutor, ProcessPoolExecutor))
    return here and not isinstance(objective, TableObjective)


class Evaluations:
    """Trials that are evaluated. With ``shared`` the model sleeps before one starts, and ``close`` wakes it.
    ``watched`` gives what a trial reports its steps to."""

    def __init__(
        self,
        objective: Objective,
        space: SearchSpace,
        ranker: Ranker,
        executor: Executor | None,
        clock: Clock,
        shared: bool,
        watched: Callable[[FrozenTrial], Watch | None],
    ) -> None:
        self.under_way: dict[Future[Outcome], FrozenTrial] = {}
        self._objective, self._space, self._ranker = objective, space, ranker
        self._clock, self._shared, self._watched = clock, shared, watched
        self._began: dict[Future[Outcome], float] = {}
        self._own = None if executor else Inline() if clock.workers == 1 else ThreadPoolExecutor(clock.workers)
        self._place: Executor = executor or self._own  # type: ignore[assignment]
        self._done: SimpleQueue[tuple[Future[Outcome], float]] = SimpleQueue()
        self._again: set[int] = set()

    @property
    def blocking(self) -> bool:
        """Whether to submit a trial takes as long as its evaluation."""
        return isinstance(self._place, Inline)

    @property
    def free(self) -> int:
        """How many more trials can be evaluated now; none while another runs on a card that the model needs."""
        return 0 if self._shared and self.under_way else self._clock.workers - len(self.under_way)

    def submit(self, trial: FrozenTrial) -> None:
        """Start a trial; an error where the executor does not take the objective or the model cannot leave the card."""
        if self._shared:
            self._ranker.sleep()
        # Threads alone: an evaluation in this one may take hours, and a process forked here must hear Ctrl-C.
        with defer_signals() if isinstance(self._place, ThreadPoolExecutor) else nullcontext():
            code, own, began = self._space.encode(trial.params), dict(trial.params), time.monotonic()
            future = submit(self._place, self._objective, code, own, self._watched(trial))
            self.under_way[future], self._began[future] = trial, began
            future.add_done_callback(lambda future: self._done.put((future, time.monotonic())))

    def ended(self) -> Iterator[tuple[FrozenTrial, Outcome]]:
        """Wait for a trial's end and say what came of those that ended. One whose process died is tried once more.

        What is wrong with the executor or the objective is raised in the end.
        """
        ready: list[tuple[Future[Outcome], float]] = []
        while not ready or not self._done.empty():
            with suppress(Empty):
                ready.append(self._done.get(timeout=LOOK))
        broken: LMSearcherError | None = None
        self._clock.evaluated(sum(now - self._began.pop(future) for future, now in ready))
        for future, _ in sorted(ready, key=lambda end: self.under_way[end[0]].number):
            trial = self.under_way.pop(future)
            try:
                found = outcome_of(future)
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
