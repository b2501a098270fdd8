"""The command ``train``: killed at any moment it goes on as if nothing had happened; other runs are left alone."""

import json
import os
import random
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from lmsearcher_local.cli.main import main

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

STEPS = 6
PROGRAM = f"""
import sys
from pathlib import Path

if __name__ == "__main__":  # the process that draws batches imports this file too
    from lmsearcher_local.training import train as trainer

    trainer.HISTORY_SIZES, trainer.QUESTIONS = (10,), 4
    trainer.train(Path(sys.argv[1]), seed=3, steps={STEPS}, rows=100, save_every=2, evaluate_every=4)
"""


def begin(program: Path, out: Path) -> "subprocess.Popen[bytes]":
    return subprocess.Popen([sys.executable, str(program), str(out)], env={**os.environ, "OMP_NUM_THREADS": "1"})


def rows(out: Path) -> list[dict[str, object]]:
    found = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    return [{key: value for key, value in row.items() if key != "seconds"} for row in found]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that nothing interrupted, and its program beside it."""
    folder = tmp_path_factory.mktemp("whole")
    (folder / "program.py").write_text(PROGRAM)
    with begin(folder / "program.py", folder / "run") as process:
        assert process.wait() == 0
    return folder / "run"


def test_a_killed_run_ends_as_the_uninterrupted_one(whole: Path, tmp_path: Path) -> None:
    program, out, rng, kills = whole.parent / "program.py", tmp_path / "run", random.Random(0), 0
    for after in (1, 3):  # lines of the log: before the first state, and after it
        with begin(program, out) as process:
            while not (out / "log.jsonl").exists() or (out / "log.jsonl").read_bytes().count(b"\n") < after:
                assert process.poll() is None
                time.sleep(0.005)
            children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
            assert not any("libtorch" in Path(f"/proc/{child}/maps").read_text() for child in children)
            time.sleep(rng.uniform(0, 0.1))
            process.kill()
            kills += process.wait() == -9
        deadline = time.monotonic() + 20
        while any(_runs(child) for child in children):
            assert time.monotonic() < deadline, "the process that draws batches outlives the trainer"
            time.sleep(0.05)
        with (out / "log.jsonl").open("a") as log:
            log.write('{"step": 9')  # as a power cut leaves it
    assert kills == 2
    with begin(program, out) as process:
        assert process.wait() == 0
    assert rows(out) == rows(whole)
    assert [row["step"] for row in rows(out)] == list(range(1, STEPS + 1))
    ours, theirs = (torch.load(run / "state.pt", weights_only=True)["averaged"] for run in (out, whole))
    assert all(torch.equal(ours[key], theirs[key]) for key in theirs)
    weights = [(run / "checkpoint" / "model.safetensors").read_bytes() for run in (out, whole)]
    assert weights[0] == weights[1]


def _runs(process: str) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_another_seed_or_a_foreign_state_is_refused(
    whole: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    foreign = tmp_path / "foreign"
    foreign.mkdir()
    torch.save([1, 2], foreign / "state.pt")
    (tmp_path / "torn").mkdir()
    (tmp_path / "torn" / "state.pt").write_bytes((whole / "state.pt").read_bytes()[:1000])
    (tmp_path / "file").write_text("")
    before = (whole / "log.jsonl").read_bytes()
    for out, words in (
        (whole, "holds a run with seed 3, not 4"),
        (foreign, "not a state of this trainer"),
        (tmp_path / "torn", "not a state of this trainer"),
        (tmp_path / "file", "cannot write"),
    ):
        with pytest.raises(SystemExit) as ended:
            main(["train", "--out", str(out), "--seed", "4", "--steps", "1"])
        message = capsys.readouterr().err.splitlines()[-1]
        assert ended.value.code == 2
        assert message.startswith("Error: ")
        assert words in message
    assert (whole / "log.jsonl").read_bytes() == before


def test_the_command_goes_on_with_a_run_that_does_not_say_its_seed(
    whole: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """As older versions wrote them; nothing is left to train, so picture and checkpoint are made again."""
    shutil.copytree(whole, tmp_path / "run")
    state = torch.load(tmp_path / "run" / "state.pt", weights_only=True)
    del state["seed"]
    torch.save(state, tmp_path / "run" / "state.pt")
    shutil.rmtree(tmp_path / "run" / "checkpoint")
    (tmp_path / "run" / "curves.png").unlink()
    with pytest.raises(SystemExit) as ended:
        main(["train", "--out", str(tmp_path / "run"), "--seed", "8", "--steps", str(STEPS)])
    assert not ended.value.code
    assert str(tmp_path / "run" / "checkpoint") in capsys.readouterr().out
    weights = [(run / "checkpoint" / "model.safetensors").read_bytes() for run in (tmp_path / "run", whole)]
    assert weights[0] == weights[1]
    assert (tmp_path / "run" / "curves.png").exists()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_a_gpu_takes_the_same_first_step(whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from lmsearcher_local.training import train as trainer

    monkeypatch.setattr(trainer, "HISTORY_SIZES", (10,))
    trainer.train(tmp_path, seed=3, steps=STEPS, rows=100, save_every=2, evaluate_every=4, device="cuda")
    ours, theirs = rows(tmp_path), rows(whole)
    for name in ("answer", "history", "pool", "order"):
        assert ours[0][name] == pytest.approx(theirs[0][name], rel=0.02)
    assert (tmp_path / "checkpoint" / "model.safetensors").exists()


def test_help_is_quick() -> None:
    """The list of commands imports none of the heavy packages."""
    program = "import sys; from lmsearcher_local.cli.main import main\ntry: main(['--help'])\nexcept SystemExit: pass\n"
    program += "print([name for name in ('torch', 'vllm', 'optuna', 'numpy') if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert "train" in done.stdout
    assert done.stdout.splitlines()[-1] == "[]"
