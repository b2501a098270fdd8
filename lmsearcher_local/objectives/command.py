"""A shell command as an objective."""

import json
import os
import re
import shlex
import subprocess
import tempfile
from typing import IO

from lmsearcher_local.errors import ObjectiveError
from lmsearcher_local.objectives.base import ObjectiveFailed, checked, kill_group
from lmsearcher_local.space import Configuration, Option, SearchSpace

OUTPUT_BYTES = 65536  # read from the end of what a command printed


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
                kill_group(process.pid)
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
            kill_group(pid)


def _text(option: Option) -> str:
    return option if isinstance(option, str) else json.dumps(option)


def _last_line(stream: IO[bytes]) -> str:
    stream.seek(max(0, stream.seek(0, os.SEEK_END) - OUTPUT_BYTES))
    lines = stream.read().decode(errors="replace").splitlines()
    return next((line.strip() for line in reversed(lines) if line.strip()), "")
