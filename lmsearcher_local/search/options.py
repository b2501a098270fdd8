"""Every option of a search. Searcher, sampler, ``run``, the plan and the command line read them here."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

from lmsearcher_local.candidates.measures import Goal, Limit, goals_of, limits_of
from lmsearcher_local.candidates.policies import POLICIES
from lmsearcher_local.errors import OptionError

if TYPE_CHECKING:  # the command line reads the options before anything slow is imported
    from lmsearcher_local.candidates.earlier import Earlier
    from lmsearcher_local.candidates.history import Direction

MOST = 3  # goals of one search


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchOptions:
    """How to search. ``Searcher``, ``LMSearcherSampler`` and ``run`` take each of these by its name. Goals and limits
    may be text, as the command line takes them.

    Raises:
        OptionError: an option is out of its range.
        MeasureError: a goal or a limit is not written as one, or stands twice.
    """

    direction: "Direction" = "maximize"
    seed: int = 0
    policy: str = "surrogate"
    pool_size: int = 10
    temperature: float = 0.0
    earlier: "Sequence[Earlier]" = ()
    first: Sequence[str] = ()
    goals: tuple[Goal, ...] = ()
    limits: tuple[Limit, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "goals", goals_of(self.goals))
        object.__setattr__(self, "limits", limits_of(self.limits))
        if len(self.goals) == 1:
            object.__setattr__(self, "direction", self.goals[0].direction)
        if len(self.goals) > MOST:
            raise OptionError(f"a search has at most {MOST} goals, not {len(self.goals)}")
        if len(self.goals) > 1 and self.earlier:
            raise OptionError("earlier searches are learned from with one goal only")
        if self.direction not in ("maximize", "minimize"):
            raise OptionError(f"direction is 'maximize' or 'minimize', not {self.direction!r}")
        if self.seed < 0 or self.pool_size < 1 or not 0 <= self.temperature < math.inf:
            raise OptionError(
                f"at least 0 and finite: seed ({self.seed}), temperature ({self.temperature});"
                f" at least 1: pool_size ({self.pool_size})"
            )
        if self.policy not in POLICIES:
            raise OptionError(f"policy is one of {', '.join(POLICIES)}, not {self.policy!r}")

    @property
    def directions(self) -> "tuple[Direction, ...]":
        """Of each goal; without goals that of the one value."""
        return tuple(goal.direction for goal in self.goals) or (self.direction,)

    def without(self, *names: str) -> dict[str, Any]:
        """The other options by name."""
        return {option.name: getattr(self, option.name) for option in fields(self) if option.name not in names}


MEANINGS = {  # what each option is, in a sentence
    "direction": "Whether values are maximised or minimised.",
    "seed": "Of every random choice.",
    "policy": "Pools: what a Gaussian process finds most promising, neighbours of the best,"
    " or uniform as in the paper.",
    "pool_size": "Candidates the model picks from.",
    "temperature": "0 takes the model's likeliest answer, above 0 samples its answer.",
    "earlier": "Earlier searches to learn from, see ``read_earlier``; the first codes are then their best.",
    "first": "Codes to propose before all others, in this order, unless they are known.",
    "goals": "What to search for the best of among several values, NAME:max or NAME:min.",
    "limits": "What a measured value may be at most or at least, such as 'latency <= 500'.",
}
DEFAULTS = SearchOptions()
