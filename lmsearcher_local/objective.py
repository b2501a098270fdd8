"""What is optimised: a Python function, a shell command or a benchmark table, each stoppable after a timeout.

An evaluation either returns a finite number or raises ``ObjectiveFailed`` with the reason; a failed one costs its own
trial only.
"""

import json
import math
import multiprocessing
import os
import re
import shlex
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable
from contextlib import suppress
from functools import lru_cache
from importlib import import_module
from multiprocessing.connection import Connection
from multiprocessing.util import Finalize
from numbers import Real
from typing import IO, Any, Protocol, runtime_checkable

from lmsearcher_local.errors import LMSearcherError, ObjectiveError
from lmsearcher_local.space import Configuration, Option, SearchSpace
from lmsearcher_local.tables import Table

Function = Callable[[Configuration], float]

OUTPUT_BYTES = 65536  # read from the end of what a command printed


class ObjectiveFailed(LMSearcherError, RuntimeError):
    """One evaluation gave no score; its message is the reason."""


class WorkerLost(ObjectiveFailed):
    """The process of an evaluation died before it answered, which may not be the configuration's fault."""


@runtime_checkable
class Objective(Protocol):
    """Something to optimise. ``name`` is kept with the study, so that a resume continues the same thing.

    Workers of a search call it from threads; on a cluster each has a copy, made by pickle.
    """

    name: str

    def __call__(self, code: str, configuration: Configuration) -> float:
        """The score, a finite number.

        Raises:
            ObjectiveFailed: there is none.
        """
        ...

    def close(self) -> None:
        """End what the objective keeps running."""
        ...


class TableObjective:
    """The value that a benchmark table holds."""

    def __init__(self, table: Table) -> None:
        self.name = f"table {table.name}"
        self._table = table

    def __call__(self, code: str, configuration: Configuration) -> float:
        return self._table(code)

    def close(self) -> None:
        pass


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
        self._processes: set[_Worker] = set()
        self._idle: list[_Worker] = []
        self._importable = bool(module and name and "<" not in name)
        if self._apart and not self._importable:
            raise ObjectiveError(
                f"with a timeout or several workers the objective runs in processes of its own, so it must be a"
                f" function that can be imported by its name; {self.name} cannot"
            )

    def __call__(self, code: str, configuration: Configuration) -> float:
        if not self._apart:
            return checked(_call(self._function, configuration))
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

    def _started(self) -> "_Worker":
        process = _Worker(self._function)
        self._processes.add(process)
        return process


@lru_cache(maxsize=8)  # so that a worker of a cluster keeps the processes of an objective that it gets with each trial
def _received(function: Function | str, folder: str, timeout: float | None) -> FunctionObjective:
    if os.path.isdir(folder) and folder not in sys.path:
        sys.path.insert(0, folder)
    objective = FunctionObjective(load_function(function) if isinstance(function, str) else function, timeout)
    Finalize(objective, objective.close, exitpriority=1)  # before multiprocessing waits for their end
    return objective


class CommandObjective:
    """A shell command; the last line that it prints and that is not empty is the score.

    ``{name}`` becomes the option of that parameter and ``{ncode}`` the code, quoted for the shell. The command also
    finds the configuration as JSON in ``LMSEARCHER_CONFIG`` and the code in ``LMSEARCHER_NCODE``. An exit status other
    than 0 is a failure.

    Raises:
        ObjectiveError: the command is empty or names a parameter that the space does not have.
    """

    def __init__(self, command: str, space: SearchSpace, timeout: float | None = None) -> None:
        self.name = f"command {command}"
        self._command = command
        self._timeout = timeout
        self._folder = os.getcwd()
        self._running: list[int] = []
        known = "|".join(map(re.escape, ("ncode", *space.names)))
        self._placeholder = re.compile(r"(?<!\$)\{(" + known + r"|[A-Za-z_]\w*)\}")
        if not command.strip():
            raise ObjectiveError("the objective command is empty")
        for name in self._placeholder.findall(command):
            if name != "ncode" and name not in space.names:
                raise ObjectiveError(
                    f"the command names {{{name}}}; allowed: {{ncode}}, "
                    + ", ".join(f"{{{known}}}" for known in space.names)
                )

    def __call__(self, code: str, configuration: Configuration) -> float:
        values: Configuration = {"ncode": code, **configuration}
        command = self._placeholder.sub(lambda match: shlex.quote(_text(values[match[1]])), self._command)
        variables = {"LMSEARCHER_CONFIG": json.dumps(configuration), "LMSEARCHER_NCODE": code}
        # Files, not pipes: the reader of a pipe waits for every process that the command left behind.
        with tempfile.TemporaryFile() as output, tempfile.TemporaryFile() as errors:
            process = subprocess.Popen(
                command,
                shell=True,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=errors,
                env={**os.environ, **variables},
                cwd=self._folder if os.path.isdir(self._folder) else None,  # another machine may not have it
                start_new_session=True,
            )
            self._running.append(process.pid)
            try:
                status = process.wait(self._timeout)
            except BaseException as error:
                _kill_group(process.pid)
                process.wait()
                if isinstance(error, subprocess.TimeoutExpired):
                    raise ObjectiveFailed(f"not done after {self._timeout:g} s") from None
                raise
            finally:
                self._running.remove(process.pid)
            if status != 0:
                raise ObjectiveFailed(f"exit status {status}: {_last_line(errors) or 'nothing on stderr'}")
            line = _last_line(output)
        if not line:
            raise ObjectiveFailed("the command printed nothing; its last line is the score")
        try:
            return checked(float(line))
        except ValueError:
            raise ObjectiveFailed(f"the last line is no number: {line[:200]!r}") from None

    def close(self) -> None:
        for pid in [*self._running]:
            _kill_group(pid)


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
        raise ObjectiveError(f"cannot import the objective {spec}: {_reason(error)}") from error
    if not callable(function):
        raise ObjectiveError(f"the objective {spec} is no function but {type(function).__name__}")
    return function


