"""A shell command as an objective."""

import json
import os
import re
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import suppress
from typing import IO

from lmsearcher_local.spaces.space import Configuration, SearchSpace
from lmsearcher_local.study.objectives.base import (
    Measured,
    ObjectiveFailed,
    ProcessObjective,
    Watch,
    check_measured,
    describe_error,
)
from lmsearcher_local.study.objectives.processes import kill_tree
from lmsearcher_local.study.objectives.steps import StoppedEarly
from lmsearcher_local.study.objectives.template import Template
from lmsearcher_local.system.documents import parse_json

OUTPUT_BYTES = 65536  # read from the end of what a command printed
LOOK = 0.1  # seconds between two looks at what a command prints; a wait without end may never hear a signal
STEP = re.compile(rb"\s*step\s+(\d{1,9})\s+(\S{1,99})\s*")  # a whole line


class CommandObjective(ProcessObjective):
    """A shell command, or a program and its arguments as a JSON list; the last line that it prints and that is not
    empty is the score, or a JSON object of several numbers by name.

    ``{name}`` becomes the option of that parameter and ``{ncode}`` the code, as one word (see ``Template``). The
    command also finds the configuration as JSON in ``LMSEARCHER_CONFIG`` and the code in ``LMSEARCHER_NCODE``. An exit
    status other than 0 is a failure.

    Where there is a pruner, a line ``step N value`` reports a step. What follows the step at which the pruner stops the
    command does not count, also where the command was quicker than the pruner.

    Raises:
        ObjectiveError: the command is empty, names a parameter that the space does not have, or has it within quotes.
    """

    def __init__(self, command: str, space: SearchSpace, timeout: float | None = None) -> None:
        self.name = f"command {command}"
        self._timeout = timeout
        self._folder = os.getcwd()
        self._running: list[int] = []
        self._template = Template(command, ("ncode", *space.names))

    def __call__(self, code: str, configuration: Configuration, watch: Watch | None = None) -> Measured:
        command = self._template.command({"ncode": code, **configuration})
        variables = {"LMSEARCHER_CONFIG": json.dumps(configuration), "LMSEARCHER_NCODE": code}
        if watch:
            variables["PYTHONUNBUFFERED"] = "1"  # lines of a file would come in blocks
        # Files, not pipes: the reader of a pipe waits for every process that the command left behind.
        with tempfile.TemporaryFile() as output, tempfile.TemporaryFile() as errors:
            try:
                process = subprocess.Popen(
                    command,
                    shell=isinstance(command, str),
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=errors,
                    env=self.environment(**variables),
                    cwd=self._folder if os.path.isdir(self._folder) else None,  # another machine may not have it
                    start_new_session=True,
                )
            except (OSError, ValueError) as error:  # no such program, an option too long or with a zero byte
                raise ObjectiveFailed(f"the command cannot start: {describe_error(error)}") from error
            self._running.append(process.pid)
            try:
                status = _wait_for(process, self._timeout, output, watch)
            except BaseException as error:
                kill_tree(process.pid)
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
        return _parse_measured(line)

    def close(self) -> None:
        for pid in [*self._running]:
            kill_tree(pid)


def _parse_measured(line: str) -> Measured:
    """The number or the JSON object that a line is."""
    try:
        return check_measured(parse_json(line) if line.startswith("{") else float(line))
    except (ValueError, RecursionError):
        kind = "JSON object" if line.startswith("{") else "number"
        raise ObjectiveFailed(f"the last line is no {kind}: {line[:200]!r}") from None


def _wait_for(process: "subprocess.Popen[bytes]", timeout: float | None, output: IO[bytes], watch: Watch | None) -> int:
    """The exit status of a process, unless its time-out or the watch of its steps ends it."""
    until, lines = None if timeout is None else time.monotonic() + timeout, Lines(output)
    while True:
        late = until is not None and time.monotonic() >= until
        try:
            status: int | None = process.wait(LOOK if until is None else max(0.0, min(LOOK, until - time.monotonic())))
        except subprocess.TimeoutExpired:
            status = None
        if watch:
            for step, value in lines.steps():
                if watch(step, value):
                    raise StoppedEarly(f"stopped at step {step}")
        if status is not None:
            return status
        if late:
            raise subprocess.TimeoutExpired(process.args, timeout or 0)


class Lines:
    """Steps in a file that another process writes; their common position in it stays where it is."""

    def __init__(self, stream: IO[bytes]) -> None:
        self._file = stream.fileno()
        self._place = 0
        self._rest = b""  # of a line that has not ended

    def steps(self) -> Iterator[tuple[int, float]]:
        """Those in the lines that ended since the last time."""
        while block := os.pread(self._file, OUTPUT_BYTES, self._place):
            self._place += len(block)
            *lines, self._rest = re.split(rb"[\r\n]", self._rest[-OUTPUT_BYTES:] + block)
            for line in lines:
                if found := STEP.fullmatch(line):
                    with suppress(ValueError):  # it is about something else
                        yield int(found[1]), float(found[2])


def _last_line(stream: IO[bytes]) -> str:
    stream.seek(max(0, stream.seek(0, os.SEEK_END) - OUTPUT_BYTES))
    lines = stream.read().decode(errors="replace").splitlines()
    return next((line.strip() for line in reversed(lines) if line.strip()), "")
