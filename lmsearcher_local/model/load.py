"""From a checkpoint folder to a model that ranks."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from lmsearcher_local.errors import CheckpointError
from lmsearcher_local.model.checkpoint import load_checkpoint
from lmsearcher_local.model.engines.registry import ENGINES
from lmsearcher_local.model.quantization import unsupported
from lmsearcher_local.model.ranker import Ranker
from lmsearcher_local.spaces.space import SearchSpace


@contextmanager
def load_ranker(
    checkpoint: str | Path | None = None,
    engine: str = "vllm",
    *,
    space: SearchSpace | None = None,
    pool_size: int = 10,
    cache_bytes: int | None = None,
    base: str | Path | None = None,
    quantization: str | None = None,
) -> Iterator[Ranker]:
    """Load a checkpoint (``None``: the bundled one) into an engine for the time of a ``with`` block.

    Args:
        space: where it will search, with pools of ``pool_size``: in vLLM its context is then no longer than the longest
            prompt there, which leaves memory free (of an 8B, 2 GB). Without it, all that the checkpoint reads.
        cache_bytes: of vLLM's key-value cache, in place of the plan's own, which holds a few histories. Many searches
            that ask together are several times faster when all of their histories fit.
        base: the folder that the LoRA adapter in ``checkpoint`` was trained on.
        quantization: ``"fp8"`` lets vLLM quantise a folder of 16 bits while it loads.

    Raises:
        CheckpointError: the folder is missing, unsafe or unfit, or its kind of weights does not run here.
        PromptError: the checkpoint's codec cannot show the space.
        EngineError: the engine is missing or the model does not fit the machine.
    """
    if engine not in ENGINES:
        raise ValueError(f"engine is one of {', '.join(ENGINES)}, not {engine!r}")
    if cache_bytes is not None and engine != "vllm":
        raise ValueError(f"cache_bytes is of vLLM's cache; engine {engine} keeps none")
    found = load_checkpoint(checkpoint, base=base, quantization=quantization)
    if problem := unsupported(found, engine):
        raise CheckpointError(problem)
    codec = found.codec()
    longest = codec.longest_prompt(space, pool_size) if space else None
    loaded = ENGINES[engine](found, longest, cache_bytes)
    try:
        yield Ranker(loaded, codec)
    finally:
        loaded.close()
