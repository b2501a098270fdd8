"""Stable Diffusion with LoRA: a rank for each of 48 groups of linear layers of the v1.5 UNet.

The paper says 48 groups and not which. The UNet has 16 transformer blocks, so here a group is the self-attention, the
cross-attention or the feed-forward part of one. Layers are named as in ``diffusers``' ``UNet2DConditionModel``.
"""

from typing import Any

from lmsearcher_local.presets.drawing import Figure, draw_ranks, new_figure
from lmsearcher_local.spaces.space import Configuration

TITLE = "LoRA ranks on the UNet of Stable Diffusion v1.5"
SOURCE = "LM-Searcher, arXiv 2509.05657"
BLOCKS = {  # in the order in which an image passes them
    **{f"down{block}_{i}": f"down_blocks.{block}.attentions.{i}" for block in (0, 1, 2) for i in (0, 1)},
    "mid": "mid_block.attentions.0",
    **{f"up{block}_{i}": f"up_blocks.{block}.attentions.{i}" for block in (1, 2, 3) for i in (0, 1, 2)},
}
PROJECTIONS = ("to_q", "to_k", "to_v", "to_out.0")
PARTS = {
    "self": [f"attn1.{layer}" for layer in PROJECTIONS],
    "cross": [f"attn2.{layer}" for layer in PROJECTIONS],
    "ff": ["ff.net.0.proj", "ff.net.2"],
}


def architecture(configuration: Configuration) -> dict[str, Any]:
    """Arguments of peft's ``LoraConfig`` for the UNet: ``target_modules`` and their ``rank_pattern``, 160 layers."""
    ranks = {
        f"{module}.transformer_blocks.0.{layer}": configuration[f"{block}_{part}"]
        for block, module in BLOCKS.items()
        for part, layers in PARTS.items()
        for layer in layers
    }
    return {"target_modules": list(ranks), "rank_pattern": ranks}


def summary(configuration: Configuration) -> str:
    """A line per block."""
    width = max(map(len, BLOCKS))
    lines = [f"Ranks: {'self':>{width}} cross    ff"]
    for block in BLOCKS:
        ranks = "".join(f"{configuration[f'{block}_{part}']:>6}" for part in PARTS)
        lines.append(f"{block:<{width}}{ranks}")
    return "\n".join(lines)


def draw(configuration: Configuration) -> Figure:
    """A bar per group, three per block."""
    figure = new_figure(11, 3.5)
    ranks = {block: [configuration[f"{block}_{part}"] for part in PARTS] for block in BLOCKS}
    names = ["self-attention", "cross-attention", "feed-forward"]
    draw_ranks(figure.add_subplot(), ranks, names, "Stable Diffusion v1.5: LoRA rank by block of the UNet")
    return figure
