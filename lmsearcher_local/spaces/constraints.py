"""Which combinations of options a space forbids, and which parameters count only under a condition.

An inactive parameter has no value. What a ``where`` says of one does not forbid anything, and a ``when`` that depends
on one does not hold; ``and``, ``or`` and ``not`` go on from there as in SQL's three-valued logic. In a code it has its
first option, so that a configuration has one code.
"""

from collections.abc import Mapping, Sequence
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
            answer = self._known.get(key)
            if answer is None:
                if len(self._known) >= KNOWN:
                    self._known.clear()
                answer = self._known[key] = evaluate(self.node, rows[i].tolist(), self._options)
            found[i] = answer
        return found


class Constraints:
    """The forbidden combinations and the conditions of a space.

    Args:
        names: of the parameters, ``[L]``.
        options: theirs.
        where: expressions that every configuration satisfies.
        when: by parameter the expression that says whether it is active.

    Raises:
        SpaceError: an expression is none, a condition is of an unknown parameter, or conditions form a circle.
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
        clauses, conditions = [*where], dict(when)
        if len(clauses) + len(conditions) > CLAUSES:
            raise SpaceError(f"a search space has at most {CLAUSES:,} expressions in where and when")
        for name in conditions:
            if name not in self._places:
                raise SpaceError(f"when names {brief(name)}, which is no parameter; there are {', '.join(names)}")
        parsed = {self._places[name]: self._parsed(text, f"when of {name}") for name, text in conditions.items()}
        self.conditional = self._in_order({place: node.reads for place, node in parsed.items()})
        self._activity: dict[int, Condition] = {}
        self._clauses: list[Condition] = []
        for place in self.conditional:
            name, node = names[place], self._certain(parsed[place])
            text = conditions[name]
            check(node, text, self._options)
            self._activity[place] = Condition(text, node, self._options)
            rule = make("or", (self._active(place), make("first", value=place)))
            shown = f"{name} is inactive, so its code is that of its first option"
            self._clauses.append(Condition(shown, rule, self._options))
        for text in clauses:
            node = self._possible(self._parsed(text, "where"))
            check(node, text, self._options)
            self._clauses.append(Condition(text, node, self._options))
        parts = [part for clause in self._clauses for part in _conjuncts(clause.node)]
        if any(part.kind == "constant" and not part.value for part in parts):
            raise SpaceError("no configuration of this space satisfies where and when")
        self._components = components([part for part in parts if part.reads], self._options)

    def _parsed(self, text: object, place: str) -> Node:
        try:
            return parse(text, self._places, self._options)
        except SpaceError as error:
            raise SpaceError(f"{place}: {error}") from error

    def _in_order(self, reads: Mapping[int, frozenset[int]]) -> tuple[int, ...]:
        """The conditional positions, each behind those on which its condition depends.

        Raises:
            SpaceError: there is no such order, or conditions depend on each other in too long a row.
        """
        depths: dict[int, int] = {}

        def visit(place: int, path: tuple[int, ...]) -> int:
            if place in path:
                circle = " -> ".join(self._names[one] for one in (*path[path.index(place) :], place))
                raise SpaceError(f"when: conditions depend on each other in a circle: {circle}")
            if place not in depths:
                depths[place] = 1 + max((visit(one, (*path, place)) for one in reads.get(place, ())), default=0)
            if max(len(path), depths[place] - 1) > CHAINED:
                raise SpaceError(f"when: more than {CHAINED} conditions depend on each other in a row")
            return depths[place]

        return tuple(sorted(reads, key=lambda place: (visit(place, ()), place)))

    def _active(self, place: int) -> Node:
        return make("active", (self._activity[place].node,), place)

    def _guards(self, node: Node) -> list[Node]:
        """That what a node reads is active."""
        return [self._active(place) for place in sorted(node.reads) if place in self._activity]

    def _certain(self, node: Node) -> Node:
        """That a node is known to be true."""
        if node.kind in ("and", "or"):
            return make(node.kind, tuple(map(self._certain, node.parts)))
        if node.kind == "not":
            return make("not", (self._possible(node.parts[0]),))
        guards = self._guards(node)
        return make("and", (*guards, node)) if guards else node

    def _possible(self, node: Node) -> Node:
        """That a node is not known to be false."""
        if node.kind in ("and", "or"):
            return make(node.kind, tuple(map(self._possible, node.parts)))
        if node.kind == "not":
            return make("not", (self._certain(node.parts[0]),))
        guards = [make("not", (guard,)) for guard in self._guards(node)]
        return make("or", (*guards, node)) if guards else node

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
        diagrams = [component.diagram for component in self._components]
        if any(diagram is None for diagram in diagrams):
            return None
        return prod(self._sizes[place] for place in self._free) * prod(
            diagram.count for diagram in diagrams if diagram is not None
        )

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

        Args:
            row: option indices of the code, ``[L]``.
            changes: positions and the options that they are to take.
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
