"""Which combinations of options a space forbids, and which parameters count only under a condition.

An inactive parameter has no value. A ``where`` that reads one forbids nothing, a ``when`` that reads one does not hold.
Within them, ``and``, ``or`` and ``not`` follow SQL's three-valued logic. In a code, an inactive parameter has its first
option, so that a configuration has one code.
"""

from collections.abc import Mapping, Sequence
from graphlib import CycleError, TopologicalSorter
from math import prod
from typing import Any

import numpy as np

from lmsearcher_local.errors import SpaceError, brief
from lmsearcher_local.spaces.diagrams import components
from lmsearcher_local.spaces.expressions import parse
from lmsearcher_local.spaces.nodes import Node, Value, check, evaluate, exact, make

CLAUSES, CHAINED = 1000, 50  # expressions of a space; conditions that depend on each other in a row
KNOWN = 100_000  # answers of a condition that are remembered


class Condition:
    """What is true or false of a configuration."""

    def __init__(self, text: str, node: Node, options: Sequence[Sequence[Value]]) -> None:
        self.text = text
        self.node = node
        self._options = options
        self._places = sorted(node.reads)
        self._known: dict[bytes, bool] = {}

    def __call__(self, rows: np.ndarray) -> np.ndarray:
        """Whether it holds, bool ``[n]``, given option indices ``[n, L]``."""
        read = np.ascontiguousarray(rows[:, self._places], dtype=np.int64)
        found = np.empty(len(rows), dtype=bool)
        for i, row in enumerate(read):
            key = row.tobytes()
            if key not in self._known:
                if len(self._known) >= KNOWN:
                    self._known.clear()
                self._known[key] = evaluate(self.node, rows[i].tolist(), self._options)
            found[i] = self._known[key]
        return found


