"""Search spaces: named parameters with options, and NCode, the digit string that names a configuration.

Position *i* of an NCode is parameter *i*, its digits are the index of the option taken (paper, section 3.1).
A parameter with more than ten options takes a fixed number of digits: every code of a space has the same length.
"""

import math
import warnings
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from functools import cached_property
from itertools import product
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from lmsearcher_local.errors import SpaceError, SpaceWarning, brief
from lmsearcher_local.spaces.configspace import configspace_options, is_configspace
from lmsearcher_local.spaces.sampling import FIRST_TRIES, sample
from lmsearcher_local.system.documents import parse_json, parse_yaml

Option: TypeAlias = str | int | float | bool | None
Configuration: TypeAlias = dict[str, Option]
Typed: TypeAlias = tuple[str, Any]  # an option and its kind

KINDS = {"bool": bool, "int": int, "float": float, "text": str, "null": type(None)}  # a boolean is an int, too
NUMBERS = {"int": "float", "float": "int"}  # each kind of number, and the other

OPTIONS, DIGITS = 100_000, 1000  # that a space has at most: options in all, digits of a code
FILE_BYTES = 1 << 18  # that a space file has at most
ENUMERABLE = 1_000_000  # codes of a space that may be listed


class SearchSpace:
    """A discrete design space.

    Args:
        parameters: either option counts per position, as upstream writes a space (``[5] * 6``), or a mapping from
            parameter name to its list of options (text, numbers, booleans or null). Options of different types
            differ: ``1``, ``1.0`` and ``True`` are three.
        valid: optional predicate on a configuration, which is a new dictionary each time; codes for which it returns
            a false value are not in the space. Equal configurations must get equal answers.

    Raises:
        SpaceError: no position, an empty position, options that are repeated or not in a fixed order, or a
            predicate that accepts nothing.
    """

    def __init__(
        self,
        parameters: Sequence[int] | Mapping[str, Sequence[Option]],
        valid: Callable[[Configuration], Any] | None = None,
    ) -> None:
        if isinstance(parameters, Mapping):
            named = {name: _checked_options(name, options) for name, options in parameters.items()}
        else:
            counts = [_checked_count(i, count) for i, count in enumerate(_sequence(parameters))]
            _check_size(counts)  # before that many are made
            named = {f"p{i}": tuple(range(count)) for i, count in enumerate(counts)}
        if not named:
            raise SpaceError("a search space needs at least one parameter, this one has none")
        _check_size([len(options) for options in named.values()])
        self.names: tuple[str, ...] = tuple(named)
        self.options: tuple[tuple[Option, ...], ...] = tuple(named.values())
        self.sizes: tuple[int, ...] = tuple(len(options) for options in self.options)
        self.valid = valid
        self._widths = tuple(len(str(size - 1)) for size in self.sizes)
        self.code_length = sum(self._widths)
        self._at = np.repeat(np.arange(len(self.sizes)), self._widths)  # the parameter of each digit of a code
        self._powers = np.array([10**power for width in self._widths for power in reversed(range(width))])
        self.anchor: tuple[str, ...] = ()  # a valid code, from which others are found
        if valid is not None:
            self.anchor = tuple(self.sample(np.random.default_rng(0), 1))
            if not self.anchor and self.enumerable:
                raise SpaceError("the validity predicate accepts no configuration of this space")
            if not self.anchor:
                raise SpaceError(f"the validity predicate accepted none of {FIRST_TRIES:,} configurations tried")

    @classmethod
    def load(cls, path: str | Path) -> "SearchSpace":
        """Read a space from a YAML or JSON file that holds option counts or a mapping name -> options, or from a
        ConfigSpace's JSON.

        YAML is that of version 1.2: ``1e-4`` is a number, ``yes`` is text. Where text looks like a number
        (``'0.1'``, ``1_000``) a ``SpaceWarning`` says so.

        Raises:
            SpaceError: the file is missing, is not YAML or JSON, has a key twice, or describes no discrete space.
        """
        path = Path(path)
        kind, parse = ("JSON", _json) if path.suffix == ".json" else ("YAML", parse_yaml)
        try:
            with path.open("rb") as stream:
                content = stream.read(FILE_BYTES + 1)
            if len(content) > FILE_BYTES:
                raise SpaceError(f"{path} is no space file: it is longer than {FILE_BYTES:,} bytes")
            parameters = parse(content.decode("utf-8-sig"))
        except OSError as error:
            raise SpaceError(f"cannot read the space file {path}: {error.strerror}") from error
        except SpaceError:
            raise
        except (ValueError, RecursionError) as error:
            raise SpaceError(f"{path} is not valid {kind}: {error}") from error
        if not isinstance(parameters, (dict, list)):
            raise SpaceError(f"{path} must hold a list of option counts or a mapping from parameter name to options")
        try:
            space = cls(configspace_options(parameters) if is_configspace(parameters) else parameters)
        except SpaceError as error:
            raise SpaceError(f"{path}: {error}") from error
        for name, options in space.describe().items():
            if text := next((option for option in options if _looks_like_a_number(option)), None):
                warnings.warn(f"{path}: {name} offers {text!r} as text, not as a number", SpaceWarning, 2)
        return space

    def __repr__(self) -> str:
        return f"SearchSpace({len(self.sizes)} parameters, {self.size} configurations)"

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, SearchSpace):
            return NotImplemented
        if self is other:
            return True
        alike = hash(self) == hash(other) and self.names == other.names and self.valid is other.valid
        return alike and self._places == other._places

    def __hash__(self) -> int:
        return self._hash

    @cached_property
    def _hash(self) -> int:
        return hash((self.names, *map(tuple, self._places)))

    @cached_property
    def _places(self) -> list[dict[Typed, int]]:
        """The index of each option, by position."""
        return [{typed(option): i for i, option in enumerate(options)} for options in self.options]

    def describe(self) -> dict[str, list[Option]]:
        """The mapping name -> options, as ``SearchSpace`` takes it and as JSON holds it."""
        return {name: list(options) for name, options in zip(self.names, self.options, strict=True)}

    @cached_property
    def ordered(self) -> tuple[bool, ...]:
        """Of which parameters the options are more than two numbers in order."""
        return tuple(
            len(options) > 2
            and all(isinstance(option, (int, float)) and not isinstance(option, bool) for option in options)
            and list(options) == sorted(options)  # type: ignore[type-var]
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
        """The number of codes, before the validity predicate."""
        return math.prod(self.sizes)

    @property
    def enumerable(self) -> bool:
        """Whether the space is small enough to list its valid codes, so that it is known when they are used up."""
        return self.size <= ENUMERABLE

    @property
    def is_listed(self) -> bool:
        """Whether ``listed`` is there already."""
        return "listed" in vars(self)

    @cached_property
    def listed(self) -> np.ndarray:
        """Which codes are valid, in lexicographic order: bool ``[size]``, of an ``enumerable`` space."""
        if self.valid is None:
            return np.ones(self.size, dtype=bool)
        return np.fromiter(map(self.accepts, product(*map(range, self.sizes))), dtype=bool, count=self.size)

    def code(self, indices: Sequence[int]) -> str:
        """The NCode of option indices, one per parameter. Indices are trusted: they come from this package."""
        return "".join([f"{index:0{width}d}" for index, width in zip(indices, self._widths, strict=True)])

    def indices(self, code: str) -> tuple[int, ...]:
        """The option index of each parameter.

        Raises:
            SpaceError: the code has another length, a character that is no digit, or an index out of range.
        """
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
        """The NCode of a configuration.

        Raises:
            SpaceError: a parameter is missing or unknown, an option is unknown, or the predicate refuses it.
        """
        if set(configuration) != set(self.names):
            got = ", ".join(map(str, configuration))
            raise SpaceError(f"a configuration names exactly {', '.join(self.names)}; got {got}")
        indices = []
        for name, options, places in zip(self.names, self.options, self._places, strict=True):
            kind, value = typed(configuration[name])
            index = places.get((kind, value)) if kind else None
            if index is None and kind in NUMBERS:  # 1.0 means the option 1 where there is no 1.0
                index = places.get((NUMBERS[kind], value))
            if index is None:
                raise SpaceError(f"{name} has no option {brief(value)}; allowed: {', '.join(map(repr, options))}")
            indices.append(index)
        code = self.code(indices)
        self.decode(code)
        return code

    def decode(self, code: str) -> Configuration:
        """The configuration that a code names.

        Raises:
            SpaceError: the code is not of this space or the validity predicate refuses it.
        """
        indices = self.indices(code)
        configuration = self.configuration(indices)
        if not self.accepts(indices):
            raise SpaceError(f"{code!r} names a configuration that the validity predicate refuses: {configuration}")
        return configuration

    def names_options(self, code: str) -> bool:
        """Whether a code is of this space, whatever the predicate says."""
        try:
            self.indices(code)
        except SpaceError:
            return False
        return True

    def __contains__(self, code: str) -> bool:
        try:
            self.decode(code)
        except SpaceError:
            return False
        return True

    def array(self, codes: Sequence[str]) -> np.ndarray:
        """Option indices of codes, int64 of shape ``[len(codes), positions]``.

        Raises:
            SpaceError: a code is not of this space.
        """
        text = "".join(codes)
        if text.isascii() and text.isdigit() and {*map(len, codes)} == {self.code_length}:
            rows = np.frombuffer(text.encode(), dtype=np.uint8).reshape(-1, self.code_length).astype(np.int64) - ord(
                "0"
            )
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

        In a larger space the same holds as long as random draws find enough. Where the predicate refuses nearly all of
        them, the rest is searched for (``sampling``): those codes are valid and spread over the space, but not equally
        likely. Fewer come back when ``MORE_TRIES`` configurations in a row were not valid and new, none when ``TRIES``
        were, which is no proof that there are no more.
        """
        return sample(self, rng, n, exclude)

    def enumerate(self) -> Iterator[str]:
        """Every valid code, in lexicographic order."""
        for indices in product(*map(range, self.sizes)):
            if self.accepts(indices):
                yield self.code(indices)

    def neighbours(self, code: str) -> list[str]:
        """Every valid code that differs from ``code`` in exactly one parameter, in lexicographic order of change."""
        return self.codes(self.neighbour_rows(self.array([code])[0]))

    def neighbour_rows(self, origin: np.ndarray, options: Sequence[Sequence[int]] | None = None) -> np.ndarray:
        """The same as option indices, from option indices ``[positions]``: int64 ``[n, positions]``.

        With ``options``, indices for each parameter, only those that change to one of these.
        """
        offered = [range(size) for size in self.sizes] if options is None else options
        positions = np.repeat(np.arange(len(self.sizes)), [*map(len, offered)])
        indices = np.concatenate([np.array(some, dtype=np.int64) for some in offered])
        changed = indices != origin[positions]
        rows = np.tile(origin, (int(np.count_nonzero(changed)), 1))
        rows[np.arange(len(rows)), positions[changed]] = indices[changed]
        return rows if self.valid is None else rows[[self.accepts(row) for row in rows.tolist()]]

    def configuration(self, indices: Sequence[int]) -> Configuration:
        """The configuration of option indices, a new dictionary."""
        return {name: options[i] for name, options, i in zip(self.names, self.options, indices, strict=True)}

    def accepts(self, indices: Sequence[int]) -> bool:
        """Whether the predicate accepts the configuration of option indices.

        Raises:
            SpaceError: it raised an exception.
        """
        if self.valid is None:
            return True
        try:
            return bool(self.valid(self.configuration(indices)))
        except Exception as error:
            name, configuration = type(error).__name__, self.configuration(indices)
            raise SpaceError(f"the validity predicate raised {name} on {configuration}: {error}") from error


def typed(option: object) -> Typed:
    """An option and its kind, such that options of different types differ; no kind where it is no option."""
    if isinstance(option, np.generic):
        option = option.item()
    kind = next((kind for kind, types in KINDS.items() if isinstance(option, types)), "")
    return kind, option


def _sequence(value: object) -> Sequence[Any]:
    if isinstance(value, (list, tuple)):
        return value
    kind = type(value).__name__
    raise SpaceError(f"a search space is a list of option counts or a mapping from name to options, not {kind}")


def _checked_count(position: int, count: object) -> int:
    if not isinstance(count, int) or isinstance(count, bool) or count < 1:
        raise SpaceError(f"position {position}: an option count is a whole number of at least 1, not {brief(count)}")
    return count


def _check_size(counts: Sequence[int]) -> None:
    if sum(counts) > OPTIONS:
        raise SpaceError(f"a search space has at most {OPTIONS:,} options in all")
    if sum(len(str(count - 1)) for count in counts) > DIGITS:
        raise SpaceError(
            f"the codes of a search space have at most {DIGITS:,} digits; this one has too many parameters"
        )


def _checked_options(name: object, options: object) -> tuple[Option, ...]:
    if not isinstance(name, str) or not name or not _written(name):
        raise SpaceError(f"a parameter name is text, not {brief(name)}")
    if isinstance(options, (set, frozenset)):
        raise SpaceError(f"{name}: options have an order, a set has none; give a list")
    if not isinstance(options, (list, tuple, range)):
        raise SpaceError(f"{name}: options are a list, not {type(options).__name__}")
    if not options:
        raise SpaceError(f"{name} has no options; at least one is needed")
    _check_size([len(options)])
    known: set[Typed] = set()
    for option in options:
        if not isinstance(option, (str, int, float, bool, type(None))) or option != option or not _written(option):
            raise SpaceError(f"{name}: an option is text, a number, a boolean or null, not {brief(option)}")
        if typed(option) in known:
            raise SpaceError(f"{name} lists the option {brief(option)} twice")
        known.add(typed(option))
    return tuple(options)


def _written(option: Option) -> bool:
    """Whether a file in UTF-8 can hold it, and numbers of its size can be reckoned with."""
    if isinstance(option, str):
        return option.encode(errors="replace").decode() == option
    return not isinstance(option, int) or abs(option) < 10**300


def _looks_like_a_number(option: Option) -> bool:
    try:
        return isinstance(option, str) and math.isfinite(float(option))
    except ValueError:
        return False


def _json(text: str) -> Any:
    return parse_json(text, infinite=False)
