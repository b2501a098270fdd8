"""What a checkpoint takes of memory: the one plan that `doctor` shows and that the engine loads by.

Sizes are in bytes, GB are 10^9 of them. Figures of vLLM are those of its 0.32; it never measures for itself here.
"""

from dataclasses import dataclass

from lmsearcher_local.model.checkpoint import DTYPE_BYTES, Checkpoint

GB = 10**9
BLOCK, BLOCK_CARD = 32, 16  # tokens of a block of keys and values; vLLM's 128 on a processor would cache too little
SLACK = 32  # one part in so many: where a tokenizer splits codes of one length into more or fewer tokens
STEP = 128  # tokens to which a context is rounded up
PROMPTS_CACHED = 8  # prompts of full length that the cache holds at once, so that many searches find their histories,
CACHE_ROOM = 4 << 30  # as far as weights and cache together stay below this many bytes
CACHE_BUDGET = (512 << 20, 2 << 30)  # and the cache between these; one prompt must fit: a large model leaves room
CACHE_FLOOR = 256 << 20
BATCH_BUDGET, BATCH_TOKENS = 256 << 20, (1024, 4096)  # activations of a step; tokens computed in it, least and most
LOGITS_BUDGET, SEQUENCES = 64 << 20, (32, 256)  # logits of a step; questions answered in it, least and most
RUNTIME = 950_000_000  # Python, torch and vLLM themselves, on the host,
TOKEN = 3500  # and two tokenizers there, for each of their tokens
RUNTIME_CARD = 1_200_000_000  # what is on a card beside the model: context, kernels, workspaces; it stays in sleep
PINNED = 1.15  # host memory of a byte that left the card: each segment is rounded up to a power of two


@dataclass(frozen=True, slots=True)
class MemoryPlan:
    """How an engine is loaded, and the memory it then takes.

    ``context`` is the longest prompt with its answer token, in tokens; a ``block`` of the cache holds so many. A step
    computes at most ``batch_tokens`` tokens of at most ``sequences`` questions. In bytes: ``weights``, ``cache`` (of
    which ``least_cache`` holds the longest prompt), ``working`` (activations and logits of a step; on a processor
    also copies of embedding and head), ``runtime``.
    """

    context: int
    block: int
    batch_tokens: int
    sequences: int
    weights: int
    cache: int
    least_cache: int
    working: int
    runtime: int

    @property
    def total(self) -> int:
        """Bytes on the card, or of this process where the model runs on the processor."""
        return self.weights + self.cache + self.working + self.runtime

    @property
    def asleep(self) -> int:
        """Bytes that stay on the card while the model sleeps."""
        return self.runtime

    @property
    def host(self) -> int:
        """Bytes of host memory that the weights take while the model sleeps."""
        return int(PINNED * self.weights)


def plan_memory(
    checkpoint: Checkpoint,
    prompt: int | None = None,
    *,
    card: bool,
    cache_bytes: int | None = None,
    weights: int | None = None,
    token_bytes: int | None = None,
) -> MemoryPlan:
    """The plan for a checkpoint on a card, or on the processor.

    Args:
        prompt: tokens of the longest question, answer included; ``None`` is all that the checkpoint reads.
        cache_bytes: of the cache in place of the plan's own, rounded to blocks; the longest prompt fits in any case.
        weights: bytes of the weights in another form than the folder's,
        token_bytes: and of keys and values for a token.
    """
    weights = weights or checkpoint.weight_bytes
    token_bytes = token_bytes or checkpoint.token_bytes
    block = BLOCK_CARD if card else BLOCK
    context = checkpoint.context
    if prompt is not None:
        longest = prompt + prompt // SLACK + 1
        context = min(context, longest + -longest % STEP)
    least_cache = blocks(context, block) * block * token_bytes
    if cache_bytes is None:
        several = PROMPTS_CACHED * checkpoint.context * token_bytes
        cache_bytes = max(CACHE_FLOOR, min(several, _within(CACHE_ROOM - weights, *CACHE_BUDGET)))
    cache = max(least_cache, cache_bytes - cache_bytes % (block * token_bytes))
    width = DTYPE_BYTES.get(checkpoint.dtype, 2)
    token = (2 * checkpoint.hidden + 3 * checkpoint.intermediate) * width  # residual, norm, gate and up, their product
    logits = 4 * checkpoint.vocabulary  # of one question
    copied = 0  # bytes a token: on a processor vLLM copies an adapter's factors for each, once more in float32
    if checkpoint.adapter and not card:
        copied = checkpoint.adapter.rank * max(checkpoint.hidden, checkpoint.intermediate) * (width + 4)
    batch_tokens = 1 << _within(BATCH_BUDGET // (token + copied), *BATCH_TOKENS).bit_length() - 1  # a power of two
    sequences = _within(LOGITS_BUDGET // logits, *SEQUENCES)
    working = batch_tokens * (token + copied) + 2 * sequences * logits  # logits, and their logarithms
    if checkpoint.reads_rows:
        working += batch_tokens * checkpoint.hidden * width  # the rows of a step, in a buffer of vLLM's own
    if not card:  # where vLLM keeps embedding and head a second time, as its kernels read them, even where they are one
        working += 2 * checkpoint.vocabulary * checkpoint.hidden * width
    runtime = RUNTIME_CARD if card else RUNTIME + TOKEN * checkpoint.vocabulary
    return MemoryPlan(context, block, batch_tokens, sequences, weights, cache, least_cache, working, runtime)


def blocks(tokens: int, block: int) -> int:
    """Blocks of ``block`` tokens that vLLM asks for before it takes prompts of ``tokens``: it keeps one for itself."""
    return -(-tokens // block) + 1


def _within(value: int, least: int, most: int) -> int:
    return max(least, min(value, most))
