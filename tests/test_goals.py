"""Pools of several goals and the score that the model is shown of them; searches of several goals."""

import numpy as np
import pytest
from scripted import scripted_ranker

from lmsearcher_local.candidates.goals import GoalsSurrogate, reweigh, select_essential
from lmsearcher_local.candidates.history import HISTORY_CAP
from lmsearcher_local.candidates.limits import Points
from lmsearcher_local.candidates.pareto import on_front
from lmsearcher_local.candidates.policies import POLICIES, policy
from lmsearcher_local.candidates.pools import Pool
from lmsearcher_local.errors import HistoryError, LMSearcherError
from lmsearcher_local.search.searcher import Searcher
from lmsearcher_local.spaces.space import SearchSpace

SPACE = SearchSpace([4] * 5)
CODES = tuple(SPACE.sample(np.random.default_rng(0), 40, ()))


def scores_of(codes: tuple[str, ...], goals: int) -> np.ndarray:
    """Few sums and many differences: a front of several codes."""
    rows = SPACE.array(codes)
    columns = [rows @ [3, 1, 0, 0, -1], -((rows @ [1, 2, 1, 0, 0]) ** 2), rows @ [-2, 0, 0, 1, 1]]
    return np.stack(columns[:goals], 1).astype(float)


def points_of(scores: np.ndarray, violations: np.ndarray | None = None) -> Points:
    return Points(CODES[: len(scores)], scores, np.empty((len(scores), 0)) if violations is None else violations)


def surrogate(goals: int = 2, violations: np.ndarray | None = None) -> GoalsSurrogate:
    return GoalsSurrogate(SPACE, points_of(scores_of(CODES, goals), violations))


@pytest.mark.parametrize("goals", [2, 3])
@pytest.mark.parametrize("name", POLICIES)
def test_every_policy_makes_pools_of_several_goals(name: str, goals: int) -> None:
    found = surrogate(goals)
    pool = policy(name)(found, np.random.default_rng(1), 10, set(CODES))
    assert len(set(pool.codes)) == 10
    assert not {*pool.codes} & {*CODES}
    assert (pool.improvements >= 0).all()
    assert pool.improvements.max() > 0


def test_what_is_expected_to_extend_the_front_is_what_does() -> None:
    found = surrogate()
    others = tuple(code for code in SPACE.enumerate() if code not in CODES)
    front = found.points.scores[on_front(found.points.scores)]
    extends = ~(front[None] >= scores_of(others, 2)[:, None]).all(2).any(1)
    gains = found.improvements(others)
    assert gains[extends].mean() > 3 * gains[~extends].mean()


def test_parents_are_of_the_front_and_of_the_layers_behind_it() -> None:
    found = surrogate()
    front = {code for code, on in zip(CODES, on_front(found.points.scores), strict=True) if on}
    few = found.parents(len(front) - 1, np.random.default_rng(0))
    assert {*few} < front
    assert {*found.parents(len(front) + 2, np.random.default_rng(0))} > front
    assert len({tuple(found.parents(2, np.random.default_rng(seed))) for seed in range(9)}) > 1


def test_trials_that_break_a_limit_make_no_front_and_chances_count() -> None:
    every = surrogate()
    front = {code for code, on in zip(CODES, on_front(every.points.scores), strict=True) if on}
    amount = SPACE.array(CODES)[:, 0] - 0.5  # broken unless the first option is 0
    limited = surrogate(violations=amount[:, None])
    assert {code[0] for code in front} != {"0"}
    assert {code[0] for code in limited.parents(3, np.random.default_rng(0))} == {"0"}
    others = [code for code in SPACE.enumerate() if code not in CODES]
    gains = limited.improvements(others)
    within = np.array([code[0] == "0" for code in others])
    assert gains[within].mean() > 20 * gains[~within].mean()
    assert every.improvements(others)[~within].mean() > gains[~within].mean()
    holds = [score for code, score in zip(CODES, limited.history.scores, strict=True) if code[0] == "0"]
    assert sorted(limited.history.scores)[-len(holds) :] == sorted(holds)


@pytest.mark.parametrize("goals", [2, 3])
def test_the_model_is_shown_one_score_drawn_for_the_pool(goals: int) -> None:
    pool = policy("surrogate")(surrogate(goals), np.random.default_rng(1), 10, set(CODES))
    seen = [reweigh(pool, np.random.default_rng(seed)) for seed in (3, 3, 4)]
    assert seen[0].surrogate.history == seen[1].surrogate.history != seen[2].surrogate.history
    for one in seen:
        assert one.codes == pool.codes
        assert one.improvements.tolist() == pool.improvements.tolist()
        assert one.surrogate.history.codes == CODES
        assert np.isfinite(one.means).all()
        best = int(np.argmax(one.surrogate.history.scores))
        assert on_front(scores_of(CODES, goals))[best]
        hindsight = one.surrogate.hindsight
        assert np.corrcoef(hindsight.scores, hindsight.means)[0, 1] > 0.5


def test_the_score_shown_agrees_with_the_pool_s_improvements() -> None:
    agreements = []
    for seed in range(10):
        rng = np.random.default_rng(seed)
        pool = reweigh(policy("surrogate")(surrogate(), rng, 10, set(CODES)), rng)
        agreements.append(np.corrcoef(pool.means, pool.improvements)[0, 1])
    assert np.mean(agreements) > 0.3


