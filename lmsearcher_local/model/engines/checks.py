"""What a model cannot read is refused before it is asked: inside an engine it could end the process, or more."""

from collections.abc import Sequence

import numpy as np

from lmsearcher_local.errors import EngineError
from lmsearcher_local.model.checkpoint import Checkpoint
from lmsearcher_local.model.engines.base import MAX_TOKENS, Prefix


def check_tokens(named: Sequence[Sequence[int]], checkpoint: Checkpoint) -> None:
    """Refuse, with an ``EngineError``, questions that name no token, too many, or one that is not in the vocabulary."""
    for tokens in named:
        if not 0 < len(tokens) <= MAX_TOKENS or min(tokens) < 0 or max(tokens) >= checkpoint.vocabulary:
            raise EngineError(f"a question names 1 to {MAX_TOKENS} of {checkpoint.vocabulary:,} token ids")


def check_prefixes(prefixes: Sequence[Prefix], checkpoint: Checkpoint, longest: int) -> None:
    """Refuse, with an ``EngineError``, what the model does not read.

    That is a prefix that is empty, longer than ``longest`` or holds what it does not have, or two kinds in one call.
    """
    rows = [prefix for prefix in prefixes if isinstance(prefix, np.ndarray)]
    if rows and len(rows) < len(prefixes):
        raise EngineError("the questions of one call stand behind token ids or behind rows, not both")
    if rows and not checkpoint.reads_rows:
        raise EngineError(f"{checkpoint.path} reads token ids; rows are for checkpoints of the codec compact")
    for prefix in prefixes:
        if not 0 < len(prefix) <= longest:
            kind = "rows" if rows else "tokens"
            raise EngineError(f"a prompt has {len(prefix):,} {kind}; this engine reads 1 to {longest:,}")
        if not isinstance(prefix, np.ndarray):
            if min(prefix) < 0 or max(prefix) >= checkpoint.vocabulary:
                raise EngineError(f"a prompt holds a token id that is none of the model's {checkpoint.vocabulary:,}")
        elif prefix.dtype != np.float32 or prefix.ndim != 2 or prefix.shape[1] != checkpoint.hidden:
            got = f"{prefix.dtype} of shape {' x '.join(map(str, prefix.shape))}"
            raise EngineError(f"a prompt's rows are float32 of {checkpoint.hidden} columns, not {got}")
        elif not np.isfinite(prefix).all():
            place = int(np.isfinite(prefix).all(1).argmin())
            raise EngineError(f"row {place} of a prompt holds a value that is no finite number")
