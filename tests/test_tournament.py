"""Pools larger than one prompt: rounds of groups, one engine call a round, whatever the number of pools."""

import time

import numpy as np
import pytest
from scripted import AliasCodec, ScriptedEngine

from lmsearcher_local.candidates.history import History
from lmsearcher_local.errors import PromptError
from lmsearcher_local.model.ranker import Ranker, Task
from lmsearcher_local.search.searcher import Searcher
from lmsearcher_local.spaces.space import SearchSpace

SPACE = SearchSpace([5] * 6)
HISTORY = History(("000000", "111111"), (0.0, 1.0))


class HighestCode(ScriptedEngine):
    """Prefers the alias of the candidate with the highest digits, as the prompt shows it."""

    calls = 0

    def log_probs(self, questions):  # type: ignore[no-untyped-def]
        self.calls += 1
        return [self._preference(question) for question in questions]

    def _preference(self, question):  # type: ignore[no-untyped-def]
        length = len(SPACE.sizes)
        width = length + 1  # and the alias
        shown = np.array(question.prefix[-1 - len(question.tokens) * width : -1]).reshape(-1, width)
        return shown[:, :length] @ 5.0 ** -np.arange(length)


def test_the_best_of_hundreds_wins_and_all_are_ranked_in_few_calls() -> None:
    engine = HighestCode()
    ranker = Ranker(engine, AliasCodec())
    pools = [SPACE.sample(np.random.default_rng(i), 700 + i) for i in range(3)]
    small = SPACE.sample(np.random.default_rng(9), 10)
    *large, direct = ranker.rank([*(Task.of(SPACE, HISTORY, pool) for pool in pools), Task.of(SPACE, HISTORY, small)])
    assert engine.calls == 3  # 700 -> 175 -> 44, then the last prompt of all four pools
    for pool, ranking in zip(pools, large, strict=True):
        order = ranking.order()
        assert sorted(order) == sorted(pool)
        assert order[:4] == sorted(pool, reverse=True)[:4]
        assert ranking.greedy == order[0]
        assert np.exp(ranking.log_probs).sum() == pytest.approx(1)
        [pick] = ranker.pick([Task.of(SPACE, HISTORY, pool)])
        assert pick.code == ranking.greedy
    assert direct.pool == tuple(small)


def test_searching_with_hundreds_of_candidates_and_repeats_refused() -> None:
    ranker = Ranker(HighestCode(), AliasCodec())
    searcher = Searcher(SPACE, ranker, policy="paper", pool_size=400)
    for code, value in zip(HISTORY.codes, HISTORY.scores, strict=True):
        searcher.tell(code, value)
    for _ in range(4):
        [code] = searcher.ask()
        searcher.tell(code, float(code))
    assert searcher.ask()[0] > "44"
    with pytest.raises(PromptError, match="once"):
        ranker.rank([Task.of(SPACE, HISTORY, ["000001"] * 2)])


def test_own_work_for_a_pool_of_a_thousand_is_small() -> None:
    class Indifferent(ScriptedEngine):
        def log_probs(self, questions):  # type: ignore[no-untyped-def]
            return [np.zeros(len(question.tokens)) for question in questions]

    codes = SPACE.sample(np.random.default_rng(0), 1200)
    history = History(tuple(codes[:199]), tuple(range(199)))  # the surrogate is fitted anew at 200
    ranker, spent = Ranker(Indifferent(), AliasCodec()), []
    for last in range(5):
        fresh = History(history.codes, (*history.scores[:-1], 1000.0 + last))  # never seen: nothing is cached
        started = time.thread_time()
        ranker.rank([Task.of(SPACE, fresh, codes[200:])])
        spent.append(time.thread_time() - started)
    assert min(spent) < 0.1  # the aim is 50 ms; room for slow machines
