"""Spaces that ConfigSpace wrote as JSON, read without it: each discrete hyperparameter becomes a list of options, each
condition an expression of ``when``, each forbidden clause one of ``where``."""

from collections.abc import Mapping
from typing import Any, TypeGuard

from lmsearcher_local.errors import SpaceError, brief

LONGEST = 1000  # options that an integer or quantised range may come to
NESTED = 20  # clauses within each other
SIGNS = {"EQ": "==", "EQUALS": "==", "NEQ": "!=", "LT": "<", "LE": "<=", "GT": ">", "GE": ">="}


def is_configspace(parameters: object) -> TypeGuard[Mapping[str, Any]]:
    """Whether this is a serialised ConfigurationSpace and not a mapping from names to options."""
    found = parameters.get("hyperparameters") if isinstance(parameters, Mapping) else None
    if not isinstance(found, list) or not found:
        return False
    return all(isinstance(item, Mapping) and {"name", "type"} <= item.keys() for item in found)


def configspace_parts(serialised: Mapping[str, Any]) -> tuple[dict[str, list[Any]], list[str], dict[str, str]]:
    """The options of each hyperparameter, in the file's order, and the expressions of ``where`` and ``when``.

    Categories and sequences are taken as they are; a constant is a parameter with one option; integers and quantised
    floats (``q``, of ConfigSpace before 1.0) are listed. Weights, defaults and logarithmic scales say nothing about
    which options there are. A ``SpaceError`` names what is continuous, too long to list, or cannot be read.
    """
    found: dict[str, list[Any]] = {}
    for item in serialised["hyperparameters"]:
        name = item["name"]
        if not isinstance(name, str) or name in found:
            raise SpaceError(f"each hyperparameter has a name of its own, which is text; {brief(name)} is not")
        found[name] = _options(item)
    ordinal = {item["name"] for item in serialised["hyperparameters"] if item["type"] == "ordinal"}
    when: dict[str, str] = {}
    for clause in _listed(serialised, "conditions"):
        if not isinstance(child := clause.get("child"), str):
            raise SpaceError(f"a condition names its child by text, not by {brief(child)}")
        text = _expression(clause, found, ordinal)
        when[child] = f"({when[child]}) and ({text})" if child in when else text
    where = [f"not ({_expression(clause, found, ordinal)})" for clause in _listed(serialised, "forbiddens")]
    return found, where, when


def _listed(serialised: Mapping[str, Any], key: str) -> list[Any]:
    clauses = serialised.get(key) or []
    if not isinstance(clauses, list) or not all(isinstance(clause, Mapping) for clause in clauses):
        raise SpaceError(f"{key} are a list of clauses, not {brief(clauses)}")
    return clauses


def _expression(clause: Any, options: Mapping[str, list[Any]], ordinal: set[str], depth: int = 0) -> str:
    """A condition or a forbidden clause as an expression; of an ordinal, LT and GT mean the order of its options."""
    if not isinstance(clause, Mapping) or depth > NESTED:
        raise SpaceError(f"a clause is an object with a type, not {brief(clause)}, and not nested {NESTED} deep")
    kind = str(clause.get("type"))
    if kind in ("AND", "OR"):
        parts = clause.get("conditions", clause.get("clauses"))
        if not isinstance(parts, list) or not parts:
            raise SpaceError(f"a clause of the type {kind} has no list of conditions or clauses")
        return f" {kind.lower()} ".join(f"({_expression(part, options, ordinal, depth + 1)})" for part in parts)
    if kind.startswith("RELATION"):
        sign = SIGNS.get(str(clause.get("lambda")) if kind == "RELATION" else kind.removeprefix("RELATION_"))
        sides = [_known(clause.get(side), options) for side in ("left", "right")]
        if sign is None or (sign != "==" and any(side in ordinal for side in sides)):
            raise SpaceError(f"there is no way to import the relation {brief(dict(clause))}")
        return f"{_name(sides[0])} {sign} {_name(sides[1])}"
    name = _known(clause.get("parent", clause.get("name")), options)
    if kind == "IN":
        listed = clause.get("values")
        if not isinstance(listed, list) or not listed:
            raise SpaceError(f"a clause of the type IN has no list of values: {brief(dict(clause))}")
        return f"{_name(name)} in {listed!r}"
    sign = SIGNS.get(kind.removeprefix("CLAUSE_"))
    if sign is None or "value" not in clause:
        raise SpaceError(f"there is no way to import the clause {brief(dict(clause))}")
    value = clause["value"]
    if sign in ("==", "!=") or name not in ordinal:
        return f"{_name(name)} {sign} {value!r}"
    if value not in options[name]:
        raise SpaceError(f"{name} has no option {brief(value)}, which a clause names")
    at, listed = options[name].index(value), options[name]
    kept = {"<": listed[:at], "<=": listed[: at + 1], ">": listed[at + 1 :], ">=": listed[at:]}
    return f"{_name(name)} in {kept[sign]!r}"


def _known(name: object, options: Mapping[str, list[Any]]) -> str:
    if not isinstance(name, str) or name not in options:
        raise SpaceError(f"a clause names {brief(name)}, which is no hyperparameter")
    return name


def _name(name: str) -> str:
    """A hyperparameter as an expression names it."""
    if "{" in name or "}" in name:
        raise SpaceError(f"no expression can name {brief(name)}, which has braces")
    return f"{{{name}}}"


def _options(item: Mapping[str, Any]) -> list[Any]:
    name, kind = item["name"], item["type"]
    try:
        if kind in ("categorical", "ordinal"):
            options = item["choices" if kind == "categorical" else "sequence"]
            if not isinstance(options, list):
                raise TypeError(f"options are a list, not {brief(options)}")
            return options
        if kind in ("constant", "unparametrized"):
            return [item["value"]]
        if kind not in ("uniform_int", "uniform_float", "normal_int", "normal_float", "beta_int", "beta_float"):
            raise SpaceError(f"{name}: there is no way to import the type {brief(kind)}")
        low, high, step = item["lower"], item["upper"], item.get("q")
        if kind.endswith("_float") and not step:
            raise SpaceError(f"{name} is continuous ({low} to {high}); list the values to choose from, as an ordinal")
        step = step or 1
        count = int((high - low) / step + 1e-9) + 1  # 0.4 / 0.1 is meant as 4
        if count > LONGEST:
            most = f"at most {LONGEST:,} can be imported, list some as an ordinal"
            raise SpaceError(f"{name} has {count:,} values; {most}")
        if kind.endswith("_int"):
            return list(range(low, high + 1, step))
        return [float(f"{low + i * step:.12g}") for i in range(count)]  # 0.1 + 2 * 0.1 is meant as 0.3
    except SpaceError:
        raise
    except (KeyError, TypeError, ValueError, ArithmeticError) as error:
        reason = f"{type(error).__name__}: {error}"
        raise SpaceError(f"{name}: the type {kind} is not written like this ({reason})") from error
