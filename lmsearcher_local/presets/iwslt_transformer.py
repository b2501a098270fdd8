"""A Transformer for IWSLT'14 De-En: the paper's options on the layer-wise positions of HAT's space.

As in HAT there are six encoder layers and one to six decoder layers. Positions of decoder layers that are not there do
nothing, so some codes name the same network. Attention to more than the last encoder layer, which HAT also searches,
is not among the paper's options and stays off.
"""

from typing import TYPE_CHECKING, Any

from lmsearcher_local.presets.base import Preset
from lmsearcher_local.presets.drawing import draw_layers, new_figure
from lmsearcher_local.spaces.space import Configuration, Option

if TYPE_CHECKING:
    from matplotlib.figure import Figure

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
    layers = _layers(configuration)
    lines = []
    for half, count, heads in (
        ("encoder", ENCODER_LAYERS, ["heads"]),
        ("decoder", layers, ["self_heads", "cross_heads"]),
    ):
        lines.append(f"{half.capitalize()}: {count} layers of width {configuration[f'{half}_embed_dim']}")
        for name in ("ffn_dim", *heads):
            values = " ".join(f"{value:>4}" for value in _each(configuration, f"{half}_{name}", count))
            lines.append(f"  {name.replace('_', ' '):<12}{values}")
    return "\n".join(lines)


def draw(configuration: Configuration) -> "Figure":
    """The feed-forward widths as bars, the heads on them, encoder and decoder side by side."""
    figure = new_figure(10, 4)
    left, right = figure.subplots(1, 2, sharey=True)
    count = _layers(configuration)
    heads = [f"{heads} heads" for heads in _each(configuration, "encoder_heads", ENCODER_LAYERS)]
    draw_layers(
        left,
        _each(configuration, "encoder_ffn_dim", ENCODER_LAYERS),
        heads,
        f"encoder, width {configuration['encoder_embed_dim']}",
    )
    both = zip(
        _each(configuration, "decoder_self_heads", count),
        _each(configuration, "decoder_cross_heads", count),
        strict=True,
    )
    draw_layers(
        right,
        _each(configuration, "decoder_ffn_dim", count),
        [f"{own} self\n{cross} cross" for own, cross in both],
        f"decoder, width {configuration['decoder_embed_dim']}",
    )
    left.set_ylabel("feed-forward width")
    return figure


def _layers(configuration: Configuration) -> int:
    return int(configuration["decoder_layers"] or 0)


def _each(configuration: Configuration, name: str, count: int) -> list[Option]:
    return [configuration[f"{name}_{i}"] for i in range(count)]


PRESET = Preset(
    "iwslt_transformer",
    "widths, heads and decoder depth of a translation model",
    "HAT, arXiv 2005.14187, with the options of LM-Searcher",
    architecture,
    summary,
    draw,
)
