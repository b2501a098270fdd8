"""The primitive on vLLM's offline engine, inside this process. The only place where vLLM is imported."""

import gc
import logging
import os
import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np

from lmsearcher_local.checkpoint import Checkpoint
from lmsearcher_local.engine.base import Engine, Question
from lmsearcher_local.errors import EngineError

# vLLM reads these when it is imported. Only the exact text "1" counts.
OFFLINE = {
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",  # the engine core runs in this process
    "HF_HUB_OFFLINE": "1",
    "VLLM_NO_USAGE_STATS": "1",
    "DO_NOT_TRACK": "1",
}


class VLLMEngine(Engine):
    """A checkpoint loaded in vLLM.

    ``prompt_tokens`` counts the tokens of all prompts so far, ``computed_tokens`` those of them that were not in the
    prefix cache.

    Raises:
        EngineError: vLLM is missing, does not match this machine, or the memory does not suffice.
    """

    def __init__(self, checkpoint: Checkpoint) -> None:
        os.environ.update(OFFLINE)
        for name in ("VLLM_LOGGING_LEVEL", "TORCH_CPP_LOG_LEVEL"):
            os.environ.setdefault(name, "ERROR")
        logging.getLogger("vllm").setLevel(os.environ["VLLM_LOGGING_LEVEL"])  # it warns before it reads its variable
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # vLLM's own use of torch, nothing a user can mend
            self._load(checkpoint)

    def _load(self, checkpoint: Checkpoint) -> None:
        try:
            import vllm
            from vllm.platforms import current_platform
        except ImportError as error:
            raise EngineError(
                f"vLLM cannot be imported ({error}); install the extra that fits this machine:"
                " lmsearcher-local[cuda] with an NVIDIA GPU, lmsearcher-local[cpu] without"
            ) from error
        if current_platform.is_cpu():
            # vLLM would compile one small sampler function with the C++ compiler, which costs a minute or is missing.
            type(current_platform).simple_compile_backend = "eager"
        self.max_length = checkpoint.context - 1  # the engine adds the token that it samples
        self.prompt_tokens = self.computed_tokens = 0
        try:
            llm: Any = vllm.LLM  # its options are literal types that a checkpoint's strings are not
            self._llm = llm(
                model=str(checkpoint.path),
                skip_tokenizer_init=not (checkpoint.path / "tokenizer.json").exists(),
                load_format="safetensors",
                trust_remote_code=False,
                dtype=checkpoint.dtype,
                max_model_len=checkpoint.context,
                kv_cache_memory_bytes=checkpoint.cache_bytes,
                # Only full blocks are cached; the CPU build's default of 128 tokens would waste most of a prompt.
                block_size=32 if current_platform.is_cpu() else None,
                enable_prefix_caching=True,
                enforce_eager=True,  # prompts are prefilled, never decoded: graphs would only delay the start
                disable_log_stats=True,
                use_tqdm_on_load=False,
            )
        except Exception as error:
            reason = " ".join(str(error).split()) or type(error).__name__
            need = (checkpoint.weight_bytes + checkpoint.cache_bytes) / 2**30
            raise EngineError(
                f"vLLM cannot load {checkpoint.path} ({reason}); it needs about {need:.1f} GiB of memory, see"
                " `lmsearcher-local doctor`"
            ) from error

    def log_probs(self, questions: Sequence[Question]) -> list[np.ndarray]:
        """Log-probabilities of each question's tokens, in one batch."""
        from vllm import SamplingParams

        params = [
            SamplingParams(max_tokens=1, temperature=0, logprob_token_ids=list(tokens), detokenize=False)
            for _, tokens in questions
        ]
        outputs = self.generate([prefix for prefix, _ in questions], params)
        answers = []
        for output, (_, tokens) in zip(outputs, questions, strict=True):
            named = output.outputs[0].logprobs[0]
            answers.append(np.array([named[token].logprob for token in tokens], dtype=np.float64))
        return answers

    def choose(self, prompts: Sequence[Sequence[int]], choices: Sequence[Sequence[str]]) -> list[tuple[str, list[int]]]:
        """The answer of vLLM's own grammar, greedy: the independent second way to a constrained answer.

        Returns the text and its tokens; needs a checkpoint with a tokenizer.

        Raises:
            EngineError: an answer is not one of its choices.
        """
        from vllm import SamplingParams
        from vllm.sampling_params import StructuredOutputsParams

        params = [
            SamplingParams(
                max_tokens=max(map(len, texts)) + 1,
                temperature=0,
                structured_outputs=StructuredOutputsParams(choice=list(texts)),
            )
            for texts in choices
        ]
        found = []
        for output, texts in zip(self.generate(prompts, params), choices, strict=True):
            answer = output.outputs[0]
            if answer.text not in texts:
                raise EngineError(f"vLLM's grammar answered {answer.text!r}, which is none of the {len(texts)} choices")
            found.append((answer.text, list(answer.token_ids)))
        return found

    def close(self) -> None:
        """Shut the engine down and free its memory."""
        self._llm.llm_engine.engine_core.shutdown()
        del self._llm
        gc.collect()

    def generate(self, prompts: Sequence[Sequence[int]], params: Sequence[Any]) -> list[Any]:
        """vLLM's own outputs for token prompts, each with its ``SamplingParams``."""
        from vllm import TokensPrompt

        inputs = [TokensPrompt(prompt_token_ids=list(prompt)) for prompt in prompts]
        outputs: list[Any] = self._llm.generate(inputs, list(params), use_tqdm=False)
        self.prompt_tokens += sum(map(len, prompts))
        self.computed_tokens += sum(len(output.prompt_token_ids) - output.num_cached_tokens for output in outputs)
        return outputs

    def forget(self) -> None:
        """Empty the prefix cache."""
        self._llm.reset_prefix_cache()
