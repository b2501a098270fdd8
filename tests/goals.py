"""Objectives for tests with processes, in a module that is quickly imported."""

import os
import signal
import time
from pathlib import Path


def score(configuration: dict[str, int]) -> float:
    return float(sum(configuration.values()) % 7)


def dies_at_first(configuration: dict[str, int]) -> float:
    """Each configuration kills its process, at its first attempt."""
    try:
        Path(os.environ["MARKS"], "".join(map(str, configuration.values()))).touch(exist_ok=False)
    except FileExistsError:
        return score(configuration)
    os.kill(os.getpid(), signal.SIGKILL)
    return 0.0


def dies(configuration: dict[str, int]) -> float:
    if configuration["x0"] == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    return score(configuration)


def meets(configuration: dict[str, int]) -> float:
    """Waits until four processes are at it."""
    (Path(os.environ["MARKS"]) / f"{os.getpid()}.process").touch()
    until = time.monotonic() + 60
    while len([*Path(os.environ["MARKS"]).glob("*.process")]) < 4 and time.monotonic() < until:
        time.sleep(0.01)
    return score(configuration) if time.monotonic() < until else float("nan")


def raises(configuration: dict[str, int]) -> float:
    raise ValueError(f"x0 is {configuration['x0']}")


def hangs(configuration: dict[str, int]) -> float:
    if configuration["x0"] == 1:
        time.sleep(60)
    return score(configuration)


def naps(configuration: dict[str, int]) -> float:
    (Path(os.environ["MARKS"]) / f"{os.getpid()}.process").touch()
    time.sleep(600)
    return 0.0


def sleeps(configuration: dict[str, int]) -> float:
    time.sleep(600)
    return 0.0


def process_id(configuration: dict[str, int]) -> float:
    return os.getpid()
