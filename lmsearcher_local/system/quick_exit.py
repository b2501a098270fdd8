"""The end of a process that frees nothing: where vLLM was loaded, that takes two seconds."""

import atexit
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def quick_exit() -> Iterator[None]:
    """A block whose ``sys.exit`` ends the process as soon as all has run that was registered in it with ``atexit``.

    The interpreter then no longer collects its garbage and takes its modules apart.
    """
    status: list[int] = []
    atexit.register(_end, status)  # first, so that it runs last
    try:
        yield
    except SystemExit as error:
        if error.code is None or isinstance(error.code, int):
            status.append(error.code or 0)
        raise


def _end(status: list[int]) -> None:
    try:
        for stream in (sys.stdout, sys.stderr):
            if stream is not None:  # closed before the process began
                stream.flush()
    except (OSError, ValueError):
        return  # what cannot be written the interpreter reports in its own way
    if status:
        os._exit(status[0])