def test_scales_of_values_say_nothing() -> None:
    scores = scores_of(CODES, 2)
    stretched = np.stack([np.exp(scores[:, 0]), 1e9 * scores[:, 1] ** 3 - 1e12], 1)
    others = [code for code in SPACE.enumerate() if code not in CODES][:50]
    gains = [GoalsSurrogate(SPACE, points_of(one)).improvements(others) for one in (scores, stretched)]
    assert gains[0] == pytest.approx(gains[1])


def test_what_is_pending_is_not_found_again_beside_it() -> None:
    found = surrogate()
    others = [code for code in SPACE.enumerate() if code not in CODES]
    best = others[int(np.argmax(found.improvements(others)))]
    later = found.with_pending([best])
    assert later.history.codes == (*CODES, best)
    assert later.improvements([best])[0] < 0.2 * found.improvements([best])[0]
    assert found.with_pending([]) is found


def test_without_trials_every_code_is_as_good() -> None:
    empty = GoalsSurrogate(SPACE, points_of(np.empty((0, 2))))
    assert np.ptp(empty.improvements(CODES)) == 0
    pool = Pool(CODES[:3], empty)
    assert reweigh(pool, np.random.default_rng(0)).codes == CODES[:3]


def test_of_very_many_trials_the_first_the_outer_and_the_latest_count() -> None:
    space, rng = SearchSpace([10] * 4), np.random.default_rng(0)
    codes = tuple(space.sample(rng, 2000, ()))
    scores = rng.normal(size=(2000, 2))
    kept = select_essential(Points(codes, scores, np.empty((2000, 0))))
    front = {code for code, on in zip(codes, on_front(scores), strict=True) if on}
    assert {*codes[:HISTORY_CAP], *codes[-HISTORY_CAP:], *front} <= {*kept.codes}
    assert HISTORY_CAP < len(kept.codes) <= 3 * HISTORY_CAP
    assert [*kept.codes] == [code for code in codes if code in kept.codes]
    found = GoalsSurrogate(space, kept)
    assert [len(goal.kept) for goal in found.goals] == [HISTORY_CAP] * 2
    assert found.goals[0].kept == found.goals[1].kept
    assert np.isfinite(found.improvements(codes[500:505])).all()


def value(code: str) -> dict[str, float]:
    first, second = scores_of((code,), 2)[0].tolist()
    return {"first": first, "second": -second, "size": float(code[0])}


def search(trials: int, seed: int = 0, told: tuple[str, ...] = (), **options: object) -> tuple[list[str], Searcher]:
    searcher = Searcher(SPACE, scripted_ranker(), goals=["first:max", "second:min"], seed=seed, **options)
    codes = [*told]
    for code in codes:
        searcher.tell(code, value(code))
    while len(codes) < trials:
        codes += searcher.ask()
        searcher.tell(codes[-1], value(codes[-1]))
    return codes, searcher


@pytest.mark.parametrize("options", [{}, {"limits": ["size <= 1"]}])
def test_equal_seeds_give_equal_searches_and_a_resume_goes_on(options: dict[str, object]) -> None:
    whole, _ = search(22, **options)
    assert len({*whole}) == 22
    assert search(22, **options)[0] == whole
    assert search(22, told=tuple(whole[:12]), **options)[0] == whole
    assert search(22, seed=1, **options)[0] != whole


def test_the_front_is_what_no_other_dominates() -> None:
    codes, searcher = search(25)
    values = {code: value(code) for code in codes}
    for code, found in searcher.front:
        assert found == {name: values[code][name] for name in ("first", "second")}
        better = [one for one in values.values() if one["first"] >= found["first"] and one["second"] <= found["second"]]
        assert all(one["first"] == found["first"] and one["second"] == found["second"] for one in better)
    with pytest.raises(HistoryError, match="no single best"):
        _ = searcher.best
    with pytest.raises(HistoryError, match="only a search of goals"):
        _ = Searcher(SPACE, scripted_ranker()).front


def test_with_limits_the_front_holds_them() -> None:
    _, searcher = search(25, limits=["size <= 1"])
    assert searcher.front
    assert {code[0] for code, _ in searcher.front} <= {"0", "1"}


def test_several_at_once_are_distinct_and_pending_ones_count() -> None:
    _, searcher = search(10, limits=["size <= 1"])
    first = searcher.ask(3)
    second = searcher.ask(3)
    assert len({*first, *second}) == 6


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"goals": ["a:max", "b:max", "c:max", "d:max"]}, "at most 3 goals, not 4"),
        ({"goals": ["a:max", "a:min"]}, "two goals are called a"),
        ({"goals": ["a"]}, "a goal is written NAME:max or NAME:min, not 'a'"),
    ],
)
def test_goals_that_cannot_be_searched_are_one_sentence(options: dict[str, object], words: str) -> None:
    with pytest.raises(LMSearcherError, match=words):
        Searcher(SPACE, scripted_ranker(), **options)


def test_told_values_are_those_of_every_goal() -> None:
    searcher = Searcher(SPACE, scripted_ranker(), goals=["first:max", "second:min"])
    for told, words in (({"first": 1.0}, "no second was measured"), (1.0, "a mapping is needed")):
        with pytest.raises(LMSearcherError, match=words):
            searcher.tell("00000", told)  # type: ignore[arg-type]
    assert not len(searcher.history)
