"""Options of a parameter: what may be one, and which are the same."""

from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np

from lmsearcher_local.errors import SpaceError, brief

Option: TypeAlias = str | int | float | bool | None
Typed: TypeAlias = tuple[str, Any]  # an option and its kind

KINDS = {"bool": bool, "int": int, "float": float, "text": str, "null": type(None)}  # a boolean is an int, too
NUMBERS = {"int": "float", "float": "int"}  # each kind of number, and the other

OPTIONS, DIGITS = 100_000, 1000  # that a space has at most: options in all, digits of a code


def typed(option: object) -> Typed:
    """An option and its kind, such that options of different types differ; no kind where it is no option."""
    if isinstance(option, np.generic):
        option = option.item()
    kind = next((kind for kind, types in KINDS.items() if isinstance(option, types)), "")
    return kind, option


def is_number(option: object) -> bool:
    """Whether an option is a number; a boolean is none."""
    return isinstance(option, (int, float)) and not isinstance(option, bool)


def check_counts(counts: object) -> Sequence[int]:
    """Option counts, which are a list of whole numbers, and not so many that they cannot be made."""
    if not isinstance(counts, (list, tuple)):
        kind = type(counts).__name__
        raise SpaceError(f"a search space is a list of option counts or a mapping from name to options, not {kind}")
    for i, count in enumerate(counts):
        if not isinstance(count, int) or isinstance(count, bool) or count < 1:
            raise SpaceError(f"position {i}: an option count is a whole number of at least 1, not {brief(count)}")
    check_size(counts)
    return counts


def check_size(counts: Sequence[int]) -> None:
    if sum(counts) > OPTIONS:
        raise SpaceError(f"a search space has at most {OPTIONS:,} options in all")
    if sum(len(str(count - 1)) for count in counts) > DIGITS:
        raise SpaceError(
            f"the codes of a search space have at most {DIGITS:,} digits; this one has too many parameters"
        )


def check_options(name: object, options: object) -> tuple[Option, ...]:
    if not isinstance(name, str) or not name or not _written(name):
        raise SpaceError(f"a parameter name is text, not {brief(name)}")
    if isinstance(options, (set, frozenset)):
        raise SpaceError(f"{name}: options have an order, a set has none; give a list")
    if not isinstance(options, (list, tuple, range)):
        raise SpaceError(f"{name}: options are a list, not {type(options).__name__}")
    if not options:
        raise SpaceError(f"{name} has no options; at least one is needed")
    check_size([len(options)])
    known: dict[Typed, None] = {}  # in order
    for option in options:
        if not isinstance(option, (str, int, float, bool, type(None))) or option != option or not _written(option):
            raise SpaceError(f"{name}: an option is text, a number, a boolean or null, not {brief(option)}")
        if typed(option) in known:
            raise SpaceError(f"{name} lists the option {brief(option)} twice")
        known[typed(option)] = None
    return tuple(option for _, option in known)  # plain ones, also of numpy's


def _written(option: Option) -> bool:
    """Whether a file in UTF-8 can hold it, and numbers of its size can be reckoned with."""
    if isinstance(option, str):
        return option.encode(errors="replace").decode() == option
    return not isinstance(option, int) or abs(option) < 10**300
