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

VOCABULARY = 128256
SHARD = 1_200_000_000  # bytes; the largest tensor of the 8B has 1.05 GB, and writing a shard takes it twice
NAMED = {0: "begin_of_text", 1: "end_of_text", 6: "start_header_id", 7: "end_header_id", 9: "eot_id"}


def write_tokenizer(folder: Path) -> None:
    """Write ``tokenizer.json`` as Llama 3.1 ships it, from the ``tokenizer.model`` of the llama-models package."""
    names = [f"<|{NAMED.get(i, f'reserved_special_token_{i}')}|>" for i in range(256)]
    source = files("llama_models") / "llama3" / "tokenizer.model"
    converter = TikTokenConverter(vocab_file=str(source), extra_special_tokens=names)
    PreTrainedTokenizerFast(tokenizer_object=converter.converted()).save_pretrained(folder)


def write_model(
    folder: Path,
    dtype: torch.dtype = torch.float32,
    seed: int = 0,
    layers: int = 2,
    hidden: int = 64,
    heads: tuple[int, int, int] | None = None,
) -> None:
    """Write ``config.json`` and random weights as Llama 3.1 8B lays them out: grouped queries, untied head.

    ``heads`` are those of queries, those of keys and values, and their size.
    """
    torch.manual_seed(seed)
    queries, keys, size = heads or (hidden // 32, hidden // 64, 32)
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=hidden,
        intermediate_size=2 * hidden,
        num_hidden_layers=layers,
        num_attention_heads=queries,
        num_key_value_heads=keys,
        head_dim=size,
        max_position_embeddings=131072,
        rms_norm_eps=1e-5,
        bos_token_id=128000,
        eos_token_id=[128001, 128008, 128009],
        tie_word_embeddings=False,
        rope_parameters={
            "rope_type": "llama3",
            "rope_theta": 500000.0,
            "factor": 8.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 8192,
        },
        dtype=dtype,
    )
    model: Any = LlamaForCausalLM(config)
    model.lm_head.weight.data.mul_(20)  # random weights of the usual size answer nearly uniformly
    model.to(dtype).save_pretrained(folder)


def write_compact(folder: Path, layers: int = 2, intermediate: int = 384, seed: int = 0) -> None:
    """Write a plain Llama of random weights that reads rows, in the sizes of the bundled one but for its layers."""
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=192,
        hidden_size=128,
        intermediate_size=intermediate,
        num_hidden_layers=layers,
        num_attention_heads=4,
        max_position_embeddings=512,
        tie_word_embeddings=False,
        bos_token_id=None,
        eos_token_id=None,
        dtype=torch.float32,
    )
    model: Any = LlamaForCausalLM(config)
    model.lm_head.weight.data.mul_(20)  # random weights of the usual size answer nearly uniformly
    model.save_pretrained(folder)
    (folder / "lmsearcher.json").write_text('{"codec": "compact"}\n')
    (folder / "codec").mkdir()
    save_file({name: torch.randn(shape) for name, shape in table_shapes(128).items()}, folder / TABLE)


def published(name: str) -> dict[str, Any]:
    """``config.json`` of Llama 3.1 8B, Llama 3.2 3B or 1B, as published, or of a ``tiny`` one of their kind.

    Raises:
        KeyError: there is no such shape.
    """
    small = {"tie_word_embeddings": True}
    sizes: dict[str, Any] = {
        "8b": {"hidden": 4096, "inner": 14336, "layers": 32, "heads": 32, "head": 128, "factor": 8.0},
        "3b": {"hidden": 3072, "inner": 8192, "layers": 28, "heads": 24, "head": 128, "factor": 32.0, **small},
        "1b": {"hidden": 2048, "inner": 8192, "layers": 16, "heads": 32, "head": 64, "factor": 32.0, **small},
        "tiny": {"hidden": 128, "inner": 256, "layers": 2, "heads": 16, "head": 32, "factor": 8.0},
    }[name]
    return {
        "architectures": ["LlamaForCausalLM"],
        "attention_bias": False,
        "attention_dropout": 0.0,
        "bos_token_id": 128000,
        "eos_token_id": [128001, 128008, 128009],
        "head_dim": sizes["head"],
        "hidden_act": "silu",
        "hidden_size": sizes["hidden"],
        "initializer_range": 0.02,
        "intermediate_size": sizes["inner"],
        "max_position_embeddings": 131072,
        "mlp_bias": False,
        "model_type": "llama",
        "num_attention_heads": sizes["heads"],
        "num_hidden_layers": sizes["layers"],
        "num_key_value_heads": 8,
        "pretraining_tp": 1,
        "rms_norm_eps": 1e-05,
        "rope_scaling": {
            "factor": sizes["factor"],
            "high_freq_factor": 4.0,
            "low_freq_factor": 1.0,
            "original_max_position_embeddings": 8192,
            "rope_type": "llama3",
        },
        "rope_theta": 500000.0,
        "tie_word_embeddings": sizes.get("tie_word_embeddings", False),
        "torch_dtype": "bfloat16",
        "use_cache": True,
        "vocab_size": VOCABULARY,
    }


def shapes(config: dict[str, Any]) -> dict[str, tuple[int, ...]]:
    """Name and shape of every tensor of a Llama, in the order of a published folder."""
    hidden, inner, head = config["hidden_size"], config["intermediate_size"], config["head_dim"]
    queries, keys = config["num_attention_heads"] * head, config["num_key_value_heads"] * head
    layer: dict[str, tuple[int, ...]] = {
        "input_layernorm": (hidden,),
        "mlp.down_proj": (hidden, inner),
        "mlp.gate_proj": (inner, hidden),
        "mlp.up_proj": (inner, hidden),
        "post_attention_layernorm": (hidden,),
        "self_attn.k_proj": (keys, hidden),
        "self_attn.o_proj": (hidden, queries),
        "self_attn.q_proj": (queries, hidden),
        "self_attn.v_proj": (keys, hidden),
    }
    found: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (config["vocab_size"], hidden)}
    for i in range(config["num_hidden_layers"]):
        found |= {f"model.layers.{i}.{name}.weight": shape for name, shape in layer.items()}
    found["model.norm.weight"] = (hidden,)
    if not config["tie_word_embeddings"]:
        found["lm_head.weight"] = (config["vocab_size"], hidden)
    return found


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
