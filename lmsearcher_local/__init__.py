"""Offline LM-Searcher: a language model inside your process that searches discrete design spaces."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lmsearcher_local.model.load import load_ranker
    from lmsearcher_local.search.optuna_sampler import LMSearcherSampler
    from lmsearcher_local.search.searcher import Searcher
    from lmsearcher_local.spaces.space import SearchSpace
    from lmsearcher_local.study.run import run

__all__ = ["LMSearcherSampler", "SearchSpace", "Searcher", "load_ranker", "run"]

_ROOMS = {
    "LMSearcherSampler": "search.optuna_sampler",
    "SearchSpace": "spaces.space",
    "Searcher": "search.searcher",
    "load_ranker": "model.load",
    "run": "study.run",
}


def __getattr__(name: str) -> Any:
    """The public names, imported when first used: the package itself is imported in no time."""
    if name not in _ROOMS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(f"{__name__}.{_ROOMS[name]}"), name)
    return value
