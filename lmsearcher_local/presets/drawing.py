"""Pictures of architectures: cells as graphs, ranks and layers as bars."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLUMN, ROW, GAP = 3.4, 0.75, 0.55  # of a cell: between nodes, between edges into one node, between nodes' rows
RADIUS, BOX = 0.36, 2.1
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


def new_figure(width: float, height: float) -> "Figure":
    """A figure of that many inches, without a window system or pyplot's global state."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def draw_cell(axes: "Axes", nodes: Sequence[str], edges: Sequence[Edge], title: str) -> None:
    """Draw a cell with its nodes down the diagonal: an edge goes down from its source, then right into its target.

    That way no line ever crosses a label, whatever the cell is.
    """
    from matplotlib.patches import Circle, FancyBboxPatch

    y = 0.0
    centres: list[tuple[float, float]] = []
    for number, name in enumerate(nodes):
        incoming = [edge for edge in edges if edge.target == number]
        height = ROW * max(len(incoming), 1)
        x, middle = COLUMN * number, y - height / 2
        centres.append((x, middle))
        for i, edge in enumerate(incoming):
            start_x, start_y = centres[edge.source]
            level = y - ROW * (i + 0.5)
            axes.plot([start_x, start_x, x - BOX], [start_y, level, level], color="0.45", linewidth=1.2, zorder=1)
            axes.plot(start_x, level, marker=".", color="0.45", zorder=1)
            entry = (x - RADIUS * 0.6, middle + (level - middle) * 0.25)
            arrow = {"arrowstyle": "-|>", "color": "0.45", "linewidth": 1.2, "shrinkA": 0, "shrinkB": 5}
            axes.annotate("", entry, (x - BOX / 2 + 0.2, level), arrowprops=arrow, zorder=1)
            axes.plot([x - BOX, x - BOX / 2 + 0.2], [level, level], color="0.45", linewidth=1.2, zorder=1)
            if edge.operation:
                corner = (x - BOX - 0.55, level - 0.25)
                style = {"facecolor": _colour(edge.operation), "edgecolor": "0.45", "linewidth": 0.8}
                axes.add_patch(FancyBboxPatch(corner, BOX, 0.5, boxstyle="round,pad=0,rounding_size=0.12", **style))
                axes.text(x - BOX / 2 - 0.55, level, edge.operation, ha="center", va="center", fontsize=8)
        y -= height + GAP
        axes.add_patch(Circle((x, middle), RADIUS, facecolor="white", edgecolor="black", zorder=2))
        axes.text(x, middle, name, ha="center", va="center", fontsize=8, zorder=3)
    axes.set(aspect="equal", title=title)
    axes.set_xlim(-1, COLUMN * (len(nodes) - 1) + 1)
    axes.set_ylim(y, 0.6)
    axes.axis("off")


def draw_ranks(axes: "Axes", ranks: Mapping[str, Sequence[Any]], parts: Sequence[str], title: str) -> None:
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


def draw_layers(axes: "Axes", widths: Sequence[Any], notes: Sequence[str], title: str) -> None:
    """Draw a bar per layer, its height the layer's width, with a note in it."""
    bars = axes.bar(range(len(widths)), widths, color=CONVOLUTION, edgecolor="0.45")
    axes.bar_label(bars, labels=list(notes), label_type="center", fontsize="small")
    axes.set_xticks(range(6))
    axes.set(xlabel="layer", title=title, xlim=(-0.6, 5.6), yticks=[0, 1024, 2048, 3072])
    axes.grid(axis="y", alpha=0.3)
    axes.set_axisbelow(True)


def _colour(operation: str) -> str:
    return next((colour for start, colour in COLOURS.items() if operation.startswith(start)), CONVOLUTION)
