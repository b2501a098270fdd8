"""Space files: YAML, JSON or a ConfigSpace's JSON, read as what ``SearchSpace`` takes.

A file is a list of option counts or a mapping from parameter to options. Where combinations are forbidden or parameters
conditional, that mapping is called ``parameters`` and stands beside ``where`` and ``when``.
"""

import math
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from lmsearcher_local.errors import SpaceError, SpaceWarning, brief
from lmsearcher_local.spaces.configspace import configspace_parts, is_configspace
from lmsearcher_local.spaces.expressions import is_expression
from lmsearcher_local.system.documents import parse_json, parse_yaml

FILE_BYTES = 1 << 18  # that a space file has at most


class Parts(NamedTuple):
    """What a space file says, as ``SearchSpace`` takes it."""

    parameters: Any
    where: Any = ()
    when: Any = None


def read_space_file(path: Path) -> Parts:
    """The parts of a file, which are not looked at any closer.

    A ``SpaceError`` where it is missing, is not YAML or JSON, has a key twice, or holds neither a list nor a mapping.
    """
    is_json = path.suffix == ".json"
    try:
        with path.open("rb") as stream:
            content = stream.read(FILE_BYTES + 1)
        if len(content) > FILE_BYTES:
            raise SpaceError(f"{path} is no space file: it is longer than {FILE_BYTES:,} bytes")
        text = content.decode("utf-8-sig")
        found = parse_json(text, infinite=False) if is_json else parse_yaml(text)
    except OSError as error:
        raise SpaceError(f"cannot read the space file {path}: {error.strerror}") from error
    except SpaceError:
        raise
    except (ValueError, RecursionError) as error:
        raise SpaceError(f"{path} is not valid {'JSON' if is_json else 'YAML'}: {error}") from error
    if not isinstance(found, (dict, list)):
        raise SpaceError(f"{path} must hold a list of option counts or a mapping from parameter name to options")
    try:
        return _parts(found)
    except SpaceError as error:
        raise SpaceError(f"{path}: {error}") from error


def _parts(found: Any) -> Parts:
    if is_configspace(found):
        return Parts(*configspace_parts(found))
    if not isinstance(found, dict):
        return Parts(found)
    if not isinstance(found.get("parameters"), dict):
        for key in ("where", "when"):
            if isinstance(found.get(key), (dict, str)):
                raise SpaceError(f"{key} stands beside a mapping called parameters, which holds all parameters")
        return Parts(found)
    for key in found:
        if key not in Parts._fields:
            raise SpaceError(f"{brief(key)} stands beside parameters; allowed there: where, when")
    return Parts(**found)


def warn(path: Path, options: Mapping[str, list[Any]]) -> None:
    """Say what in a space may not be meant."""
    doubts = []
    for name, listed in options.items():
        if text := next(filter(_looks_like_a_number, listed), None):
            doubts.append(f"{name} offers {text!r} as text, not as a number")
        if name == "where" and any(is_expression(option, options) for option in listed):
            doubts.append("where is a parameter here; it forbids something beside a mapping called parameters only")
    for doubt in doubts:
        warnings.warn(f"{path}: {doubt}", SpaceWarning, 3)


def _looks_like_a_number(option: object) -> bool:
    try:
        return isinstance(option, str) and math.isfinite(float(option))
    except ValueError:
        return False
