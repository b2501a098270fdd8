"""Which codecs there are. A new one is a line here; a checkpoint names it in its ``lmsearcher.json``."""

from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

from lmsearcher_local.errors import CheckpointError, LMSearcherError
from lmsearcher_local.model.codecs.base import Codec

if TYPE_CHECKING:
    from lmsearcher_local.model.checkpoint import Checkpoint

TABLE = "codec/rows.safetensors"  # of a compact checkpoint; not beside the weights, because vLLM loads all that are


class CodecKind(NamedTuple):
    """How a checkpoint's codec is made, and whether its prompts are rows of numbers instead of token ids."""

    load: Callable[["Checkpoint"], Codec]
    rows: bool = False


def _text(checkpoint: "Checkpoint") -> Codec:
    from lmsearcher_local.model.codecs.text import TextCodec

    tokenizer, frame = checkpoint.tokenizer(), checkpoint.frame()
    try:
        return TextCodec(tokenizer, frame, checkpoint.profile.score_digits)
    except Exception as error:
        # The library raises bare Exception where a file contradicts itself; other kinds are a fault of ours.
        if type(error) is not Exception and not isinstance(error, LMSearcherError):
            raise
        raise CheckpointError(f"{checkpoint.path / 'tokenizer.json'}: {error}") from error


def _compact(checkpoint: "Checkpoint") -> Codec:
    from lmsearcher_local.model.codecs.compact import ALIASES, SCORES, load_codec

    codec, tokens = load_codec(checkpoint.path / TABLE, checkpoint.hidden), ALIASES + SCORES
    if (known := checkpoint.vocabulary) < tokens:
        raise CheckpointError(f"{checkpoint.path} has {known:,} token ids where its codec, compact, has {tokens}")
    return codec


CODECS: dict[str, CodecKind] = {"text": CodecKind(_text), "compact": CodecKind(_compact, rows=True)}
