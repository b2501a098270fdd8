"""Signals that end a search, at the right moment: never between taking a lock and giving it back."""

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

ENDING = (signal.SIGTERM, signal.SIGHUP)  # of Slurm, docker, systemd and timeout; of a terminal that is closed


class Terminated(KeyboardInterrupt):
    """A signal that asks this process to end; what ends at Ctrl-C ends at it likewise."""

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.number = number


@contextmanager
def raise_on_termination() -> Iterator[None]:
    """SIGTERM and SIGHUP raise :class:`Terminated` within the block, unless this process ignores or handles them."""
    before = {number: signal.getsignal(number) for number in ENDING}
    ours = [number for number, handler in before.items() if handler == signal.SIG_DFL]
    if threading.current_thread() is not threading.main_thread():  # signals never come here
        ours = []
    terminals = [output for output in (1, 2) if os.isatty(output)]

    def terminate(number: int, frame: Any) -> None:
        if number == signal.SIGHUP:  # they are gone, and whatever writes there would fail
            for output in terminals:
                os.dup2(os.open(os.devnull, os.O_WRONLY), output)
        raise Terminated(number)

    for number in ours:
        signal.signal(number, terminate)
    try:
        yield
    finally:
        for number in ours:
            signal.signal(number, signal.SIG_DFL)


@contextmanager
def defer_signals() -> Iterator[None]:
    """Ctrl-C, and what ends a search likewise, waits for the end of the block. An exception in its middle could leave a
    lock taken forever, of a thread that is being started, of a future or of a file. For what takes milliseconds."""
    if threading.current_thread() is not threading.main_thread():  # signals never come here
        yield
        return
    came: list[int] = []
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, *ENDING)}
    handled = {number: handler for number, handler in before.items() if handler not in (None, signal.SIG_IGN)}
    for number in handled:
        signal.signal(number, lambda number, frame: came.append(number))
    try:
        yield
    finally:
        for number, handler in handled.items():
            signal.signal(number, handler)
        for late in came:
            signal.raise_signal(late)
