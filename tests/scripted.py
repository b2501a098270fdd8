"""A scripted engine for tests of the logic above engines: its answers are a hash of the question.

And an objective in the searching process, for tests of what is not about processes: starting one takes seconds.
"""

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING
from zlib import crc32

import numpy as np

from lmsearcher_local.candidates.history import History
from lmsearcher_local.candidates.pools import Pool
from lmsearcher_local.model.engines.base import Engine, Question
from lmsearcher_local.model.ranker import Ranker
from lmsearcher_local.spaces.space import Configuration, SearchSpace

if TYPE_CHECKING:
    import pytest


class AliasCodec:
    """Names a candidate by one token, as the bundled checkpoint's codec does, but shows digits and ranks as tokens."""

    max_pool = 128
    group = 16
    SCORE, ALIAS, PICK, VOCABULARY = 10, 210, 338, 339  # digits come first

    def prompt(self, space: SearchSpace, history: History, pool: Pool) -> list[int]:
        ids: list[int] = []
        best = sorted(history.scores)
        for code, score in zip(history.codes, history.scores, strict=True):
            ids += [*map(int, code), self.SCORE + best.index(score)]
        for k, code in enumerate(pool.codes):
            ids += [*map(int, code), self.ALIAS + k]
        return [*ids, self.PICK]

    def answers(self, space: SearchSpace, codes: Sequence[str]) -> list[list[int]]:
        return [[self.ALIAS + k] for k in range(len(codes))]

    def longest_prompt(self, space: SearchSpace, pool_size: int) -> int:
        return 1 + (200 + min(pool_size, self.max_pool)) * (space.code_length + 1)


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
        state = crc32(np.asarray(question.prefix).tobytes())
        return np.array([1.0 + crc32(str(token).encode(), state) % 1000 for token in question.tokens])


def scripted_ranker() -> Ranker:
    """A ranker without a model."""
    return Ranker(ScriptedEngine(), AliasCodec())


class Here:
    """A function as an objective that is called in this process."""

    name = "here"

    def __init__(self, function: Callable[[Configuration], float]) -> None:
        self.function = function

    def __call__(self, code: str, configuration: Configuration) -> float:
        return self.function(configuration)

    def close(self) -> None:
        pass


def play_model(monkeypatch: "pytest.MonkeyPatch", folder: Path) -> list[str]:
    """Let commands work in this folder with a scripted model. The engines that they load are listed."""
    from lmsearcher_local.model import checkpoint, load

    engines: list[str] = []

    @contextmanager
    def load_ranker(*arguments: object, engine: str, **options: object) -> Iterator[Ranker]:
        engines.append(engine)
        yield scripted_ranker()

    monkeypatch.setattr(load, "load_ranker", load_ranker)
    monkeypatch.setattr(checkpoint, "load_checkpoint", lambda path, **options: SimpleNamespace(identity="scripted"))
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.chdir(folder)
    return engines
