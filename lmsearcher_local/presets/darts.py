"""The DARTS space: a normal and a reduction cell, in each four nodes that add two operations on two earlier states.

States 0 and 1 are the outputs of the two cells before, states 2 to 5 the nodes. A node's two inputs are one
parameter, so every code is a cell; node 2 has one possible pair and so no such parameter.
"""

from typing import Any

from lmsearcher_local.presets.drawing import Edge, Figure, draw_cell, new_figure
from lmsearcher_local.spaces.space import Configuration

TITLE = "normal and reduction cell of an image classifier"
SOURCE = "DARTS, arXiv 1806.09055"
NODES = (2, 3, 4, 5)
CELLS = {"normal": "normal", "reduce": "reduction"}
STATES = ("c[k-2]", "c[k-1]", "2", "3", "4", "5")


def architecture(configuration: Configuration) -> dict[str, Any]:
    """The fields of the ``Genotype`` that DARTS trains: (operation, input state) pairs, two per node, and concats."""
    genotype: dict[str, Any] = {}
    for cell in CELLS:
        pairs = []
        for node in NODES:
            inputs = configuration.get(f"{cell}_{node}_inputs", "0 1")
            for letter, state in zip("ab", str(inputs).split(), strict=True):
                pairs.append((configuration[f"{cell}_{node}_{letter}"], int(state)))
        genotype |= {cell: pairs, f"{cell}_concat": list(NODES)}
    return genotype


def summary(configuration: Configuration) -> str:
    """A line per node."""
    genotype = architecture(configuration)
    lines = []
    for cell, name in CELLS.items():
        lines.append(f"{name.capitalize()} cell:")
        pairs = genotype[cell]
        for node, (a, b) in zip(NODES, zip(pairs[::2], pairs[1::2], strict=True), strict=True):
            lines.append(f"  {node} = {a[0]}({STATES[a[1]]}) + {b[0]}({STATES[b[1]]})")
    return "\n".join(lines)


def draw(configuration: Configuration) -> Figure:
    """Both cells, one above the other."""
    figure = new_figure(11, 14)
    genotype = architecture(configuration)
    for axes, (cell, name) in zip(figure.subplots(2, 1), CELLS.items(), strict=True):
        edges = [Edge(state, 2 + i // 2, operation) for i, (operation, state) in enumerate(genotype[cell])]
        edges += [Edge(node, 6) for node in NODES]
        draw_cell(axes, [*STATES, "c[k]"], edges, f"DARTS, {name} cell")
    return figure
