"""What an objective is, and what counts as its score.

An evaluation either returns a finite number or raises ``ObjectiveFailed`` with the reason; a failed one costs its own
trial only.
"""

import math
import os
import signal
from collections.abc import Callable
from contextlib import suppress
from numbers import Real
from typing import Protocol, runtime_checkable

from lmsearcher_local.errors import LMSearcherError
from lmsearcher_local.space import Configuration

Function = Callable[[Configuration], float]


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


def describe_error(error: BaseException) -> str:
    """The error in one line."""
    return f"{type(error).__name__}: {' '.join(str(error).split())}"[:500]


def kill_group(pid: int) -> None:
    """Kill all processes of a group, if there are any."""
    with suppress(ProcessLookupError):
        os.killpg(pid, signal.SIGKILL)
