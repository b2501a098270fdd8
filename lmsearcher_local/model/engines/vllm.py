"""The primitive on vLLM's offline engine, inside this process."""

import gc
import logging
import os
import traceback
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np

from lmsearcher_local.errors import EngineError
from lmsearcher_local.model.adapter import RANKS
from lmsearcher_local.model.checkpoint import Checkpoint
from lmsearcher_local.model.engines import vllm_internals as internals
from lmsearcher_local.model.engines.base import Engine, Prefix, Question
from lmsearcher_local.model.engines.checks import check_prefixes, check_tokens
from lmsearcher_local.model.engines.host import preserved_host, without_warnings
from lmsearcher_local.model.memory import GB, MemoryPlan, plan_memory
from lmsearcher_local.model.quantization import AT_LOAD

LOGGING = ("VLLM_LOGGING_LEVEL", "VLLM_CONFIGURE_LOGGING", "VLLM_LOGGING_CONFIG_PATH")
NO_MEMORY = ("out of memory", "allocate memory", "available memory", "free memory")  # as torch and vLLM say it
NOISE, NOISE_FLOAT32 = 0.25, 1e-3  # nats: well above what batches and caches were seen to move; float32 on a processor
HEAD_COPY = 256 << 20  # bytes of a head in float32 that a processor copies for each step without harm

# Bytes of weights up to which a processor computes on one thread. A step of so small a model is over before a second
# thread would be a gain, and beside other work each of its hundred parallel parts waits for that thread's turn.
SMALL = 32 << 20


