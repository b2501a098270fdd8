"""An objective that does whatever foreign code may do, and a well-behaved one of the same values."""

import locale
import os
import random
import signal
import sys
import tempfile
import threading
import time
from typing import Any


def score(configuration: dict[str, Any]) -> float:
    if configuration["x0"] == configuration["x1"] == 3:
        raise ValueError("these two are the same")
    return float(sum(configuration.values()) % 7)


def rude(configuration: dict[str, Any]) -> float:
    first = random.random()  # what the process that calls it has not seeded
    try:
        return score(dict(configuration)) + 0 * first
    finally:
        configuration.pop("x0")
        configuration["x1"] = min(configuration["x1"], 0)
        configuration.setdefault("epochs", 10)
        change_process()
        fork()


def change_process() -> None:
    os.chdir(tempfile.gettempdir())
    os.environ.update(LMSEARCHER_OUT="elsewhere", HOME="/nowhere", OMP_NUM_THREADS="1", HF_HUB_OFFLINE="1")
    os.environ.pop("PATH", None)
    locale.setlocale(locale.LC_ALL, "C")
    seed()
    sys.stdout.write("what an objective prints\n" * 40_000)
    sys.stderr.write("and complains about\n" * 40_000)
    if threading.current_thread() is threading.main_thread():
        for number in (signal.SIGALRM, signal.SIGUSR1, signal.SIGTERM, signal.SIGCHLD):
            signal.signal(number, lambda number, frame: None)
    threading.Thread(target=time.sleep, args=(0.05,), daemon=True).start()


def fork() -> None:
    child = os.fork()
    if child:
        os.waitpid(child, 0)
    # the child returns from here, as if it were the search


def seed() -> None:
    import numpy as np
    import torch

    for state in (0, time.time_ns() % 2**32):
        random.seed(state)
        np.random.seed(state)
        torch.manual_seed(state)
    np.seterr(all="raise")
