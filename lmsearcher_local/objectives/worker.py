"""A process that evaluates a function, one configuration at a time."""

import multiprocessing
import os
import signal
from contextlib import suppress
from multiprocessing.connection import Connection

from lmsearcher_local.objectives.base import Function, ObjectiveFailed, WorkerLost, checked, describe_error, kill_group
from lmsearcher_local.space import Configuration


class Worker:
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
            kill_group(self._process.pid)
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
                answer: tuple[float | None, str | None] = (checked(call(function, configuration)), None)
            except ObjectiveFailed as error:
                answer = (None, str(error))
            connection.send(answer)


def call(function: Function, configuration: Configuration) -> object:
    """What the function returns.

    Raises:
        ObjectiveFailed: it raised.
    """
    try:
        return function(configuration)
    except (Exception, SystemExit) as error:
        raise ObjectiveFailed(describe_error(error)) from error
