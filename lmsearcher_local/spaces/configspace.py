"""Spaces that ConfigSpace wrote as JSON, read without it: each discrete hyperparameter becomes a list of options."""

from collections.abc import Mapping
from typing import Any, TypeGuard

from lmsearcher_local.errors import SpaceError, brief

LONGEST = 1000  # options that an integer or quantised range may come to


def is_configspace(parameters: object) -> TypeGuard[Mapping[str, Any]]:
    """Whether this is a serialised ConfigurationSpace and not a mapping from names to options."""
    found = parameters.get("hyperparameters") if isinstance(parameters, Mapping) else None
    if not isinstance(found, list) or not found:
        return False
    return all(isinstance(item, Mapping) and {"name", "type"} <= item.keys() for item in found)


def configspace_options(serialised: Mapping[str, Any]) -> dict[str, list[Any]]:
    """The options of each hyperparameter, in the file's order.

    Categories and sequences are taken as they are; a constant is a parameter with one option; integers and quantised
    floats (``q``, of ConfigSpace before 1.0) are listed. Weights, defaults and logarithmic scales say nothing about
    which options there are.

    Raises:
        SpaceError: there are conditions or forbidden clauses, a continuous range, one of too many values, or a
            hyperparameter that is none of these.
    """
    for key, what in (("conditions", "conditions between parameters"), ("forbiddens", "forbidden clauses")):
        if serialised.get(key):
            raise SpaceError(f"{what} cannot be imported; a space lists every combination of its options")
    found: dict[str, list[Any]] = {}
    for item in serialised["hyperparameters"]:
        name = item["name"]
        if not isinstance(name, str) or name in found:
            raise SpaceError(f"each hyperparameter has a name of its own, which is text; {brief(name)} is not")
        found[name] = _options(item)
    return found


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
            raise SpaceError(
                f"{name} has {count:,} values; at most {LONGEST:,} can be imported, list some as an ordinal"
            )
        if kind.endswith("_int"):
            return list(range(low, high + 1, step))
        return [float(f"{low + i * step:.12g}") for i in range(count)]  # 0.1 + 2 * 0.1 is meant as 0.3
    except SpaceError:
        raise
    except (KeyError, TypeError, ValueError, ArithmeticError) as error:
        raise SpaceError(
            f"{name}: the type {kind} is not written like this ({type(error).__name__}: {error})"
        ) from error
