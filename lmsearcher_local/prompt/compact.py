"""The bundled checkpoint's codec: history and pool as token ids that know their place, no text at all.

A trial is ``[d1]…[dL][score]``, a candidate ``[d1]…[dL][alias]``; the prompt is ``[bos]``, the trials in order of
evaluation, the candidates, ``[pick]``. The answer is one alias token, so a pool costs one question. A digit's id says
its digit and its slot, counted from the end of the code, so that codes of any length end in slot 1.
"""

from bisect import bisect_right
from collections.abc import Sequence

import numpy as np

from lmsearcher_local.errors import PromptError
from lmsearcher_local.history import History, normal_scores, shown
from lmsearcher_local.space import SearchSpace

BINS, ALIASES, SLOTS, BASE = 64, 128, 64, 16
BOS, PICK = 0, 1
FIRST_SCORE = 2
FIRST_ALIAS = FIRST_SCORE + BINS
FIRST_DIGIT = FIRST_ALIAS + ALIASES
VOCABULARY = FIRST_DIGIT + SLOTS * BASE

LIMIT = 3.5  # scores are shown in [-LIMIT, LIMIT]
REFITS = (8, 12, 16, 24, 32, 48, 64, 96, 128, 192)  # history lengths at which the scale is made anew


class CompactCodec:
    """Codec of the bundled checkpoint; stateless, so equal questions give equal prompts."""

    max_pool = ALIASES
    group = 16

    def prompt(self, space: SearchSpace, history: History, pool: Sequence[str]) -> list[int]:
        """Token ids of the prompt, in order of evaluation: a longer history mostly extends the prompt of a shorter."""
        if len(pool) > ALIASES:
            raise PromptError(f"a pool of {len(pool)} candidates is too large for one prompt; at most {ALIASES} fit")
        kept = shown(history.scores)
        scores = score_bins([history.scores[i] for i in kept], scale_length(len(kept)))
        ids = [BOS]
        for i, score in zip(kept, scores, strict=True):
            ids += digit_ids(space.sizes, space.indices(history.codes[i]))
            ids.append(FIRST_SCORE + int(score))
        for k, code in enumerate(pool):
            ids += digit_ids(space.sizes, space.indices(code))
            ids.append(FIRST_ALIAS + k)
        return [*ids, PICK]

    def answers(self, space: SearchSpace, pool: Sequence[str]) -> list[list[int]]:
        """The alias of each candidate."""
        return [[FIRST_ALIAS + k] for k in range(len(pool))]


def digit_ids(sizes: Sequence[int], indices: Sequence[int]) -> list[int]:
    """Token ids of a code: one per position, or the base-16 digits of a position with more than 16 options."""
    digits: list[int] = []
    for size, index in zip(sizes, indices, strict=True):
        width = _width(size)
        digits += [index // BASE**power % BASE for power in reversed(range(width))]
    if len(digits) > SLOTS:
        raise PromptError(f"this space takes {len(digits)} code tokens; the bundled checkpoint reads at most {SLOTS}")
    return [FIRST_DIGIT + (len(digits) - 1 - i) * BASE + digit for i, digit in enumerate(digits)]


def scale_length(n: int) -> int:
    """How many of the first ``n`` scores make the scale; it stays between refits, which keeps prompt prefixes alike."""
    return n if n < REFITS[0] else REFITS[bisect_right(REFITS, n) - 1]


def score_bins(scores: Sequence[float] | np.ndarray, fitted: int) -> np.ndarray:
    """Scores as bin numbers, on a scale that turns the first ``fitted`` ones into normal scores of their ranks."""
    if fitted == 0:
        return np.full(len(scores), BINS // 2)
    z = normal_scores(np.asarray(scores, dtype=np.float64), fitted)
    return np.clip(np.rint((z + LIMIT) * (BINS - 1) / (2 * LIMIT)), 0, BINS - 1).astype(np.int64)


def _width(size: int) -> int:
    width = 1
    while BASE**width < size:
        width += 1
    return width
