"""Whether the model leaves the card while an objective runs."""

from typing import Literal

from lmsearcher_local.errors import StudyError
from lmsearcher_local.model.engines.base import Engine

Gpu = Literal["shared", "kept"]


def shares(gpu: Gpu | None, engine: Engine, *, useful: bool = True) -> bool:
    """Whether to take the model off the card: as asked for, by default where the engine can and it is useful.

    A ``StudyError`` where it is asked for, and the engine cannot.
    """
    if gpu not in (None, "shared", "kept"):
        raise ValueError(f"gpu is 'shared' or 'kept', not {gpu!r}")
    if gpu == "shared" and not engine.can_sleep:
        raise StudyError(
            f"the model cannot leave the card: {type(engine).__name__} cannot sleep here; leave 'shared' out"
        )
    return gpu == "shared" or (gpu is None and useful and engine.can_sleep)
