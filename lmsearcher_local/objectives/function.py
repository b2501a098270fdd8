"""A Python function as an objective, in this process or in processes of its own."""

import os
import sys
from contextlib import suppress
from functools import lru_cache
from importlib import import_module
from multiprocessing.util import Finalize
from typing import Any

from lmsearcher_local.errors import ObjectiveError
from lmsearcher_local.objectives.base import Function, checked, describe_error
from lmsearcher_local.objectives.worker import Worker, call
from lmsearcher_local.space import Configuration


class FunctionObjective:
    """A function that takes the configuration as a dictionary and returns a number.

    It runs in this process; with a timeout, or for several workers, in processes of its own, as many as are called for
    at once. They are kept for further trials, and killed when a trial's time is over. They are spawned, never forked:
    this process may hold a model.

    Raises:
        ObjectiveError: it needs processes, and the function cannot be imported by another process.
    """

    def __init__(self, function: Function, timeout: float | None = None, workers: int = 1) -> None:
        module, name = getattr(function, "__module__", None), getattr(function, "__qualname__", None)
        self.name = f"function {module}:{name or type(function).__name__}"
        self._function = function
        self._timeout = timeout
        self._apart = timeout is not None or workers > 1
        self._processes: set[Worker] = set()
        self._idle: list[Worker] = []
        self._importable = bool(module and name and "<" not in name)
        if self._apart and not self._importable:
            raise ObjectiveError(
                f"with a timeout or several workers the objective runs in processes of its own, so it must be a"
                f" function that can be imported by its name; {self.name} cannot"
            )

    def __call__(self, code: str, configuration: Configuration) -> float:
        if not self._apart:
            return checked(call(self._function, configuration))
        try:
            process = self._idle.pop()
        except IndexError:  # not asked before: another thread may have taken the last one
            process = self._started()
        try:
            return checked(process.call(configuration, self._timeout))
        finally:
            if process.lost:
                process.kill()
                self._processes.discard(process)
            else:
                self._idle.append(process)

    def __reduce__(self) -> tuple[Any, ...]:
        """Another machine imports the function by its name, from the same folder if there is one."""
        module = self._function.__module__ if self._importable else "__main__"
        function = self._function if module == "__main__" else f"{module}:{self._function.__qualname__}"
        return _received, (function, os.getcwd(), self._timeout)

    def close(self) -> None:
        with suppress(IndexError):
            while True:
                process = self._idle.pop()
                process.kill()
                self._processes.discard(process)
        for process in [*self._processes]:  # at work: the threads that wait for them do the rest
            process.end()

    def _started(self) -> Worker:
        process = Worker(self._function)
        self._processes.add(process)
        return process


@lru_cache(maxsize=8)  # so that a worker of a cluster keeps the processes of an objective that it gets with each trial
def _received(function: Function | str, folder: str, timeout: float | None) -> FunctionObjective:
    if os.path.isdir(folder) and folder not in sys.path:
        sys.path.insert(0, folder)
    objective = FunctionObjective(load_function(function) if isinstance(function, str) else function, timeout)
    Finalize(objective, objective.close, exitpriority=1)  # before multiprocessing waits for their end
    return objective


def load_function(spec: str) -> Function:
    """The function that ``module:function`` names; modules of the working folder are found, too.

    Raises:
        ObjectiveError: it cannot be imported or called.
    """
    module, separator, name = spec.partition(":")
    if not (separator and module and name):
        raise ObjectiveError(f"an objective is written module:function, not {spec!r}")
    if os.getcwd() not in sys.path and "" not in sys.path:
        sys.path.insert(0, os.getcwd())
    try:
        function: Any = import_module(module)
        for part in name.split("."):
            function = getattr(function, part)
    except (Exception, SystemExit) as error:
        raise ObjectiveError(f"cannot import the objective {spec}: {describe_error(error)}") from error
    if not callable(function):
        raise ObjectiveError(f"the objective {spec} is no function but {type(function).__name__}")
    return function
