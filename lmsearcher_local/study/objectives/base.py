"""What an objective is, and what counts as its score.

An evaluation either returns a finite number, or several by name, or raises ``ObjectiveFailed`` with the reason; a
failed one costs its own trial only. Evaluation processes import this module, so it imports as little as can be.
"""

import math
import os
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from lmsearcher_local.errors import LMSearcherError

if TYPE_CHECKING:
    from lmsearcher_local.spaces.space import Configuration

Function = Callable[..., Any]  # of a configuration, and maybe a ``RunningTrial``; see ``check_measured``
Measured = float | dict[str, float]
Watch = Callable[[int, float], bool]  # told a step and its value, it answers whether the trial is to stop

OUT = "LMSEARCHER_OUT"  # environment variable of an evaluation: the absolute output folder of its search
NO_NUMBERS = ("bool", "complex", "datetime", "timedelta", "<U", "|S")  # data types that float() takes all the same


class ObjectiveFailed(LMSearcherError, RuntimeError):
    """One evaluation gave no score; its message is the reason."""


class WorkerLost(ObjectiveFailed):
    """The process of an evaluation died before it answered, which may not be the configuration's fault."""


@runtime_checkable
class Objective(Protocol):
    """Something to optimise. ``name`` is kept with the study, so that a resume continues the same thing.

    It is called in the searching process, by threads where there are several workers; on a cluster each worker has a
    copy, made by pickle. What it raises fails its trial, but an ``ObjectiveError`` ends the search.

    One whose ``__call__`` has a third parameter, ``watch``, gets a ``Watch`` where there is a pruner, and raises
    ``StoppedEarly`` where it did stop.
    """

    name: str

    def __call__(self, code: str, configuration: "Configuration") -> Measured:
        """The score, a finite number, or several by name. The configuration is the callee's own.

        Raises:
            ObjectiveFailed: there is none.
        """
        ...

    def close(self) -> None:
        """End what the objective keeps running; it may be called again."""
        ...


class ProcessObjective:
    """Base of objectives that run in processes of this machine; a study sets its attributes before the first call.

    ``out`` is the absolute output folder, or none. With ``shared`` a process ends with its trial and leaves nothing on
    the card, which the model then uses.
    """

    out: str | None = None
    shared: bool = False

    def start(self) -> None:
        """Start a process for the first trial, where one can be."""

    def environment(self, **variables: str) -> dict[str, str]:
        """That of an evaluation: this process's, ``LMSEARCHER_OUT`` and the variables given."""
        own = {} if self.out is None else {OUT: self.out}
        return {**os.environ, **own, **variables}


def check_measured(value: object) -> Measured:
    """What was measured: a finite number, or a mapping of names to such numbers.

    Raises:
        ObjectiveFailed: it is something else.
    """
    if not isinstance(value, Mapping):
        return _number(value, "")
    for name in value:
        if not isinstance(name, str) or not name.strip():
            raise ObjectiveFailed(f"the objective returned a mapping with the name {str(name)[:200]!r}; names are text")
    if not value:
        raise ObjectiveFailed("the objective returned an empty mapping; it names what was measured")
    return {str(name).strip(): _number(item, f" for {name}") for name, item in value.items()}


def _number(value: object, where: str) -> float:
    """The score as a float: whatever counts as a number, also a tensor or an array that holds one."""
    kind = str(getattr(value, "dtype", ""))
    if isinstance(value, (bool, str)) or not hasattr(value, "__float__") or any(name in kind for name in NO_NUMBERS):
        raise ObjectiveFailed(f"the objective returned {str(value)[:200]!r}{where}, which is no number")
    try:
        score = float(value)
    except OverflowError:
        score = math.inf
    except Exception as error:  # of an array of several, for example
        raise ObjectiveFailed(f"the objective returned {str(value)[:200]!r}{where}, which is no number") from error
    if not math.isfinite(score):
        raise ObjectiveFailed(f"the objective returned {score}{where}; a finite number is needed")
    return score


def describe_error(error: BaseException) -> str:
    """The error in one line."""
    return f"{type(error).__name__}: {' '.join(str(error).split())}"[:500]
