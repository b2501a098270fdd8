"""Pools as values: what is known of their codes is computed once, and goes along with them."""

from unittest.mock import patch

import numpy as np
import pytest
from scripted import ScriptedEngine, scripted_ranker

from lmsearcher_local.candidates.history import History
from lmsearcher_local.candidates.kernel import fit_kernel
from lmsearcher_local.candidates.policies import POLICIES
from lmsearcher_local.candidates.policies import policy as policy_of
from lmsearcher_local.candidates.pools import Pool
from lmsearcher_local.candidates.surrogate import Surrogate
from lmsearcher_local.model.checkpoint import load_checkpoint
from lmsearcher_local.model.ranker import Ranker, Task
from lmsearcher_local.search import state as module
from lmsearcher_local.search.searcher import Searcher, ask_together
from lmsearcher_local.spaces.space import SearchSpace

SPACE = SearchSpace([4] * 5)
CODES = SPACE.sample(np.random.default_rng(0), 400)
HISTORY = History(tuple(CODES[:30]), tuple(float(sum(map(int, code))) for code in CODES[:30]))


def test_parts_of_a_pool_share_what_is_computed() -> None:
    surrogate = Surrogate(SPACE, HISTORY)
    pool = Pool(tuple(CODES[30:60]), surrogate)
    part = pool.take([7, 3, 3]).take([0, 2])
    assert part.codes == (CODES[37], CODES[33])
    expected = surrogate.appraise(CODES[30:60])
    with patch.object(surrogate, "appraise", wraps=surrogate.appraise) as appraise:
        for values, whole in zip((part.means, part.deviations, part.improvements), expected, strict=True):
            assert (values == whole[[7, 3]]).all()
        assert (pool.means == expected.means).all()
        assert len(pool.take([])) == len(pool.take([]).means) == 0
    assert appraise.call_count == 1


@pytest.mark.parametrize("policy", list(POLICIES))
def test_a_policy_appraises_as_the_surrogate_does(policy: str) -> None:
    pool = policy_of(policy)(Surrogate(SPACE, HISTORY), np.random.default_rng(0), 10, set(HISTORY.codes))
    assert len({*pool.codes} - {*HISTORY.codes}) == 10
    np.testing.assert_allclose(pool.appraisal, Surrogate(SPACE, HISTORY).appraise(pool.codes), atol=1e-10)


def test_a_tournament_appraises_its_pool_once() -> None:
    class Indifferent(ScriptedEngine):
        def log_probs(self, questions):  # type: ignore[no-untyped-def]
            return [np.zeros(len(question.tokens)) for question in questions]

    task = Task.of(SPACE, HISTORY, CODES[30:])
    with patch.object(task.pool.surrogate, "appraise", wraps=task.pool.surrogate.appraise) as appraise:
        [ranking] = Ranker(Indifferent(), load_checkpoint().codec()).rank([task])
    assert sorted(ranking.pool) == sorted(CODES[30:])
    assert appraise.call_count == 1


def test_searches_that_ask_together_fit_nothing_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    fitted: list[tuple[tuple[str, ...], tuple[float, ...]]] = []

    def fit(space: SearchSpace, history: History) -> np.ndarray:
        fitted.append((history.codes, history.scores))
        return fit_kernel(space, history)

    monkeypatch.setattr(module, "fit_kernel", fit)
    ranker = scripted_ranker()
    searchers = [Searcher(SPACE, ranker, seed=seed) for seed in range(64)]
    for i, searcher in enumerate(searchers):
        for code in CODES[i : i + 10]:
            searcher.tell(code, float(sum(map(int, code))))
    for _ in range(3):  # from 10 trials on the kernel stays until there are 13
        for searcher, [code] in zip(searchers, ask_together(searchers), strict=True):
            searcher.tell(code, float(sum(map(int, code))))
    assert len(fitted) == len(set(fitted)) == 64
    ask_together(searchers)
    assert len(fitted) == len(set(fitted)) == 128
    ask_together(searchers)  # with a code of each under way, which is no refit
    assert len(fitted) == 128
