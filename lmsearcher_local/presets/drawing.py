"""Pictures of architectures: cells as graphs, ranks and layers as bars."""

import math
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, NamedTuple, TypeAlias

if TYPE_CHECKING:
    import matplotlib.axes
    import matplotlib.figure

Axes: TypeAlias = "matplotlib.axes.Axes"  # imported when something is drawn
Figure: TypeAlias = "matplotlib.figure.Figure"
COLUMN, ROW, GAP = 3.4, 0.75, 0.55  # of a cell: between nodes, between edges into one node, between nodes' rows
RADIUS, NEAR = 0.5, 0.95  # of a node; from its centre to where the arrows into it start
COLOURS = {  # of operations, by what their names begin with
    "skip": "0.93",
    "max_pool": "#f9d5a7",
    "avg_pool": "#f9d5a7",
    "sep_conv": "#bcd9f2",
    "dil_conv": "#cfe8c9",
    "linear": "#f4c6d0",
    "nor_conv_1x1": "#f4c6d0",
}
CONVOLUTION = "#bcd9f2"


class Edge(NamedTuple):
    """An edge of a cell, from one node's number to another's, with its operation where it has one."""

    source: int
    target: int
    operation: str = ""


def new_figure(width: float, height: float) -> Figure:
    """A figure of that many inches, without a window system or pyplot's global state."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def save_figure(figure: Figure, place: Path | IO[str], **options: Any) -> None:
    """Write a figure; letters that no font here has are boxes, without a warning for each."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", r"Glyph .* missing from", UserWarning)
        figure.savefig(place, **options)


def draw_cell(axes: Axes, nodes: Sequence[str], edges: Sequence[Edge], title: str) -> None:
    """Draw a cell with its nodes down the diagonal: an edge goes down from its source, then right into its target.

    That way no line ever crosses a label, whatever the cell is.
    """
    from matplotlib.patches import Circle

    top = 0.0
    centres: list[tuple[float, float]] = []
    for number, name in enumerate(nodes):
        incoming = [edge for edge in edges if edge.target == number]
        height = ROW * max(len(incoming), 1)
        x, y = COLUMN * number, top - height / 2
        centres.append((x, y))
        for i, edge in enumerate(incoming):
            level = top - ROW * (i + 0.5)
            _draw_edge(axes, centres[edge.source], (x, y), level, edge.operation)
        axes.add_patch(Circle((x, y), RADIUS, facecolor="white", edgecolor="black", zorder=2))
        axes.text(x, y, name, ha="center", va="center", fontsize=8, zorder=3)
        top -= height + GAP
    axes.set(aspect="equal", title=title, xlim=(-1, COLUMN * (len(nodes) - 1) + 1), ylim=(top, 0.3))
    axes.axis("off")


def _draw_edge(
    axes: Axes, source: tuple[float, float], target: tuple[float, float], level: float, operation: str
) -> None:
    """Draw one edge that runs to the right at a height of its own."""
    end = target[0] - NEAR
    line: dict[str, Any] = {"color": "0.45", "linewidth": 1.2}
    axes.plot([source[0], source[0], end], [source[1], level, level], zorder=1, **line)
    axes.plot(source[0], level, marker=".", zorder=1, **line)
    away = math.hypot(NEAR, level - target[1]) / RADIUS
    tip = target[0] - NEAR / away, target[1] + (level - target[1]) / away
    axes.annotate("", tip, (end, level), arrowprops={"arrowstyle": "-|>", "shrinkA": 0, "shrinkB": 0, **line}, zorder=1)
    if operation:
        colour = next((colour for start, colour in COLOURS.items() if operation.startswith(start)), CONVOLUTION)
        box = {"boxstyle": "round,pad=0.4", "facecolor": colour, "edgecolor": "0.45"}
        axes.text(end - 0.95, level, operation, ha="center", va="center", fontsize=8, bbox=box)


def draw_ranks(axes: Axes, ranks: Mapping[str, Sequence[Any]], parts: Sequence[str], title: str) -> None:
    """Draw the ranks of each block as bars, one per part of the block."""
    width = 0.8 / len(parts)
    for i, part in enumerate(parts):
        places = [block - 0.4 + width * (i + 0.5) for block in range(len(ranks))]
        axes.bar(places, [values[i] for values in ranks.values()], width * 0.9, label=part)
    axes.set_xticks(range(len(ranks)), list(ranks), fontsize="small")
    axes.set_yticks(sorted({rank for values in ranks.values() for rank in values}))
    axes.set(ylabel="rank", title=title, xlim=(-0.7, len(ranks) - 0.3))
    axes.grid(axis="y", alpha=0.3)
    axes.set_axisbelow(True)
    if len(parts) > 1:
        axes.legend(loc="upper left", bbox_to_anchor=(1, 1), fontsize="small")


def draw_layers(axes: Axes, widths: Sequence[Any], notes: Sequence[str], title: str) -> None:
    """Draw a bar per layer, its height the layer's width, with a note in it."""
    bars = axes.bar(range(len(widths)), widths, color=CONVOLUTION, edgecolor="0.45")
    axes.bar_label(bars, labels=list(notes), label_type="center", fontsize="small")
    axes.set_xticks(range(6))
    axes.set(xlabel="layer", title=title, xlim=(-0.6, 5.6), yticks=[0, 1024, 2048, 3072])
    axes.grid(axis="y", alpha=0.3)
    axes.set_axisbelow(True)