class VLLMEngine(Engine):
    """A checkpoint loaded in vLLM. A process holds one at a time.

    Args:
        longest: tokens of the longest question, answer included; ``None`` is all that the checkpoint reads.
        cache_bytes: of keys and values, in place of the plan's own.

    ``plan`` is the memory it is loaded with. ``prompt_tokens`` counts the tokens or rows of all prompts so far,
    ``computed_tokens`` those of them that were not in the prefix cache.

    Raises:
        EngineError: vLLM is missing, does not match this machine, another one is open, or the memory does not suffice.
    """

    plan: MemoryPlan
    _open: "VLLMEngine | None" = None  # vLLM's groups of processes are global: closing one engine breaks any other

    def __init__(self, checkpoint: Checkpoint, longest: int | None = None, cache_bytes: int | None = None) -> None:
        self._checkpoint: Checkpoint = checkpoint
        if VLLMEngine._open:
            loaded = VLLMEngine._open._checkpoint.path
            raise EngineError(f"vLLM holds one checkpoint at a time in a process, now {loaded}; close it first")
        self._longest = longest
        self._cache_bytes = cache_bytes
        self._llm: Any = None
        self._lora: Any = None  # of every question: base and adapter never share a batch, which vLLM mixes up on CPUs
        self._failed = False  # inside a step: vLLM may hold requests that nobody waits for
        self._slept = False
        self.prompt_tokens = self.computed_tokens = 0
        self._start()

    def log_probs(self, questions: Sequence[Question], cold: bool = False) -> list[np.ndarray]:
        """Log-probabilities of each question's tokens, in one batch; ``cold``: without the prefix cache."""
        check_tokens([tokens for _, tokens in questions], self._checkpoint)
        params = [internals.question(tokens, cold) for _, tokens in questions]
        outputs = self.generate([prefix for prefix, _ in questions], params)
        answers = []
        for output, (_, tokens) in zip(outputs, questions, strict=True):
            named = output.outputs[0].logprobs[0]
            answers.append(np.array([named[token].logprob for token in tokens], dtype=np.float64))
        return answers

    def log_probs_cold(self, questions: Sequence[Question]) -> list[np.ndarray]:
        """The same for each question alone, without a look into the prefix cache."""
        return [answer for question in questions for answer in self.log_probs([question], cold=True)]

    def sleep(self) -> None:
        """Move the weights to host memory and give up the cache. An ``EngineError`` where this platform cannot, or the
        host's memory does not suffice."""
        import psutil  # comes with vLLM

        if not self.can_sleep:
            super().sleep()
        if self.is_asleep:
            return
        need, free = self.plan.host, psutil.virtual_memory().available
        if not self._slept and free < need:  # torch keeps the pinned memory of the first time for the next
            raise EngineError(
                f"to leave the card the model needs {need / GB:.1f} GB of memory, and {free / GB:.1f} GB are free"
            )
        self._recover()
        self.is_asleep = True
        try:
            self._llm.sleep(1)
        except BaseException as error:  # a part of the weights may have left the card: only a new engine is whole
            self._stop()
            if not isinstance(error, Exception):
                raise
        self._slept = True

    def wake_up(self) -> None:
        """Bring the model back onto the card. An ``EngineError`` without the memory for it; it may be called again."""
        if not self.is_asleep:
            return
        if self._llm is None:
            self._start()
        else:
            try:
                awake = self._llm.wake_up()
            except Exception as error:
                raise EngineError(f"the model does not get back onto the card ({_reason(error)})") from error
            if not awake:
                raise EngineError("the model does not get back onto the card whole; free memory there and ask again")
        self.is_asleep = False

    def close(self) -> None:
        """Shut the engine down and free its memory."""
        try:
            self._stop()
        finally:
            VLLMEngine._open = None

    def generate(self, prompts: Sequence[Prefix], params: Sequence[Any]) -> list[Any]:
        """vLLM's own outputs for prompts of tokens or of rows, each with its ``SamplingParams``.

        An ``EngineError`` where the engine is asleep, a prompt does not fit the model, or vLLM fails.
        """
        if VLLMEngine._open is not self:
            raise EngineError("the engine is closed")
        if self.is_asleep:
            raise EngineError("the model is asleep; wake it up first")
        check_prefixes(prompts, self._checkpoint, self.max_length)
        self._recover()
        inputs = [_prompt(prompt) for prompt in prompts]
        self._failed = True
        try:
            with _one_thread(self._small):
                outputs: list[Any] = self._llm.generate(inputs, list(params), use_tqdm=False, lora_request=self._lora)
        except Exception as error:
            raise EngineError(f"vLLM failed at a question ({_reason(error)})") from error
        self._failed = False
        self.prompt_tokens += sum(map(len, prompts))
        self.computed_tokens += sum(map(len, prompts)) - sum(map(internals.cached_tokens, outputs))
        return outputs

    def forget(self) -> None:
        """Empty the prefix cache."""
        self._recover()
        self._llm.reset_prefix_cache()

    def _recover(self) -> None:
        """After a failure inside a step: drop what is left of its questions, or start anew.

        Blocks of the prefix cache are known by their content before they are computed, so all of them are forgotten.
        """
        if not self._failed:
            return
        try:
            whole = internals.drop_requests(self._llm)
            if whole:  # a question of one token, whose own block is never full
                from vllm import SamplingParams

                params = SamplingParams(max_tokens=1, detokenize=False)
                self._llm.generate([_prompt([0])], params, use_tqdm=False, lora_request=self._lora)
        except Exception:
            whole = False
        if not whole:
            self._stop()
            self._start()
        self._failed = False

    def _start(self) -> None:
        asked = any(name in os.environ for name in LOGGING)  # then as the user wants it
        quiet = {"VLLM_LOGGING_LEVEL": "ERROR", "VLLM_CONFIGURE_LOGGING": "0"} if not asked else {}
        quiet |= {"TORCH_CPP_LOG_LEVEL": os.environ.get("TORCH_CPP_LOG_LEVEL", "ERROR")}
        with preserved_host(internals.VARIABLES | quiet):
            warnings.simplefilter("ignore", FutureWarning)  # vLLM's own use of torch, nothing a user can mend
            level = os.environ.get("VLLM_LOGGING_LEVEL", "INFO").upper()
            try:
                logging.getLogger("vllm").setLevel(level)  # it warns before it reads its variable
            except ValueError as error:
                raise EngineError(f"VLLM_LOGGING_LEVEL is a level such as INFO or ERROR, not {level!r}") from error
            self._load()
        VLLMEngine._open = self

    def _load(self) -> None:
        checkpoint, adapter = self._checkpoint, self._checkpoint.adapter
        try:
            import vllm
        except ImportError as error:
            raise EngineError(
                f"vLLM cannot be imported ({error}); install the extra that fits this machine:"
                " lmsearcher-local[cuda] with an NVIDIA GPU, lmsearcher-local[cpu] without"
            ) from error
        card = not internals.on_processor()
        if not card:
            internals.compile_nothing()
        self.plan = plan_memory(checkpoint, self._longest, card=card, cache_bytes=self._cache_bytes)
        self._small = not card and self.plan.weights <= SMALL
        self.max_length = self.plan.context - 1  # the engine adds the token that it samples
        self.can_sleep = internals.can_sleep()
        # A head in bfloat16 answers in steps of 1/16 and more. On a processor another type costs a copy of it a step.
        small = 4 * checkpoint.vocabulary * checkpoint.hidden <= HEAD_COPY
        finer = (card or small) and checkpoint.dtype != "float32" and checkpoint.quantization is None
        gc.freeze()  # vLLM collects garbage at several steps: only what it makes itself is looked at
        try:
            llm: Any = vllm.LLM  # its options are literal types that a checkpoint's strings are not
            with without_warnings():
                self._llm = llm(
                    model=str(checkpoint.path),
                    skip_tokenizer_init=not (checkpoint.path / "tokenizer.json").exists(),
                    load_format="safetensors",
                    trust_remote_code=False,
                    dtype=checkpoint.dtype,
                    quantization=AT_LOAD[checkpoint.at_load] if checkpoint.at_load else None,
                    enable_lora=adapter is not None,
                    max_lora_rank=adapter.rank if adapter else RANKS[0],
                    hf_overrides={"head_dtype": "float32"} if finer else None,
                    max_model_len=self.plan.context,
                    max_num_batched_tokens=self.plan.batch_tokens,
                    max_num_seqs=self.plan.sequences,
                    block_size=self.plan.block,
                    kv_cache_memory_bytes=self.plan.cache,
                    gpu_memory_utilization=0.01,  # of a card; so much must be free at the start whatever the bytes
                    enable_prefix_caching=True,
                    enable_prompt_embeds=checkpoint.reads_rows,
                    enforce_eager=True,  # prompts are prefilled, never decoded: graphs would only delay the start
                    enable_sleep_mode=self.can_sleep,
                    disable_log_stats=True,
                    use_tqdm_on_load=False,
                )
            if adapter:  # read and checked now: an error inside a question would leave the question behind
                self._lora = internals.add_adapter(self._llm, adapter.path)
        except BaseException as error:
            traceback.clear_frames(error.__traceback__)  # they hold what was loaded
            internals.clean_up()
            if not isinstance(error, Exception):
                raise
            raise EngineError(f"vLLM cannot load {checkpoint.path}: {self._why(error)}") from error
        exact = not card and "float32" in internals.data_type(self._llm)
        self.noise = NOISE_FLOAT32 if exact else NOISE

    def _why(self, error: Exception) -> str:
        """Why a checkpoint does not load; of too little memory, which number to lower."""
        reason, plan = _reason(error), self.plan
        if not any(words in reason.lower() for words in NO_MEMORY):
            return reason
        cache = f"{plan.cache / GB:.2f} GB of cache"
        if plan.cache > plan.least_cache:
            cache += f" (cache_bytes, at least {plan.least_cache / GB:.2f} GB)"
        return (
            f"out of memory; {plan.weights / GB:.2f} GB of weights and {cache} take"
            f" {plan.total / GB:.1f} GB with what they need to work; `lmsearcher-local doctor` names smaller forms"
        )

    def _stop(self) -> None:
        if self._llm is not None:
            internals.shut_down(self._llm)
            self._llm = None
            gc.collect()


@contextmanager
def _one_thread(small: bool) -> Iterator[None]:
    """A block in which torch computes on one thread, where the model is small."""
    import torch

    before = torch.get_num_threads()
    if not small or before == 1:
        yield
        return
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _prompt(prefix: Prefix) -> Any:
    """As vLLM takes it. Its prefix cache knows rows by their bytes, a hash of those of each block."""
    from torch import from_numpy
    from vllm import TokensPrompt

    if isinstance(prefix, np.ndarray):
        return {"prompt_embeds": from_numpy(np.array(prefix))}  # a copy: torch warns of what cannot be written
    return TokensPrompt(prompt_token_ids=list(prefix))


def _reason(error: Exception) -> str:
    """An error's text on one line."""
    return " ".join(str(error).split()) or type(error).__name__
