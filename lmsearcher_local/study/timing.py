"""How long a search may take, and where its time goes."""

import re
import time
from collections.abc import Iterator
from contextlib import contextmanager

from lmsearcher_local.errors import NothingToPropose, StudyError

UNITS = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}


def parse_budget(text: str) -> float:
    """Seconds that a number with its unit says: ``90m``, ``8h``, ``1.5d``, ``30s``.

    Raises:
        StudyError: it is something else, or not above 0.
    """
    found = re.fullmatch(r"(\d+(?:\.\d+)?) ?([smhd])", text.strip())
    seconds = float(found[1]) * UNITS[found[2]] if found else 0.0
    if not seconds:
        raise StudyError(f"a budget is a number above 0 with its unit, s, m, h or d, like 8h, not {text!r}")
    return seconds


def in_units(seconds: float) -> str:
    """Seconds in the largest unit of which there is at least one: ``1.5 h``."""
    unit = next((unit for unit in reversed(UNITS) if seconds >= UNITS[unit]), "s")
    return f"{seconds / UNITS[unit]:.3g} {'min' if unit == 'm' else unit}"


class Clock:
    """The time of one run of a search.

    Args:
        workers: trials evaluated at once.
        budget: seconds until no new trial is begun, if any.
    """

    def __init__(self, workers: int, budget: float | None = None) -> None:
        self._started = time.monotonic()
        self.workers = workers
        self._budget = budget
        self._asking = self._evaluating = 0.0

    @property
    def over(self) -> bool:
        """Whether no new trial is to be begun."""
        return self._budget is not None and time.monotonic() - self._started >= self._budget

    @contextmanager
    def asking(self) -> Iterator[None]:
        """The block asks for configurations, unless the budget is over: ``NothingToPropose``."""
        if self.over:
            raise NothingToPropose(f"its budget of {in_units(self._budget or 0)} is over")
        started = time.monotonic()
        try:
            yield
        finally:
            self._asking += time.monotonic() - started

    def evaluated(self, seconds: float) -> None:
        """A worker was at a trial for so long."""
        self._evaluating += seconds

    def seconds(self) -> dict[str, float]:
        """Of the run so far: ``wall``; ``asking``, within it; ``evaluating``, of all workers; and how long these
        were ``waiting`` for a trial. The last two are together ``wall`` times the number of workers."""
        wall = time.monotonic() - self._started
        found = {"wall": wall, "asking": self._asking, "evaluating": self._evaluating}
        waiting = max(0.0, wall * self.workers - self._evaluating)
        return {name: round(value, 3) for name, value in {**found, "waiting": waiting}.items()}
