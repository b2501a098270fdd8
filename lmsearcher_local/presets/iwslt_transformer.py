"""A Transformer for IWSLT'14 De-En: the paper's options on the layer-wise positions of HAT's space.

As in HAT there are six encoder layers and one to six decoder layers. Positions of decoder layers that are not there do
nothing, so some codes name the same network. Attention to more than the last encoder layer, which HAT also searches,
is not among the paper's options and stays off.
"""

from typing import Any

from lmsearcher_local.presets.drawing import Figure, draw_layers, new_figure
from lmsearcher_local.spaces.space import Configuration, Option

TITLE = "widths, heads and decoder depth of a translation model"
SOURCE = "HAT, arXiv 2005.14187, with the options of LM-Searcher"
ENCODER_LAYERS = 6
LAST_ENCODER_LAYER = -1  # HAT's number for attention to the last encoder layer alone


def architecture(configuration: Configuration) -> dict[str, Any]:
    """The entries of a HAT subtransformer file, which its ``train.py`` reads with ``--configs``."""
    layers = _layers(configuration)
    return {
        "encoder-embed-dim-subtransformer": configuration["encoder_embed_dim"],
        "decoder-embed-dim-subtransformer": configuration["decoder_embed_dim"],
        "encoder-ffn-embed-dim-all-subtransformer": _each(configuration, "encoder_ffn_dim", ENCODER_LAYERS),
        "decoder-ffn-embed-dim-all-subtransformer": _each(configuration, "decoder_ffn_dim", layers),
        "encoder-layer-num-subtransformer": ENCODER_LAYERS,
        "decoder-layer-num-subtransformer": layers,
        "encoder-self-attention-heads-all-subtransformer": _each(configuration, "encoder_heads", ENCODER_LAYERS),
        "decoder-self-attention-heads-all-subtransformer": _each(configuration, "decoder_self_heads", layers),
        "decoder-ende-attention-heads-all-subtransformer": _each(configuration, "decoder_cross_heads", layers),
        "decoder-arbitrary-ende-attn-all-subtransformer": [LAST_ENCODER_LAYER] * layers,
    }


def summary(configuration: Configuration) -> str:
    """The widths and heads of each half."""
    lines = []
    halves = {
        "encoder": (ENCODER_LAYERS, ["heads"]),
        "decoder": (_layers(configuration), ["self_heads", "cross_heads"]),
    }
    for half, (count, heads) in halves.items():
        lines.append(f"{half.capitalize()}: {count} layers of width {configuration[f'{half}_embed_dim']}")
        for name in ("ffn_dim", *heads):
            values = " ".join(f"{value:>4}" for value in _each(configuration, f"{half}_{name}", count))
            lines.append(f"  {name.replace('_', ' '):<12}{values}")
    return "\n".join(lines)


def draw(configuration: Configuration) -> Figure:
    """The feed-forward widths as bars, the heads on them, encoder and decoder side by side."""
    figure = new_figure(10, 4)
    left, right = figure.subplots(1, 2, sharey=True)
    layers = _layers(configuration)
    heads = _each(configuration, "encoder_heads", ENCODER_LAYERS)
    own, cross = (_each(configuration, f"decoder_{name}_heads", layers) for name in ("self", "cross"))
    notes = [f"{a} self\n{b} cross" for a, b in zip(own, cross, strict=True)]
    for axes, half, texts in ((left, "encoder", [f"{count} heads" for count in heads]), (right, "decoder", notes)):
        widths = _each(configuration, f"{half}_ffn_dim", len(texts))
        draw_layers(axes, widths, texts, f"{half}, width {configuration[f'{half}_embed_dim']}")
    left.set_ylabel("feed-forward width")
    return figure


def _layers(configuration: Configuration) -> int:
    return int(configuration["decoder_layers"] or 0)


def _each(configuration: Configuration, name: str, count: int) -> list[Option]:
    return [configuration[f"{name}_{i}"] for i in range(count)]
