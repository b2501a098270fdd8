"""What an Optuna distribution allows, as the options of a search space, and back.

A value has a place among those that its distribution allows: its *unit*. A choice has the number of the choice, an
integer or stepped value how many steps it is above the lowest, any other value itself. *Edges* are the units where
options begin, and where the last one ends.
"""

import math
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from numbers import Real
from typing import Any

import numpy as np
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import FrozenTrial, create_trial

from lmsearcher_local.errors import SpaceError
from lmsearcher_local.spaces.space import Configuration, Option, SearchSpace
from lmsearcher_local.system import optuna_internals as internals

LISTED = 32  # an integer or stepped parameter with at most so many values has an option for each
BINS = 16  # other numbers are cut into so many; one of 16 options is one token of the bundled checkpoint
EXACT = 2**53  # steps that a float can tell apart
DRAWS = 100  # of a value, until Optuna keeps it as one of its bin


def distributions(space: SearchSpace) -> dict[str, BaseDistribution]:
    """The space as Optuna writes it: one categorical distribution per parameter.

    A ``SpaceError`` where Optuna cannot tell two options of a parameter apart, as ``True`` and ``1``.
    """
    kinds: dict[str, BaseDistribution] = {}
    for name, listed in space.describe().items():
        kinds[name] = kind = CategoricalDistribution(listed)
        for i, place in enumerate(_places(kind)):
            if place < i:  # the first that is one with another; until here, every choice had its own place
                pair = f"{listed[place]!r} and {listed[i]!r}"
                raise SpaceError(f"{name}: Optuna, which keeps a search, cannot tell {pair} apart; write one as text")
    return kinds


def trial_of(space: SearchSpace, configuration: Configuration, **more: Any) -> FrozenTrial:
    """A trial of a configuration, which has active parameters only; ``more`` is as ``create_trial`` takes it."""
    kinds = distributions(space)
    return create_trial(params=configuration, distributions={name: kinds[name] for name in configuration}, **more)


def space_of(kinds: dict[str, BaseDistribution]) -> SearchSpace:
    """A search space with the parameters' options, in that order."""
    return SearchSpace({name or repr(name): options(kind) for name, kind in kinds.items()})


def options(kind: BaseDistribution) -> list[Option]:
    """What a search space lists for a parameter: choices, values, or the lower ends of bins."""
    listed = [from_units(kind, edge) for edge in edges(kind)[:-1]]
    try:
        return list(SearchSpace({"x": listed}).options[0])
    except SpaceError:  # a space takes no tuples, for example
        return [str(i) for i in range(len(listed))]


def edges(kind: BaseDistribution) -> list[float]:
    """Where the options of a parameter begin, and where the last one ends, in units."""
    if isinstance(kind, CategoricalDistribution):
        return list(range(max(_places(kind)) + 2))
    assert isinstance(kind, (FloatDistribution, IntDistribution))
    size = _size(kind)
    if size is None:
        return sorted({kind.low, *_cuts(kind.low, kind.high, kind.log), kind.high})
    if size <= LISTED:
        return list(range(size + 1))
    above = kind.low if kind.log else 0
    cuts = [cut - above for cut in _cuts(above, above + size, kind.log)]
    return np.unique(np.rint([0.0, *cuts, float(size)])).tolist()  # near 1, bins of a logarithmic scale hold no integer


def to_units(kind: BaseDistribution, value: Any) -> float:
    """The unit of a value; a ``ValueError`` where the value is not of this distribution."""
    number = kind.to_internal_repr(value)
    if isinstance(kind, CategoricalDistribution):
        return _places(kind)[int(number)]
    assert isinstance(kind, (FloatDistribution, IntDistribution))
    if not kind.low <= number <= kind.high:
        raise ValueError(f"{value!r} is out of range")
    if isinstance(kind, IntDistribution):
        return (int(number) - kind.low) // kind.step
    return number if kind.step is None or _size(kind) is None else round((number - kind.low) / kind.step)


def from_units(kind: BaseDistribution, unit: float) -> Any:
    """The value of a unit."""
    if isinstance(kind, CategoricalDistribution):
        return kind.choices[_places(kind).index(int(unit))]
    if isinstance(kind, IntDistribution):
        return kind.low + int(unit) * kind.step
    assert isinstance(kind, FloatDistribution)
    return unit if kind.step is None or _size(kind) is None else min(kind.low + int(unit) * kind.step, kind.high)


def encode(
    kinds: Mapping[str, BaseDistribution],
    cuts: Mapping[str, Sequence[float]],
    space: SearchSpace,
    values: Mapping[str, Any],
) -> str | None:
    """The code of values in the space that these parameters make; ``cuts`` are their edges.

    There is none where a value is missing or of another range.
    """
    if not space.when and not kinds.keys() <= values.keys():
        return None
    try:
        units = {name: to_units(kind, values[name]) for name, kind in kinds.items() if name in values}
        indices = {name: min(bisect_right(cuts[name], unit), len(cuts[name]) - 1) - 1 for name, unit in units.items()}
        return space.code(space.complete(indices) if space.when else [*indices.values()])
    except ValueError:  # also a SpaceError: an active parameter is missing
        return None


def draw(kind: BaseDistribution, low: float, high: float, rng: np.random.Generator) -> Any:
    """A random value from one edge up to the next, as Optuna keeps it: as a float, even a whole number."""
    for _ in range(DRAWS):
        unit = min(max(_unit(kind, low, high, rng), low), math.nextafter(high, low))
        value = from_units(kind, unit)
        if isinstance(kind, IntDistribution):
            value = kind.to_external_repr(kind.to_internal_repr(value))
        try:
            if low <= to_units(kind, value) < high and internals.allows(kind, value):
                break
        except ValueError:  # rounding led out of the range
            continue
    return value


def _unit(kind: BaseDistribution, low: float, high: float, rng: np.random.Generator) -> float:
    if isinstance(kind, FloatDistribution) and _size(kind) is None:
        return math.exp(rng.uniform(math.log(low), math.log(high))) if kind.log else rng.uniform(low, high)
    first, end = int(low), int(high)
    if end < 2**63:
        return int(rng.integers(first, end))
    return first + int.from_bytes(rng.bytes(64)) % (end - first)  # numpy's integers are of 64 bits


def _size(kind: FloatDistribution | IntDistribution) -> int | None:
    """How many values there are; nothing where they are not counted, or more than a float counts."""
    if isinstance(kind, IntDistribution):
        return (kind.high - kind.low) // kind.step + 1
    if kind.step is None or (kind.high - kind.low) / kind.step > EXACT:
        return None
    return round((kind.high - kind.low) / kind.step) + 1


def _cuts(low: float, high: float, log: bool) -> list[float]:
    """Where bins meet, without both ends; the span may be more than a float holds."""
    shares = np.linspace(0, 1, BINS + 1)[1:-1]
    if log:
        cuts = np.exp((1 - shares) * math.log(low) + shares * math.log(high))
    else:
        cuts = (1 - shares) * float(low) + shares * float(high)
    return np.clip(cuts, float(low), float(high)).tolist()


def _places(kind: CategoricalDistribution) -> Sequence[int]:
    """For each choice its number among those that Optuna tells apart; to it, ``True``, ``1`` and ``1.0`` are one."""
    found: dict[Any, int] = {}
    places = []
    for choice in kind.choices:
        key: Any = math.nan if isinstance(choice, Real) and choice != choice else choice
        try:
            places.append(found.setdefault(key, len(found)))
        except TypeError:  # a list, say
            places.append(found.setdefault((list, repr(choice)), len(found)))
    return places
