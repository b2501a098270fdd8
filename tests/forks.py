"""Searches to be killed, in forks of one process that has imported what they need, which takes longer than they run."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from multiprocessing import get_context
from multiprocessing.process import BaseProcess
from pathlib import Path

FORKS = get_context("forkserver")
FORKS.set_forkserver_preload(["lmsearcher_local.study.run", "lmsearcher_local.candidates.policies", "pytest"])

Say = Callable[[], None]  # travels to other processes


@contextmanager
def begun(search: Callable[[Path, Say], object], out: Path) -> Iterator[tuple[BaseProcess, Say]]:
    """The process of ``search(out, say)``, past its imports, and a function that waits until it next says something."""
    file = out.with_suffix(".said")
    file.write_bytes(b"")
    process = FORKS.Process(target=_run, args=(search, out, partial(_say, file)))
    process.start()
    heard = 0

    def hear() -> None:
        nonlocal heard
        heard += 1
        while file.stat().st_size < heard and process.is_alive():
            time.sleep(0.001)

    try:
        hear()
        yield process, hear
    finally:
        process.kill()
        process.join()


def _say(file: Path) -> None:
    with file.open("ab") as stream:
        stream.write(b".")


def _run(search: Callable[[Path, Say], object], out: Path, say: Say) -> None:
    say()
    search(out, say)
