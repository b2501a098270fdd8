"""Weights of fewer bits: what is called ready starts, and the rest is refused before an engine sees it."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import load_file, save_file

from bench import llama
from lmsearcher_local.candidates.history import History
from lmsearcher_local.cli.main import main
from lmsearcher_local.errors import CheckpointError
from lmsearcher_local.model import quantization
from lmsearcher_local.model.checkpoint import BUNDLED, load_checkpoint
from lmsearcher_local.model.load import load_ranker
from lmsearcher_local.model.quantization import unsupported
from lmsearcher_local.model.ranker import Ranking, Task
from lmsearcher_local.model.trim import trim_checkpoint
from lmsearcher_local.spaces.space import SearchSpace

SPACE = SearchSpace([5] * 6)
GROUP = 128  # inputs that share a scale
PROJECTIONS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
ORDER = (0, 2, 4, 6, 1, 3, 5, 7)  # AWQ's of eight numbers in a word

Tensors = dict[str, torch.Tensor]


@pytest.fixture(scope="module")
def plain(llama_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bfloat16 checkpoint wide enough for groups, trimmed, so that it loads at once."""
    whole = tmp_path_factory.mktemp("whole")
    (whole / "tokenizer.json").symlink_to(llama_folder / "tokenizer.json")
    llama.write_model(whole, torch.bfloat16, hidden=GROUP)
    trim_checkpoint(load_checkpoint(whole), whole / "trimmed", lambda _: None)
    return whole / "trimmed"


@pytest.fixture(scope="module")
def exact(plain: Path) -> np.ndarray:
    return np.exp(ranked(plain).log_probs)


def packed(numbers: torch.Tensor, order: tuple[int, ...] = tuple(range(8))) -> torch.Tensor:
    """Numbers of four bits ``[rows, n]``, eight in a word: ``[rows, n / 8]``."""
    eights = numbers.long().reshape(len(numbers), -1, 8)
    words = sum(eights[:, :, place] << 4 * i for i, place in enumerate(order))
    return ((words + 2**31) % 2**32 - 2**31).to(torch.int32)


