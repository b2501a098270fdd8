"""Rank a pool of any size: a Gaussian process keeps the most promising candidates, the model ranks those.

Kept are those of the highest upper confidence bound; ``bench/prefilter.py`` holds it against other scores. A model that
predicts scores orders them all by what it expects, and picks among the first.
"""

from collections.abc import Callable, Sequence
from copy import copy

import numpy as np

from lmsearcher_local.candidates.pools import Pool
from lmsearcher_local.candidates.surrogate import CHUNK, Appraisal
from lmsearcher_local.errors import PromptError
from lmsearcher_local.model.codecs.base import Codec, ScoreCodec
from lmsearcher_local.model.engines.base import Engine, Question, prefix_key
from lmsearcher_local.model.ranker import Ranker, Ranking, Task

KEEP = 2000  # candidates that the model ranks by tournament
PREDICTED = 100_000  # candidates whose score it predicts
AT_ONCE = 256  # of those
DEVIATIONS = 2.0  # of the upper confidence bound
BATCH = 32  # questions between two reports of progress

Show = Callable[[str, int, int], None]  # stage, how much of it is done, out of how much


def rank_pool(ranker: Ranker, task: Task, show: Show = lambda *_: None) -> Ranking:
    """Rank a pool of any size in bounded memory.

    A model that predicts scores orders the ``PREDICTED`` most promising candidates by the score it expects. It then
    picks from the first ``group`` of its codec. Any other ranks the ``KEEP`` most promising by tournament. The ranking
    begins with the last pool; all others follow, best first, with probability 0.

    Raises:
        PromptError: the pool is empty or repeats a candidate, or a prompt is longer than the context.
        EngineError: the model answered with something that is no probability.
    """
    if len(set(task.pool.codes)) < len(task.pool):
        raise PromptError("a pool holds each candidate once")
    predicts, group = isinstance(ranker.codec, ScoreCodec), ranker.codec.group
    kept, rest = prefilter(task.pool, PREDICTED if predicts else KEEP, show)
    ranker.wake_up()
    if predicts and len(kept) > group:
        order = np.argsort(-expected_scores(ranker, kept, show), kind="stable")
        rest = [kept.codes[i] for i in order[group:]] + rest
        kept = kept.take(order[:group])
    task = task._replace(pool=kept)
    codec = copy(ranker.codec)
    while codec.max_pool > codec.group and _length(codec, task) > ranker.engine.max_length:
        codec.max_pool = max(codec.group, codec.max_pool // 2)  # long codes: the last prompt holds fewer
    [ranking] = Ranker(_Watched(ranker.engine, show), codec).rank([task])
    log_probs = np.append(ranking.log_probs, np.full(len(rest), -np.inf))
    return Ranking((*ranking.pool, *rest), log_probs, ranking.greedy)


def expected_scores(ranker: Ranker, pool: Pool, show: Show = lambda *_: None) -> np.ndarray:
    """The score that the model expects of each candidate, float64 ``[len(pool)]``, in the surrogate's unit.

    Where the engine is not exact, candidates of nearly the same score may change places between two calls. A
    ``PromptError`` where the model predicts no scores.
    """
    if not isinstance(codec := ranker.codec, ScoreCodec):
        raise PromptError("this checkpoint ranks, and predicts no scores")
    expected: list[float] = []
    while (start := len(expected)) < len(pool):
        chances = ranker.score_chances([pool.take(range(start, min(start + AT_ONCE, len(pool))))])
        assert chances is not None
        expected += (chances @ codec.score_centres).tolist()
        show("scores", len(expected), len(pool))
    return np.array(expected)


def prefilter(pool: Pool, keep: int, show: Show = lambda *_: None) -> tuple[Pool, list[str]]:
    """The ``keep`` most promising candidates in pool order, and the codes of the others, most promising first.

    Without a history nothing is promising: what is kept is then a random sample, always the same.
    """
    if len(pool) <= keep:
        return pool, []
    if len(pool.surrogate.history):
        pool = appraise_in_parts(pool, show)
        order = np.argsort(-promise(pool), kind="stable")
    else:
        sample = np.sort(np.random.default_rng(0).permutation(len(pool))[:keep])
        order = np.append(sample, np.setdiff1d(np.arange(len(pool)), sample))
    return pool.take(np.sort(order[:keep])), [pool.codes[i] for i in order[keep:]]


def promise(pool: Pool) -> np.ndarray:
    """The upper confidence bound of each candidate's score, float64 ``[len(pool)]``."""
    return pool.means + DEVIATIONS * pool.deviations


def appraise_in_parts(pool: Pool, show: Show) -> Pool:
    """The same pool, appraised a little at a time, which shows how far it is."""
    parts = []
    for start in range(0, len(pool), CHUNK):
        parts.append(pool.surrogate.appraise(pool.codes[start : start + CHUNK]))
        show("prefilter", min(start + CHUNK, len(pool)), len(pool))
    appraisal = Appraisal(*map(np.concatenate, zip(*parts, strict=True)))
    return Pool(pool.codes, pool.surrogate, lambda: appraisal)


def _length(codec: Codec, task: Task) -> int:
    """Tokens of a prompt with as many candidates as the codec takes, and of an answer."""
    pool = task.pool.take(range(min(len(task.pool), codec.max_pool)))
    answers = codec.answers(task.space, pool.codes)
    return len(codec.prompt(task.space, task.history, pool)) + max(map(len, answers), default=0)


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
