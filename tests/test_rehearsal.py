"""The rehearsal walks its whole way, writing, killing, resuming and trimming for real; only the model is scripted."""

import json
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from bench import rehearsal
from lmsearcher_local.model.checkpoint import load_checkpoint

PROGRAM = """
import sys, time
from contextlib import contextmanager
from lmsearcher_local.model import load
from scripted import ScriptedEngine, scripted_ranker

answer = ScriptedEngine.log_probs
ScriptedEngine.log_probs = lambda *asked: (time.sleep(0.2), answer(*asked))[1]  # there is a middle to be killed in

@contextmanager
def load_ranker(*arguments, **options):
    yield scripted_ranker()

load.load_ranker = load_ranker
from lmsearcher_local.cli.main import run
run()
"""


def test_a_small_checkpoint_is_rehearsed_to_the_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rehearsal, "COMMAND", (sys.executable, "-c", PROGRAM))
    monkeypatch.syspath_prepend(Path(__file__).parent)
    monkeypatch.setenv("PYTHONPATH", ":".join(sys.path))
    folder, out = tmp_path / "checkpoints", tmp_path / "out"
    options = ["--shape", "tiny", "--trials", "9", "--folder", str(folder), "--out", str(out)]
    result = CliRunner().invoke(rehearsal.main, options)
    rows = [json.loads(row) for row in (out / "rehearsal.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [
        *("write", "doctor", "search", "search, killed", "search, resumed", "rank of 1,000", "trim", "search, trimmed")
    ], result.output
    assert all(row["peak_bytes"] > 0 and row["seconds"] > 0 and row["versions"] for row in rows)
    assert rows[2]["first_ask_s"] > rows[2]["ask_s"] >= 0.2
    assert [row["as_the_first"] for row in rows if "as_the_first" in row] == [True, True]
    whole, trimmed = load_checkpoint(folder / "whole"), load_checkpoint(folder / "trimmed")
    assert (whole.vocabulary, whole.dtype) == (128256, "bfloat16")
    assert trimmed.vocabulary < whole.vocabulary / 50
    assert result.exit_code == 1  # no model was loaded, so that less was used than planned
    assert "the plan is off by +" in result.stderr
    assert "other trials" not in result.stderr


def test_what_must_not_be_is_said() -> None:
    good = {"step": "search", "peak_bytes": 100, "planned_bytes": 109, "as_the_first": True}
    assert list(rehearsal.complaints([good, {**good, "planned_bytes": 91}, {"step": "write", "peak_bytes": 1}])) == []
    assert len(list(rehearsal.complaints([{**good, "planned_bytes": 111}, {**good, "as_the_first": False}]))) == 2
    assert len(list(rehearsal.complaints([{**good, "planned_bytes": 89}]))) == 1


def test_a_step_that_fails_says_what_it_said(tmp_path: Path) -> None:
    refused = CliRunner().invoke(rehearsal.main, ["--folder", str(tmp_path), "--out", str(Path(__file__).parent)])
    assert refused.exit_code == 2
    with pytest.raises(Exception, match="step ended with 3: no room"):
        rehearsal.run_step("step", (sys.executable, "-c", "import sys; print('no room'); sys.exit(3)"), tmp_path)
