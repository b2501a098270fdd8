"""A trial that tells how far it is: what an objective reports, and how it hears that it is to stop."""

import inspect
from collections.abc import Callable
from typing import Any

from lmsearcher_local.study.objectives.base import ObjectiveFailed, Watch

MOST = 2**31 - 1  # of a step: databases keep no larger one


class StoppedEarly(ObjectiveFailed):
    """The pruner stopped a trial; what it reported until then is stored."""


class RunningTrial:
    """What a function gets as its second argument, to report how well it does and to ask whether to go on.

    Args:
        watch: tells the study of a step and its value, and answers whether the trial is to stop; where there is no
            pruner none, and then nothing that is reported counts.
    """

    def __init__(self, watch: Watch | None = None) -> None:
        self._watch = watch
        self._stop = False
        self.stopped = False  # the function was told so
        self.reported = False  # something that counts

    def report(self, step: int, value: float) -> None:
        """Tell the value after a step of the training, on the scale of the objective. Steps count from 0 or 1.

        Raises:
            ValueError: the step is no whole number of at least 0, or the value no number; one that is not finite may
                be.
        """
        if isinstance(step, bool) or not hasattr(step, "__index__") or not 0 <= step.__index__() <= MOST:
            raise ValueError(f"a step is a whole number of at least 0, not {step!r}")
        if isinstance(value, (bool, str)) or not hasattr(value, "__float__"):
            raise ValueError(f"the value of step {step} is no number: {value!r}")
        if self._watch is not None:
            self._stop = self._watch(step.__index__(), float(value)) or self._stop
            self.reported = True

    def should_stop(self) -> bool:
        """Whether the pruner finds the trial not worth going on. The function then returns or raises, no matter what:
        the trial ends as pruned."""
        self.stopped = self._stop
        return self._stop

    def ended_early(self, error: BaseException | None = None) -> bool:
        """Whether a function that ended so was stopped: it was told, or raised Optuna's TrialPruned by itself."""
        kind = type(error)
        pruned = kind.__name__ == "TrialPruned" and kind.__module__.startswith("optuna")
        return self.stopped or (pruned and self.reported)


def takes_trial(function: Callable[..., Any]) -> bool:
    """Whether a function takes a second argument: one without a default, or called ``trial``."""
    try:
        parameters = [*inspect.signature(function).parameters.values()]
    except (TypeError, ValueError):  # written in C
        return False
    places = [one for one in parameters if one.kind in (one.POSITIONAL_ONLY, one.POSITIONAL_OR_KEYWORD)]
    return len(places) > 1 and (places[1].default is inspect.Parameter.empty or places[1].name == "trial")


def takes_watch(objective: Callable[..., Any]) -> bool:
    """Whether an objective is called with a third argument, a ``Watch``."""
    return "watch" in inspect.signature(objective).parameters
