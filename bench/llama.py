"""A Llama-3.1-shaped checkpoint of few layers and random weights, with the real Llama 3 tokenizer."""

from importlib.resources import files
from pathlib import Path
from typing import Any

import torch
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast
from transformers.convert_slow_tokenizer import TikTokenConverter

VOCABULARY = 128256
NAMED = {0: "begin_of_text", 1: "end_of_text", 6: "start_header_id", 7: "end_header_id", 9: "eot_id"}


def write_tokenizer(folder: Path) -> None:
    """Write ``tokenizer.json`` as Llama 3.1 ships it, from the ``tokenizer.model`` of the llama-models package."""
    names = [f"<|{NAMED.get(i, f'reserved_special_token_{i}')}|>" for i in range(256)]
    source = files("llama_models") / "llama3" / "tokenizer.model"
    converter = TikTokenConverter(vocab_file=str(source), extra_special_tokens=names)
    PreTrainedTokenizerFast(tokenizer_object=converter.converted()).save_pretrained(folder)


def write_model(
    folder: Path, dtype: torch.dtype = torch.float32, seed: int = 0, layers: int = 2, hidden: int = 64
) -> None:
    """Write ``config.json`` and random weights as Llama 3.1 8B lays them out: grouped queries, untied head."""
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=hidden,
        intermediate_size=2 * hidden,
        num_hidden_layers=layers,
        num_attention_heads=hidden // 32,
        num_key_value_heads=hidden // 64,
        head_dim=32,
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
