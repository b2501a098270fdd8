"""Linear algebra on one thread, which is many times quicker for matrices of a few hundred rows beside other work.

The bits of a result then do not depend on how many processors there are. The number of threads belongs to the process,
so it is set for milliseconds only, around our own arithmetic. However many threads come here at once, the last to leave
restores what the first one found.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Lock, local

import scipy.linalg  # noqa: F401, brings a BLAS of its own beside numpy's, which is to be there now
from threadpoolctl import ThreadpoolController

from lmsearcher_local.system.interrupts import defer_signals

BLAS = ThreadpoolController().select(user_api="blas")

_lock = Lock()
_inside = 0  # threads of this process that are in a block of ``one_thread``
_here = local()  # whether this one is: a block within a block costs nothing
_found: list[int] = []  # threads of each library of BLAS before the first of them came


@contextmanager
def one_thread() -> Iterator[None]:
    """A block, or as a decorator a function, in which numpy and scipy calculate on one thread."""
    global _inside, _found
    if getattr(_here, "inside", False):
        yield
        return
    with defer_signals(), _lock:
        if _inside == 0:
            _found = [library.num_threads for library in BLAS.lib_controllers]
            _set([1] * len(_found))
        _inside += 1
        _here.inside = True
    try:
        yield
    finally:
        with defer_signals(), _lock:
            _here.inside = False
            _inside -= 1
            if _inside == 0:
                _set(_found)


def _set(threads: list[int]) -> None:
    """Set how many threads each library has.

    From version 3.8 on, threadpoolctl minds which thread set OpenBLAS and ignores all others: it is told to forget it.
    """
    for library, number in zip(BLAS.lib_controllers, threads, strict=True):
        forget = getattr(library, "clear_controlling_thread", lambda force: None)
        forget(force=True)
        library.set_num_threads(number)
        forget(force=True)


def _after_fork() -> None:
    """A child that was forked while other threads were inside has none of them, and nobody who would leave."""
    global _inside, _lock
    _lock = Lock()
    _here.inside = False
    if _inside:
        _inside = 0
        _set(_found)


os.register_at_fork(after_in_child=_after_fork)
