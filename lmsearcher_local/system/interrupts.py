"""Signals that end a search, at the right moment: never between taking a lock and giving it back."""

import os
import signal
import threading
from collections.abc import Callable, Iterable, Iterator
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
    terminals = [output for output in (1, 2) if os.isatty(output)]

    def terminate(number: int, frame: Any) -> None:
        if number == signal.SIGHUP:  # they are gone, and whatever writes there would fail
            for output in terminals:
                os.dup2(os.open(os.devnull, os.O_WRONLY), output)
        raise Terminated(number)

    with _handling([number for number in ENDING if signal.getsignal(number) == signal.SIG_DFL], terminate):
        yield


@contextmanager
def defer_signals() -> Iterator[None]:
    """Ctrl-C, and what ends a search likewise, waits for the end of the block. An exception in its middle could leave a
    lock taken forever, of a thread that is being started, of a future or of a file. For what takes milliseconds."""
    came: list[int] = []
    numbers = [one for one in (signal.SIGINT, *ENDING) if signal.getsignal(one) not in (None, signal.SIG_IGN)]
    try:
        with _handling(numbers, lambda number, frame: came.append(number)):
            yield
    finally:
        for late in came:
            signal.raise_signal(late)


@contextmanager
def _handling(numbers: Iterable[int], handler: Callable[[int, Any], None]) -> Iterator[None]:
    """These signals are handled so within the block; in another thread than the main one none ever comes."""
    here = threading.current_thread() is threading.main_thread()
    before = {number: signal.signal(number, handler) for number in numbers} if here else {}
    try:
        yield
    finally:
        for number, other in before.items():
            signal.signal(number, other)
