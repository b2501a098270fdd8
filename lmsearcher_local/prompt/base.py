"""What a codec is: the way a checkpoint is shown a history and a pool, and names its answer."""

from collections.abc import Sequence
from typing import Protocol

from lmsearcher_local.history import History
from lmsearcher_local.space import SearchSpace


class Codec(Protocol):
    """Turns a question about a pool into tokens.

    ``max_pool`` is the largest pool that one prompt holds; larger ones are ranked in groups of ``group`` candidates,
    about as many as the checkpoint saw at a time in training.
    """

    max_pool: int
    group: int

    def prompt(self, space: SearchSpace, history: History, pool: Sequence[str]) -> list[int]:
        """Token ids of the prompt that shows ``history`` and ``pool``; the answer follows it."""
        ...

    def prepare(self, space: SearchSpace, history: History, pool: Sequence[str]) -> None:
        """Get ready to show a large pool in many prompts, a group of its candidates in each."""
        ...

    def answers(self, space: SearchSpace, pool: Sequence[str]) -> list[list[int]]:
        """For each candidate the token ids that name it as the answer."""
        ...

    def longest_prompt(self, space: SearchSpace, pool_size: int) -> int:
        """Length of the longest question that a search in a space asks, answer included.

        Raises:
            PromptError: the codec cannot show this space.
        """
        ...
