"""Which presets there are."""

from lmsearcher_local.errors import SpaceError
from lmsearcher_local.presets import darts, iwslt_transformer, nasbench201, nasbench_asr, sam_lora, sd_lora
from lmsearcher_local.presets.base import Preset
from lmsearcher_local.spaces.space import SearchSpace

PRESETS: dict[str, Preset] = {
    module.PRESET.name: module.PRESET
    for module in (nasbench201, darts, sam_lora, sd_lora, iwslt_transformer, nasbench_asr)
}


def preset(name: str) -> Preset:
    """The preset of that name.

    Raises:
        SpaceError: there is none.
    """
    if name not in PRESETS:
        raise SpaceError(f"there is no preset {name!r}; allowed: {', '.join(PRESETS)}")
    return PRESETS[name]


def preset_of(space: SearchSpace) -> Preset | None:
    """The preset whose parameters and options are those of a space, if there is one."""
    return next((known for known in PRESETS.values() if known.space == space), None)
