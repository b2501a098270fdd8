"""What a preset is: a published search space, and what a configuration of it means to a training script."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING, Any

from lmsearcher_local.spaces.space import Configuration, SearchSpace

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True, slots=True)
class Preset:
    """A published search space; its parameters and options are in the YAML file of its name in this folder.

    Attributes:
        name: as the command line takes it.
        title: what is searched, in a line.
        source: where the space is published.
        architecture: from a configuration to what a training script takes; text, lists and dictionaries only.
        summary: from a configuration to a few lines for a person.
        draw: from a configuration to a picture.
    """

    name: str
    title: str
    source: str
    architecture: Callable[[Configuration], Any]
    summary: Callable[[Configuration], str]
    draw: Callable[[Configuration], "Figure"]

    @property
    def space(self) -> SearchSpace:
        """The space, loaded once."""
        return _load(self.name)


@cache
def _load(name: str) -> SearchSpace:
    return SearchSpace.load(str(files(__package__).joinpath(f"{name}.yaml")))
