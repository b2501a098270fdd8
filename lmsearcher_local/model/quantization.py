"""Weights of fewer bits: what is made of a plain folder at load time, and which quantised folders start here."""

import math
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lmsearcher_local.errors import CheckpointError, brief
from lmsearcher_local.model.weights import VOCABULARY_ROWS, tensors
from lmsearcher_local.system.folders import read_json

if TYPE_CHECKING:
    from lmsearcher_local.model.checkpoint import Checkpoint

# What --quantization takes, and vLLM's name of it. vLLM accepts others, of which some do not start and some change
# nothing: int8_per_channel_weight_only quantises experts alone.
AT_LOAD = {"fp8": "fp8_per_channel"}
READ = ("fp8", "awq", "gptq", "compressed-tensors")  # methods of a folder that vLLM reads without further packages
OLDEST = (7, 5)  # compute capability of the first cards that have kernels for weights of 8 or 4 bits
PLAIN = ("F64", "F32", "F16", "BF16")  # types of weights that are not quantised
BITSANDBYTES = (
    "bitsandbytes weights are not read here; take the folder that they were made from, or write it with transformers:"
    " AutoModelForCausalLM.from_pretrained(FOLDER).dequantize().save_pretrained(NEW)"
)


def refuse_gguf(path: Path) -> None:
    """Say what to do with a GGUF file, or a folder with no other weights, in a ``CheckpointError``."""
    file = path if path.is_file() and path.suffix == ".gguf" else next(path.glob("*.gguf"), None)
    if file and not next(path.glob("*.safetensors"), None):
        raise CheckpointError(
            f"{file} is GGUF, which is not read; take the safetensors folder that it was made from, or write one with"
            f" transformers: AutoModelForCausalLM.from_pretrained({str(file.parent)!r}, gguf_file={file.name!r})"
            ".save_pretrained(NEW), and AutoTokenizer likewise"
        )


def quantise(checkpoint: "Checkpoint", method: str) -> "Checkpoint":
    """The checkpoint as vLLM quantises it while it loads: another identity, because it answers otherwise.

    A ``CheckpointError`` where there is no such method, or the folder is quantised already or not of 16 bits.
    """
    if method not in AT_LOAD:
        raise CheckpointError(f"quantization is one of {', '.join(AT_LOAD)}, not {brief(method)}")
    if checkpoint.quantization:
        raise CheckpointError(f"{checkpoint.path} is quantised already ({checkpoint.quantization})")
    if checkpoint.dtype not in ("bfloat16", "float16"):
        raise CheckpointError(
            f"{method} is made of bfloat16 or float16 weights, and {checkpoint.path} has {checkpoint.dtype}"
        )
    held = [item for file in checkpoint.weights for item in tensors(file).items()]
    layers = [tensor for name, tensor in held if len(tensor.shape) == 2 and not name.endswith(VOCABULARY_ROWS)]
    saved = sum(math.prod(tensor.shape) - 4 * tensor.shape[0] for tensor in layers)  # a float32 scale for each row
    size, identity = checkpoint.weight_bytes - saved, f"{checkpoint.identity}+{method}"
    return replace(checkpoint, at_load=method, weight_bytes=size, identity=identity)


def unsupported(checkpoint: "Checkpoint", engine: str) -> str | None:
    """Why an engine cannot load a checkpoint's kind of weights on this machine, and what to do; ``None``: it can."""
    path, method = checkpoint.path, checkpoint.quantization
    if method == "bitsandbytes":
        return f"{path}: {BITSANDBYTES}"
    if method and method not in READ:
        return f"{path} is quantised with {method}, which is not read here; what is read: {', '.join(READ)}"
    kinds = {tensor.dtype for file in checkpoint.weights for tensor in tensors(file).values()}
    if not method and (packed := sorted(kinds - {*PLAIN})):
        return f"{path} holds weights of type {packed[0]}, and its config.json names no quantization_config"
    kind = method or checkpoint.at_load
    if not kind:
        return None
    if engine != "vllm":
        return f"{path} is quantised ({kind}), and the {engine} engine reads plain weights only"
    card = capability()
    if card is not None and card < OLDEST:
        return f"weights of {kind} need a GPU of compute capability 7.5 or later"
    settings = read_json(path / "config.json").get("quantization_config") or {}
    ordered = settings.get("desc_act") and settings.get("group_size") != -1
    if method == "gptq" and (settings.get("bits") not in (4, 8) or settings.get("sym") is not True or ordered):
        return f"vLLM reads GPTQ weights of 4 or 8 bits with sym=true and desc_act=false; {path} has others"
    if method and card is None and not _on_processor(method, settings):
        return f"{path} is quantised ({method}) in a form that vLLM reads on a GPU only; take the plain folder here"
    return None


def capability() -> tuple[int, int] | None:
    """Of the first GPU that torch sees; without one the model runs on the processor."""
    try:
        import torch
    except ImportError:  # the engine says so, in its own words
        return None
    return torch.cuda.get_device_capability() if torch.cuda.is_available() else None


def _on_processor(method: str, settings: dict[str, Any]) -> bool:
    """Whether vLLM has a kernel for it on a processor, as seen with small folders of each kind."""
    if method == "compressed-tensors":
        try:
            return all(_has_kernel(**group) for group in settings["config_groups"].values())
        except (KeyError, TypeError, AttributeError):  # written otherwise
            return False
    return method in ("awq", "gptq") and settings.get("bits", settings.get("w_bit")) == 4


def _has_kernel(weights: dict[str, Any], input_activations: dict[str, Any] | None = None, **_: Any) -> bool:
    bits, of_float = weights["num_bits"], weights["type"] == "float"
    if input_activations is None:
        return bits == 4 and not of_float
    if of_float:
        return bits == 8 and weights["strategy"] == "channel" and bool(input_activations["dynamic"])
    return bits == 8 and input_activations["num_bits"] == 8
