"""Drawing codes of a space, also where its predicate leaves few of very many.

A predicate can be asked about whole configurations only. Where random draws find too little, two other ways take turns
with them:

- *descents* note which parameters the predicate reads, in which order (Korat, Boyapati et al. 2002). When it refuses,
  only what was read matters: the last parameter read takes another option, then the one before it, and so on.
- *walks* start at valid codes and change one to three parameters at random, again and again.

What they find is checked as everything else is, on a plain dictionary.
"""

from collections.abc import Collection, ItemsView, Iterator, Sequence, ValuesView
from collections.abc import Set as AbstractSet
from itertools import chain, islice
from random import Random
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from lmsearcher_local.spaces.space import SearchSpace

ROUNDS = 10  # of random draws, before codes are listed or searched for
TRIES, MORE_TRIES = 20_000, 5000  # in a row without a new valid code, until a search gives up: on the first, on more
FIRST_TRIES = 1_000_000  # the same where no valid code is known yet
TURN, STEPS = 100, 50  # tries until another way has its turn; steps of a walk
CHANGED = 3  # parameters that a step changes at most
OTHERS = 200  # options of a parameter that a descent tries at most
LIMIT = 50  # tries of a descent at least: half of them have twice as many, a quarter four times, …


class Taken(Collection[str]):
    """Codes to leave out. Those given are not copied, because a long search has very many; others may be added."""

    def __init__(self, exclude: Collection[str]) -> None:
        self._before = exclude if isinstance(exclude, AbstractSet | Taken) else set(exclude)
        self._more: set[str] = set()
        self.add, self.update = self._more.add, self._more.update

    def __contains__(self, code: object) -> bool:
        return code in self._more or code in self._before

    def __iter__(self) -> Iterator[str]:
        return chain(self._before, self._more)

    def __len__(self) -> int:
        return len(self._before) + len(self._more)


def sample(space: "SearchSpace", rng: np.random.Generator, n: int, exclude: Collection[str]) -> list[str]:
    """See ``SearchSpace.sample``."""
    taken, found = Taken(exclude), list[str]()
    total = space.size if space.count is None else space.count
    if n < 1 or not total:
        return found
    for _ in range(ROUNDS):
        if space.constraints is not None:  # none of the codes drawn breaks an expression
            drawn = space.constraints.draw(rng, n + min(n, 100))
        else:
            drawn = rng.integers(0, space.sizes, size=(100 + 2 * n, len(space.sizes)))
        if not len(drawn):
            break
        rows, listed = drawn, space.constraints is None and "listed" in vars(space)  # computed before
        if listed:
            rows = rows[space.listed[np.ravel_multi_index(tuple(rows.T), space.sizes)]]
        for row, code in zip(rows, space.codes(rows), strict=True):
            if code not in taken and (listed or space.valid is None or space.accepts(row)):
                taken.add(code)
                found.append(code)
                if len(found) == n:
                    return found
        if space.enumerable and len(taken) > total // 4:
            break  # what is left is listed rather than waited for
    if space.enumerable:
        left = [code for code in space.codes(space.rows) if code not in taken]
        return found + [left[i] for i in rng.permutation(len(left))[: n - len(found)]]
    if not len(drawn):
        return found
    return found + search(space, Random(int(rng.integers(1 << 62))), n - len(found), taken)


def search(space: "SearchSpace", random: Random, n: int, taken: Taken) -> list[str]:
    """Up to ``n`` valid codes that are not ``taken``, which grows by them."""
    known = [*space.anchor, *sorted(taken)]
    patience = TRIES if known else FIRST_TRIES
    ways = _draws(space, random), _descents(space, random, taken), _walks(space, random, known)
    gain, asked = [1] * len(ways), [1] * len(ways)  # of each way: new codes, tries
    found: list[str] = []
    turn = barren = 0
    while barren < (MORE_TRIES if found else patience):
        usable = range(len(ways) if known else 2)  # there is no walk from nowhere
        best = max(usable, key=lambda way: gain[way] / asked[way])
        way = best if turn % 2 else turn // 2 % len(usable)  # each in its turn, and in between what finds most
        turn += 1
        for code in islice(ways[way], TURN):
            asked[way] += 1
            barren += 1
            if code is not None and code not in taken:
                taken.add(code)
                known.append(code)
                found.append(code)
                gain[way] += 1
                barren = 0
                if len(found) == n:
                    return found
    return found


