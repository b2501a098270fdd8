"""NAS-Bench-ASR: three nodes in a row, each with an operation and skip connections from every state before it.

State 0 is the cell's input and state ``n`` the output of node ``n``. Of the 13,824 codes 8,242 are different networks.
"""

from lmsearcher_local.presets.drawing import Edge, Figure, draw_cell, new_figure
from lmsearcher_local.spaces.space import Configuration

TITLE = "operations and skip connections of a speech recognition cell"
SOURCE = "NAS-Bench-ASR, ICLR 2021"
OPERATIONS = ("linear", "conv5", "conv5d2", "conv7", "conv7d2", "zero")
NODES = (1, 2, 3)


def architecture(configuration: Configuration) -> list[list[int]]:
    """The benchmark's architecture vector: per node the operation's number and a 0 or 1 for each earlier state."""
    return [
        [OPERATIONS.index(str(configuration[f"node{node}_op"])), *(skip for _, skip in _skips(configuration, node))]
        for node in NODES
    ]


def summary(configuration: Configuration) -> str:
    """A line per node."""
    lines = []
    for node in NODES:
        added = "".join(f" + state {state}" for state, skip in _skips(configuration, node) if skip)
        lines.append(f"state {node} = {configuration[f'node{node}_op']}(state {node - 1}){added}")
    return "\n".join(lines)


def draw(configuration: Configuration) -> Figure:
    """The cell; ``zero`` and skip connections that are not there are left out."""
    figure = new_figure(6.5, 4.8)
    edges = []
    for node in NODES:
        operation = str(configuration[f"node{node}_op"])
        edges += [Edge(state, node, "skip") for state, skip in _skips(configuration, node) if skip]
        if operation != "zero":
            edges.append(Edge(node - 1, node, operation))
    draw_cell(figure.add_subplot(), ["in", "1", "2", "out"], edges, "NAS-Bench-ASR cell")
    return figure


def _skips(configuration: Configuration, node: int) -> list[tuple[int, int]]:
    """Each earlier state of a node, and whether it is added."""
    return [(state, 1 if configuration[f"node{node}_skip{state}"] else 0) for state in range(node)]
