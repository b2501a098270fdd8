"""Ends evaluations and everything that they started."""

import os
import signal
import time
from collections.abc import Iterable
from contextlib import suppress

import psutil

from lmsearcher_local.study.objectives.base import OUT

STOPPING = 1.0  # seconds until a process that waits for a disk counts as stopped
STILL = (psutil.STATUS_STOPPED, psutil.STATUS_TRACING_STOP, psutil.STATUS_ZOMBIE, psutil.STATUS_DEAD)


def kill_tree(pid: int) -> None:
    """Kill a process, its group and its descendants: launchers such as torchrun put theirs into groups of their own.

    All are stopped first, until no other is found: what is started between a look and the kill would be left running.
    """
    found: dict[int, psutil.Process] = {}
    with suppress(psutil.Error):
        found[pid] = psutil.Process(pid)
    fresh = [*found.values()]
    while fresh:
        _stop(fresh)
        fresh = [process for process in descendants(pid) if process.pid not in found]
        found.update((process.pid, process) for process in fresh)
    kill([pid], found.values())


def _stop(processes: Iterable[psutil.Process]) -> None:
    """Stop processes, and wait until they are."""
    for process in processes:
        with suppress(psutil.Error):
            process.suspend()
    until = time.monotonic() + STOPPING
    for process in processes:
        with suppress(psutil.Error):
            while process.status() not in STILL and time.monotonic() < until:
                time.sleep(0.001)


def descendants(pid: int) -> list[psutil.Process]:
    """The processes that a process started, and those that they started."""
    try:
        return psutil.Process(pid).children(recursive=True)
    except psutil.Error:
        return []


def kill(groups: Iterable[int], processes: Iterable[psutil.Process]) -> None:
    for group in groups:
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(group, signal.SIGKILL)
    for process in processes:
        with suppress(psutil.Error):
            process.kill()


def end_leftovers(out: str) -> int:
    """End the evaluations of a search in ``out`` that a kill left running; how many processes that were.

    They are found by their environment, which names the folder. This process, what started it and what it started are
    none of them.
    """
    own = psutil.Process()
    spared = {process.pid for process in [own, *own.parents(), *own.children(recursive=True)]}
    left = [process for process in psutil.process_iter() if process.pid not in spared and _belongs(process, out)]
    kill([], left)
    psutil.wait_procs(left, timeout=10)
    return len(left)


def _belongs(process: psutil.Process, out: str) -> bool:
    try:
        return process.environ().get(OUT) == out and process.status() != psutil.STATUS_ZOMBIE
    except (psutil.Error, OSError):  # of somebody else, or gone
        return False
