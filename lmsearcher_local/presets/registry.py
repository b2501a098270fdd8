"""Which presets there are: published search spaces, and what a configuration of each means to a training script."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

from lmsearcher_local.errors import SpaceError
from lmsearcher_local.presets import darts, iwslt_transformer, nasbench201, nasbench_asr, sam_lora, sd_lora
from lmsearcher_local.presets.drawing import Figure
from lmsearcher_local.spaces.space import Configuration, SearchSpace


@dataclass(frozen=True, slots=True)
class Preset:
    """A published search space; its parameters and options are in the YAML file of its name in this folder.

    Attributes:
        name: as the command line takes it; that of its module, in which the others stand.
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
    draw: Callable[[Configuration], Figure]

    @property
    def space(self) -> SearchSpace:
        """The space, loaded once."""
        return _load(self.name)


@cache
def _load(name: str) -> SearchSpace:
    return SearchSpace.load(str(files(__package__).joinpath(f"{name}.yaml")))


def _preset(module: Any) -> Preset:
    name = module.__name__.rpartition(".")[2]
    return Preset(name, module.TITLE, module.SOURCE, module.architecture, module.summary, module.draw)


MODULES = (nasbench201, darts, sam_lora, sd_lora, iwslt_transformer, nasbench_asr)
PRESETS: dict[str, Preset] = {known.name: known for known in map(_preset, MODULES)}


def preset(name: str) -> Preset:
    """The preset of that name; a ``SpaceError`` where there is none."""
    if name not in PRESETS:
        raise SpaceError(f"there is no preset {name!r}; allowed: {', '.join(PRESETS)}")
    return PRESETS[name]


def preset_of(space: SearchSpace) -> Preset | None:
    """The preset whose parameters and options are those of a space, if there is one."""
    return next((known for known in PRESETS.values() if known.space == space), None)
