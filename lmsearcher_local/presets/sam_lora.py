"""SAM with LoRA: the rank of the LoRA on each of the 32 transformer blocks of the ViT-H image encoder.

The adapted layer is a block's fused query, key and value projection, named as in ``transformers``' ``SamModel``; in
the original repository it is ``image_encoder.blocks.N.attn.qkv``.
"""

from typing import Any

from lmsearcher_local.presets.drawing import Figure, draw_ranks, new_figure
from lmsearcher_local.spaces.space import Configuration

TITLE = "LoRA ranks on the image encoder of SAM ViT-H"
SOURCE = "LM-Searcher, arXiv 2509.05657"
BLOCKS = 32


def architecture(configuration: Configuration) -> dict[str, Any]:
    """Arguments of peft's ``LoraConfig``: ``target_modules`` and their ``rank_pattern``."""
    ranks = {f"vision_encoder.layers.{i}.attn.qkv": configuration[f"block{i}"] for i in range(BLOCKS)}
    return {"target_modules": list(ranks), "rank_pattern": ranks}


def summary(configuration: Configuration) -> str:
    """The ranks in order."""
    ranks = [str(configuration[f"block{i}"]) for i in range(BLOCKS)]
    return f"Ranks of blocks 0 to {BLOCKS - 1}: {' '.join(ranks)}"


def draw(configuration: Configuration) -> Figure:
    """A bar per block."""
    figure = new_figure(10, 3.5)
    ranks = {str(i): [configuration[f"block{i}"]] for i in range(BLOCKS)}
    draw_ranks(figure.add_subplot(), ranks, ["attention"], "SAM ViT-H: LoRA rank by block of the image encoder")
    return figure
