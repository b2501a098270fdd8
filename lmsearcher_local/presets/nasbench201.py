"""NAS-Bench-201: a cell of four nodes with one of five operations on each of its six edges."""

from lmsearcher_local.presets.drawing import Edge, Figure, draw_cell, new_figure
from lmsearcher_local.spaces.space import Configuration

TITLE = "operations on the six edges of an image classification cell"
SOURCE = "NAS-Bench-201, arXiv 2001.00326"
# Op0 to Op5. The benchmark's package does not say so, its values do: with `none` as Op0 nothing depends on Op2 and Op4,
# the other edges at node 1, and with `none` as Op5 nothing on Op1 and Op2.
EDGES = ((0, 1), (0, 2), (1, 2), (0, 3), (1, 3), (2, 3))


def architecture(configuration: Configuration) -> str:
    """The cell in the benchmark's own notation: operation and source node of each edge, a group per target node."""
    edges = iter(_operations(configuration))
    return "+".join("|" + "".join(f"{next(edges)}~{source}|" for source in range(node)) for node in range(1, 4))


def summary(configuration: Configuration) -> str:
    """The cell in the benchmark's notation."""
    return f"Cell: {architecture(configuration)}"


def draw(configuration: Configuration) -> Figure:
    """The cell; an edge with the operation ``none`` is left out."""
    figure = new_figure(6.5, 4.8)
    operations = zip(EDGES, _operations(configuration), strict=True)
    edges = [Edge(*edge, operation) for edge, operation in operations if operation != "none"]
    draw_cell(figure.add_subplot(), ["in", "1", "2", "out"], edges, "NAS-Bench-201 cell")
    return figure


def _operations(configuration: Configuration) -> list[str]:
    return [str(configuration[f"Op{i}"]) for i in range(len(EDGES))]
