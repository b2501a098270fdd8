"""The bundled checkpoint's codec: history and pool as token ids that know their place, no text at all.

A trial is ``[d1]…[dL][score]``, a candidate ``[d1]…[dL][mean][improvement][alias]``; the prompt is ``[bos]``, the
trials in order of evaluation, the candidates, ``[pick]``. The answer is one alias token, so a pool costs one question.
A digit's id says its digit and its slot, counted from the end of the code, so that codes of any length end in slot 1.

The two tokens before the alias are hints: how far the candidate is below the best of its pool in what a Gaussian
process expects of it, and in the logarithm of its expected improvement. The model learns what they are worth.
"""

from bisect import bisect_right
from collections.abc import Sequence
from functools import lru_cache

import numpy as np

from lmsearcher_local.errors import PromptError
from lmsearcher_local.history import HISTORY_CAP, History, normal_scores, shown
from lmsearcher_local.space import SearchSpace
from lmsearcher_local.surrogate import process

BINS, ALIASES, SLOTS, BASE = 64, 128, 64, 16
HINT_LIMITS = (6.0, 16.0)  # the largest gap that a hint shows: of means, in normal scores; of logarithms
BOS, PICK = 0, 1
FIRST_SCORE = 2
FIRST_ALIAS = FIRST_SCORE + BINS
FIRST_DIGIT = FIRST_ALIAS + ALIASES
FIRST_HINT = FIRST_DIGIT + SLOTS * BASE
VOCABULARY = FIRST_HINT + len(HINT_LIMITS) * BINS

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
        hints = FIRST_HINT + BINS * np.arange(len(HINT_LIMITS)) + hint_bins(space, history, pool)
        names = np.column_stack([hints, np.arange(FIRST_ALIAS, FIRST_ALIAS + len(pool))])
        return [BOS, *_history_ids(space, history), *_named_ids(space, pool, names), PICK]

    def prepare(self, space: SearchSpace, history: History, pool: Sequence[str]) -> None:
        """Let the surrogate appraise the candidates all at once, which is quicker than group by group."""
        if history.codes:
            process(space, history).appraise(pool)

    def answers(self, space: SearchSpace, pool: Sequence[str]) -> list[list[int]]:
        """The alias of each candidate."""
        return [[FIRST_ALIAS + k] for k in range(len(pool))]

    def longest_prompt(self, space: SearchSpace, pool_size: int) -> int:
        """Tokens of the longest question in a space, answer included."""
        digits = digit_ids(space.sizes, np.zeros((1, len(space.sizes)), dtype=np.int64)).size
        return 2 + HISTORY_CAP * (digits + 1) + min(pool_size, ALIASES) * (digits + 3) + 1


@lru_cache(maxsize=8)  # the groups of a tournament share their history
def _history_ids(space: SearchSpace, history: History) -> tuple[int, ...]:
    kept = shown(history.scores)
    scores = score_bins([history.scores[i] for i in kept], scale_length(len(kept)))
    return tuple(_named_ids(space, [history.codes[i] for i in kept], FIRST_SCORE + scores))


def _named_ids(space: SearchSpace, codes: Sequence[str], names: np.ndarray) -> list[int]:
    """The digits of each code, and behind them its score, or hints and alias."""
    ids: list[int] = np.column_stack([digit_ids(space.sizes, space.array(codes)), names]).ravel().tolist()
    return ids


def digit_ids(sizes: Sequence[int], rows: np.ndarray) -> np.ndarray:
    """Token ids of codes, int64 ``[codes, tokens]``, from option indices ``[codes, positions]``.

    A position takes one token, or where it has more than 16 options its base-16 digits.
    """
    powers = [(i, BASE**power) for i, size in enumerate(sizes) for power in reversed(range(_width(size)))]
    if len(powers) > SLOTS:
        raise PromptError(f"this space takes {len(powers)} code tokens; the bundled checkpoint reads at most {SLOTS}")
    positions, divisors = np.array(powers).T
    slots = np.arange(len(powers))[::-1]
    return FIRST_DIGIT + slots * BASE + rows[:, positions] // divisors % BASE


def scale_length(n: int) -> int:
    """How many of the first ``n`` scores make the scale; it stays between refits, which keeps prompt prefixes alike."""
    return n if n < REFITS[0] else REFITS[bisect_right(REFITS, n) - 1]


def score_bins(scores: Sequence[float] | np.ndarray, fitted: int) -> np.ndarray:
    """Scores as bin numbers, on a scale that turns the first ``fitted`` ones into normal scores of their ranks."""
    if fitted == 0:
        return np.full(len(scores), BINS // 2)
    z = normal_scores(np.asarray(scores, dtype=np.float64), fitted)
    return np.clip(np.rint((z + LIMIT) * (BINS - 1) / (2 * LIMIT)), 0, BINS - 1).astype(np.int64)


def hint_bins(space: SearchSpace, history: History, pool: Sequence[str]) -> np.ndarray:
    """What the surrogate says of each candidate, as bin numbers: int64 ``[len(pool), 2]``, 0 for the best of the pool.

    Bins grow like the square root of the gap: what is nearly as good as the best is told apart most finely.
    """
    if not history.codes or not pool:
        return np.zeros((len(pool), len(HINT_LIMITS)), dtype=np.int64)
    means, _, improvements = process(space, history).appraise(pool)
    values = np.column_stack([means, np.log(improvements + 1e-300)])
    gaps = np.minimum((values.max(0) - values) / HINT_LIMITS, 1.0)
    return np.rint((BINS - 1) * np.sqrt(gaps)).astype(np.int64)


def _width(size: int) -> int:
    width = 1
    while BASE**width < size:
        width += 1
    return width
