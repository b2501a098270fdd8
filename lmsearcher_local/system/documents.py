"""YAML and JSON as plain values, read strictly: a key stands once, and YAML is that of version 1.2, core schema.

So ``1e-4`` is a number, ``yes``, ``1:30`` and ``2001-01-01`` are text, and ``010`` is ten. Nothing that makes a short
text take long is read: merge keys and deep nesting are refused.
"""

import json
import re
from typing import Any

from lmsearcher_local.errors import brief

NESTED = 20  # lists and mappings within each other, at most

CORE = (  # https://yaml.org/spec/1.2.2/#103-core-schema; the first that matches, by the letters it may begin with
    ("null", r"~|null|Null|NULL|", ("~", "n", "N", "")),
    ("bool", r"true|True|TRUE|false|False|FALSE", tuple("tTfF")),
    ("int", r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+", tuple("-+0123456789")),
    ("float", r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?", tuple("-+.0123456789")),
    ("float", r"[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)", tuple("-+.")),
    ("merge", "<<", ("<",)),  # of YAML 1.1: known only to be refused
)


def parse_json(text: str, *, infinite: bool = True) -> Any:
    """The value of a JSON text.

    Args:
        text: the text.
        infinite: whether ``NaN`` and ``Infinity`` are read, which Python and others write although JSON has neither.

    Raises:
        ValueError: it is no JSON, or a key stands twice in an object.
        RecursionError: it is nested too deeply.
    """
    return json.loads(text, object_pairs_hook=_object, parse_constant=None if infinite else _refuse)


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"the key {brief(next(name for name in names if names.count(name) > 1))} stands twice")
    return found


def _refuse(word: str) -> Any:
    raise ValueError(f"JSON has no {word}")


def parse_yaml(text: str) -> Any:
    """The value of a YAML text, which is one document.

    Raises:
        ValueError: it is no YAML, a key stands twice, it holds a merge key, or it is nested too deeply.
    """
    from ruamel.yaml import YAML
    from ruamel.yaml.composer import MaxDepthExceededError
    from ruamel.yaml.constructor import SafeConstructor
    from ruamel.yaml.error import MarkedYAMLError, YAMLError
    from ruamel.yaml.resolver import VersionedResolver

    class Resolver(VersionedResolver):
        processing_version = (1, 2)  # whatever a directive says
        versioned_resolver = _core()

    class Constructor(SafeConstructor):
        def flatten_mapping(self, node: Any) -> None:
            for key, _ in node.value:
                if str(key.tag) == "tag:yaml.org,2002:merge":
                    raise YAMLError(_at(key.start_mark, "merge keys (<<) are not read"))

        def check_mapping_key(self, node: Any, key_node: Any, mapping: Any, key: Any, value: Any) -> bool:
            if key in mapping:
                raise YAMLError(_at(key_node.start_mark, f"the key {brief(key)} stands twice"))
            return True

    yaml = YAML(typ="safe", pure=True)
    yaml.Resolver, yaml.Constructor, yaml.max_depth = Resolver, Constructor, NESTED
    yaml.composer.warn_double_anchors = False  # YAML allows them
    try:
        return yaml.load(text)
    except MaxDepthExceededError as error:
        raise ValueError("it is nested too deeply") from error
    except MarkedYAMLError as error:
        raise ValueError(_at(error.problem_mark or error.context_mark, error.problem or str(error))) from error
    except Exception as error:  # of a wrong value the library also raises IndexError, KeyError and AttributeError
        raise ValueError(" ".join(str(error).split())) from error


def _core() -> dict[str, list[tuple[str, re.Pattern[str]]]]:
    """The tags of plain scalars and their patterns, by first letter."""
    found: dict[str, list[tuple[str, re.Pattern[str]]]] = {}
    for kind, pattern, letters in CORE:
        for letter in letters:
            found.setdefault(letter, []).append((f"tag:yaml.org,2002:{kind}", re.compile(rf"(?:{pattern})\Z")))
    return found


def _at(mark: Any, problem: str) -> str:
    return f"line {mark.line + 1}: {problem}" if mark else problem
