"""A process that evaluates a function, one configuration at a time: the searching process's side."""

import os
import subprocess
import sys
import time
from contextlib import suppress
from multiprocessing import Pipe
from pathlib import Path
from typing import Any

import psutil

from lmsearcher_local.errors import ObjectiveError
from lmsearcher_local.spaces.space import Configuration
from lmsearcher_local.study.objectives.base import Measured, ObjectiveFailed, Watch, WorkerLost
from lmsearcher_local.study.objectives.processes import descendants, kill, kill_tree
from lmsearcher_local.study.objectives.steps import StoppedEarly

STARTING = 300.0  # seconds for what the function imports
ENDING = 10.0  # seconds for what the function left to be done at the end of its process
LOOK = 1.0  # seconds: a dead process whose child holds the connection is noticed after so long
ROOT = str(Path(__file__).parents[3])  # where this package is found
BOOT = (
    "import sys; sys.path.insert(0, sys.argv.pop(1)); "
    "from lmsearcher_local.study.objectives.serve import serve; serve()"
)


class Worker:
    """A process in a group of its own, and the connection to it.

    Args:
        function: ``module:function``, or a function pickled.
        folder: its working folder; where there is none of this name, the current one.

    Raises:
        ObjectiveError: no process can be started.
    """

    def __init__(self, function: str | bytes, folder: str, environment: dict[str, str]) -> None:
        self._name = f"the objective {function}" if isinstance(function, str) else "the objective"
        self._started: list[psutil.Process] = []
        self._task: Any = (function, _import_path(folder), sys.argv)
        self.lost = True  # no answer is to be expected from it any more, or not yet
        self._connection, theirs = Pipe()
        options: list[str] = subprocess._args_from_interpreter_flags()  # type: ignore[attr-defined]
        try:
            self._process = subprocess.Popen(
                [sys.executable, *options, "-P", "-c", BOOT, ROOT, str(theirs.fileno())],
                stdin=subprocess.DEVNULL,
                cwd=folder if os.path.isdir(folder) else None,  # another machine may not have it
                env=environment,
                pass_fds=[theirs.fileno()],
                process_group=0,
            )
        except OSError as error:
            raise ObjectiveError(f"no process can be started for the objective: {error.strerror}") from error
        finally:
            theirs.close()

    def start(self) -> None:
        """Wait until the function is imported, if it is not yet; ``ObjectiveError`` where it cannot be in time."""
        if self._task is None:
            return
        try:
            with suppress(OSError):  # it has ended, and the receiver says so
                self._connection.send(self._task)
            self._task = None
            self._receive(STARTING, "its imports took more than")
        except ObjectiveFailed as error:
            raise ObjectiveError(f"cannot import {self._name}: {error}") from error

    def call(self, configuration: Configuration, timeout: float | None, watch: Watch | None = None) -> Measured:
        """What the function measured.

        Raises:
            StoppedEarly: the watch stopped it.
            ObjectiveFailed: there is none, or not within the seconds given.
        """
        with suppress(OSError):
            self._connection.send((configuration, watch is not None))
        return self._receive(timeout, "not done after", watch)

    def hang_up(self) -> None:
        """Let an idle process end as a program does, so that what is to be done at its exit is done."""
        self._started = descendants(self._process.pid)
        self._connection.close()

    def finish(self) -> None:
        """Wait for the end of a process after :meth:`hang_up`, and end what it left behind."""
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(ENDING)
        kill([self._process.pid], self._started)
        self._process.wait()

    def kill(self) -> None:
        """End the process and what it started, from any thread; one that calls it notices."""
        kill_tree(self._process.pid)
        self._process.wait()

    def _receive(self, timeout: float | None, late: str, watch: Watch | None = None) -> Any:
        """The answer of the process, after what it reports on the way."""
        self.lost = True  # an interrupted wait leaves the process at work
        until = None if timeout is None else time.monotonic() + timeout
        while len(received := self._next(until, f"{late} {timeout or 0:g} s")) == 2:
            stop = watch is not None and watch(*received)
            with suppress(OSError):
                self._connection.send(stop)
        self.lost = False
        value, failure, stopped = received
        if failure is not None:
            raise (StoppedEarly if stopped else ObjectiveFailed)(failure)
        return value

    def _next(self, until: float | None, late: str) -> Any:
        """What the process says next."""
        try:
            while not self._connection.poll(LOOK if until is None else max(0.0, min(LOOK, until - time.monotonic()))):
                if until is not None and time.monotonic() >= until:
                    raise ObjectiveFailed(late)
                if self._process.poll() is not None and not self._connection.poll():
                    raise EOFError
            received = self._connection.recv()
            if not isinstance(received, tuple) or len(received) not in (2, 3):
                raise ValueError
            return received
        except ObjectiveFailed:
            raise
        except Exception as error:  # the connection has ended, or somebody else wrote to it
            raise WorkerLost(f"its process ended with {self._ending()}") from error

    def _ending(self) -> str:
        try:
            status = self._process.wait(LOOK)
        except subprocess.TimeoutExpired:
            return "its connection, not by itself"
        return f"exit status {status}"


def _import_path(folder: str) -> list[str]:
    """That of this process, with the folder; nothing relative, as functions may change the folder."""
    path = [os.path.abspath(entry) for entry in sys.path]
    return path if folder in path or not os.path.isdir(folder) else [folder, *path]
