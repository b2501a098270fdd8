"""Rank a pool of any size: a Gaussian process keeps the most promising candidates, the model ranks those.

Kept are those of the highest upper confidence bound; ``bench/prefilter.py`` holds it against other scores.
"""

from collections.abc import Callable, Sequence
from copy import copy

import numpy as np

from lmsearcher_local.engine.base import Engine, Question, prefix_key
from lmsearcher_local.errors import PromptError
from lmsearcher_local.prompt.base import Codec
from lmsearcher_local.ranking import Ranker, Ranking, Task
from lmsearcher_local.surrogate import CHUNK, process

KEEP = 2000  # candidates that the model ranks
DEVIATIONS = 2.0  # of the upper confidence bound
BATCH = 32  # questions between two reports of progress

Show = Callable[[str, int, int], None]  # stage, how much of it is done, out of how much


def rank_pool(ranker: Ranker, task: Task, show: Show = lambda *_: None) -> Ranking:
    """Rank a pool of any size in bounded memory.

    The ranking begins with what the model says of the ``KEEP`` most promising candidates, then names the others, most
    promising first, with probability 0. A pool of at most ``KEEP`` is ranked by the model alone.

    Raises:
        PromptError: the pool is empty or repeats a candidate, or a prompt is longer than the context.
        EngineError: the model answered with something that is no probability.
    """
    if len(set(task.pool)) < len(task.pool):
        raise PromptError("a pool holds each candidate once")
    kept, rest = prefilter(task, KEEP, show)
    task = task._replace(pool=kept)
    ranker.wake_up()
    codec = copy(ranker.codec)
    while codec.max_pool > codec.group and _length(codec, task) > ranker.engine.max_length:
        codec.max_pool = max(codec.group, codec.max_pool // 2)  # long codes: the last prompt holds fewer
    [ranking] = Ranker(_Watched(ranker.engine, show), codec).rank([task])
    log_probs = np.append(ranking.log_probs, np.full(len(rest), -np.inf))
    return Ranking((*ranking.pool, *rest), log_probs, ranking.greedy)


def prefilter(task: Task, keep: int, show: Show = lambda *_: None) -> tuple[list[str], list[str]]:
    """The ``keep`` most promising candidates in pool order, and the others, most promising first.

    Without a history nothing is promising: what is kept is then a random sample, always the same.
    """
    pool = task.pool
    if len(pool) <= keep:
        return list(pool), []
    if len(task.history):
        order = np.argsort(-promise(task, show), kind="stable")
    else:
        sample = np.sort(np.random.default_rng(0).permutation(len(pool))[:keep])
        order = np.append(sample, np.setdiff1d(np.arange(len(pool)), sample))
    return [pool[i] for i in np.sort(order[:keep])], [pool[i] for i in order[keep:]]


def promise(task: Task, show: Show = lambda *_: None) -> np.ndarray:
    """The upper confidence bound of each candidate's score, float64 ``[len(pool)]``."""
    surrogate = process(task.space, task.history)
    bounds = np.empty(len(task.pool))
    for start in range(0, len(bounds), CHUNK):
        mean, deviation = surrogate.posterior(task.pool[start : start + CHUNK])
        bounds[start : start + CHUNK] = mean + DEVIATIONS * deviation
        show("prefilter", min(start + CHUNK, len(bounds)), len(bounds))
    return bounds


def _length(codec: Codec, task: Task) -> int:
    """Tokens of a prompt with as many candidates as the codec takes, and of an answer."""
    pool = task.pool[: codec.max_pool]
    return len(codec.prompt(task.space, task.history, pool)) + max(map(len, codec.answers(task.space, pool)), default=0)


class _Watched(Engine):
    """An engine that is asked a little at a time, so that a long call shows how far it is."""

    def __init__(self, engine: Engine, show: Show) -> None:
        self.max_length, self.noise = engine.max_length, engine.noise
        self._engine = engine
        self._show = show
        self._round = 0

    def log_probs(self, questions: Sequence[Question]) -> list[np.ndarray]:
        self._round += 1
        answers: list[np.ndarray] = []
        while (start := len(answers)) < len(questions):
            end = min(start + BATCH, len(questions))
            while end < len(questions) and prefix_key(questions[end].prefix) == prefix_key(questions[end - 1].prefix):
                end += 1  # questions of one prefix may share a constant, within one call only
            answers += self._engine.log_probs(questions[start:end])
            if len(questions) > BATCH:  # else it is over at once
                self._show(f"model, round {self._round}", len(answers), len(questions))
        return answers

    def log_probs_cold(self, questions: Sequence[Question]) -> list[np.ndarray]:
        return self._engine.log_probs_cold(questions)

    def close(self) -> None:
        """The engine is its owner's."""
