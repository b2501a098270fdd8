"""Picks walk the trie: the answer of constrained decoding, with its probability, asked along its way alone."""

from collections import Counter
from collections.abc import Sequence

import numpy as np
import pytest
from scripted import ScriptedEngine

from lmsearcher_local.candidates.history import History
from lmsearcher_local.candidates.pools import Pool
from lmsearcher_local.model.ranker import Ranker, Task
from lmsearcher_local.spaces.space import SearchSpace

SPACE = SearchSpace([4] * 5)


class DigitCodec:
    """Names a candidate by its digits, so that a pool branches at many nodes."""

    max_pool = 50
    group = 10

    def prompt(self, space: SearchSpace, history: History, pool: Pool) -> list[int]:
        return [9, *map(int, "".join(pool.codes))]

    def answers(self, space: SearchSpace, codes: Sequence[str]) -> list[list[int]]:
        return [[*map(int, code)] for code in codes]

    def longest_prompt(self, space: SearchSpace, pool_size: int) -> int:
        return 1 + (pool_size + 1) * space.code_length


def tasks(count: int, size: int) -> list[Task]:
    return [Task.of(SPACE, History(), SPACE.sample(np.random.default_rng(i), size)) for i in range(count)]


@pytest.mark.parametrize("size", [1, 2, 10, 50, 300])
def test_the_greedy_pick_is_that_of_the_whole_ranking(size: int) -> None:
    ranker = Ranker(ScriptedEngine(), DigitCodec())
    asked = tasks(20, size)
    for ranking, pick in zip(ranker.rank(asked), ranker.pick(asked), strict=True):
        assert pick.code == ranking.greedy
        assert pick.log_prob == pytest.approx(ranking.log_probs[ranking.pool.index(pick.code)])


def test_a_pick_asks_about_its_own_way_alone() -> None:
    engine = ScriptedEngine()
    [task] = tasks(1, 50)
    Ranker(engine, DigitCodec()).rank([task])
    whole = len(engine.asked)
    engine.asked.clear()
    Ranker(engine, DigitCodec()).pick([task])
    assert len(engine.asked) <= 5 < whole


@pytest.mark.parametrize("temperature", [0.5, 2.0])
def test_sampled_picks_follow_the_distribution(temperature: float) -> None:
    ranker = Ranker(ScriptedEngine(), DigitCodec())
    [task], draws = tasks(1, 6), 4000
    [ranking] = ranker.rank([task], temperature)
    picks = ranker.pick([task] * draws, [np.random.default_rng(i) for i in range(draws)], temperature)
    counts = Counter(pick.code for pick in picks)
    for code, log_prob in zip(ranking.pool, ranking.log_probs, strict=True):
        assert counts[code] / draws == pytest.approx(np.exp(log_prob), abs=0.035)
    assert all(pick.log_prob == pytest.approx(ranking.log_probs[ranking.pool.index(pick.code)]) for pick in picks)
