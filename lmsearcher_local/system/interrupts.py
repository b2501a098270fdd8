"""Signals that end a search, at the right moment: never between taking a lock and giving it back, and never unheard.

A wait that has no end may never hear one: Python raises what a signal means only between two instructions, and the
system wakes no wait for a signal that came just before it, or to another thread. So whatever may run in the main
thread waits in short turns.
"""

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

ENDING = (signal.SIGTERM, signal.SIGHUP)  # of Slurm, docker, systemd and timeout; of a terminal that is closed
LOOK = 0.5  # seconds of such a turn, and until a signal that was lost comes again


class Terminated(KeyboardInterrupt):
    """A signal that asks this process to end; what ends at Ctrl-C ends at it likewise."""

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.number = number


@contextmanager
def raise_on_termination() -> Iterator[None]:
    """SIGTERM and SIGHUP raise :class:`Terminated` within the block, unless this process ignores or handles them.

    Where one of them, or Ctrl-C, comes in the middle of a ``__del__``, which raises nothing, it comes again.
    """
    terminals = [output for output in (1, 2) if os.isatty(output)]

    def terminate(number: int, frame: Any) -> None:
        if number == signal.SIGHUP:  # they are gone, and whatever writes there would fail
            for output in terminals:
                os.dup2(os.open(os.devnull, os.O_WRONLY), output)
        raise Terminated(number)

    others, main = sys.unraisablehook, threading.get_ident()

    def send_again(lost: "sys.UnraisableHookArgs") -> None:
        if not isinstance(lost.exc_value, KeyboardInterrupt):
            return others(lost)
        number = getattr(lost.exc_value, "number", signal.SIGINT)
        again = threading.Timer(LOOK, signal.pthread_kill, (main, number))
        again.daemon = True
        again.start()

    with _handling([number for number in ENDING if signal.getsignal(number) == signal.SIG_DFL], terminate):
        sys.unraisablehook = send_again
        try:
            yield
        finally:
            sys.unraisablehook = others


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
    before = {number: signal.getsignal(number) for number in numbers} if here else {}
    try:
        for number in before:
            signal.signal(number, handler)
        yield
    finally:
        for number, other in before.items():
            signal.signal(number, other)