def checked(value: object) -> float:
    """The score as a float.

    Raises:
        ObjectiveFailed: it is not a finite number.
    """
    if isinstance(value, bool) or not isinstance(value, Real):
        raise ObjectiveFailed(f"the objective returned {str(value)[:200]!r}, which is no number")
    try:
        score = float(value)
    except OverflowError:
        score = math.inf
    if not math.isfinite(score):
        raise ObjectiveFailed(f"the objective returned {score}; a finite number is needed")
    return score


class _Worker:
    """A process that evaluates one configuration at a time, with everything that it starts in one process group."""

    def __init__(self, function: Function) -> None:
        context = multiprocessing.get_context("spawn")
        self._connection, theirs = context.Pipe()
        # No daemon: those may not have children, and data loaders are children. Neither may Dask's workers, by default.
        self._process = context.Process(target=_serve, args=(function, theirs))
        own = multiprocessing.current_process()._config  # type: ignore[attr-defined]
        daemon = own.pop("daemon", None)
        try:
            self._process.start()
        finally:
            if daemon is not None:
                own["daemon"] = daemon
        theirs.close()
        self.lost = True  # no answer is to be expected from it any more, or not yet
        self._fresh = True

    def call(self, configuration: Configuration, timeout: float | None) -> object:
        if self._fresh:
            self._receive(None)  # imports are done; the time of a trial counts from here
            self._fresh = False
        self._connection.send(configuration)
        return self._receive(timeout)

    def end(self) -> None:
        """End the process, from any thread; the one that calls it notices."""
        if self._process.pid is not None:
            _kill_group(self._process.pid)
        self._process.kill()

    def kill(self) -> None:
        """End the process and free what belongs to it, from the thread that calls it."""
        self.end()
        self._process.join()
        self._connection.close()

    def _receive(self, timeout: float | None) -> object:
        self.lost = True  # an interrupted wait leaves the process at work
        try:
            if not self._connection.poll(timeout):
                raise ObjectiveFailed(f"not done after {timeout:g} s")
            value, failure = self._connection.recv()
        except (EOFError, OSError):
            self._process.join()
            raise WorkerLost(f"its process ended with exit status {self._process.exitcode}") from None
        self.lost = False
        if failure is not None:
            raise ObjectiveFailed(failure)
        return value


def _serve(function: Function, connection: Connection) -> None:
    os.setpgid(0, 0)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the searching process's to handle
    connection.send((None, None))
    with suppress(EOFError, BrokenPipeError):  # the searching process has ended
        while True:
            configuration = connection.recv()
            try:
                answer: tuple[float | None, str | None] = (checked(_call(function, configuration)), None)
            except ObjectiveFailed as error:
                answer = (None, str(error))
            connection.send(answer)


def _call(function: Function, configuration: Configuration) -> object:
    try:
        return function(configuration)
    except (Exception, SystemExit) as error:
        raise ObjectiveFailed(_reason(error)) from error


def _reason(error: BaseException) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())}"[:500]


def _text(option: Option) -> str:
    return option if isinstance(option, str) else json.dumps(option)


def _last_line(stream: IO[bytes]) -> str:
    stream.seek(max(0, stream.seek(0, os.SEEK_END) - OUTPUT_BYTES))
    lines = stream.read().decode(errors="replace").splitlines()
    return next((line.strip() for line in reversed(lines) if line.strip()), "")


def _kill_group(pid: int) -> None:
    with suppress(ProcessLookupError):
        os.killpg(pid, signal.SIGKILL)
