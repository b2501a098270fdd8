"""Pools of several goals and the score that the model is shown of them; searches of several goals."""

import numpy as np
import pytest

from lmsearcher_local.candidates.goals import GoalsSurrogate, essential, shown
from lmsearcher_local.candidates.history import HISTORY_CAP
from lmsearcher_local.candidates.pareto import on_front
from lmsearcher_local.candidates.policies import POLICIES, policy
from lmsearcher_local.candidates.pools import Pool
from lmsearcher_local.spaces.space import SearchSpace

SPACE = SearchSpace([4] * 5)
CODES = tuple(SPACE.sample(np.random.default_rng(0), 40, ()))


def scores_of(codes: tuple[str, ...], goals: int) -> np.ndarray:
    """Few sums and many differences: a front of several codes."""
    rows = SPACE.array(codes)
    columns = [rows @ [3, 1, 0, 0, -1], -((rows @ [1, 2, 1, 0, 0]) ** 2), rows @ [-2, 0, 0, 1, 1]]
    return np.stack(columns[:goals], 1).astype(float)


def surrogate(goals: int = 2, count: int = 40, **options: object) -> GoalsSurrogate:
    return GoalsSurrogate(SPACE, CODES[:count], scores_of(CODES[:count], goals), **options)  # type: ignore[arg-type]


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
    front = found.scores[on_front(found.scores)]
    extends = ~(front[None] >= scores_of(others, 2)[:, None]).all(2).any(1)
    gains = found.improvements(others)
    assert gains[extends].mean() > 3 * gains[~extends].mean()


def test_parents_are_of_the_front_and_of_the_layers_behind_it() -> None:
    found = surrogate()
    front = {code for code, on in zip(CODES, on_front(found.scores), strict=True) if on}
    few = found.parents(len(front) - 1, np.random.default_rng(0))
    assert {*few} < front
    assert {*found.parents(len(front) + 2, np.random.default_rng(0))} > front
    assert len({tuple(found.parents(2, np.random.default_rng(seed))) for seed in range(9)}) > 1


def test_trials_that_break_a_limit_make_no_front_and_chances_count() -> None:
    every = surrogate()
    holds = ~on_front(every.scores)
    limited = surrogate(holds=holds)
    front = {code for code, held in zip(CODES, holds, strict=True) if not held}
    assert not {*limited.parents(5, np.random.default_rng(0))} & front
    others = [code for code in SPACE.enumerate() if code not in CODES][:50]
    assert limited.improvements(others).sum() > every.improvements(others).sum()
    halved = surrogate(chances=lambda rows: np.full(len(rows), 0.5))
    assert halved.improvements(others) == pytest.approx(every.improvements(others) / 2)


@pytest.mark.parametrize("goals", [2, 3])
def test_the_model_is_shown_one_score_drawn_for_the_pool(goals: int) -> None:
    pool = policy("surrogate")(surrogate(goals), np.random.default_rng(1), 10, set(CODES))
    seen = [shown(pool, np.random.default_rng(seed)) for seed in (3, 3, 4)]
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
        pool = shown(policy("surrogate")(surrogate(), rng, 10, set(CODES)), rng)
        agreements.append(np.corrcoef(pool.means, pool.improvements)[0, 1])
    assert np.mean(agreements) > 0.3


def test_scales_of_values_say_nothing() -> None:
    scores = scores_of(CODES, 2)
    stretched = np.stack([np.exp(scores[:, 0]), 1e9 * scores[:, 1] ** 3 - 1e12], 1)
    others = [code for code in SPACE.enumerate() if code not in CODES][:50]
    gains = [GoalsSurrogate(SPACE, CODES, one).improvements(others) for one in (scores, stretched)]
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
    empty = GoalsSurrogate(SPACE, (), np.empty((0, 2)))
    assert np.ptp(empty.improvements(CODES)) == 0
    pool = Pool(CODES[:3], empty)
    assert shown(pool, np.random.default_rng(0)).codes == CODES[:3]


def test_of_very_many_trials_the_first_the_outer_and_the_latest_count() -> None:
    scores = np.random.default_rng(0).normal(size=(2000, 2))
    kept = essential(scores)
    assert kept == sorted({*kept})
    assert {*range(HISTORY_CAP), *range(2000 - HISTORY_CAP, 2000), *np.flatnonzero(on_front(scores))} <= {*kept}
    assert len(kept) <= 3 * HISTORY_CAP
    space = SearchSpace([10] * 4)
    codes = tuple(space.sample(np.random.default_rng(0), len(kept), ()))
    found = GoalsSurrogate(space, codes, scores[kept])
    assert [len(goal.kept) for goal in found.goals] == [HISTORY_CAP] * 2
    assert found.goals[0].kept == found.goals[1].kept
    assert np.isfinite(found.improvements(space.sample(np.random.default_rng(1), 5, ()))).all()
