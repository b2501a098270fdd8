"""A scripted engine for tests of the logic above engines: its answers are a hash of the question."""

from collections.abc import Sequence
from zlib import crc32

import numpy as np

from lmsearcher_local.engine.base import Engine, Question
from lmsearcher_local.prompt.compact import CompactCodec
from lmsearcher_local.ranking import Ranker


class ScriptedEngine(Engine):
    """Deterministic in its input, different for every input."""

    max_length = 4096

    def __init__(self) -> None:
        self.asked: list[Question] = []

    def log_probs(self, questions: Sequence[Question]) -> list[np.ndarray]:
        self.asked += questions
        return [np.log(self._weights(question) / self._weights(question).sum()) for question in questions]

    def close(self) -> None:
        pass

    @staticmethod
    def _weights(question: Question) -> np.ndarray:
        state = crc32(np.asarray(question.prefix, dtype=np.int64).tobytes())
        return np.array([1.0 + crc32(str(token).encode(), state) % 1000 for token in question.tokens])


def scripted_ranker() -> Ranker:
    """A ranker without a model."""
    return Ranker(ScriptedEngine(), CompactCodec())
