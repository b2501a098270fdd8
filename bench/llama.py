"""Checkpoints of random weights in the layout of Llama 3.1, with its real tokenizer: of few layers, or of the
published sizes."""

import json
import math
from importlib.resources import files
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast
from transformers.convert_slow_tokenizer import TikTokenConverter

from lmsearcher_local.model.checkpoint import TABLE
from lmsearcher_local.model.codecs.compact import table_shapes

SHARD = 1_200_000_000  # bytes; the largest tensor of the 8B has 1.05 GB, and writing a shard takes it twice
NAMED = {0: "begin_of_text", 1: "end_of_text", 6: "start_header_id", 7: "end_header_id", 9: "eot_id"}
ROPE: dict[str, Any] = {
    "high_freq_factor": 4.0,
    "low_freq_factor": 1.0,
    "original_max_position_embeddings": 8192,
    "rope_type": "llama3",
}
LLAMA_8B: dict[str, Any] = {  # config.json of Llama 3.1 8B
    "architectures": ["LlamaForCausalLM"],
    "attention_bias": False,
    "attention_dropout": 0.0,
    "bos_token_id": 128000,
    "eos_token_id": [128001, 128008, 128009],
    "head_dim": 128,
    "hidden_act": "silu",
    "hidden_size": 4096,
    "initializer_range": 0.02,
    "intermediate_size": 14336,
    "max_position_embeddings": 131072,
    "mlp_bias": False,
    "model_type": "llama",
    "num_attention_heads": 32,
    "num_hidden_layers": 32,
    "num_key_value_heads": 8,
    "pretraining_tp": 1,
    "rms_norm_eps": 1e-05,
    "rope_scaling": {"factor": 8.0, **ROPE},
    "rope_theta": 500000.0,
    "tie_word_embeddings": False,
    "torch_dtype": "bfloat16",
    "use_cache": True,
    "vocab_size": 128256,
}
SMALLER = {"intermediate_size": 8192, "rope_scaling": {"factor": 32.0, **ROPE}, "tie_word_embeddings": True}
SHAPES: dict[str, dict[str, Any]] = {  # in what others differ
    "8b": {},
    "3b": {"hidden_size": 3072, "num_hidden_layers": 28, "num_attention_heads": 24, **SMALLER},
    "1b": {"hidden_size": 2048, "num_hidden_layers": 16, "head_dim": 64, **SMALLER},
    "tiny": {
        "hidden_size": 128,
        "intermediate_size": 256,
        "num_hidden_layers": 2,
        "num_attention_heads": 16,
        "head_dim": 32,
    },
}


def write_tokenizer(folder: Path) -> None:
    """Write ``tokenizer.json`` as Llama 3.1 ships it, from the ``tokenizer.model`` of the llama-models package."""
    names = [f"<|{NAMED.get(i, f'reserved_special_token_{i}')}|>" for i in range(256)]
    source = files("llama_models") / "llama3" / "tokenizer.model"
    converter = TikTokenConverter(vocab_file=str(source), extra_special_tokens=names)
    PreTrainedTokenizerFast(tokenizer_object=converter.converted()).save_pretrained(folder)


def config_of(name: str) -> dict[str, Any]:
    """``config.json`` of Llama 3.1 8B, Llama 3.2 3B or 1B, as published, or of a ``tiny`` one of their kind."""
    return LLAMA_8B | SHAPES[name]


def write_model(
    folder: Path,
    dtype: torch.dtype = torch.float32,
    layers: int = 2,
    hidden: int = 64,
    heads: tuple[int, int, int] | None = None,
) -> None:
    """Write ``config.json`` and random weights as Llama 3.1 8B lays them out: grouped queries, untied head.

    ``heads`` are those of queries, those of keys and values, and their size.
    """
    queries, keys, size = heads or (hidden // 32, hidden // 64, 32)
    sizes = {"hidden_size": hidden, "intermediate_size": 2 * hidden, "num_hidden_layers": layers}
    sizes |= {"num_attention_heads": queries, "num_key_value_heads": keys, "head_dim": size}
    _write_random(folder, LlamaConfig(**(LLAMA_8B | sizes | {"torch_dtype": dtype})))


def write_compact(folder: Path, layers: int = 2) -> None:
    """Write a plain Llama of random weights that reads rows, in the sizes of the bundled one but for its layers."""
    config = LlamaConfig(
        vocab_size=192,
        hidden_size=128,
        intermediate_size=384,
        num_hidden_layers=layers,
        num_attention_heads=4,
        max_position_embeddings=512,
        tie_word_embeddings=False,
        bos_token_id=None,
        eos_token_id=None,
        dtype=torch.float32,
    )
    _write_random(folder, config)
    (folder / "lmsearcher.json").write_text('{"codec": "compact"}\n')
    (folder / "codec").mkdir()
    save_file({name: torch.randn(shape) for name, shape in table_shapes(128).items()}, folder / TABLE)


def _write_random(folder: Path, config: LlamaConfig) -> None:
    torch.manual_seed(0)
    model: Any = LlamaForCausalLM(config)
    model.lm_head.weight.data.mul_(20)  # random weights of the usual size answer nearly uniformly
    model.to(config.dtype).save_pretrained(folder)


def shapes(config: dict[str, Any]) -> dict[str, tuple[int, ...]]:
    """Name and shape of every tensor of a Llama."""
    with torch.device("meta"):
        model: Any = LlamaForCausalLM(LlamaConfig(**config))
    return {name: tuple(tensor.shape) for name, tensor in model.named_parameters()}


def write_sharded(folder: Path, config: dict[str, Any], shard_bytes: int = SHARD, seed: int = 0) -> None:
    """Write a whole checkpoint folder of random bfloat16 weights, one shard in memory at a time.

    The head is drawn so that logits deviate by about 3: with weights of the usual size answers are nearly uniform.
    """
    folder.mkdir(parents=True, exist_ok=True)
    wanted = shapes(config)
    shards: list[list[str]] = []
    left = 0
    for name, shape in wanted.items():
        if not shards or left < 2 * math.prod(shape):
            shards.append([])
            left = shard_bytes
        shards[-1].append(name)
        left -= 2 * math.prod(shape)
    head = "model.embed_tokens.weight" if config["tie_word_embeddings"] else "lm_head.weight"
    rng = torch.Generator().manual_seed(seed)
    weight_map: dict[str, str] = {}
    for i, names in enumerate(shards, 1):
        file = f"model-{i:05}-of-{len(shards):05}.safetensors"
        weight_map |= dict.fromkeys(names, file)
        held = {}
        for name in names:
            held[name] = torch.ones(wanted[name], dtype=torch.bfloat16)
            if len(wanted[name]) > 1:
                held[name].normal_(0, 3 / config["hidden_size"] ** 0.5 if name == head else 0.02, generator=rng)
        save_file(held, folder / file, metadata={"format": "pt"})
    total = sum(2 * math.prod(shape) for shape in wanted.values())
    index = {"metadata": {"total_size": total}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")
    write_tokenizer(folder)
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")  # last: it is whole