def _draws(space: "SearchSpace", random: Random) -> Iterator[str | None]:
    """Random configurations, as far as they are valid codes."""
    rng = np.random.default_rng(random.getrandbits(62)) if space.constraints else None
    while True:
        rows = space.constraints.draw(rng, TURN) if space.constraints and rng else [_draw_options(space, random)]
        yield from [space.code(row) if space.accepts(row) else None for row in rows] or [None]


def _draw_options(space: "SearchSpace", random: Random) -> list[int]:
    return [int(random.random() * size) for size in space.sizes]


def _walks(space: "SearchSpace", random: Random, known: Sequence[str]) -> Iterator[str | None]:
    """The valid codes on random walks from known ones; after each configuration tried, a code or nothing.

    A step is as likely as the step back, so that long walks come to all codes within their reach equally often.
    """
    places = range(len(space.sizes))
    while True:
        code = random.choice(known)
        if code not in space:  # a stranger, among those to leave out
            yield None
            continue
        yield code
        here = list(space.indices(code))
        for _ in range(STEPS):
            there = here.copy()
            for place in random.sample(places, min(random.randint(1, CHANGED), len(places))):
                there[place] = random.randrange(space.sizes[place])
            if there != here and space.accepts(there):
                here = there
                yield space.code(here)
            else:
                yield None


def _descents(space: "SearchSpace", random: Random, taken: Collection[str]) -> Iterator[str | None]:
    """Valid codes, each from a search of its own; after each configuration tried, a code or nothing."""
    while True:
        limit = LIMIT
        while random.random() < 0.5:
            limit *= 2
        fixed: dict[int, int] = {}  # by parameter the option chosen, in the order in which they were read
        untried: list[list[int]] = []  # for each of them what else could be chosen
        for _ in range(limit):
            indices = [fixed.get(place, index) for place, index in enumerate(_draw_options(space, random))]
            accepted, read = _trace(space, indices)
            for place in read:
                if place not in fixed:
                    fixed[place] = indices[place]
                    others = random.sample(range(space.sizes[place]), min(space.sizes[place], OTHERS))
                    untried.append([other for other in others if other != indices[place]])
            code = space.code(indices) if accepted else None
            yield code
            if code is not None and code not in taken:
                break
            while untried and not untried[-1]:
                untried.pop()
                fixed.popitem()
            if not untried:
                break
            fixed[next(reversed(fixed))] = untried[-1].pop()


def _trace(space: "SearchSpace", indices: Sequence[int]) -> tuple[bool, list[int]]:
    """Whether a configuration is valid, and which parameters the predicate read, in what order."""
    if space.valid is None:
        return space.accepts(indices), []
    watched = _Watched(space.configuration(indices))
    try:
        accepted = bool(space.valid(watched))
    except Exception:  # it may take a plain dictionary only
        accepted = True
    places = [space.names.index(name) for name in watched.read if name in space.names]
    return accepted and space.accepts(indices), places


class _Watched(dict[str, Any]):
    """A configuration that notes which parameters are read."""

    def __init__(self, configuration: dict[str, Any]) -> None:
        super().__init__(configuration)
        self.read: dict[str, None] = {}  # in order

    def __getitem__(self, name: str) -> Any:
        self.read[name] = None
        return super().__getitem__(name)

    def get(self, name: str, default: Any = None) -> Any:
        self.read[name] = None
        return super().get(name, default)

    def pop(self, name: str, *default: Any) -> Any:
        self.read[name] = None
        return super().pop(name, *default)

    def __iter__(self) -> Iterator[str]:  # overridden, so that ``dict(c)`` and ``f(**c)`` come through __getitem__, too
        return iter([*super().__iter__()])

    def items(self) -> ItemsView[str, Any]:  # type: ignore[override]
        return ItemsView(self)

    def values(self) -> ValuesView[Any]:  # type: ignore[override]
        return ValuesView(self)

    def copy(self) -> dict[str, Any]:
        return dict(self.items())
