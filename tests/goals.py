"""Objectives for tests with processes, in a module that is quickly imported."""

import ctypes
import json
import os
import resource
import signal
import tempfile
import time
import zlib
from pathlib import Path
from typing import Any


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
    return meets_in(os.environ["MARKS"], configuration)


def meets_in(marks: str, configuration: dict[str, int]) -> float:
    """The same, with the folder in which they meet."""
    (Path(marks) / f"{os.getpid()}.process").touch()
    until = time.monotonic() + 240
    while len([*Path(marks).glob("*.process")]) < 4 and time.monotonic() < until:
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


def writes_environment(configuration: dict[str, int]) -> float:
    """Into a file, at first in a process that then dies, so that another one starts later."""
    place = Path(os.environ["MARKS"], f"{len([*Path(os.environ['MARKS']).iterdir()])}.json")
    place.write_text(json.dumps(dict(os.environ)))
    if place.name == "0.json":
        os._exit(3)
    return score(configuration)


def joins_a_group(configuration: dict[str, int]) -> float:
    """As training on several cards does; a process can do it once."""
    from torch import distributed

    with tempfile.TemporaryDirectory() as folder:
        distributed.init_process_group("gloo", init_method=f"file://{folder}/group", rank=0, world_size=1)
        distributed.destroy_process_group()
    return score(configuration)


def segfault(configuration: dict[str, int]) -> float:
    return ctypes.string_at(0) and 0.0 if configuration["x0"] == 1 else score(configuration)


def leaves(configuration: dict[str, int]) -> float:
    return os._exit(7) if configuration["x0"] == 1 else score(configuration)


def takes_all_memory(configuration: dict[str, int]) -> float:
    """Within a limit, as of a small container without a killer."""
    if configuration["x0"] == 1:
        resource.setrlimit(resource.RLIMIT_AS, (1 << 30, resource.RLIM_INFINITY))
        return float(len(b"x" * (2 << 30)))
    return score(configuration)


def waits(configuration: dict[str, int]) -> float:
    time.sleep(1.5)
    return score(configuration)


def environment_digest(_: object = None) -> float:
    """A number for this process's environment, but for what a cluster gives each of its workers."""
    kept = {name: value for name, value in os.environ.items() if "WORKER" not in name and "PID" not in name}
    return float(zlib.crc32(json.dumps(kept, sort_keys=True).encode()))


def climbs(configuration: dict[str, int], trial: Any) -> float:
    """Reports the score in four steps, quarter by quarter."""
    for step in range(1, 5):
        trial.report(step, score(configuration) * step / 4)
        if trial.should_stop():
            break
    return score(configuration)


def trains(configuration: dict[str, int], trial: Any = None) -> float:
    """Reports nine steps that climb to the final value, at a speed of the configuration's own."""
    values = [*configuration.values()]
    final = 0.5 + sum(values) / 25 + values[0] * values[1] / 100
    for step in range(1, 10):
        if trial is not None:
            trial.report(step, final * (1 - 0.5 ** (step * (1 + values[2]) / 3)))
            if trial.should_stop():
                break
    return final