class Constraints:
    """The forbidden combinations and the conditions of a space of ``L`` parameters, as ``SearchSpace`` takes them.

    A ``SpaceError`` where an expression is none, a condition is of an unknown parameter, or conditions form a circle.
    """

    def __init__(
        self, names: Sequence[str], options: Sequence[Sequence[Any]], where: Sequence[str], when: Mapping[str, str]
    ) -> None:
        self._names = names
        self._options = [[exact(option) for option in some] for some in options]
        self._places = {name: place for place, name in enumerate(names)}
        self._sizes = [len(some) for some in options]
        if isinstance(where, str) or not isinstance(where, Sequence):
            raise SpaceError(f"where is a list of expressions, not {brief(where)}")
        if not isinstance(when, Mapping):
            raise SpaceError(f"when is a mapping from parameter to expression, not {brief(when)}")
        if len(where) + len(when) > CLAUSES:
            raise SpaceError(f"a search space has at most {CLAUSES:,} expressions in where and when")
        for name in when:
            if name not in self._places:
                raise SpaceError(f"when names {brief(name)}, which is no parameter; there are {', '.join(names)}")
        parsed = {self._places[name]: self._parse(text, f"when of {name}") for name, text in when.items()}
        self._activity: dict[int, Condition] = {}
        self._clauses: list[Condition] = []
        for place in self._order({place: node.reads for place, node in parsed.items()}):
            name = names[place]
            self._activity[place] = self._condition(when[name], self._guard(parsed[place], certain=True))
            rule = make("or", (self._active(place), make("first", value=place)))
            told = f"{name} is inactive, so its code is that of its first option"
            self._clauses.append(Condition(told, rule, self._options))
        for text in where:
            self._clauses.append(self._condition(text, self._guard(self._parse(text, "where"), certain=False)))
        parts = [part for clause in self._clauses for part in _conjuncts(clause.node)]
        if any(part.kind == "constant" and not part.value for part in parts):
            raise SpaceError("no configuration of this space satisfies where and when")
        self._components = components([part for part in parts if part.reads], self._options)

    def _parse(self, text: object, place: str) -> Node:
        try:
            return parse(text, self._places, self._options)
        except SpaceError as error:
            raise SpaceError(f"{place}: {error}") from error

    def _condition(self, text: str, node: Node) -> Condition:
        check(node, text, self._options)
        return Condition(text, node, self._options)

    def _order(self, reads: Mapping[int, frozenset[int]]) -> list[int]:
        """The conditional positions, each behind those on which its condition depends.

        A ``SpaceError`` where there is no such order, or conditions depend on each other in too long a row.
        """
        sorter = TopologicalSorter(reads)
        try:
            sorter.prepare()
        except CycleError as error:
            circle = " -> ".join(self._names[place] for place in reversed(error.args[1]))
            raise SpaceError(f"when: conditions depend on each other in a circle: {circle}") from None
        found, depth = list[int](), 0
        while sorter.is_active():
            ready = sorter.get_ready()
            sorter.done(*ready)
            found += sorted(place for place in ready if place in reads)
            depth += 1
        if depth - 1 > CHAINED:
            raise SpaceError(f"when: more than {CHAINED} conditions depend on each other in a row")
        return found

    def _active(self, place: int) -> Node:
        return make("active", (self._activity[place].node,), place)

    def _guard(self, node: Node, certain: bool) -> Node:
        """That a node is known to be true, or that it is not known to be false: what inactive parameters leave open."""
        if node.kind in ("and", "or"):
            return make(node.kind, tuple(self._guard(part, certain) for part in node.parts))
        if node.kind == "not":
            return make("not", (self._guard(node.parts[0], not certain),))
        active = [self._active(place) for place in sorted(node.reads) if place in self._activity]
        if not active:
            return node
        if certain:
            return make("and", (*active, node))
        return make("or", (*(make("not", (one,)) for one in active), node))

    def among(self, names: Sequence[str]) -> tuple[list[str], dict[str, str]]:
        """The expressions of ``where`` and ``when`` that depend on these parameters only."""
        kept = {self._places[name] for name in names}
        where = self._clauses[len(self._activity) :]
        activity = {place: condition for place, condition in self._activity.items() if place in kept}
        return (
            [clause.text for clause in where if clause.node.reads <= kept],
            {self._names[place]: one.text for place, one in activity.items() if one.node.reads <= kept},
        )

    @property
    def count(self) -> int | None:
        """How many codes satisfy all of it, where that is known."""
        known = [component.diagram.count for component in self._components if component.diagram]
        if len(known) < len(self._components):
            return None
        return prod(self._sizes[place] for place in self._free) * prod(known)

    @property
    def _free(self) -> list[int]:
        bound = {place for component in self._components for place in component.places}
        return [place for place in range(len(self._sizes)) if place not in bound]

    def listed(self) -> np.ndarray:
        """Every code, in lexicographic order, as option indices ``[count, L]``; only where ``count`` is known."""
        groups = [np.arange(self._sizes[place])[:, None] for place in self._free]
        order = [*self._free]
        for component in self._components:
            assert component.diagram is not None
            groups.append(component.diagram.all())
            order += component.places
        numbers = np.unravel_index(np.arange(prod(map(len, groups))), [len(group) for group in groups])
        rows = np.empty((len(numbers[0]), len(self._sizes)), dtype=np.int64)
        rows[:, order] = np.concatenate([group[at] for group, at in zip(groups, numbers, strict=True)], axis=1)
        return rows[np.lexsort(rows.T[::-1])]

    def holds(self, rows: np.ndarray) -> np.ndarray:
        """Which rows are codes, bool ``[n]``, given option indices ``[n, L]``."""
        fine = np.ones(len(rows), dtype=bool)
        for clause in self._clauses:
            fine[fine] = clause(rows[fine])
        return fine

    def broken(self, row: np.ndarray) -> str | None:
        """The first expression that a configuration breaks; nothing where it breaks none."""
        return next((clause.text for clause in self._clauses if not clause(row[None])[0]), None)

    def active(self, rows: np.ndarray) -> np.ndarray:
        """Which parameters are active, bool ``[n, L]``, given option indices ``[n, L]``."""
        found = np.ones(rows.shape, dtype=bool)
        for place, condition in self._activity.items():
            found[:, place] = condition(rows)
        return found

    def reset(self, rows: np.ndarray) -> np.ndarray:
        """The same rows, with the first option wherever a parameter is inactive."""
        rows = rows.copy()
        for place, condition in self._activity.items():  # each behind what it depends on
            rows[~condition(rows), place] = 0
        return rows

    def complete(self, indices: Sequence[int | None]) -> list[int | None]:
        """The option of each parameter, where those of inactive ones may be missing; of an active one it stays so."""
        row = self.reset(np.array([[index or 0 for index in indices]], dtype=np.int64))
        active = self.active(row)[0]
        return [None if index is None and active[i] else int(row[0, i]) for i, index in enumerate(indices)]

    def draw(self, rng: np.random.Generator, n: int) -> np.ndarray:
        """Random codes as option indices, with replacement; fewer, or none, where a search does not find so many.

        Each is as likely as any other where ``count`` is known.
        """
        rows = rng.integers(0, self._sizes, size=(n, len(self._sizes)))
        for component in self._components:
            found = component.draw(rng, len(rows))
            rows = rows[: len(found)]
            rows[:, component.places] = found
        return rows

    def near(self, rows: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """For each row a code that differs from it in few positions, as far as one was found: ``[at most n, L]``."""
        rows, fine = rows.copy(), np.ones(len(rows), dtype=bool)
        for component in self._components:
            found, some = component.near(rows[:, component.places], rng)
            rows[:, component.places] = found
            fine &= some
        return rows[fine]

    def moves(self, row: np.ndarray, changes: Sequence[tuple[int, int]], rng: np.random.Generator) -> np.ndarray:
        """For each change of a code a code that has it and differs in few other positions, ``[at most n, L]``.

        The code is given as option indices ``[L]``, a change as a position and the option that it is to take.
        """
        found = [np.empty((0, len(row)), dtype=np.int64)]
        for component in self._components:
            levels = {place: level for level, place in enumerate(component.places)}
            mine = [(levels[place], option) for place, option in changes if place in levels]
            if mine:
                rows = np.tile(row, (len(mine), 1))
                some, fine = component.near(rows[:, component.places], rng, mine)
                rows[:, component.places] = some
                found.append(rows[fine])
        return np.concatenate(found)


def _conjuncts(node: Node) -> list[Node]:
    """The parts of a condition that all have to hold."""
    if node.kind != "and":
        return [node]
    return [part for one in node.parts for part in _conjuncts(one)]
