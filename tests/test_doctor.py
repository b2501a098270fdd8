"""The memory plan: right to the byte on the published 8B shape, told from headers alone."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from transformers import LlamaConfig, LlamaForCausalLM

from lmsearcher_local.candidates.history import History
from lmsearcher_local.cli.doctor import forms
from lmsearcher_local.cli.main import main
from lmsearcher_local.model.checkpoint import load_checkpoint
from lmsearcher_local.model.ranker import Task
from lmsearcher_local.presets.registry import PRESETS, preset

LAYER = {
    **{"self_attn.q_proj": (4096, 4096), "self_attn.k_proj": (1024, 4096), "self_attn.v_proj": (1024, 4096)},
    **{"self_attn.o_proj": (4096, 4096), "mlp.gate_proj": (14336, 4096), "mlp.up_proj": (14336, 4096)},
    **{"mlp.down_proj": (4096, 14336), "input_layernorm": (4096,), "post_attention_layernorm": (4096,)},
}
SHAPES = {
    "model.embed_tokens.weight": (128256, 4096),
    **{f"model.layers.{i}.{name}.weight": shape for i in range(32) for name, shape in LAYER.items()},
    "model.norm.weight": (4096,),
    "lm_head.weight": (128256, 4096),
}


@pytest.fixture(scope="module")
def published(llama_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Llama 3.1 8B as it lies on a disk, but for the tensors' bytes: two shards that are holes after their headers."""
    folder = tmp_path_factory.mktemp("published")
    config = json.loads((llama_folder / "config.json").read_text())
    config.update(hidden_size=4096, intermediate_size=14336, num_hidden_layers=32, head_dim=128, dtype="bfloat16")
    config.update(num_attention_heads=32, num_key_value_heads=8)
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "tokenizer.json").symlink_to(llama_folder / "tokenizer.json")
    names = list(SHAPES)
    files = {"model-00001-of-00002.safetensors": names[:150], "model-00002-of-00002.safetensors": names[150:]}
    for file, inside in files.items():
        header: dict[str, Any] = {}
        end = 0
        for name in inside:
            start, end = end, end + 2 * int(np.prod(SHAPES[name]))
            header[name] = {"dtype": "BF16", "shape": SHAPES[name], "data_offsets": [start, end]}
        text = json.dumps(header).encode()
        with (folder / file).open("wb") as stream:
            stream.write(len(text).to_bytes(8, "little") + text)
            stream.truncate(8 + len(text) + end)
    weight_map = {name: file for file, inside in files.items() for name in inside}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    return folder


def plan(folder: Path, *options: str) -> tuple[dict[str, list[str]], str]:
    """The table's rows by name, and the whole output."""
    result = CliRunner().invoke(main, ["doctor", "--checkpoint", str(folder), *options])
    assert result.exit_code in (0, 1), result.output
    rows = {}
    for line in result.stdout.splitlines():
        if found := re.fullmatch(
            r"(\S.*?) +(\d+\.\d+) +(\d+\.\d+) +(\d+\.\d+) +(\d+\.\d+) +(yes|no) +(yes|no) +(yes|no) +(yes|no)", line
        ):
            rows[found[1]] = list(found.groups()[1:])
    return rows, result.stdout


@pytest.mark.slow
def test_the_published_8b_is_planned_from_its_headers(published: Path) -> None:
    checkpoint = load_checkpoint(published)
    assert checkpoint.token_bytes == 2 * 32 * 8 * 128 * 2
    sizes = {form.name: form.weights for form in forms(checkpoint)}
    assert sizes["as it is (bfloat16)"] == 2 * 8_030_261_248
    vocabulary, layers = 2 * 128256 * 4096, 32 * 218_103_808
    assert sizes["trimmed"] == 2 * (8_030_261_248 - vocabulary) + 2 * 2 * 1314 * 4096
    assert sizes["fp8"] == 2 * 8_030_261_248 - layers
    assert sizes["trimmed, then fp8"] == sizes["trimmed"] - layers
    assert sizes["4 bits (AWQ, GPTQ)"] == pytest.approx(5.73e9, rel=0.005)  # as such folders of this model weigh

    rows, output = plan(published)
    assert rows["as it is (bfloat16)"] == ["16.06", "0.54", "18.14", "18.47", "no", "no", "yes", "yes"]
    assert rows["trimmed"] == ["13.98", "0.54", "16.06", "16.08", "no", "no", "yes", "yes"]
    assert rows["fp8"] == ["9.08", "0.54", "11.16", "10.44", "yes", "yes", "yes", "yes"]
    assert rows["4 bits (AWQ, GPTQ)"] == ["5.73", "0.54", "7.81", "6.59", "yes", "yes", "yes", "yes"]
    assert "Verdict: as it is (bfloat16) on 24 and 80 GB; fp8 on 12 and 16 GB." in output.splitlines()
    # 198 times `012 334 | 0 . 333 3 ,` and twice one less, 10 times `012 334 ;`, 30 of the template, 2 to answer
    assert f"200 trials and a pool of 10 in nasbench201: {1598 + 30 + 30 + 2:,} tokens, in batches of 2;" in output


def test_the_shapes_above_are_those_of_a_llama() -> None:
    layout = {"hidden_size": 64, "intermediate_size": 224, "num_attention_heads": 4, "num_key_value_heads": 1}
    model = LlamaForCausalLM(LlamaConfig(vocab_size=2004, num_hidden_layers=32, **layout))  # all but heads over 64
    assert {name: len(tensor.shape) for name, tensor in model.state_dict().items()} == {
        name: len(shape) for name, shape in SHAPES.items()
    }
    assert sum(int(np.prod(shape)) for shape in SHAPES.values()) == 8_030_261_248  # as published


def test_a_quantised_folder_is_planned_as_it_is(published: Path, tmp_path: Path) -> None:
    for file in published.iterdir():
        (tmp_path / file.name).symlink_to(file)
    config = json.loads((published / "config.json").read_text())
    (tmp_path / "config.json").unlink()
    config["quantization_config"] = {"quant_method": "gptq", "bits": 4}
    (tmp_path / "config.json").write_text(json.dumps(config))
    rows, output = plan(tmp_path)
    assert list(rows) == ["as it is (gptq)"]
    assert "Verdict: as it is (gptq) on 24 and 80 GB; nothing on 12 GB; nothing on 16 GB." in output


def test_the_bundled_checkpoint_fits_everywhere_and_a_preset_is_named() -> None:
    result = CliRunner().invoke(main, ["doctor", "--preset", "sd_lora"])
    assert "Verdict: as it is (float32) on 12, 16, 24 and 80 GB." in result.stdout
    assert "in sd_lora" in result.stdout
    refused = CliRunner().invoke(main, ["doctor", "--preset", "none"])
    assert refused.exit_code == 2
    assert refused.stderr.startswith("Error: there is no preset 'none'")


@pytest.mark.parametrize("name", PRESETS)
def test_no_question_is_longer_than_the_longest(name: str, llama_folder: Path) -> None:
    codec, space, rng = load_checkpoint(llama_folder).codec(), preset(name).space, np.random.default_rng(0)
    longest = codec.longest_prompt(space, 10)
    for _ in range(5):
        codes = space.sample(rng, 210)
        prompt = codec.prompt(
            *Task.of(space, History(tuple(codes[10:]), tuple(rng.normal(size=len(codes) - 10))), codes[:10])
        )
        length = len(prompt) + max(map(len, codec.answers(space, codes[:10])))
        assert 0.95 * longest < length <= longest
