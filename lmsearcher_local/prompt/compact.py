"""The bundled checkpoint's codec: history and pool as token ids that know their place, no text at all.

A trial is ``[d1]…[dL][score]``, a candidate ``[d1]…[dL][alias]``; the prompt is ``[bos]``, the trials in order of
evaluation, the candidates, ``[pick]``. The answer is one alias token, so a pool costs one question. A digit's id says
its digit and its slot, counted from the end of the code, so that codes of any length end in slot 1.
"""

from bisect import bisect_right
from collections.abc import Sequence
from functools import lru_cache
from statistics import NormalDist

import numpy as np

from lmsearcher_local.errors import PromptError
from lmsearcher_local.history import History
from lmsearcher_local.prompt.base import HISTORY_CAP
from lmsearcher_local.space import SearchSpace

BINS, ALIASES, SLOTS, BASE = 64, 128, 64, 16
BOS, PICK = 0, 1
FIRST_SCORE = 2
FIRST_ALIAS = FIRST_SCORE + BINS
FIRST_DIGIT = FIRST_ALIAS + ALIASES
VOCABULARY = FIRST_DIGIT + SLOTS * BASE

LIMIT = 3.5  # scores are shown in [-LIMIT, LIMIT]
BEYOND = 1.2  # how far past the scores that made the scale a new extreme may reach
REFITS = (8, 12, 16, 24, 32, 48, 64, 96, 128, 192)  # history lengths at which the scale is made anew


class CompactCodec:
    """Codec of the bundled checkpoint; stateless, so equal questions give equal prompts."""

    max_pool = ALIASES

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


def shown(scores: Sequence[float]) -> list[int]:
    """Which trials are shown: all, or over the cap the best half and the most recent ones, in order of evaluation."""
    n = len(scores)
    if n <= HISTORY_CAP:
        return list(range(n))
    kept = set(sorted(range(n), key=lambda i: -scores[i])[: HISTORY_CAP // 2])
    for i in reversed(range(n)):
        if len(kept) == HISTORY_CAP:
            break
        kept.add(i)
    return sorted(kept)


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


def normal_scores(scores: np.ndarray, fitted: int) -> np.ndarray:
    """Normal scores of ranks among the first ``fitted``; others are interpolated, or follow the tail's slope."""
    values, counts = np.unique(scores[:fitted], return_counts=True)
    ends = np.cumsum(counts)
    knots = _quantiles(fitted)[2 * ends - counts - 1]  # ties share the middle of their ranks
    z = np.interp(scores, values, knots)
    if len(values) == 1:
        return z + np.sign(scores - values[0]) * BEYOND / 2
    middle = int(np.searchsorted(values, np.median(scores[:fitted])).clip(1, len(values) - 2)) if len(values) > 2 else 1
    for end, other in ((-1, min(middle, len(values) - 2)), (0, max(middle, 1))):
        past = scores > values[end] if end else scores < values[end]
        with np.errstate(over="ignore"):
            slope = (knots[end] - knots[other]) / (values[end] - values[other])
            reach = np.abs((scores[past] - values[end]) * slope)
        z[past] = knots[end] + np.sign(end + 0.5) * -BEYOND * (1 - np.exp(-reach / BEYOND))
    return z


def _width(size: int) -> int:
    width = 1
    while BASE**width < size:
        width += 1
    return width


@lru_cache(maxsize=512)
def _quantiles(n: int) -> np.ndarray:
    """Normal scores of the ranks 1, 1.5, 2, … n among ``n``."""
    normal = NormalDist()
    return np.array([normal.inv_cdf((1 + i / 2 - 0.375) / (n + 0.25)) for i in range(2 * n - 1)])
