"""However a search ends, its evaluations end with it, and those that a kill left are ended by the next run."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from processes import gone

from lmsearcher_local.system.interrupts import raise_on_termination

SEARCH = str(Path(__file__).with_name("scripted_search.py"))
GOAL = """
import subprocess, time
from pathlib import Path

def score(configuration):
    if Path("quick").exists():
        return configuration["rank"]
    subprocess.Popen(["sleep", "600"])
    subprocess.Popen(["sleep", "600"], start_new_session=True)  # as torchrun starts its workers
    Path("started").touch()
    time.sleep(600)
"""
SHELL = "if [ -e quick ]; then echo {rank}; else sleep 600 & setsid sleep 600 & touch started; sleep 600; fi"
OBJECTIVES = {"function": ("--objective", "goal:score"), "command": ("--command", SHELL)}


@pytest.fixture
def mark(tmp_path: Path) -> str:
    (tmp_path / "space.yaml").write_text("rank: [4, 8, 16]\nlr: [0.1, 0.01]\n")
    (tmp_path / "goal.py").write_text(GOAL)
    return f"lmsearcher-{os.getpid()}-{tmp_path.name}"


def begin(folder: Path, mark: str, *arguments: str) -> "subprocess.Popen[bytes]":
    """A search of two workers in a folder; what it starts has the mark in its environment."""
    environment = {**os.environ, "MARK": mark}
    command = [sys.executable, SEARCH, "search", "space.yaml", "--out", "out", *arguments]
    with (folder / "errors").open("w") as errors:  # a pipe would wait for all who hold it
        return subprocess.Popen(
            [*command, "--trials", "6", "--workers", "2"], cwd=folder, env=environment, stderr=errors
        )


def until_it_evaluates(folder: Path, process: "subprocess.Popen[bytes]") -> None:
    while not (folder / "started").exists():
        assert process.poll() is None
        time.sleep(0.05)


# A signal becomes an exception before anything knows of the objective, so one of them for the second kind.
@pytest.mark.parametrize(
    ("number", "objective"),
    [
        (signal.SIGINT, "function"),
        (signal.SIGTERM, "function"),
        (signal.SIGHUP, "function"),
        (signal.SIGTERM, "command"),
    ],
)
def test_signals_end_the_evaluations_too(tmp_path: Path, mark: str, number: signal.Signals, objective: str) -> None:
    process = begin(tmp_path, mark, *OBJECTIVES[objective])
    until_it_evaluates(tmp_path, process)
    process.send_signal(number)
    process.wait(180)
    errors = (tmp_path / "errors").read_text()
    assert process.returncode == 128 + number
    assert errors.endswith(f"The same command with --resume goes on from here.\n\nEnded by {number.name}.\n")
    assert gone(mark)


# The main thread waits for a thread where there are two workers, else for the command.
@pytest.mark.parametrize(("objective", "workers"), [("function", "2"), ("command", "1")])
def test_a_signal_that_wakes_no_wait_is_heard(tmp_path: Path, mark: str, objective: str, workers: str) -> None:
    """As where it comes between the main thread's last instruction and its wait: another thread gets it here."""
    (tmp_path / "signals.py").write_text(
        f"""
import os, signal, sys, threading, time
sys.path.insert(0, {os.path.dirname(SEARCH)!r})
import scripted_search

def end():
    while not os.path.exists("started"):
        time.sleep(0.05)
    time.sleep(1)  # until the main thread waits
    signal.pthread_kill(threading.get_ident(), signal.SIGTERM)

threading.Thread(target=end).start()
scripted_search.search(sys.argv[1:])
"""
    )
    arguments = ["search", "space.yaml", "--out", "out", *OBJECTIVES[objective]]
    process = subprocess.run(
        [sys.executable, "signals.py", *arguments, "--workers", workers],
        cwd=tmp_path,
        env={**os.environ, "MARK": mark},
        stdout=subprocess.DEVNULL,
        stderr=(tmp_path / "errors").open("w"),
        timeout=60,
    )
    assert process.returncode == 128 + signal.SIGTERM
    assert gone(mark)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_that_a_finalizer_swallows_comes_again(number: signal.Signals) -> None:
    class Late:
        def __del__(self) -> None:
            signal.raise_signal(number)

    before = signal.getsignal(number), sys.unraisablehook
    signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)

    def work() -> None:
        with raise_on_termination():
            Late()
            time.sleep(60)

    try:
        with pytest.raises(KeyboardInterrupt) as caught:
            work()
        assert getattr(caught.value, "number", signal.SIGINT) == number
        assert sys.unraisablehook is before[1]
    finally:
        signal.signal(number, before[0])


def test_a_terminal_that_is_closed_ends_the_search(tmp_path: Path, mark: str) -> None:
    terminal, theirs = os.openpty()
    program = (
        f"import fcntl, sys, termios; sys.path.insert(0, {os.path.dirname(SEARCH)!r}); import scripted_search;"
        " fcntl.ioctl(0, termios.TIOCSCTTY, 0); scripted_search.search(sys.argv[1:])"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", program, "search", "space.yaml", "--out", "out", *OBJECTIVES["function"]],
        cwd=tmp_path,
        env={**os.environ, "MARK": mark},
        start_new_session=True,
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
    )
    os.close(theirs)
    until_it_evaluates(tmp_path, process)
    os.close(terminal)
    assert process.wait(180) == 128 + signal.SIGHUP
    assert gone(mark)


@pytest.mark.parametrize("objective", OBJECTIVES.values(), ids=OBJECTIVES.keys())
def test_what_a_kill_leaves_is_ended_by_the_next_run(tmp_path: Path, mark: str, objective: tuple[str, str]) -> None:
    process = begin(tmp_path, mark, *objective)
    until_it_evaluates(tmp_path, process)
    process.kill()
    process.wait()
    assert not gone(mark, seconds=0.5)  # sleeps in sessions of their own, at least
    (tmp_path / "quick").touch()
    resumed = begin(tmp_path, mark, *objective, "--resume")
    resumed.wait(180)
    errors = (tmp_path / "errors").read_text()
    assert resumed.returncode == 0, errors
    [line] = [line for line in errors.splitlines() if "had left evaluating" in line]
    assert line.startswith("ended ")
    assert gone(mark)


def test_a_function_s_process_ends_with_the_search(tmp_path: Path, mark: str) -> None:
    """Also at work, and without the next run."""
    (tmp_path / "goal.py").write_text(GOAL.replace("subprocess.Popen", "(lambda *a, **k: None)"))
    process = begin(tmp_path, mark, *OBJECTIVES["function"])
    until_it_evaluates(tmp_path, process)
    process.kill()
    process.wait()
    assert gone(mark)


def test_evaluations_of_other_folders_are_left_alone(tmp_path: Path, mark: str) -> None:
    other = {**os.environ, "LMSEARCHER_OUT": str(tmp_path / "other")}
    with subprocess.Popen(["sleep", "600"], env=other) as bystander:
        (tmp_path / "quick").touch()
        process = begin(tmp_path, mark, *OBJECTIVES["command"])
        process.wait(180)
        errors = (tmp_path / "errors").read_text()
        assert process.returncode == 0, errors
        assert "left evaluating" not in errors
        assert bystander.poll() is None
        bystander.kill()
