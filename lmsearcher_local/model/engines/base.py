"""The one engine primitive: log-probabilities of named tokens at the next position after a prefix."""

from abc import ABC, abstractmethod
from collections.abc import Hashable, Sequence
from itertools import groupby
from typing import NamedTuple

import numpy as np

from lmsearcher_local.errors import EngineError

MAX_TOKENS = 128  # vLLM returns at most this many named log-probabilities a request


Prefix = Sequence[int] | np.ndarray
"""Token ids, or rows: float32 ``[positions, width]``, which stand where embeddings of tokens would."""


class Question(NamedTuple):
    """Ask for the log-probabilities of ``tokens`` (at most 128 ids) at the position after ``prefix``.

    The prefixes of one call are of one kind: all of token ids, or all of rows.
    """

    prefix: Prefix
    tokens: Sequence[int]


def prefix_key(prefix: Prefix) -> Hashable:
    """Equal for prefixes of equal content, and for no others."""
    return (prefix.shape, prefix.tobytes()) if isinstance(prefix, np.ndarray) else tuple(prefix)


def with_path(prefix: Prefix, path: Sequence[int]) -> Prefix:
    """The prefix, and the tokens ``path`` behind it; an ``EngineError`` behind rows."""
    if not isinstance(prefix, np.ndarray):
        return [*prefix, *path]
    if path:
        raise EngineError(f"behind rows an answer is one token; {len(path)} stand before the one asked about")
    return prefix


class Engine(ABC):
    """A loaded model.

    ``max_length`` is the longest prefix, in tokens or rows, that a question may have. ``noise`` bounds, in nats, how
    much the gap between two tokens of one question may differ from that of :meth:`log_probs_cold`. ``can_sleep`` says
    whether the model's memory can leave the card for a while, ``is_asleep`` whether it has.
    """

    max_length: int
    noise: float = 0.0
    can_sleep: bool = False
    is_asleep: bool = False

    @abstractmethod
    def log_probs(self, questions: Sequence[Question]) -> list[np.ndarray]:
        """One float64 array per question: log-probabilities of its tokens.

        They are right up to a constant that questions of equal prefix in one call share.
        """

    def log_probs_cold(self, questions: Sequence[Question]) -> list[np.ndarray]:
        """The same, but each answer depends on its question alone: no batch, no cache acts on it.

        Questions of equal prefix that follow each other share their constant, as one question of many tokens.
        """
        groups = groupby(questions, key=lambda question: prefix_key(question.prefix))
        return [answer for _, group in groups for answer in self.log_probs(list(group))]

    def sleep(self) -> None:
        """Let the model's memory leave the card; answers are not to be had until :meth:`wake_up`. Twice is once."""
        raise EngineError(f"{type(self).__name__} cannot sleep on this device")

    def wake_up(self) -> None:
        """Bring the model back; twice is once."""
        raise EngineError(f"{type(self).__name__} cannot sleep on this device")

    @abstractmethod
    def close(self) -> None:
        """Free the model's memory; the engine cannot be used afterwards."""
