"""The process of a function objective: ``worker.py`` starts it.

It is a plain process with the folder, the environment, the import path and the arguments of the searching one. Unlike
a spawned process of multiprocessing it does not import the main module again. A notebook has none, and a script without
a main guard would run a second time.
"""

import os
import pickle
import signal
import sys
import threading
import time
from contextlib import suppress
from multiprocessing.connection import Connection
from typing import TYPE_CHECKING, Any

from lmsearcher_local.errors import ObjectiveError
from lmsearcher_local.study.objectives.base import Function, ObjectiveFailed, Watch, describe_error
from lmsearcher_local.study.objectives.call import evaluate_function, flush_output, load_function
from lmsearcher_local.study.objectives.steps import StoppedEarly

if TYPE_CHECKING:
    from lmsearcher_local.spaces.space import Configuration

Answer = tuple[Any, str | None, bool]  # a score; the reason why there is none; whether that is an early stop
WATCH = 1.0  # seconds between two looks whether the searching process lives


def serve() -> None:
    """Import the function, then answer each configuration with a score or the reason why there is none.

    What is sent is an ``Answer``; before it, where steps are watched, pairs of a step and its value, each of which is
    answered.
    """
    parent = os.getppid()
    threading.Thread(target=_watch, args=(parent,), daemon=True).start()
    connection = Connection(int(sys.argv[1]))
    os.set_inheritable(connection.fileno(), False)
    with suppress(EOFError, BrokenPipeError, ConnectionResetError):  # the searching process has ended
        function, sys.path[:], sys.argv[:] = connection.recv()
        try:
            call = load_function(function) if isinstance(function, str) else pickle.loads(function)
        except BaseException as error:
            connection.send((None, str(error) if isinstance(error, ObjectiveError) else describe_error(error), False))
            return
        connection.send((None, None, False))

        def watch(step: int, value: float) -> bool:
            connection.send((step, value))
            return bool(connection.recv())

        while True:
            configuration, watched = connection.recv()
            connection.send(_evaluate(call, configuration, watch if watched else None))


def _evaluate(function: Function, configuration: "Configuration", watch: Watch | None) -> Answer:
    try:
        return evaluate_function(function, configuration, watch), None, False
    except ObjectiveFailed as error:
        return None, str(error), isinstance(error, StoppedEarly)
    except KeyboardInterrupt as error:  # the function's own: Ctrl-C does not come here
        return None, describe_error(error), False
    finally:
        flush_output()


def _watch(parent: int) -> None:
    """End the process and its group as soon as the searching process has died."""
    while os.getppid() == parent:
        time.sleep(WATCH)
    os.killpg(0, signal.SIGKILL)
