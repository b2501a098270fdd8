"""A disk without room: one sentence, nothing told is lost, and with room the search goes on as without the fault."""

import os
import resource
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
from forks import Say, begun
from goals import score
from scripted import scripted_ranker
from test_kill import told_trials

from lmsearcher_local.errors import LMSearcherError, SearchStopped
from lmsearcher_local.spaces.space import SearchSpace
from lmsearcher_local.study.objectives.function import InProcess
from lmsearcher_local.study.results import Result
from lmsearcher_local.study.run import JOURNAL, RESULTS, run


def search_in(room: int, out: Path, say: Say) -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (room, room))  # no file may grow beyond: "File too large"
    try:
        run(InProcess(score), SearchSpace([5] * 6), scripted_ranker(), out=out, trials=40, resume=True)
    except LMSearcherError as error:
        out.with_suffix(".error").write_text(f"{type(error).__name__}: {error}")
        sys.exit(error.exit_status)


def search(out: Path, room: int = 1 << 30) -> int | None:
    """Its exit status."""
    with begun(partial(search_in, room), out) as (process, _):
        process.join()
    return process.exitcode


@pytest.mark.parametrize("lacking", [1, 700])
def test_no_room(lacking: int, tmp_path: Path) -> None:
    whole, full = tmp_path / "whole", tmp_path / "full"
    assert search(whole) == 0
    told = told_trials(whole)
    room, last = (whole / JOURNAL).stat().st_size // 2, 0
    for _ in range(3):
        assert search(full, room) == 1
        said = full.with_suffix(".error").read_text()
        assert said.startswith(f"SearchStopped: cannot write to {full} (File too large); what was told is kept")
        assert "\n" not in said
        assert (full / JOURNAL).read_bytes().endswith(b"\n")
        now = told_trials(full)
        assert now == told[: len(now)]
        assert len(now) >= last
        last, room = len(now), room + lacking  # hardly any more
    assert 5 < last < 40
    assert search(full) == 0
    assert told_trials(full) == told
    assert (full / RESULTS).read_bytes() == (whole / RESULTS).read_bytes()
    assert not [*full.glob(".*")]


def test_no_room_for_what_is_shown_is_not_blamed_on_the_search_s_folder(tmp_path: Path) -> None:
    def show(result: Result) -> None:
        with open("/dev/full", "w") as full:
            full.write(f"{result.evaluated}\n")

    goal, space = InProcess(score), SearchSpace([5] * 6)
    with pytest.raises(SearchStopped, match=r"^cannot write to what shows the progress \(No space left on device\)"):
        run(goal, space, scripted_ranker(), out=tmp_path, trials=3, on_trial=show)
    assert run(goal, space, scripted_ranker(), out=tmp_path, trials=3, resume=True).evaluated == 3


def test_the_command_line_says_so_with_exit_status_1(tmp_path: Path) -> None:
    (tmp_path / "space.yaml").write_text("[5, 5, 5]")
    command = "search space.yaml --command 'echo {p0}' --trials 60 --out out --engine transformers"
    limited = f"ulimit -f 8 && exec {Path(sys.executable).parent}/lmsearcher-local {command}"  # in KiB, for any file
    environment = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1"}  # Python keeps the half of a module that had room
    done = subprocess.run(
        ["bash", "-c", limited], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 1, done.stderr
    *_, last = done.stderr.splitlines()
    assert last.startswith("Error: cannot write to out (File too large); what was told is kept: make room, then")
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("output", "status", "said"), [("/dev/full", 1, "Error: cannot write: No space left on device\n"), ("&-", 0, "")]
)
def test_what_is_printed_has_no_room_or_is_closed(output: str, status: int, said: str) -> None:
    command = f"{Path(sys.executable).parent}/lmsearcher-local presets >{output}"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (status, said)
