"""The surrogate: an exact Gaussian process with a true gradient, whose pools hold better codes than other pools."""

import tracemalloc
from unittest.mock import patch

import numpy as np
import pytest
from scipy.optimize import check_grad

from lmsearcher_local import surrogate
from lmsearcher_local.history import History, normal_scores
from lmsearcher_local.pool import POLICIES, neighbourhood, recombined
from lmsearcher_local.prompt.compact import hint_bins
from lmsearcher_local.space import SearchSpace

SPACES = {
    "categorical": SearchSpace({"a": ["x", "y", "z"], "b": ["p", "q"], "c": ["u", "v", "w", "t"]}),
    "ordered": SearchSpace({"rate": [0.1, 0.2, 0.5, 1], "kind": ["a", "b", "c"], "layers": [1, 2, 3]}),
    "shared": SearchSpace({f"Op{i}": ["none", "skip", "conv"] for i in range(4)}),
}


def searched(space: SearchSpace, n: int, seed: int = 0) -> History:
    """Random codes and a score that is a sum over positions with a little noise."""
    rng = np.random.default_rng(seed)
    effects = [rng.standard_normal(size) for size in space.sizes]
    codes = space.sample(rng, n)
    return History(tuple(codes), tuple(score(space, effects, code) for code in codes))


def score(space: SearchSpace, effects: list[np.ndarray], code: str) -> float:
    return float(sum(effect[i] for effect, i in zip(effects, space.indices(code), strict=True)))


@pytest.mark.parametrize("space", SPACES.values(), ids=SPACES)
def test_the_gradient_that_fits_the_kernel_is_the_costs(space: SearchSpace) -> None:
    history = searched(space, 14)
    with patch.object(surrogate, "minimize", wraps=surrogate.minimize) as minimize:
        surrogate._fit.cache_clear()
        fitted = surrogate._fit(space, history.codes, history.scores)
    cost, start = minimize.call_args.args
    assert cost(fitted)[0] < cost(start)[0]
    for theta in (start, fitted, start + 0.3):
        gradient = cost(theta)[1]
        assert check_grad(lambda x: cost(x)[0], lambda x: cost(x)[1], theta) < 1e-4 * (1 + np.abs(gradient).max())


@pytest.mark.parametrize("space", SPACES.values(), ids=SPACES)
def test_expected_improvement_is_that_of_the_posterior(space: SearchSpace) -> None:
    history = searched(space, 12)
    new = [code for code in space.enumerate() if code not in history.codes][:9]
    found = surrogate.GaussianProcess(space, history).expected_improvement(new)
    theta = surrogate._fit(space, history.codes[:10], history.scores[:10])  # the last refit before 12
    features, groups, _ = surrogate.embed(space, space.array([*history.codes, *new]))
    apart = (features[:, None] - features) ** 2 @ np.exp(theta[:-1])[groups]
    kernel = np.exp(-apart / 2) + np.exp(theta[-1]) * np.eye(21)
    y = normal_scores(np.array(history.scores), 12)
    y -= y.mean()
    inverse = np.linalg.inv(kernel[:12, :12])
    mean = kernel[12:, :12] @ inverse @ y
    scale = (y @ inverse @ y + 1) / 13
    variance = scale * (1 - np.einsum("ij,jk,ik->i", kernel[12:, :12], inverse, kernel[12:, :12]))
    drawn = mean + np.sqrt(variance) * np.random.default_rng(0).standard_normal((200_000, 9))
    assert found == pytest.approx(np.maximum(drawn - y.max(), 0).mean(0), abs=0.01)


def test_a_code_is_appraised_once() -> None:
    space = SPACES["shared"]
    history = searched(space, 12)
    new = [code for code in space.enumerate() if code not in history.codes][:9]
    process = surrogate.GaussianProcess(space, history)
    appraised = process.appraise(new)
    assert (appraised[:, 0] == process.posterior(new)[0]).all()
    assert (appraised[:, 1] == process.expected_improvement(new)).all()
    with patch.object(process, "posterior") as again:
        assert (process.appraise(new[::-2]) == appraised[::-2]).all()
        assert process.appraise([]).shape == (0, 2)
    again.assert_not_called()


