"""The files of a search: results.csv has a line more after each trial, historical_results.json is written at intervals,
with several goals front.csv, too.

Both are made whole when a search starts and when it ends, but for a ``kill -9``; the storage knows what they lack then.
"""

import math
import os
import time
from pathlib import Path

from lmsearcher_local.spaces.files import FRONT, RESULTS, STOPPED, TABLE, write_history
from lmsearcher_local.study.results import Result, Trial, front_text, table_of, text_of
from lmsearcher_local.system.folders import write_atomically

SHARE = 20  # between two writings of the JSON lies so many times what one takes


class Outputs:
    """The files in a folder, which hold what the last result has that was given to any of these methods."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._last: Result | None = None
        self._ordered = True  # trials of several workers end in any order, and are lines in that order
        self._pending = False  # the JSON lacks a trial
        self._due = 0.0  # when the JSON is next written

    def write(self, result: Result) -> None:
        """Write both anew, the trials in order of their numbers."""
        write_atomically(self._folder / TABLE, text_of(result))
        self._ordered, self._last = True, result
        self._write_history(result)

    def add(self, result: Result) -> None:
        """Write what has ended since the last result."""
        lines = table_of(result, result.latest).encode()
        try:
            _append(self._folder / TABLE, lines)
        except FileNotFoundError:  # somebody took it away
            return self.write(result)
        self._ordered = self._ordered and result.trials[len(result.trials) - len(result.latest) :] == result.latest
        self._last, self._pending = result, True
        if time.monotonic() >= self._due:
            self._write_history(result)

    def close(self, result: Result) -> None:
        """Write what the last result, which this is, has more, if anything."""
        if result is not self._last or not self._ordered:
            self.write(result)
        elif self._pending:
            self._write_history(result)

    def _write_history(self, result: Result) -> None:
        started = time.monotonic()
        if len(result.goals) > 1:
            write_atomically(self._folder / FRONT, front_text(result))
        holding = [trial for trial in result.trials if not trial.breaks]
        known = [(trial, trial.reported if trial.pruned else trial.value) for trial in holding]
        valued = [(trial, value) for trial, value in known if value is not None and math.isfinite(value)]
        facts = [_facts(trial) for trial, _ in valued]
        write_history(self._folder / RESULTS, [(trial.code, value) for trial, value in valued], facts)
        ended = time.monotonic()
        self._pending, self._due = False, ended + SHARE * (ended - started)


def _facts(trial: Trial) -> dict[str, object]:
    """What the JSON says of a trial beside its value; one that breaks a limit is not in it: who reads it knows none."""
    stopped = {STOPPED: trial.step} if trial.pruned and trial.step is not None else {}
    return {**stopped, **({"measured": dict(trial.measured)} if trial.measured else {})}


def _append(path: Path, lines: bytes) -> None:
    """Add whole lines to a file, or none."""
    handle = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC)
    try:
        size = os.fstat(handle).st_size
        try:
            while lines:
                lines = lines[os.write(handle, lines) :]
        except OSError:  # no room
            os.ftruncate(handle, size)
            raise
    finally:
        os.close(handle)
