"""Search spaces: named parameters with options, and NCode, the digit string that names a configuration.

Position *i* of an NCode is parameter *i*, its digits are the index of the option taken (paper, section 3.1).
A parameter with more than ten options takes a fixed number of digits: every code of a space has the same length.
"""

import math
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import cached_property
from itertools import product
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from lmsearcher_local.errors import SpaceError, brief
from lmsearcher_local.spaces.constraints import Constraints
from lmsearcher_local.spaces.options import (
    NUMBERS,
    Option,
    Typed,
    check_counts,
    check_options,
    check_size,
    is_number,
    typed,
)
from lmsearcher_local.spaces.sampling import FIRST_TRIES, sample
from lmsearcher_local.spaces.space_files import read_space_file, warn

Configuration: TypeAlias = dict[str, Option]

ENUMERABLE = 1_000_000  # codes of a space that may be listed


class SearchSpace:
    """A discrete design space.

    Args:
        parameters: either option counts per position, as upstream writes a space (``[5] * 6``), or a mapping from
            parameter name to its list of options (text, numbers, booleans or null). Options of different types
            differ: ``1``, ``1.0`` and ``True`` are three.
        valid: optional predicate on a configuration, which is a new dictionary each time; codes for which it returns
            a false value are not in the space. Equal configurations must get equal answers.
        where: expressions (``expressions.py``) that every configuration satisfies, as ``"rank <= alpha"``.
        when: by parameter the expression that says when it is active, as ``{"momentum": "optimizer == 'sgd'"}``. A
            configuration has active parameters only; in a code, an inactive one has its first option.

    Raises:
        SpaceError: no position, an empty position, options that are repeated or not in a fixed order, an expression
            that is none, conditions in a circle, or nothing that predicate and expressions accept.
    """

    def __init__(
        self,
        parameters: Sequence[int] | Mapping[str, Sequence[Option]],
        valid: Callable[[Configuration], Any] | None = None,
        *,
        where: Sequence[str] = (),
        when: Mapping[str, str] | None = None,
    ) -> None:
        if isinstance(parameters, Mapping):
            named = {name: check_options(name, options) for name, options in parameters.items()}
        else:
            counts = check_counts(parameters)
            named = {f"p{i}": tuple(range(count)) for i, count in enumerate(counts)}
        if not named:
            raise SpaceError("a search space needs at least one parameter, this one has none")
        check_size([len(options) for options in named.values()])
        self.names: tuple[str, ...] = tuple(named)
        self.options: tuple[tuple[Option, ...], ...] = tuple(named.values())
        self.sizes: tuple[int, ...] = tuple(len(options) for options in self.options)
        self.valid = valid
        self._widths = tuple(len(str(size - 1)) for size in self.sizes)
        self.code_length = sum(self._widths)
        self._at = np.repeat(np.arange(len(self.sizes)), self._widths)  # the parameter of each digit of a code
        self._powers = np.array([10**power for width in self._widths for power in reversed(range(width))])
        self.constraints = Constraints(self.names, self.options, where, when or {}) if where or when else None
        self.where = tuple(where or ())
        self.when = {name: when[name] for name in self.names if name in when} if when else {}
        self.anchor: tuple[str, ...] = ()  # a valid code, from which others are found
        if not self.unrestricted:
            self.anchor = tuple(self.sample(np.random.default_rng(0), 1))
            if not self.anchor:
                raise SpaceError(self._nothing_valid())

    def _nothing_valid(self) -> str:
        if self.constraints is None and self.enumerable:
            return "the validity predicate accepts no configuration of this space"
        if self.constraints is None:
            return f"the validity predicate accepted none of {FIRST_TRIES:,} configurations tried"
        if self.constraints.count == 0:
            return "no configuration of this space satisfies where and when"
        also = "" if self.valid is None else ", and that the validity predicate accepts,"
        return f"no configuration that satisfies where and when{also} was found"

    @classmethod
    def load(cls, path: str | Path) -> "SearchSpace":
        """Read a space from a YAML, JSON or ConfigSpace file: see ``space_files.py``.

        YAML is that of version 1.2: ``1e-4`` is a number, ``yes`` is text. Where text looks like a number
        (``'0.1'``, ``1_000``) a ``SpaceWarning`` says so.

        Raises:
            SpaceError: the file is missing, is not YAML or JSON, has a key twice, or describes no discrete space.
        """
        path = Path(path)
        parameters, where, when = read_space_file(path)
        try:
            space = cls(parameters, where=where, when=when)
        except SpaceError as error:
            raise SpaceError(f"{path}: {error}") from error
        warn(path, space.describe())
        return space

    def __repr__(self) -> str:
        return f"SearchSpace({len(self.sizes)} parameters, {self.count or self.size} configurations)"

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, SearchSpace):
            return NotImplemented
        alike = hash(self) == hash(other) and self.valid is other.valid and self._places == other._places
        return alike and (self.names, self.where, self.when) == (other.names, other.where, other.when)

    def __hash__(self) -> int:
        return self._hash

    @cached_property
    def _hash(self) -> int:
        return hash((self.names, self.where, *self.when.items(), *map(tuple, self._places)))

    @cached_property
    def _places(self) -> list[dict[Typed, int]]:
        """The index of each option, by position."""
        return [{typed(option): i for i, option in enumerate(options)} for options in self.options]

    def describe(self) -> dict[str, list[Option]]:
        """The mapping name -> options, as ``SearchSpace`` takes it and JSON holds it, without expressions."""
        return {name: list(options) for name, options in zip(self.names, self.options, strict=True)}

    @cached_property
    def ordered(self) -> tuple[bool, ...]:
        """Of which parameters the options are more than two numbers in order."""
        return tuple(
            len(options) > 2 and all(map(is_number, options)) and list(options) == sorted(options)  # type: ignore[type-var]
            for options in self.options
        )

    @cached_property
    def alike(self) -> tuple[int, ...]:
        """For each parameter the number of its set, from 0 on, or -1 where no other has the same options in order.

        Layers of a network, edges of a cell: what is learned of an option in one says something of it in the others.
        """
        places = [tuple(position) for position in self._places]
        shared = [options for options, count in Counter(places).items() if count > 1]
        numbers = {options: number for number, options in enumerate(shared)}
        return tuple(numbers.get(options, -1) for options in places)

    @property
    def size(self) -> int:
        """The number of combinations of options, allowed or not."""
        return math.prod(self.sizes)

    @property
    def unrestricted(self) -> bool:
        """Whether every combination of options is a configuration."""
        return self.valid is None and self.constraints is None

    @property
    def count(self) -> int | None:
        """The number of configurations, as far as expressions say it; nothing where it is too hard to count."""
        return self.size if self.constraints is None else self.constraints.count

    @property
    def enumerable(self) -> bool:
        """Whether the space is small enough to list its valid codes, so that it is known when they are used up."""
        return min(self.size, self.size if self.count is None else self.count) <= ENUMERABLE

    @cached_property
    def listed(self) -> np.ndarray:
        """Which codes are valid, in lexicographic order: bool ``[size]``, of an ``enumerable`` space."""
        if self.unrestricted:
            return np.ones(self.size, dtype=bool)
        return np.fromiter(map(self.accepts, product(*map(range, self.sizes))), dtype=bool, count=self.size)

    @cached_property
    def rows(self) -> np.ndarray:
        """The valid codes of an ``enumerable`` space in lexicographic order, as option indices ``[n, positions]``."""
        if self.constraints is None or self.count is None:
            return np.stack(np.unravel_index(np.flatnonzero(self.listed), self.sizes), axis=1)
        found = self.constraints.listed()
        return found if self.valid is None else found[self.accepted(found)]

    def code(self, indices: Sequence[int]) -> str:
        """The NCode of option indices, one per parameter. Indices are trusted: they come from this package."""
        return "".join([f"{index:0{width}d}" for index, width in zip(indices, self._widths, strict=True)])

    def indices(self, code: str) -> tuple[int, ...]:
        """The option index of each parameter; a ``SpaceError`` where the code is not of this space."""
        if not isinstance(code, str) or len(code) != self.code_length or not (code.isascii() and code.isdigit()):
            raise SpaceError(f"{brief(code)} is not of this space: its codes are {self.code_length} digits long")
        found, start = [], 0
        for name, size, width in zip(self.names, self.sizes, self._widths, strict=True):
            index = int(code[start : start + width])
            if index >= size:
                raise SpaceError(f"{code!r} is not of this space: {name} has options 0 to {size - 1}, not {index}")
            found.append(index)
            start += width
        return tuple(found)

    def encode(self, configuration: Mapping[str, Option]) -> str:
        """The NCode of a configuration; a ``SpaceError`` where it is not one of this space."""
        if not set(configuration) <= set(self.names):
            got = ", ".join(map(str, configuration))
            raise SpaceError(f"a configuration names exactly {', '.join(self.names)}; got {got}")
        named = ((place, name) for place, name in enumerate(self.names) if name in configuration)
        code = self.code(self.complete({name: self.index(place, configuration[name]) for place, name in named}))
        self.decode(code)
        return code

    def index(self, place: int, value: object) -> int:
        """The option of a parameter, by its position, that a value means; a ``SpaceError`` where there is none."""
        kind, option = typed(value)
        found = self._places[place].get((kind, option)) if kind else None
        if found is None and kind in NUMBERS:  # 1.0 means the option 1 where there is no 1.0
            found = self._places[place].get((NUMBERS[kind], option))
        if found is None:
            allowed = ", ".join(map(repr, self.options[place]))
            raise SpaceError(f"{self.names[place]} has no option {brief(option)}; allowed: {allowed}")
        return found

    def complete(self, known: Mapping[str, int]) -> tuple[int, ...]:
        """The option indices of a configuration; for inactive parameters, known or not, those of their first options.

        A ``SpaceError`` where one of an active parameter is missing.
        """
        found = [known.get(name) for name in self.names]
        if self.constraints is not None:
            found = self.constraints.complete(found)
        complete = tuple(index for index in found if index is not None)
        if len(complete) < len(found):
            got = ", ".join(name for name in self.names if name in known) or "none"
            which = "exactly" if not self.when else "every active one of"
            raise SpaceError(f"a configuration names {which} {', '.join(self.names)}; got {got}")
        return complete

    def decode(self, code: str) -> Configuration:
        """The configuration that a code names; a ``SpaceError`` where it is not of this space, or not allowed there."""
        indices = self.indices(code)
        configuration = self.configuration(indices)
        if self.constraints and (broken := self.constraints.broken(np.array(indices))):
            raise SpaceError(f"{code!r} names a configuration that breaks {broken!r}: {configuration}")
        if not self._satisfies(indices):
            raise SpaceError(f"{code!r} names a configuration that the validity predicate refuses: {configuration}")
        return configuration

    def names_options(self, code: str) -> bool:
        """Whether a code is of this space, whatever the predicate says."""
        with suppress(SpaceError):
            return bool(self.indices(code))
        return False

    def __contains__(self, code: str) -> bool:
        with suppress(SpaceError):
            return self.decode(code) is not None
        return False

    def array(self, codes: Sequence[str]) -> np.ndarray:
        """Option indices of codes, int64 ``[len(codes), positions]``. Each is of this space, or a ``SpaceError``."""
        text = "".join(codes)
        if text.isascii() and text.isdigit() and {*map(len, codes)} == {self.code_length}:
            rows = np.frombuffer(text.encode(), np.uint8).reshape(-1, self.code_length).astype(np.int64) - ord("0")
            if self.code_length > len(self.sizes):
                rows = np.add.reduceat(rows * self._powers, np.flatnonzero(np.diff(self._at, prepend=-1)), axis=1)
            if (rows < self.sizes).all():
                return rows
        return np.array([self.indices(code) for code in codes], dtype=np.int64).reshape(-1, len(self.sizes))

    def codes(self, rows: np.ndarray) -> list[str]:
        """The NCodes of option indices ``[n, positions]``, the way back from :meth:`array`; indices are trusted."""
        length = self.code_length
        digits = rows if length == len(self.sizes) else rows[:, self._at] // self._powers % 10
        text = (digits + ord("0")).astype(np.uint8).tobytes().decode("ascii")
        return [text[start : start + length] for start in range(0, len(text), length)]

    def sample(self, rng: np.random.Generator, n: int, exclude: Collection[str] = ()) -> list[str]:
        """Up to ``n`` distinct valid codes, none of them in ``exclude``; equal arguments give equal codes.

        In a space of at most ``ENUMERABLE`` codes every valid code is equally likely, and fewer come back only when
        there are no more. The first time that random draws find too little there, the valid codes are listed once.

        In a larger space the same holds as long as random draws find enough; what expressions forbid is not drawn where
        ``count`` is known. Else the rest is searched for (``sampling``): those codes are valid and spread over the
        space, but not equally likely. Fewer come back when ``MORE_TRIES`` configurations in a row were not valid and
        new, none when ``TRIES`` were, which is no proof that there are no more.
        """
        return sample(self, rng, n, exclude)

    def enumerate(self) -> Iterator[str]:
        """Every valid code, in lexicographic order."""
        if self.constraints is not None and self.enumerable:
            yield from self.codes(self.rows)
            return
        for indices in product(*map(range, self.sizes)):
            if self.accepts(indices):
                yield self.code(indices)

    def neighbours(self, code: str) -> list[str]:
        """Every valid code that differs from ``code`` in exactly one parameter, in lexicographic order of change.

        With conditions, those parameters that it makes inactive, or active, also take their first option.
        """
        return self.codes(self.neighbour_rows(self.array([code])[0], [range(size) for size in self.sizes]))

    def neighbour_rows(self, origin: np.ndarray, options: Sequence[Sequence[int]]) -> np.ndarray:
        """The same as option indices, from option indices ``[positions]``: int64 ``[n, positions]``.

        Only changes to one of the ``options`` of a parameter, given as indices, count.
        """
        positions = np.repeat(np.arange(len(self.sizes)), [*map(len, options)])
        indices = np.concatenate([np.array(some, dtype=np.int64) for some in options])
        changed = indices != origin[positions]
        rows = np.tile(origin, (int(np.count_nonzero(changed)), 1))
        rows[np.arange(len(rows)), positions[changed]] = indices[changed]
        if self.constraints is not None:
            rows = self.constraints.reset(rows)
            rows = np.unique(rows[(rows != origin).any(1)], axis=0)
        return rows[self.accepted(rows)]

    def configuration(self, indices: Sequence[int]) -> Configuration:
        """The configuration of option indices, a new dictionary of what is active."""
        active = self.active(np.array([indices]))[0] if self.when else [True] * len(self.names)
        parts = zip(self.names, self.options, indices, active, strict=True)
        return {name: options[i] for name, options, i, counts in parts if counts}

    def active(self, rows: np.ndarray) -> np.ndarray:
        """Which parameters are active, bool ``[n, positions]``, in codes given as option indices of that shape."""
        return np.ones(rows.shape, dtype=bool) if self.constraints is None else self.constraints.active(rows)

    def accepts(self, indices: Sequence[int]) -> bool:
        """Whether option indices are those of a code, as far as expressions and predicate say; it may raise."""
        return self._satisfies(indices) if self.constraints is None else bool(self.accepted(np.array([indices]))[0])

    def accepted(self, rows: np.ndarray) -> np.ndarray:
        """The same of many, bool ``[n]``, given option indices ``[n, positions]``."""
        fine = np.ones(len(rows), dtype=bool) if self.constraints is None else self.constraints.holds(rows)
        if self.valid is not None:
            fine[fine] = [self._satisfies(row) for row in rows[fine].tolist()]
        return fine

    def _satisfies(self, indices: Sequence[int]) -> bool:
        if self.valid is None:
            return True
        try:
            return bool(self.valid(self.configuration(indices)))
        except Exception as error:
            name, configuration = type(error).__name__, self.configuration(indices)
            raise SpaceError(f"the validity predicate raised {name} on {configuration}: {error}") from error

    def repaired(self, rows: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """For each row of option indices, as far as one is found, one near it that breaks no expression."""
        return rows if self.constraints is None else self.constraints.near(rows, rng)
