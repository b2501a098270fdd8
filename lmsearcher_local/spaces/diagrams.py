"""Solutions of conditions: counted, drawn and found near others, without trying codes that are none.

A component is a set of positions that conditions bind together. Its decision diagram has a level for each position, and
a node for each residual (``residuals.py``) that choices before it can leave. The number of solutions below each node
makes uniform draws exact. Where the diagram would be too large, solutions are searched for, position by position, with
the options in random order. A residual that has none is not looked at twice.

Notation: ``P`` positions of a component, ``n`` solutions, ``N`` nodes of a level, ``K`` options of its position.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from lmsearcher_local.spaces.linear import simplify
from lmsearcher_local.spaces.nodes import Node, Value
from lmsearcher_local.spaces.residuals import FALSE, Residuals

LARGEST = 40_000  # work that a diagram may be: conditions looked at, for all options of all nodes
STEPS, STARTS, REPAIR_STEPS = 4000, 5, 500  # choices that a search makes until it starts anew, or gives up
CELLS = 1 << 20  # numbers that a nearest solution holds at a time
State = tuple[Node, ...]  # what remains of each condition


@dataclass(frozen=True, slots=True)
class Diagram:
    """A decision diagram.

    ``children`` are node numbers of the level below, int64 ``[N, K]`` for each level, -1 where there is no solution.
    ``shares`` say how many of a node's solutions take each option or one before it, likewise. ``count`` is the number
    of solutions.
    """

    children: list[np.ndarray]
    shares: list[np.ndarray]
    count: int

    def draw(self, rng: np.random.Generator, n: int) -> np.ndarray:
        """Solutions, each as likely as any other, with replacement: int64 ``[n, P]``."""
        nodes, found = np.zeros(n, dtype=np.int64), []
        for children, shares in zip(self.children, self.shares, strict=True):
            picked = (shares[nodes] <= rng.random(n)[:, None]).sum(1)
            nodes = children[nodes, picked]
            found.append(picked)
        return np.stack(found, axis=1)

    def all(self) -> np.ndarray:
        """Every solution, int64 ``[count, P]``."""
        nodes, rows = np.zeros(1, dtype=np.int64), np.empty((1, 0), dtype=np.int64)
        for children in self.children:
            at, option = np.nonzero(children[nodes] >= 0)
            rows = np.concatenate([rows[at], option[:, None]], axis=1)
            nodes = children[nodes[at], option]
        return rows

    def cheapest(self, costs: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        """The solutions of least cost, int64 ``[n, P]``, and their costs, infinite where there is none.

        ``costs`` are of each position's options, float64 ``[n, K]``.
        """
        n = len(costs[0])
        at_once = max(1, CELLS // max(children.size for children in self.children))
        parts = [self._cheapest([cost[i : i + at_once] for cost in costs]) for i in range(0, n, at_once)]
        rows, totals = (np.concatenate(some) for some in zip(*parts, strict=True))
        return rows, totals

    def _cheapest(self, costs: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        each = np.arange(len(costs[0]))
        below = [np.zeros((len(each), 1))]  # by level, from the last: the least cost of each node's solutions
        for children, cost in zip(reversed(self.children), reversed(costs), strict=True):
            reached = np.pad(below[-1], ((0, 0), (0, 1)), constant_values=np.inf)  # node -1
            below.append((cost[:, None, :] + reached[:, children]).min(axis=2))
        nodes, found = np.zeros(len(each), dtype=np.int64), []
        for children, cost, least in zip(self.children, costs, reversed(below[:-1]), strict=True):
            reached = np.pad(least, ((0, 0), (0, 1)), constant_values=np.inf)
            picked = (cost + reached[each[:, None], children[nodes]]).argmin(1)
            nodes = children[nodes, picked]
            found.append(picked)
        return np.stack(found, axis=1), below[-1][:, 0]


class Component:
    """Positions that conditions, which read no others, bind together.

    Attributes:
        places: the positions, ``[P]``.
        diagram: nothing where it would be more work than ``LARGEST``.
    """

    def __init__(self, conditions: Sequence[Node], options: Sequence[Sequence[Value]]) -> None:
        known: dict[int, Node] = {}
        self._conditions = tuple(simplify(condition, options, known) for condition in conditions)
        self._options = options
        self.places = _ordered(conditions)
        self.sizes = [len(options[place]) for place in self.places]
        self.diagram = self._diagram()

    def _diagram(self) -> Diagram | None:
        residuals, work = Residuals(self._options), 0
        levels: list[list[list[int]]] = []
        nodes: dict[State, int] = {self._conditions: 0}
        for place, size in zip(self.places, self.sizes, strict=True):
            below: dict[State, int] = {}
            level = []
            touched = sum(place in condition.reads for condition in self._conditions)
            for state in nodes:
                work += size * touched
                if work > LARGEST:
                    return None
                left = (_left(residuals, state, place, index) for index in range(size))
                level.append([-1 if one is None else below.setdefault(one, len(below)) for one in left])
            if not below:
                return Diagram([], [], 0)
            levels.append(level)
            nodes = below
        return _counted(levels, len(nodes))

    def draw(self, rng: np.random.Generator, n: int) -> np.ndarray:
        """Solutions, int64 ``[n, P]``; fewer where a search finds no more."""
        if self.diagram is not None:
            return self.diagram.draw(rng, n) if self.diagram.count else np.empty((0, len(self.places)), dtype=np.int64)
        residuals, dead, found = Residuals(self._options), set[tuple[int, State]](), []
        for _ in range(n):
            for _ in range(STARTS):
                solution = self._search(residuals, lambda level: rng.permutation(self.sizes[level]), dead, STEPS)
                if solution is not None:
                    break
            else:
                break
            found.append(solution)
        return np.array(found, dtype=np.int64).reshape(-1, len(self.places))

    def near(
        self, rows: np.ndarray, rng: np.random.Generator, changes: Sequence[tuple[int, int]] | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """For each row a solution that differs from it in few positions, and whether there is one: ``[n, P]``, ``[n]``.

        With a diagram none differs in fewer; of several it is a random one.

        Args:
            rows: options, int64 ``[n, P]``.
            changes: for each row the level of a position and the option that it has to take.
        """
        if self.diagram is None:
            return self._searched_near(rows, rng, changes)
        costs = []
        for level, size in enumerate(self.sizes):
            cost = (rows[:, level, None] != np.arange(size)) + rng.random((len(rows), size)) / (4 * len(self.sizes))
            for i, (changed, option) in enumerate(changes or ()):
                if changed == level:
                    cost[i, np.arange(size) != option] = np.inf
            costs.append(cost)
        found, totals = self.diagram.cheapest(costs)
        return found, np.isfinite(totals)

    def _searched_near(
        self, rows: np.ndarray, rng: np.random.Generator, changes: Sequence[tuple[int, int]] | None
    ) -> tuple[np.ndarray, np.ndarray]:
        residuals = Residuals(self._options)
        found, fine = rows.copy(), np.zeros(len(rows), dtype=bool)
        for i, row in enumerate(rows):
            level, option = changes[i] if changes else (-1, -1)

            def order(at: int, row: np.ndarray = row, level: int = level, option: int = option) -> Sequence[int]:
                if at == level:
                    return [option]
                others = rng.permutation(self.sizes[at])
                return [int(row[at]), *others[others != row[at]]]

            solution = self._search(residuals, order, set(), REPAIR_STEPS)
            if solution is not None:
                found[i], fine[i] = solution, True
        return found, fine

    def _search(
        self,
        residuals: Residuals,
        order: Callable[[int], Sequence[int] | np.ndarray],
        dead: set[tuple[int, State]],
        steps: int,
    ) -> list[int] | None:
        """The first solution of a depth-first search, where it finds one in so many choices.

        ``order`` says in which order the options of a level are tried; ``dead``, which grows, holds levels and states
        that have no solution.
        """
        chosen: list[int] = []
        steps += 4 * max(self.sizes)  # the options of a wide position are gone through
        path: list[tuple[State, Iterator[int]]] = [(self._conditions, iter(order(0)))]
        while path:
            state, rest = path[-1]
            index = next(rest, None)
            if index is None:
                path.pop()
                dead.add((len(path), state))
                chosen = chosen[:-1]
                continue
            steps -= 1
            if steps < 0:
                return None
            left = _left(residuals, state, self.places[len(path) - 1], int(index))
            if left is None or (len(path), left) in dead:
                continue
            chosen.append(int(index))
            if len(path) == len(self.places):
                return chosen
            path.append((left, iter(order(len(path)))))
        return None


def components(conditions: Sequence[Node], options: Sequence[Sequence[Value]]) -> list[Component]:
    """The components that conditions make, each condition in one of them."""
    groups: list[tuple[set[int], list[Node]]] = []
    for condition in conditions:
        places, mine = set(condition.reads), [condition]
        apart = []
        for known, theirs in groups:
            if known & places:
                places |= known
                mine = theirs + mine
            else:
                apart.append((known, theirs))
        groups = [*apart, (places, mine)]
    return [Component(mine, options) for _, mine in groups]


def _left(residuals: Residuals, state: State, place: int, index: int) -> State | None:
    """What remains of conditions; nothing where one is broken."""
    found = []
    for node in state:
        left = residuals.fix(node, place, index) if place in node.reads else node
        if left is FALSE:
            return None
        found.append(left)
    return tuple(found)


def _counted(levels: list[list[list[int]]], leaves: int) -> Diagram:
    below = [1] * leaves
    children, shares = [], []
    for level in reversed(levels):
        kept = [[child if child >= 0 and below[child] else -1 for child in row] for row in level]
        counts = [[below[child] if child >= 0 else 0 for child in row] for row in kept]
        below = [sum(row) for row in counts]
        parts = [[one / max(total, 1) for one in row] for row, total in zip(counts, below, strict=True)]
        sums = np.cumsum(np.array(parts, dtype=np.float64), axis=1)
        children.append(np.array(kept, dtype=np.int64))
        shares.append(sums / np.maximum(sums[:, -1:], np.finfo(float).tiny))
    return Diagram(children[::-1], shares[::-1], below[0])


def _ordered(conditions: Sequence[Node]) -> list[int]:
    """The positions such that conditions are soon decided: next comes one of the condition begun that lacks fewest."""
    lacking = [_read(condition) for condition in conditions]
    begun: set[int] = set()
    found: list[int] = []
    while any(lacking):
        some = [i for i, places in enumerate(lacking) if places]
        number = min(some, key=lambda i: (i not in begun, len(lacking[i])))
        place = lacking[number][0]
        found.append(place)
        for i, places in enumerate(lacking):
            if place in places:
                begun.add(i)
                places.remove(place)
    return found


def _read(node: Node) -> list[int]:
    """The positions that a node reads, in the order in which it is written."""
    found: dict[int, None] = {}
    seen: set[int] = set()
    rest = [node]
    while rest:
        part = rest.pop()
        if id(part) in seen:
            continue
        seen.add(id(part))
        if part.kind in ("option", "first"):
            found[part.value] = None
        rest += reversed(part.parts)
    return [*found]
