"""From a checkpoint folder to a model that ranks."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from lmsearcher_local.checkpoint import load_checkpoint
from lmsearcher_local.engine.base import Engine
from lmsearcher_local.ranking import Ranker

ENGINES = ("vllm", "transformers")


@contextmanager
def load_ranker(
    checkpoint: str | Path | None = None, engine: str = "vllm", *, cache_bytes: int | None = None
) -> Iterator[Ranker]:
    """Load a checkpoint (``None``: the bundled one) into an engine for the time of a ``with`` block.

    Args:
        cache_bytes: of vLLM's key-value cache, in place of the checkpoint's own, which holds a few histories. Many
            searches that ask together are several times faster when all of their histories fit.

    Raises:
        CheckpointError: the folder is missing, unsafe or unfit.
        EngineError: the engine is missing or the model does not fit the machine.
    """
    if engine not in ENGINES:
        raise ValueError(f"engine is one of {', '.join(ENGINES)}, not {engine!r}")
    found = load_checkpoint(checkpoint)
    if cache_bytes is not None:
        found = replace(found, cache_bytes=cache_bytes)
    codec = found.codec()
    loaded: Engine
    if engine == "vllm":
        from lmsearcher_local.engine.vllm import VLLMEngine

        loaded = VLLMEngine(found)
    else:
        from lmsearcher_local.engine.transformers import TransformersEngine

        loaded = TransformersEngine(found)
    try:
        yield Ranker(loaded, codec)
    finally:
        loaded.close()