def test_one_change_costs_one_unit_and_numbers_in_order_are_near_their_neighbours() -> None:
    space = SPACES["ordered"]
    features, groups, prior = surrogate.embed(space, space.array(["000", "100", "300", "010"]))
    assert len(prior) == 5  # two for each of rate and layers, one for kind
    half = (features - features[0]) ** 2 / 2
    by_weight = np.stack([np.bincount(groups, row, len(prior)) for row in half])
    assert by_weight == pytest.approx(np.array([[0] * 5, [1, 1 / 9, 0, 0, 0], [1, 1, 0, 0, 0], [0, 0, 1, 0, 0]]))


def test_its_pools_hold_better_codes_than_the_other_policies_pools() -> None:
    space = SearchSpace([5] * 6)
    rng = np.random.default_rng(5)
    effects = [rng.standard_normal(5) for _ in range(6)]
    codes = space.sample(rng, 40)
    history = History(tuple(codes), tuple(score(space, effects, code) for code in codes))
    means = {}
    for name, policy in POLICIES.items():
        pool = policy(space, history, np.random.default_rng(1), 10, set(codes))
        assert len(set(pool) - set(codes)) == 10
        means[name] = np.mean([score(space, effects, code) for code in pool])
    assert means["surrogate"] > means["local"] > means["paper"]


def test_equal_scores_and_a_history_beyond_the_cap_are_no_obstacle() -> None:
    space = SearchSpace([4] * 5)
    flat = History(tuple(space.sample(np.random.default_rng(0), 30)), (1.0,) * 30)
    assert np.isfinite(surrogate.GaussianProcess(space, flat).expected_improvement(["00000", "33333"])).all()
    long = searched(space, 260)
    assert len(POLICIES["surrogate"](space, long, np.random.default_rng(0), 10, set(long.codes))) == 10


def test_neighbours_and_recombinations_respect_the_predicate() -> None:
    space = SearchSpace([3] * 4, valid=lambda configuration: configuration["p0"] != configuration["p1"])
    parents = ["0112", "1020", "2100"]
    children = recombined(space, parents, np.random.default_rng(0), 50)
    assert children
    for child in children:
        assert child in space
        assert all(digit in {parent[i] for parent in parents} for i, digit in enumerate(child))
    near = neighbourhood(space, parents, np.random.default_rng(0))
    assert len(near) == len(set(near))
    assert all(code in space for code in near)


WIDE = {
    "one": SearchSpace({"lr": [0.1 * i for i in range(300)], "kind": ["a", "b", "c"]}),
    "shared": SearchSpace([40] * 6),
    "text": SearchSpace({"word": [str(i) for i in range(200)], "other": [str(i) for i in range(100)]}),
}


@pytest.mark.parametrize("space", WIDE.values(), ids=WIDE)
def test_options_that_no_trial_has_may_share_a_feature(space: SearchSpace, monkeypatch: pytest.MonkeyPatch) -> None:
    history, new = searched(space, 30), space.sample(np.random.default_rng(1), 200)
    whole = surrogate.GaussianProcess(space, history).posterior(new)
    columns = surrogate.embed(space, space.array(new)).features.shape[1]
    surrogate.forget()
    monkeypatch.setattr(surrogate, "WIDE", 50)
    for cells in (1 << 22, 1000):
        monkeypatch.setattr(surrogate, "CELLS", cells)
        narrow = surrogate.GaussianProcess(space, history)
        assert len(narrow._scales) < columns
        np.testing.assert_allclose(narrow.posterior(new), whole, rtol=1e-6)
    surrogate.forget()


@pytest.mark.parametrize("sizes", [[100_000], [99_000, 10], [4096] * 21])
@pytest.mark.parametrize("policy", ["surrogate", "local"])
def test_an_ask_in_a_space_of_very_many_options_is_small(sizes: list[int], policy: str) -> None:
    space = SearchSpace(sizes)
    codes = space.sample(np.random.default_rng(0), 40)
    history = History(tuple(codes), tuple(float(i % 7) for i in range(40)))
    tracemalloc.start()
    pool = POLICIES[policy](space, history, np.random.default_rng(0), 10, set(codes))
    hint_bins(space, history, pool)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(set(pool) - set(codes)) == 10
    assert all(code in space for code in pool)
    assert peak < 200 << 20
