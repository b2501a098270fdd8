"""A process that ends at once still says all it has to say, with the exit status that it was given."""

import os
import subprocess
import sys
from typing import IO

import pytest

PROGRAM = """
import atexit, sys, threading, time
from lmsearcher_local.system.quick_exit import quick_exit

class Held:
    def __del__(self):
        print("taken apart")

with quick_exit():
    held = Held()
    held.itself = held
    atexit.register(print, "registered")
    threading.Thread(target=lambda: (time.sleep(0.2), print("of a thread"))).start()
    print("said", end=" ")
    {end}
"""


def run(end: str, output: int | IO[str] = subprocess.PIPE) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-c", PROGRAM.replace("{end}", end)]
    environment = {**os.environ, "PYTHONUNBUFFERED": ""}
    return subprocess.run(command, stdout=output, stderr=subprocess.PIPE, text=True, env=environment, check=False)


@pytest.mark.parametrize(("end", "status"), [("sys.exit()", 0), ("sys.exit(0)", 0), ("sys.exit(130)", 130)])
def test_what_is_registered_runs_and_nothing_is_taken_apart(end: str, status: int) -> None:
    done = run(end)
    assert (done.returncode, done.stdout, done.stderr) == (status, "said of a thread\nregistered\n", "")


@pytest.mark.parametrize(("end", "words"), [("1 / 0", "ZeroDivisionError"), ("sys.exit('no room')", "no room")])
def test_other_ends_are_the_interpreters_own(end: str, words: str) -> None:
    done = run(end)
    assert (done.returncode, done.stdout) == (1, "said of a thread\nregistered\ntaken apart\n")
    assert words in done.stderr


def test_output_that_cannot_be_written_is_reported() -> None:
    with open("/dev/full", "w") as full:
        done = run("sys.exit(0)", full)
    assert done.returncode == 120
    assert "No space left" in done.stderr
