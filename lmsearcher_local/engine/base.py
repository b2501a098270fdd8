"""The one engine primitive: log-probabilities of named tokens at the next position after a token prefix."""

from collections.abc import Sequence
from typing import NamedTuple, Protocol

import numpy as np

MAX_TOKENS = 128  # vLLM returns at most this many named log-probabilities a request


class Question(NamedTuple):
    """Ask for the log-probabilities of ``tokens`` (at most 128 ids) at the position after ``prefix``."""

    prefix: Sequence[int]
    tokens: Sequence[int]


class Engine(Protocol):
    """A loaded model. ``max_length`` is the longest prefix in tokens that a question may have."""

    max_length: int

    def log_probs(self, questions: Sequence[Question]) -> list[np.ndarray]:
        """One float64 array per question: log-probabilities of its tokens.

        They are right up to a constant that questions of equal prefix in one call share.
        """
        ...

    def close(self) -> None:
        """Free the model's memory; the engine cannot be used afterwards."""
        ...
