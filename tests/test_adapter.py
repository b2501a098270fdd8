"""LoRA adapters: answers are those of the merged weights, and what is no plain sum is refused."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import LlamaForCausalLM

from lmsearcher_local.candidates.history import History
from lmsearcher_local.cli.main import main
from lmsearcher_local.errors import CheckpointError
from lmsearcher_local.model.checkpoint import load_checkpoint
from lmsearcher_local.model.load import load_ranker
from lmsearcher_local.model.ranker import Task
from lmsearcher_local.model.trim import trim_checkpoint
from lmsearcher_local.spaces.space import SearchSpace

PROJECTIONS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
SPACE = SearchSpace([5] * 6)


def tasks() -> list[Task]:
    rng = np.random.default_rng(0)
    made = []
    for trials in (0, 5, 30):
        codes = SPACE.sample(rng, trials + 10)
        made.append(Task.of(SPACE, History(tuple(codes[10:]), tuple(rng.normal(size=trials))), codes[:10]))
    return made


def write_adapter(base: Path, folder: Path, **settings: Any) -> None:
    """A random adapter as PEFT writes it, and beside it, in ``FOLDER-merged``, what PEFT makes of it and its base."""
    torch.manual_seed(1)
    model = LlamaForCausalLM.from_pretrained(base)
    config = LoraConfig(**{"task_type": "CAUSAL_LM", "r": 4, "lora_alpha": 8, "target_modules": PROJECTIONS} | settings)
    peft: Any = get_peft_model(model, config)
    for name, parameter in peft.named_parameters():
        if "lora_B" in name:  # which starts as zeros
            torch.nn.init.normal_(parameter, std=0.1)
    peft.save_pretrained(folder)
    merged = folder.with_name(f"{folder.name}-merged")
    peft.merge_and_unload().save_pretrained(merged)
    (merged / "tokenizer.json").symlink_to(base / "tokenizer.json")


@pytest.fixture(scope="module")
def base(llama_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Trimmed, so that it loads at once."""
    folder = tmp_path_factory.mktemp("base") / "trimmed"
    trim_checkpoint(load_checkpoint(llama_folder), folder, lambda _: None)
    return folder


