"""What is used of vLLM beside its documented interface. Tested with vLLM 0.32.0, its CPU build.

``llm`` is a ``vllm.LLM`` whose engine runs in this process. Whatever is missing in another version raises
``AttributeError``, ``ImportError`` or ``TypeError`` at its use; ``tests/test_vllm_engine.py`` tries it.
"""

import gc
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

# vLLM reads these when it is imported or started. Only the exact text "1" counts.
VARIABLES = {"VLLM_ENABLE_V1_MULTIPROCESSING": "0", "VLLM_NO_USAGE_STATS": "1"}  # 0: the engine runs in this process


def question(tokens: Sequence[int], cold: bool) -> Any:
    """``SamplingParams`` of one step that returns the log-probabilities of these token ids.

    ``cold`` is without a look into the prefix cache.
    """
    from vllm import SamplingParams

    return SamplingParams(
        max_tokens=1,
        temperature=0,
        logprob_token_ids=list(tokens),
        detokenize=False,
        skip_reading_prefix_cache=cold,
        skip_clone=True,  # made anew for each question, so that vLLM need not copy all of it
    )


def cached_tokens(output: Any) -> int:
    """How many tokens of an output's prompt the prefix cache held."""
    count: int = output.num_cached_tokens
    return count


def on_processor() -> bool:
    """Whether vLLM computes without a GPU."""
    from vllm.platforms import current_platform

    return bool(current_platform.is_cpu())


def can_sleep() -> bool:
    """Whether the weights can leave the card."""
    from vllm.platforms import current_platform

    return bool(current_platform.is_sleep_mode_available() and current_platform.is_cumem_allocator_available())


def compile_nothing() -> None:
    """Keep vLLM on a processor from compiling small functions, for a block after which the environment is restored.

    Tracing one takes half a second, and the C++ compiler that would then be called a minute, if there is one.
    """
    from vllm.platforms import current_platform

    os.environ["TORCHDYNAMO_DISABLE"] = "1"  # torch reads it where a function is decorated, as vLLM is imported
    type(current_platform).simple_compile_backend = "eager"  # of what is imported after the block


def add_adapter(llm: Any, folder: Path) -> Any:
    """Read and check a LoRA adapter now; returns the request that names it."""
    from vllm.lora.request import LoRARequest

    request = LoRARequest("adapter", 1, str(folder))
    llm.llm_engine.add_lora(request)
    return request


def data_type(llm: Any) -> str:
    """The type that the model computes in, such as ``torch.float32``."""
    return str(llm.llm_engine.model_config.dtype)


def drop_requests(llm: Any) -> bool:
    """Drop all requests and the prefix cache; returns whether nothing is left of them."""
    engine = llm.llm_engine
    engine.abort_request(list(engine.output_processor.request_states), internal=True)
    return bool(llm.reset_prefix_cache() and not engine.has_unfinished_requests())


def shut_down(llm: Any) -> None:
    """End the engine. ``LLM`` itself has no such method.

    On a processor without vLLM's own collections of garbage: each goes through all that the process holds, which takes
    more than half a second, and finds ``llm`` still in use. Who drops that collects.
    """
    collect = gc.collect
    if on_processor():
        gc.collect = lambda generation=2: 0
    try:
        llm.llm_engine.engine_core.shutdown()
    finally:
        gc.collect = collect


def clean_up() -> None:
    """Leave vLLM's groups of processes and free its memory, after a load that failed."""
    from vllm.distributed import cleanup_dist_env_and_memory

    cleanup_dist_env_and_memory()
