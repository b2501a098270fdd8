"""Rankers that stand in for the model: the perfect one, for ceilings, and those that know less, for ablations."""

from collections.abc import Callable, Sequence
from typing import Any
from zlib import crc32

import numpy as np

from bench.baselines import Search
from bench.tables import Problem
from lmsearcher_local.candidates.history import History
from lmsearcher_local.candidates.pools import Pool
from lmsearcher_local.model.codecs.compact import CompactCodec
from lmsearcher_local.model.engines.base import Engine, Question
from lmsearcher_local.model.ranker import Pick, Ranker, Ranking, Task
from lmsearcher_local.search.searcher import Searcher
from lmsearcher_local.spaces.space import SearchSpace

Judge = Callable[[Task], np.ndarray]  # a value per candidate, the highest is picked


class JudgeRanker(Ranker):
    """A ranker without a model: it is sure of whatever a function of the task says."""

    def __init__(self, judge: Judge) -> None:
        super().__init__(Undecided(), CompactCodec({}))
        self.judge = judge

    def rank(self, tasks: Sequence[Task], temperature: float = 1.0) -> list[Ranking]:
        """Rank by the judge; probabilities are those of no doubt at all."""
        rankings = []
        for task in tasks:
            values = self.judge(task)
            places = np.argsort(np.argsort(-values, kind="stable"))
            rankings.append(Ranking(task.pool.codes, -1000.0 * places, task.pool.codes[int(np.argmin(places))]))
        return rankings

    def pick(self, tasks: Sequence[Task], *others: Any, **more: Any) -> list[Pick]:
        """What the judge likes best."""
        return [Pick(ranking.greedy, 0.0) for ranking in self.rank(tasks)]

    def score_chances(self, pools: Sequence[Pool]) -> None:
        """A judge predicts nothing."""

    def check(self, *_: object) -> None:
        """Every space fits."""


class ShuffledScores(Ranker):
    """The model, shown a history whose scores are shuffled."""

    def __init__(self, ranker: Ranker) -> None:
        super().__init__(ranker.engine, ranker.codec)

    def rank(self, tasks: Sequence[Task], temperature: float = 1.0) -> list[Ranking]:
        """Rank behind shuffled histories."""
        return super().rank([*map(_shuffle, tasks)], temperature)

    def pick(self, tasks: Sequence[Task], *others: Any, **more: Any) -> list[Pick]:
        """Answer behind shuffled histories."""
        return super().pick([*map(_shuffle, tasks)], *others, **more)


def _shuffle(task: Task) -> Task:
    order = _rng(task.history.codes).permutation(len(task.history))
    history = History(task.history.codes, tuple(task.history.scores[i] for i in order))
    return Task.of(task.space, history, task.pool.codes)


class Undecided(Engine):
    """An engine without a model, to which all tokens are equally likely."""

    max_length = 4096

    def log_probs(self, questions: Sequence[Question]) -> list[np.ndarray]:
        """The same for each token."""
        return [np.zeros(len(question.tokens)) for question in questions]

    def close(self) -> None:
        """There is nothing to free."""


def perfect(problem: Problem) -> Judge:
    """Knows the table: what it picks is the ceiling of any ranker on the same pools."""
    return lambda task: np.array([problem.scores[code] for code in task.pool.codes])


def blind(task: Task) -> np.ndarray:
    """Picks uniformly."""
    return _rng(task.pool.codes).random(len(task.pool))


def surrogate(task: Task) -> np.ndarray:
    """Picks what the Gaussian process that makes the pools expects most of."""
    if not len(task.history):
        return blind(task)
    return task.pool.improvements


def search(space: SearchSpace, seed: int, judge: Judge, policy: dict[str, Any]) -> Search:
    """Our search with such a ranker, as a generator like the baselines."""
    searcher = Searcher(space, JudgeRanker(judge), seed=seed, **policy)
    while True:
        [code] = searcher.ask()
        searcher.tell(code, (yield code))


def trials(proposals: Search, score: Callable[[str], float], n: int) -> list[str]:
    """The first codes of a search, in order."""
    codes = [next(proposals)]
    while len(codes) < n:
        codes.append(proposals.send(score(codes[-1])))
    return codes


def _rng(codes: Sequence[str]) -> np.random.Generator:
    """A generator that depends on the codes alone, as a ranking must."""
    return np.random.default_rng(crc32("".join(codes).encode()))