def four_bits(weight: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Numbers around 8 ``[in, out]`` and their scales ``[groups, out]``."""
    groups = weight.float().T.reshape(-1, GROUP, len(weight))
    scales = groups.abs().amax(1) / 7
    return (groups / scales[:, None]).round().reshape(-1, len(weight)) + 8, scales


def awq(weight: torch.Tensor) -> Tensors:
    numbers, scales = four_bits(weight)
    zeros = packed(torch.full(scales.shape, 8), ORDER)
    return {"qweight": packed(numbers, ORDER), "qzeros": zeros, "scales": scales.half()}


def gptq(weight: torch.Tensor) -> Tensors:
    numbers, scales = four_bits(weight)
    words = packed(numbers.T).T.contiguous()
    groups = torch.arange(weight.shape[1], dtype=torch.int32) // GROUP
    return {"qweight": words, "qzeros": packed(torch.full(scales.shape, 7)), "scales": scales.half(), "g_idx": groups}


def rows_of(kind: torch.dtype, largest: float) -> Callable[[torch.Tensor], Tensors]:
    """Numbers of 8 bits with a scale for each row."""

    def rows(weight: torch.Tensor) -> Tensors:
        scales = weight.float().abs().amax(1, keepdim=True) / largest
        numbers = weight.float() / scales
        return {"weight": (numbers if kind.is_floating_point else numbers.round()).to(kind), "weight_scale": scales}

    return rows


def scheme(kind: str, bits: int, inputs: str | None) -> dict[str, Any]:
    """A configuration of compressed-tensors: scales for rows or a tensor, of ``inputs`` for each token as it comes."""
    number = {"num_bits": bits, "symmetric": True, "type": kind}
    group: dict[str, Any] = {"targets": ["Linear"], "weights": {**number, "dynamic": False}, "input_activations": None}
    group["weights"]["strategy"] = "tensor" if inputs == "tensor" else "channel"
    if inputs:
        group["input_activations"] = {**number, "strategy": inputs, "dynamic": inputs == "token"}
    return {
        **{"quant_method": "compressed-tensors", "format": f"{kind}-quantized", "ignore": ["lm_head"]},
        **{"config_groups": {"group_0": group}, "quantization_status": "compressed"},
    }


KINDS: dict[str, tuple[dict[str, Any], Callable[[torch.Tensor], Tensors]]] = {
    "awq": ({"quant_method": "awq", "bits": 4, "group_size": GROUP, "zero_point": True, "version": "gemm"}, awq),
    "gptq": ({"quant_method": "gptq", "bits": 4, "group_size": GROUP, "sym": True, "desc_act": False}, gptq),
    "int8": (scheme("int", 8, "token"), rows_of(torch.int8, 127)),
    "float8": (scheme("float", 8, "token"), rows_of(torch.float8_e4m3fn, 448)),
}


def write(plain: Path, folder: Path, settings: Any, change: Callable[[torch.Tensor], Tensors] | None = None) -> Path:
    """A quantised folder, as its maker writes it; without ``change`` the weights stay as they are."""
    folder.mkdir()
    (folder / "tokenizer.json").symlink_to(plain / "tokenizer.json")
    config = json.loads((plain / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | ({"quantization_config": settings} if settings else {})))
    held: Tensors = {}
    for name, tensor in load_file(plain / "model.safetensors").items():
        if change and name.split(".")[-2] in PROJECTIONS:
            held |= {name.replace("weight", key): value.contiguous() for key, value in change(tensor).items()}
        else:
            held[name] = tensor
    save_file(held, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def ranked(folder: Path, **options: Any) -> Ranking:
    codes = SPACE.sample(np.random.default_rng(0), 40)
    task = Task.of(SPACE, History(tuple(codes[10:]), tuple(i / 30 for i in range(30))), codes[:10])
    with load_ranker(folder, **options) as ranker:
        [ranking] = ranker.rank([task])
    assert ranking.greedy in task.pool.codes
    assert np.exp(ranking.log_probs).sum() == pytest.approx(1)
    return ranking


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_called_ready_starts(kind: str, plain: Path, exact: np.ndarray, tmp_path: Path) -> None:
    folder = write(plain, tmp_path / kind, *KINDS[kind])
    assert unsupported(load_checkpoint(folder), "vllm") is None
    assert 0 < np.abs(np.exp(ranked(folder).log_probs) - exact).max() < 0.3
    with pytest.raises(CheckpointError, match="the transformers engine reads plain weights only"):
        ranked(folder, engine="transformers")


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"quant_method": "bitsandbytes", "load_in_4bit": True}, r"from_pretrained\(FOLDER\)\.dequantize\(\)"),
        ({"load_in_8bit": True}, "bitsandbytes weights are not read here"),
        ({"quant_method": "fp8", "activation_scheme": "dynamic"}, r"\(fp8\) in a form that vLLM reads on a GPU only"),
        ({"quant_method": "gptq", "bits": 8, "sym": True}, "on a GPU only"),
        ({"quant_method": "gptq", "bits": 4, "sym": True, "desc_act": True, "group_size": 128}, "4 or 8 bits with sym"),
        ({"quant_method": "gptq", "bits": 4, "sym": False}, "4 or 8 bits with sym"),
        ({"quant_method": "compressed-tensors", "format": "nvfp4-pack-quantized"}, "on a GPU only"),
        (scheme("float", 8, "tensor"), "on a GPU only"),
        (scheme("int", 8, None), "on a GPU only"),
        ({"quant_method": "hqq"}, "quantised with hqq, which is not read here; what is read: fp8, awq, gptq, comp"),
        ({"bits": 4}, "quantised with a method without a name"),
    ],
)
def test_what_does_not_start_here_is_refused(settings: Any, words: str, plain: Path, tmp_path: Path) -> None:
    folder = write(plain, tmp_path / "folder", settings)
    for engine in ("vllm", "transformers"):
        with pytest.raises(CheckpointError, match=words if engine == "vllm" else "not read here|reads plain"):
            ranked(folder, engine=engine)
    result = CliRunner().invoke(main, ["doctor", "--checkpoint", str(folder)])
    assert result.exit_code == 1
    assert "Not ready" in result.output


def test_packed_weights_that_no_configuration_names(plain: Path, tmp_path: Path) -> None:
    folder = write(plain, tmp_path / "folder", None, awq)
    with pytest.raises(CheckpointError, match="holds weights of type I32"):
        ranked(folder)


def test_a_card_without_kernels_is_named(plain: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write(plain, tmp_path / "folder", *KINDS["awq"])
    for card, words in (((7, 0), "compute capability 7.5"), ((8, 6), None)):
        monkeypatch.setattr(quantization, "capability", lambda card=card: card)
        for found in (load_checkpoint(folder), load_checkpoint(plain, quantization="fp8")):
            assert words is (said := unsupported(found, "vllm")) or words in str(said)


@pytest.mark.parametrize("place", ["file", "folder"])
def test_gguf_is_told_how_to_become_a_folder(place: str, tmp_path: Path) -> None:
    file = tmp_path / "model.gguf"
    file.write_bytes(b"GGUF")
    with pytest.raises(CheckpointError, match=r"from_pretrained\('.*', gguf_file='model.gguf'\)"):
        load_checkpoint(file if place == "file" else tmp_path)


def test_fp8_is_made_while_loading(plain: Path, exact: np.ndarray) -> None:
    whole, small = load_checkpoint(plain), load_checkpoint(plain, quantization="fp8")
    held = load_file(plain / "model.safetensors")
    layers = [tensor for name, tensor in held.items() if name.split(".")[-2] in PROJECTIONS]
    saved = sum(tensor.numel() - 4 * len(tensor) for tensor in layers)
    assert small.identity != whole.identity  # so that a search is not resumed with the other
    assert small.weight_bytes == whole.weight_bytes - saved
    assert 0 < np.abs(np.exp(ranked(plain, quantization="fp8").log_probs) - exact).max() < 0.1
    result = CliRunner().invoke(main, ["doctor", "--checkpoint", str(plain), "--quantization", "fp8"])
    assert "bfloat16, fp8 made of it while loading" in result.output
    assert "Ready" in result.output
    with pytest.raises(CheckpointError, match="the transformers engine reads plain weights only"):
        ranked(plain, quantization="fp8", engine="transformers")


def test_other_names_and_other_weights_are_refused(plain: Path, llama_folder: Path, tmp_path: Path) -> None:
    for name in ("int8_per_channel_weight_only", "fp8_per_tensor", "awq", ""):
        with pytest.raises(CheckpointError, match="quantization is one of fp8, not"):
            load_checkpoint(plain, quantization=name)
    with pytest.raises(CheckpointError, match="has float32"):
        load_checkpoint(BUNDLED, quantization="fp8")
    with pytest.raises(CheckpointError, match=r"is quantised already \(awq\)"):
        load_checkpoint(write(plain, tmp_path / "folder", *KINDS["awq"]), quantization="fp8")
    result = CliRunner().invoke(main, ["doctor", "--quantization", "int8"])
    assert (result.exit_code, "'int8' is not 'fp8'" in result.stderr) == (2, True)
