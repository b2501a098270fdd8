"""vLLM's own grammar: the independent second way to a constrained answer."""

from collections.abc import Sequence
from typing import Any

from lmsearcher_local.errors import EngineError
from lmsearcher_local.model.engines.base import Prefix
from lmsearcher_local.model.engines.vllm import VLLMEngine


def choose(
    engine: VLLMEngine, prompts: Sequence[Prefix], choices: Sequence[Sequence[str]]
) -> list[tuple[str, list[int]]]:
    """Text and tokens of the greedy answer to each prompt; needs a checkpoint with a tokenizer."""
    from vllm import SamplingParams
    from vllm.sampling_params import StructuredOutputsParams

    params = []
    for texts in choices:
        grammar: Any = StructuredOutputsParams(choice=list(texts))
        length = max(map(len, texts)) + 1
        params.append(SamplingParams(max_tokens=length, temperature=0, structured_outputs=grammar))
    found = []
    for output, texts in zip(engine.generate(prompts, params), choices, strict=True):
        answer = output.outputs[0]
        if answer.text not in texts:
            raise EngineError(f"vLLM's grammar answered {answer.text!r}, which is none of the {len(texts)} choices")
        found.append((answer.text, list(answer.token_ids)))
    return found
