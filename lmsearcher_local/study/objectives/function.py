"""A Python function as an objective: in processes of its own, or in this one."""

import os
from collections.abc import Callable
from contextlib import suppress
from multiprocessing.util import Finalize
from typing import Any

import cloudpickle

from lmsearcher_local.errors import ObjectiveError
from lmsearcher_local.spaces.space import Configuration
from lmsearcher_local.study.objectives.base import Function, Measured, ProcessObjective, Watch, describe_error
from lmsearcher_local.study.objectives.call import evaluate_function
from lmsearcher_local.study.objectives.worker import Worker

OWN = ("_workers", "_idle")  # of an objective, not for copies of it


class FunctionObjective(ProcessObjective):
    """A function that takes the configuration as a dictionary and returns a number, or several by name. It may take a
    ``RunningTrial`` as well.

    It runs in processes of its own, as many as are called for at once, which are kept for further trials. They start in
    the folder in which this was made and with this process's environment. A process that dies fails its trial alone;
    when a trial's time is over, its process is killed with all that it started. What the function changes, in its
    globals for example, stays in its process: :class:`InProcess` is the other way.

    Args:
        function: a function, which travels by name where it can be imported, else by value with ``cloudpickle``; or
            ``module:function``, which is imported in its process only, also from the working folder.
        timeout: seconds for a trial. Imports before the first one have a limit of their own.

    Raises:
        ObjectiveError: the function cannot be sent to another process.
    """

    def __init__(self, function: Function | str, timeout: float | None = None) -> None:
        if timeout is not None and not timeout > 0:
            raise ObjectiveError(f"the time-out of a trial is above 0 s, not {timeout:g}")
        self.name = f"function {_check_spec(function)}" if isinstance(function, str) else function_name(function)
        self._function = function if isinstance(function, str) else _pickle(function)
        self._timeout = timeout
        self._folder = os.getcwd()
        self._workers: set[Worker] = set()
        self._idle: list[Worker] = []

    def start(self) -> None:
        """Start a process, in which the first trial then runs; ``ObjectiveError`` where its imports fail."""
        worker = self._new_worker()
        try:
            worker.start()
        finally:
            self._give_back(worker)

    def __call__(self, code: str, configuration: Configuration, watch: Watch | None = None) -> Measured:
        worker = self._take_idle() or self._new_worker()
        try:
            worker.start()
            return worker.call(configuration, self._timeout, watch)
        finally:
            self._give_back(worker, keep=not self.shared)

    def __reduce__(self) -> tuple[Any, ...]:
        """Another machine imports the function by its name, from the same folder if there is one."""
        return _copy_here, (tuple(sorted((key, value) for key, value in vars(self).items() if key not in OWN)),)

    def rest(self) -> None:
        """End the processes that are not at work."""
        idle = [*iter(self._take_idle, None)]
        for worker in idle:
            worker.hang_up()
        for worker in idle:
            worker.finish()
            self._workers.discard(worker)

    def close(self) -> None:
        self.rest()
        for worker in [*self._workers]:  # at work: the threads that wait for them do the rest
            worker.kill()

    def _take_idle(self) -> Worker | None:
        with suppress(IndexError):  # not looked at before: another thread may take the last one
            return self._idle.pop()
        return None

    def _new_worker(self) -> Worker:
        worker = Worker(self._function, self._folder, self.environment())
        self._workers.add(worker)
        return worker

    def _give_back(self, worker: Worker, keep: bool = True) -> None:
        if keep and not worker.lost:
            self._idle.append(worker)
            return
        if worker.lost:
            worker.kill()
        else:
            worker.hang_up()
            worker.finish()
        self._workers.discard(worker)


class InProcess:
    """A function that is called in this process, by the thread that evaluates, as an objective.

    For functions that hold what cannot be sent to another process. What one does to this process it does to the search
    as well: the model's threads and its memory are shared, a crash ends both, and there is no time-out.
    """

    def __init__(self, function: Function) -> None:
        self.name = function_name(function)
        self._function = function

    def __call__(self, code: str, configuration: Configuration, watch: Watch | None = None) -> Measured:
        return evaluate_function(self._function, configuration, watch)

    def close(self) -> None:
        pass


def function_name(function: Callable[..., Any]) -> str:
    """The name that is kept with a study."""
    module, name = getattr(function, "__module__", None), getattr(function, "__qualname__", None)
    return f"function {module}:{name or type(function).__name__}"


def _check_spec(spec: str) -> str:
    module, separator, name = spec.partition(":")
    if not (separator and module and name):
        raise ObjectiveError(f"an objective is written module:function, not {spec!r}")
    return spec


def _pickle(function: Function) -> bytes:
    try:
        return bytes(cloudpickle.dumps(function))
    except Exception as error:  # whatever an object's own way of pickling raises
        raise ObjectiveError(
            f"the {function_name(function)} cannot be sent to a process of its own ({describe_error(error)}); an"
            " Objective such as InProcess(function) runs in this one"
        ) from error


def _copy_here(state: tuple[tuple[str, Any], ...]) -> FunctionObjective:
    """The copy of an objective in this worker of a cluster, which gets one with each trial; it keeps its processes."""
    if state not in _COPIES:
        for other in [*_COPIES.values()]:  # mostly of searches that have ended
            other.rest()
        objective = FunctionObjective.__new__(FunctionObjective)
        objective._workers, objective._idle = set(), []
        vars(objective).update(state)
        Finalize(objective, objective.close, exitpriority=1)  # before multiprocessing waits for their end
        _COPIES[state] = objective
    return _COPIES[state]


_COPIES: dict[tuple[tuple[str, Any], ...], FunctionObjective] = {}
