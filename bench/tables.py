"""The real tables as the benchmarks use them: which may be looked at while designing, their scores and their regret."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np

from lmsearcher_local.presets.tables import TABLES, table
from lmsearcher_local.spaces.space import SearchSpace

TRIALS = 192
DEVELOPMENT = (
    "hpobench-australian",
    "hpobench-car",
    "hpobench-credit_g",
    "hpobench-kc1",
    "hpolib-naval_propulsion",
    "hpolib-parkinsons_telemonitoring",
)
GROUPS = {"dev": DEVELOPMENT, "report": tuple(name for name in TABLES if name not in DEVELOPMENT)}
FAMILIES = {"nasbench201": "NAS-Bench-201", "hpobench": "HPOBench", "hpolib": "HPOLib"}


@dataclass(frozen=True, slots=True)
class Problem:
    """A table as something to search: the score of every code, higher better, a loss as its negative logarithm."""

    space: SearchSpace
    scores: dict[str, float]
    optimum: float
    median: float

    def regret(self, scores: Sequence[float]) -> np.ndarray:
        """Normalised regret of the best so far, after each of the scores: 0 at the optimum, 1 at the median."""
        return (self.optimum - np.maximum.accumulate(scores)) / (self.optimum - self.median)


@cache
def problem(name: str) -> Problem:
    """The table of that name, loaded once."""
    found = table(name)
    values = np.array(list(found.values.values()))
    scores = values if found.direction == "maximize" else -np.log(values)
    by_code = dict(zip(found.values, scores.tolist(), strict=True))
    return Problem(found.space, by_code, float(scores.max()), float(np.median(scores)))
