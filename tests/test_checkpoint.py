"""Checkpoint folders: what is described, and what is refused in one sentence."""

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner

from lmsearcher_local.cli.doctor import doctor
from lmsearcher_local.cli.main import main
from lmsearcher_local.errors import CheckpointError, PromptError
from lmsearcher_local.model.checkpoint import BUNDLED, load_checkpoint
from lmsearcher_local.model.load import load_ranker
from lmsearcher_local.spaces.space import SearchSpace


@pytest.fixture
def copy(llama_folder: Path, tmp_path: Path) -> Path:
    """A checkpoint folder to spoil."""
    folder = tmp_path / "checkpoint"
    folder.mkdir()
    for file in ("config.json", "model.safetensors"):
        shutil.copy(llama_folder / file, folder)
    (folder / "tokenizer.json").symlink_to(llama_folder / "tokenizer.json")
    return folder


def change(folder: Path, **entries: Any) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, **entries}))


def of_an_older_version(folder: Path) -> None:
    change(folder, vocab_size=1218)
    (folder / "lmsearcher.json").write_text('{"codec": "compact"}')


def test_the_bundled_checkpoint_is_small_and_complete() -> None:
    checkpoint = load_checkpoint()
    assert checkpoint.profile.codec == "compact"
    assert sum(file.stat().st_size for file in BUNDLED.rglob("*")) <= 8_000_000
    assert not list(BUNDLED.glob("*.py"))


def test_the_published_layout_is_described(copy: Path) -> None:
    checkpoint = load_checkpoint(copy)
    assert checkpoint.profile.template == "llama3.1"
    assert checkpoint.context == 20_480
    assert checkpoint.token_bytes == 2 * 2 * 1 * 32 * 4
    assert checkpoint.weight_bytes == (copy / "model.safetensors").stat().st_size
    (copy / "lmsearcher.json").write_text('{"template": "llama3"}')
    assert load_checkpoint(copy).profile.template == "llama3"
    assert load_checkpoint(copy).identity != checkpoint.identity


def test_its_paths_do_not_depend_on_the_working_folder(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(copy.parent)
    found = load_checkpoint(copy.name)
    monkeypatch.chdir("/")
    assert found.path == copy
    assert all(file.exists() for file in found.weights)


def test_shards_are_all_needed(copy: Path) -> None:
    index = {"weight_map": {"a": "model.safetensors", "b": "model-00002.safetensors"}}
    (copy / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(CheckpointError, match=r"lacks model-00002\.safetensors"):
        load_checkpoint(copy)


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda folder: shutil.rmtree(folder), "does not exist"),
        (lambda folder: (folder / "config.json").unlink(), "cannot read"),
        (lambda folder: (folder / "config.json").write_text("{"), "not valid JSON"),
        (lambda folder: (folder / "config.json").write_text("[]"), "JSON object"),
        (lambda folder: change(folder, auto_map={"AutoModel": "evil.Model"}), "remote code"),
        (lambda folder: change(folder, architectures=["BertModel"]), "no causal language model"),
        (lambda folder: change(folder, num_attention_heads=None), "lacks a usable"),
        (lambda folder: change(folder, vocab_size=100), "does not belong to this model"),
        (lambda folder: (folder / "model.safetensors").unlink(), r"no \.safetensors"),
        (lambda folder: os.truncate(folder / "model.safetensors", 1000), "damaged or incomplete"),
        (lambda folder: (folder / "tokenizer.json").unlink(), "cannot read"),
        (lambda folder: (folder / "lmsearcher.json").write_text('{"tempalte": "x"}'), "unknown entry 'tempalte'"),
        (lambda folder: (folder / "lmsearcher.json").write_text('{"template": "x"}'), "one of llama3.1, llama3"),
        (lambda folder: (folder / "lmsearcher.json").write_text('{"codec": []}'), "one of text, compact"),
        (lambda folder: (folder / "lmsearcher.json").write_text('{"date": "today"}'), "26 Jul 2024"),
        (of_an_older_version, "another version of this package trained the model; train it anew"),
    ],
)
def test_an_unusable_folder_is_refused(copy: Path, spoil: Any, words: str) -> None:
    spoil(copy)
    with pytest.raises(CheckpointError, match=words):
        load_checkpoint(copy).codec()


def test_pickled_weights_are_refused_unread(copy: Path) -> None:
    (copy / "model.safetensors").unlink()

    class Evil:
        def __reduce__(self) -> Any:
            return os.mkdir, (str(copy / "owned"),)

    torch.save({"weight": Evil()}, copy / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match="pickled weights"):
        load_checkpoint(copy)
    assert not (copy / "owned").exists()


def test_a_hub_name_is_refused_with_the_way_to_fetch_it() -> None:
    with pytest.raises(CheckpointError, match="hf download someone/lm-searcher-8b --local-dir DIR"):
        load_checkpoint("someone/lm-searcher-8b")


def test_a_context_too_short_for_the_history_is_refused_before_the_search(copy: Path) -> None:
    change(copy, max_position_embeddings=1024)
    with load_ranker(copy, "transformers") as ranker, pytest.raises(PromptError, match="this checkpoint reads 1024"):
        ranker.check(SearchSpace([5] * 10), 10)


@pytest.mark.parametrize("checkpoint", ["nowhere", "someone/lm-searcher-8b"])
@pytest.mark.parametrize("command", [["search", "--table", "nasbench201-cifar100", "--out", "out"], ["doctor"]])
def test_the_command_line_says_so_with_exit_code_2(
    command: list[str], checkpoint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(main, [*command, "--checkpoint", checkpoint])
    assert result.exit_code == 2
    assert result.stderr.startswith("Error: ")
    assert result.stderr.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_a_compact_folder_without_its_table_is_refused_wherever_it_is_named(copy: Path, tmp_path: Path) -> None:
    of_an_older_version(copy)
    words = "rows.safetensors is missing: another version of this package trained the model; train it anew"
    for command in (["search", "--table", "nasbench201-cifar100", "--out", str(tmp_path / "out")], ["doctor"]):
        result = CliRunner().invoke(main, [*command, "--checkpoint", str(copy)])
        assert result.exit_code == 2
        assert [line for line in result.stderr.splitlines() if line.startswith("Error: ") and words in line]
    with pytest.raises(CheckpointError, match=words), load_ranker(copy):
        pass


def test_doctor_says_ready_where_a_search_can_start(llama_folder: Path) -> None:
    for arguments in ([], ["--checkpoint", str(llama_folder)]):
        result = CliRunner().invoke(doctor, arguments)
        assert result.exit_code == 0, result.output
        assert "Ready: vLLM" in result.output


def test_doctor_refuses_what_cannot_fit(copy: Path) -> None:
    change(copy, num_hidden_layers=100_000)
    result = CliRunner().invoke(doctor, ["--checkpoint", str(copy)])
    assert result.exit_code == 1
    assert "Not ready: it needs about" in result.output
