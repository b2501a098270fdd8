"""What a codec is: the way a checkpoint is shown a history and a pool, and names its answer."""

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import numpy as np

from lmsearcher_local.candidates.history import History
from lmsearcher_local.candidates.pools import Pool
from lmsearcher_local.spaces.space import SearchSpace


class Codec(Protocol):
    """Turns a question about a pool into tokens.

    ``max_pool`` is the largest pool that one prompt holds. Larger ones are ranked in groups of ``group`` candidates,
    about as many as the checkpoint saw at a time in training.
    """

    max_pool: int
    group: int

    def prompt(self, space: SearchSpace, history: History, pool: Pool) -> list[int] | np.ndarray:
        """Token ids, or rows, of the prompt that shows ``history`` and ``pool``; the answer follows it."""

    def answers(self, space: SearchSpace, codes: Sequence[str]) -> list[list[int]]:
        """For each candidate the token ids that name it as the answer."""

    def longest_prompt(self, space: SearchSpace, pool_size: int) -> int:
        """Length of the longest question that a search in a space asks, answer included.

        A ``PromptError`` where the codec cannot show this space.
        """


@runtime_checkable
class ScoreCodec(Codec, Protocol):
    """A codec whose model also predicts scores: ``score_tokens`` stand for ``score_centres``, in normal scores."""

    score_tokens: Sequence[int]
    score_centres: np.ndarray

    def score_prompts(self, pool: Pool) -> list[np.ndarray]:
        """For each candidate the prompt behind which the score tokens are as likely as its scores."""
