"""Calls a function of somebody else, in whatever process that is."""

import os
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib import import_module
from typing import TYPE_CHECKING, Any

from lmsearcher_local.errors import ObjectiveError
from lmsearcher_local.study.objectives.base import (
    Function,
    Measured,
    ObjectiveFailed,
    Watch,
    check_measured,
    describe_error,
)
from lmsearcher_local.study.objectives.steps import RunningTrial, StoppedEarly, takes_trial

if TYPE_CHECKING:
    from lmsearcher_local.spaces.space import Configuration


def load_function(spec: str) -> Function:
    """The function that ``module:function`` names.

    Raises:
        ObjectiveError: it cannot be imported or called.
    """
    module, _, name = spec.partition(":")
    try:
        function: Any = import_module(module)
        for part in name.split("."):
            function = getattr(function, part)
    except (Exception, SystemExit) as error:
        raise ObjectiveError(describe_error(error)) from error
    if not callable(function):
        raise ObjectiveError(f"it is no function but {type(function).__name__}")
    return function


def evaluate_function(function: Function, configuration: "Configuration", watch: Watch | None = None) -> Measured:
    """What the function measured; one that takes a trial gets one, which reports to the watch.

    Raises:
        StoppedEarly: the watch stopped it.
        ObjectiveFailed: it raised, or returned no finite number and no mapping of names to such.
    """
    trial = RunningTrial(watch)
    try:
        with forks_end_here():
            value = function(configuration, trial) if takes_trial(function) else function(configuration)
    except (Exception, SystemExit) as error:
        kind = StoppedEarly if trial.ended_early(error) else ObjectiveFailed
        raise kind(describe_error(error)) from error
    if trial.ended_early():
        raise StoppedEarly("it was told to stop")
    return check_measured(value)


@contextmanager
def forks_end_here() -> Iterator[None]:
    """A process that is forked within the block ends at its end, where it would go on as a second one of the caller."""
    pid, status = os.getpid(), 0
    try:
        yield
    except BaseException as error:
        if os.getpid() == pid:
            raise
        status = 1
        if isinstance(error, SystemExit):
            status = error.code if isinstance(error.code, int) else int(error.code is not None)
        else:
            traceback.print_exc()
    if os.getpid() != pid:
        flush_output()
        os._exit(status)


def flush_output() -> None:
    """Write what was printed, where there is still something to write to."""
    for stream in (sys.stdout, sys.stderr):
        with suppress(Exception):
            stream.flush()
