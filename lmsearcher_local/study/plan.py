"""What a search depends on, in the form in which a study keeps it and by which a resume is checked."""

import hashlib
import json
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from types import CodeType, FunctionType
from typing import Any

from optuna.pruners import BasePruner

from lmsearcher_local.candidates.earlier import Earlier
from lmsearcher_local.errors import StudyError
from lmsearcher_local.search.options import DEFAULTS, SearchOptions
from lmsearcher_local.spaces.space import SearchSpace
from lmsearcher_local.study.pruning import describe_pruner

Values = Sequence[tuple[str, float]]


@dataclass(frozen=True, slots=True)
class Plan:
    """Everything that a search's trajectory depends on. A study is resumed with an equal plan or not at all.

    ``objective`` and ``checkpoint`` are names: the objective's, and the checkpoint's identity.

    Raises:
        StudyError: there is a warm start, and limits or several goals, of which it says nothing; or several
            goals and a pruner.
    """

    space: SearchSpace
    objective: str
    checkpoint: str = ""
    options: SearchOptions = DEFAULTS
    warm_start: Values = ()
    pruner: BasePruner | None = None

    def __post_init__(self) -> None:
        if self.pruner and len(self.options.goals) > 1:
            raise StudyError("a pruner compares trials by one goal; with several goals leave it out")
        if self.warm_start and self.options.limits:
            raise StudyError(
                "a warm start does not say whether its trials hold the limits; give it as an earlier search"
            )
        if self.warm_start and len(self.options.goals) > 1:
            raise StudyError("a warm start has one value for each configuration, and this search several goals")

    def describe(self) -> dict[str, Any]:
        """The plan as the storage keeps it."""
        options = self.options
        return {
            "space": [[name, options] for name, options in self.space.describe().items()],
            "where": [*self.space.where] or None,
            "when": self.space.when or None,
            "valid": identity(self.space.valid),
            "objective": self.objective,
            "checkpoint": self.checkpoint,
            "direction": options.direction,
            "seed": options.seed,
            "policy": options.policy,
            "pool_size": options.pool_size,
            "temperature": options.temperature or None,
            "goals": [str(goal) for goal in options.goals] or None,
            "limits": [str(limit) for limit in options.limits] or None,
            "warm_start": _digest(list(self.warm_start)),
            "first": _digest(list(options.first)) if options.first else None,
            "earlier": [_source(one) for one in options.earlier] or None,
            "pruner": describe_pruner(self.pruner),
        }

    def difference(self, kept: Mapping[str, Any]) -> str | None:
        """The first thing in which a kept plan is another one, in words; nothing where it is the same."""
        for key, value in self.describe().items():
            if json.dumps(kept.get(key)) == json.dumps(value):  # where 1, 1.0 and true differ
                continue
            if key == "valid":
                if not _differs(kept.get(key), value):
                    continue
                return "validity predicate"
            if key == "first":
                return "list of first configurations"
            if key == "earlier":
                if reason := _other_sources(kept.get(key) or [], value or []):
                    return f"earlier search ({reason})"
                continue
            if key in ("where", "when"):
                return f"list of expressions in {key}"
            if key in ("space", "warm_start"):
                return key.replace("_", " ")
            before, now = (", ".join(one) if isinstance(one, list) else one for one in (kept.get(key), value))
            return f"{key.replace('_', ' ')} ({before}, not {now})"
        return None


def _source(earlier: Earlier) -> dict[str, Any]:
    """What tells an earlier search from another."""
    known = [earlier.space.describe(), earlier.positions, earlier.history.codes, earlier.history.scores]
    return {"name": earlier.name, "trials": len(earlier.history), "digest": _digest(known)}


def _other_sources(kept: list[dict[str, Any]], now: list[dict[str, Any]]) -> str:
    """In what earlier searches differ; a name may change. Nothing where they do not."""
    before, after = ([one.get("digest") for one in side] for side in (kept, now))
    if before == after:
        return ""
    gone, new = Counter(before) - Counter(after), Counter(after) - Counter(before)
    missing = [one.get("name") for one in kept if one.get("digest") in gone]
    added = [one["name"] for one in now if one["digest"] in new]
    if changed := [name for name in missing if name in added]:
        return f"{changed[0]} has changed since"
    if missing:
        return f"{missing[0]} is missing now"
    return f"{added[0]} was not given when it began" if added else "they were given in another order"


def identity(predicate: Callable[..., Any] | None) -> dict[str, str] | None:
    """What tells a predicate from another: its name, and a hash of its bytecode, with the constants, plain globals,
    defaults and closed-over values that it uses; bytecode is that of one version of Python."""
    if predicate is None:
        return None
    inner = predicate.func if isinstance(predicate, partial) else predicate
    function = inner if hasattr(inner, "__code__") else type(inner).__call__
    given = (predicate.args, predicate.keywords) if isinstance(predicate, partial) else ()
    state = getattr(getattr(inner, "__self__", inner), "__dict__", {}) if hasattr(function, "__code__") else {}
    return {
        "name": f"{inner.__module__}:{getattr(inner, '__qualname__', type(inner).__qualname__)}",
        "python": ".".join(map(str, sys.version_info[:2])),
        "code": _digest([*_parts(function), _plain(given), _plain(state)]),
    }


def _differs(kept: Any, now: Any) -> bool:
    """Whether two identities are of different predicates, as far as one can tell."""
    if not (isinstance(kept, dict) and isinstance(now, dict)):
        return True
    return kept.get("name") != now["name"] or (kept.get("python") == now["python"] and kept.get("code") != now["code"])


def _parts(function: Any) -> Iterator[object]:
    code = getattr(function, "__code__", None)
    if code is None:  # written in C
        return
    known = getattr(function, "__globals__", {})
    yield from _instructions(code)
    yield [[name, _plain(known[name])] for name in sorted(_names(code)) if name in known]
    yield _plain(function.__defaults__), _plain(function.__kwdefaults__)
    yield [_plain(cell.cell_contents) for cell in function.__closure__ or ()]


def _instructions(code: CodeType) -> Iterator[object]:
    yield code.co_code.hex()
    yield code.co_names
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _instructions(constant)
        else:
            yield _plain(constant)


def _names(code: CodeType) -> set[str]:
    inner = (_names(constant) for constant in code.co_consts if isinstance(constant, CodeType))
    return set(code.co_names).union(*inner)


def _plain(value: object) -> object:
    """A value as text where it is the same in every process; of others the kind."""
    if value is None or isinstance(value, (str, bytes, int, float, complex)):
        return repr(value)
    if isinstance(value, (tuple, list)):
        return [type(value).__name__, *map(_plain, value)]
    if isinstance(value, (set, frozenset)):
        return [type(value).__name__, *sorted(map(str, map(_plain, value)))]
    if isinstance(value, dict):
        return [[_plain(key), _plain(item)] for key, item in value.items()]
    if isinstance(value, FunctionType):
        return [value.__qualname__, *_instructions(value.__code__)]
    return type(value).__qualname__


def _digest(value: object) -> str:
    return hashlib.sha256(json.dumps(value).encode()).hexdigest()[:16]
