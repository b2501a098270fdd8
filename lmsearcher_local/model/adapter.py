"""LoRA adapters in PEFT's layout: checked, described, and added to a model's weights.

Only what vLLM and the sum ``W + scale B A`` mean alike is taken: adapters of the layers' projections.
"""

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors import safe_open

from lmsearcher_local.errors import CheckpointError, brief
from lmsearcher_local.model.weights import check_whole, fingerprint, tensors
from lmsearcher_local.system.folders import read_json

if TYPE_CHECKING:
    from lmsearcher_local.model.checkpoint import Checkpoint

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)  # that vLLM can make room for
PLAIN = (  # entries of the configuration that do not change what the weights mean, or are read here
    *("alpha_pattern", "auto_mapping", "base_model_name_or_path", "eva_config", "exclude_modules", "inference_mode"),
    *("layers_pattern", "layers_to_transform", "lora_alpha", "lora_dropout", "megatron_core", "peft_version"),
    *("qalora_group_size", "r", "rank_pattern", "revision", "runtime_config", "target_modules", "task_type"),
    "use_rslora",
)
STARTS = (True, False, None, "gaussian", "eva", "orthogonal")  # other initial values also change the base's own weights
Shape = tuple[int, ...]
KEY = re.compile(r"base_model\.model\.(.+)\.lora_(A|B)\.weight")


@dataclass(frozen=True, slots=True)
class Adapter:
    """A checked adapter folder.

    ``scales`` holds for each adapted module (``model.layers.0.mlp.up_proj``) the factor of its product B A; ``rank``
    is the largest rank, rounded up to one that vLLM has.
    """

    path: Path
    rank: int
    scales: Mapping[str, float]


def is_adapter(folder: Path) -> bool:
    return (folder / CONFIG).exists()


def add_adapter(base: "Checkpoint", folder: Path) -> "Checkpoint":
    """The checkpoint that an adapter makes of its base; a ``CheckpointError`` where it cannot."""
    if base.quantization:
        raise CheckpointError(
            f"{base.path} is quantised ({base.quantization}); an adapter needs the plain weights it was made from"
        )
    adapter = _load(folder, base)
    files = [folder / name for name in (CONFIG, "lmsearcher.json", WEIGHTS)]
    identity = hashlib.sha256(f"{base.identity}+{fingerprint(files)}".encode()).hexdigest()[:16]
    size = base.weight_bytes + (folder / WEIGHTS).stat().st_size
    return replace(base, adapter=adapter, identity=identity, weight_bytes=size)


def merge(model: Any, adapter: Adapter) -> None:
    """Add an adapter to the weights of a transformers model on the processor, each sum rounded once."""
    import torch

    with safe_open(adapter.path / WEIGHTS, framework="pt") as held, torch.no_grad():
        for module, scale in adapter.scales.items():
            a, b = (held.get_tensor(f"base_model.model.{module}.lora_{letter}.weight").float() for letter in "AB")
            weight = model.get_submodule(module).weight
            weight.copy_(weight.float() + scale * (b @ a))


def _load(folder: Path, base: "Checkpoint") -> Adapter:
    file = folder / WEIGHTS
    config = read_json(folder / CONFIG)
    _check_kind(folder / CONFIG, config)
    if not file.exists():
        pickled = next(folder.glob("adapter_model.*"), None)
        if pickled:
            raise CheckpointError(f"{pickled} can run code when it is read; convert it to safetensors")
        raise CheckpointError(f"the adapter's weights {file} do not exist")
    check_whole(file)
    whole = {name: tensor.shape for weights in base.weights for name, tensor in tensors(weights).items()}
    modules = _modules(file, {name: tensor.shape for name, tensor in tensors(file).items()}, whole)
    scales: dict[str, float] = {}
    try:
        root = 0.5 if config.get("use_rslora") else 1
        largest = max(config["r"], *(config.get("rank_pattern") or {}).values(), 1)
        for module, held in modules.items():
            rank = _pattern(config.get("rank_pattern"), module, config["r"])
            if rank != held:
                raise CheckpointError(f"{file} has rank {held} at {module}, where {CONFIG} says {brief(rank)}")
            scales[module] = float(_pattern(config.get("alpha_pattern"), module, config["lora_alpha"])) / rank**root
    except CheckpointError:
        raise
    except (KeyError, TypeError, ValueError, AttributeError, ArithmeticError, re.error) as error:
        raise CheckpointError(f"{folder / CONFIG} lacks a usable r, lora_alpha or pattern ({error})") from error
    if largest > RANKS[-1]:
        raise CheckpointError(f"{folder / CONFIG} has rank {largest:,}; the largest that can be loaded is {RANKS[-1]}")
    return Adapter(folder, min(rank for rank in RANKS if rank >= largest), scales)


def _check_kind(file: Path, config: dict[str, Any]) -> None:
    """Whether all that the configuration asks for is a plain product added to a weight."""
    for name, value in config.items():
        if name == "peft_type":
            plain = value == "LORA"
        elif name == "bias":
            plain = value in ("none", None)
        elif name == "init_lora_weights":
            plain = value in STARTS
        else:
            plain = name in PLAIN or not value
        if not plain:
            raise CheckpointError(
                f"{file} asks for {brief(name)}: {brief(value)}, which only PEFT can load;"
                " merge the adapter into its base there (merge_and_unload) and pass the merged folder"
            )


def _modules(file: Path, held: Mapping[str, Shape], whole: Mapping[str, Shape]) -> dict[str, int]:
    """The adapted modules and their ranks: each has both factors, and these fit the base's weight."""
    found = {}
    for name in held:
        match = KEY.fullmatch(name)
        weight = whole.get(f"{match[1]}.weight", ()) if match else ()
        if not match or ".layers." not in name or len(weight) != 2:
            raise CheckpointError(
                f"{file} holds {brief(name)}, which is no factor of a projection in this base's layers;"
                " merge the adapter into its base with PEFT (merge_and_unload) and pass the merged folder"
            )
        first, second = (held.get(f"base_model.model.{match[1]}.lora_{letter}.weight", ()) for letter in "AB")
        rank = first[0] if first else 0
        if not rank or (first, second) != ((rank, weight[1]), (weight[0], rank)):
            raise CheckpointError(f"{file} does not belong to this base, whose {match[1]} is {weight[0]} x {weight[1]}")
        found[match[1]] = rank
    if not found:
        raise CheckpointError(f"{file} holds no adapter")
    return found


def _pattern(patterns: Any, module: str, otherwise: Any) -> Any:
    """PEFT's own rule: of the patterns that end a module's name the first."""
    return next((value for key, value in (patterns or {}).items() if re.match(rf"(.*\.)?({key})$", module)), otherwise)
