"""Which engines there are. A new one is a line here; what it needs is imported when it loads."""

from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lmsearcher_local.model.checkpoint import Checkpoint
    from lmsearcher_local.model.engines.base import Engine


def _vllm(checkpoint: "Checkpoint", longest: int | None, cache_bytes: int | None) -> "Engine":
    from lmsearcher_local.model.engines.vllm import VLLMEngine

    return VLLMEngine(checkpoint, longest, cache_bytes)


def _transformers(checkpoint: "Checkpoint", longest: int | None, cache_bytes: int | None) -> "Engine":
    from lmsearcher_local.model.engines.transformers import TransformersEngine

    return TransformersEngine(checkpoint)


Load = Callable[["Checkpoint", int | None, int | None], "Engine"]
"""Checkpoint, longest prompt in tokens or rows (``None``: as long as it reads), bytes of vLLM's cache -> engine."""

ENGINES: dict[str, Load] = {"vllm": _vllm, "transformers": _transformers}