@pytest.fixture(scope="module")
def adapter(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("adapters") / "adapter"
    write_adapter(base, folder)
    return folder


@pytest.fixture
def copy(adapter: Path, tmp_path: Path) -> Path:
    """An adapter to spoil."""
    return Path(shutil.copytree(adapter, tmp_path / "copy"))


def chances(folder: Path, engine: str, **options: Any) -> np.ndarray:
    with load_ranker(folder, engine, **options) as ranker:
        return np.exp([ranking.log_probs for ranking in ranker.rank(tasks())])


def test_an_adapter_answers_as_the_merged_weights_do(adapter: Path, base: Path) -> None:
    merged = chances(adapter.with_name("adapter-merged"), "transformers")
    for engine in ("vllm", "transformers"):
        np.testing.assert_allclose(chances(adapter, engine, base=base), merged, atol=1e-4)
    assert np.abs(merged - chances(base, "transformers")).max() > 0.1


def test_patterns_and_another_scale_are_those_of_peft(base: Path, tmp_path: Path) -> None:
    patterns = {"rank_pattern": {"q_proj": 12, r"layers\.1\.mlp\..*": 2}, "alpha_pattern": {"up_proj": 20}}
    write_adapter(base, tmp_path / "adapter", use_rslora=True, **patterns)
    found = load_checkpoint(tmp_path / "adapter", base=base).adapter
    assert found is not None
    assert found.rank == 16  # the least that vLLM has for 12
    assert found.scales["model.layers.0.mlp.up_proj"] == pytest.approx(20 / 4**0.5)
    assert found.scales["model.layers.1.mlp.down_proj"] == pytest.approx(8 / 2**0.5)
    ours = chances(tmp_path / "adapter", "transformers", base=base)
    np.testing.assert_allclose(ours, chances(tmp_path / "adapter-merged", "transformers"), atol=1e-4)


def test_its_files_make_its_identity_and_its_profile_counts(copy: Path, base: Path) -> None:
    plain, first = load_checkpoint(base), load_checkpoint(copy, base=base)
    (copy / "lmsearcher.json").write_text('{"template": "llama3"}')
    second = load_checkpoint(copy, base=base)
    assert (first.profile.template, second.profile.template) == ("llama3.1", "llama3")
    (copy / "lmsearcher.json").unlink()
    weights = load_file(copy / "adapter_model.safetensors")
    save_file({name: 2 * tensor for name, tensor in weights.items()}, copy / "adapter_model.safetensors")
    third = load_checkpoint(copy, base=base)
    assert len({plain.identity, first.identity, second.identity, third.identity}) == 4


def configure(folder: Path, **entries: Any) -> None:
    file = folder / "adapter_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | entries))


def rename(folder: Path, old: str, new: str) -> None:
    weights = load_file(folder / "adapter_model.safetensors")
    changed = {name.replace(old, new): tensor for name, tensor in weights.items()}
    save_file(changed, folder / "adapter_model.safetensors")


def pickle(folder: Path) -> None:
    (folder / "adapter_model.safetensors").rename(folder / "adapter_model.bin")


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda folder: configure(folder, use_dora=True), "asks for 'use_dora': True, which only PEFT can load"),
        (lambda folder: configure(folder, bias="all"), "asks for 'bias': 'all'"),
        (lambda folder: configure(folder, modules_to_save=["lm_head"]), "asks for 'modules_to_save'"),
        (lambda folder: configure(folder, init_lora_weights="pissa"), "asks for 'init_lora_weights': 'pissa'"),
        (lambda folder: configure(folder, init_lora_weights=["x"]), "asks for 'init_lora_weights'"),
        (lambda folder: configure(folder, peft_type="IA3"), "asks for 'peft_type': 'IA3'"),
        (lambda folder: configure(folder, of_a_later_version=1), "asks for 'of_a_later_version': 1"),
        (lambda folder: configure(folder, r=8), "has rank 4 at .*, where adapter_config.json says 8"),
        (lambda folder: configure(folder, rank_pattern={"none": 600}), "has rank 600; the largest .* is 512"),
        (lambda folder: configure(folder, r="many"), "lacks a usable r"),
        (lambda folder: configure(folder, lora_alpha=None), "lacks a usable r"),
        (lambda folder: configure(folder, alpha_pattern={"(": 1}), "lacks a usable r"),
        (lambda folder: (folder / "adapter_config.json").write_text("["), "is not valid JSON"),
        (pickle, r"adapter_model\.bin can run code"),
        (lambda folder: (folder / "adapter_model.safetensors").unlink(), "do not exist"),
        (lambda folder: (folder / "adapter_model.safetensors").write_bytes(b"x" * 100), "is damaged"),
        (lambda folder: rename(folder, "mlp.up_proj", "mlp.none"), "no factor of a projection"),
        (lambda folder: rename(folder, "0.mlp.up_proj.lora_A", "0.mlp.up_proj.lora_C"), "does not belong to this base"),
        (lambda folder: rename(folder, "layers.1.", "layers.7."), "no factor of a projection"),
        (lambda folder: save_file({}, folder / "adapter_model.safetensors"), "holds no adapter"),
    ],
)
def test_what_is_no_plain_sum_is_refused(copy: Path, base: Path, spoil: Any, words: str) -> None:
    spoil(copy)
    with pytest.raises(CheckpointError, match=words):
        load_checkpoint(copy, base=base)


def test_of_another_base_or_half_of_it(copy: Path, base: Path) -> None:
    file = copy / "adapter_model.safetensors"
    weights = load_file(file)
    name = "base_model.model.model.layers.0.mlp.up_proj.lora_A.weight"
    for spoiled in (weights | {name: weights[name][:, :32].contiguous()}, {name: weights[name]}):
        save_file(spoiled, file)
        with pytest.raises(CheckpointError, match=r"does not belong to this base, whose .*up_proj is 128 x 64"):
            load_checkpoint(copy, base=base)


@pytest.mark.parametrize("command", [["search", "--table", "nasbench201-cifar100"], ["doctor"], ["bench"]])
def test_an_adapter_goes_with_its_base(
    command: list[str], adapter: Path, base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for options, words in (
        (["--checkpoint", str(adapter)], "is a LoRA adapter"),
        (["--checkpoint", str(base), "--base", str(base)], "a base is for a LoRA adapter"),
        (["--checkpoint", str(adapter), "--base", "nowhere"], "nowhere does not exist"),
    ):
        result = CliRunner().invoke(main, [*command, *options])
        assert result.exit_code == 2
        assert words in result.stderr
        assert list(tmp_path.iterdir()) == []


def test_doctor_plans_an_adapter(adapter: Path, base: Path) -> None:
    result = CliRunner().invoke(main, ["doctor", "--checkpoint", str(adapter), "--base", str(base)])
    assert result.exit_code == 0, result.output
    assert f"with the adapter {adapter}" in " ".join(result.output.split())
