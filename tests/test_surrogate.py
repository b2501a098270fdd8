"""The surrogate: an exact Gaussian process with a true gradient, whose pools hold better codes than other pools."""

import tracemalloc
from itertools import pairwise
from unittest.mock import patch

import numpy as np
import pytest
from scipy.optimize import check_grad

from lmsearcher_local.candidates import kernel as kernels
from lmsearcher_local.candidates import surrogate
from lmsearcher_local.candidates.history import History, normal_scores
from lmsearcher_local.candidates.kernel import Embedding, fit_kernel
from lmsearcher_local.candidates.policies import POLICIES
from lmsearcher_local.candidates.policies import policy as policy_of
from lmsearcher_local.candidates.pools import neighbourhood, promising, recombine, unseen
from lmsearcher_local.candidates.surrogate import REFITS, Surrogate
from lmsearcher_local.spaces.space import SearchSpace

SPACES = {
    "categorical": SearchSpace({"a": ["x", "y", "z"], "b": ["p", "q"], "c": ["u", "v", "w", "t"]}),
    "ordered": SearchSpace({"rate": [0.1, 0.2, 0.5, 1], "kind": ["a", "b", "c"], "layers": [1, 2, 3]}),
    "shared": SearchSpace({f"Op{i}": ["none", "skip", "conv"] for i in range(4)}),
    "partly shared": SearchSpace({"a": [1, 2, 3], "b": ["x", "y"], "c": [1, 2, 3], "d": ["x", "y"], "e": [1.0, 2, 3]}),
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
    with patch.object(kernels, "minimize", wraps=kernels.minimize) as minimize:
        fitted = fit_kernel(space, history)
    cost, start = minimize.call_args.args
    assert cost(fitted)[0] < cost(start)[0]
    for theta in (start, fitted, start + 0.3):
        gradient = cost(theta)[1]
        assert check_grad(lambda x: cost(x)[0], lambda x: cost(x)[1], theta) < 1e-4 * (1 + np.abs(gradient).max())


@pytest.mark.parametrize("space", SPACES.values(), ids=SPACES)
def test_expected_improvement_is_that_of_the_posterior(space: SearchSpace) -> None:
    history = searched(space, 12)
    new = [code for code in space.enumerate() if code not in history.codes][:9]
    found = Surrogate(space, history).appraise(new)
    theta = fit_kernel(space, beginning(history, 10))  # the last refit before 12
    rows = space.array([*history.codes, *new])
    embedding = Embedding(space, rows)
    features = embedding.features(rows)
    apart = (features[:, None] - features) ** 2 @ np.exp(theta[:-1])[embedding.groups]
    kernel = np.exp(-apart / 2) + np.exp(theta[-1]) * np.eye(21)
    y = normal_scores(np.array(history.scores), 12)
    y -= y.mean()
    inverse = np.linalg.inv(kernel[:12, :12])
    mean = kernel[12:, :12] @ inverse @ y
    scale = (y @ inverse @ y + 1) / 13
    variance = scale * (1 - np.einsum("ij,jk,ik->i", kernel[12:, :12], inverse, kernel[12:, :12]))
    assert found.means == pytest.approx(mean)
    assert found.deviations == pytest.approx(np.sqrt(variance))
    drawn = mean + np.sqrt(variance) * np.random.default_rng(0).standard_normal((200_000, 9))
    assert found.improvements == pytest.approx(np.maximum(drawn - y.max(), 0).mean(0), abs=0.01)


def beginning(history: History, n: int) -> History:
    return History(history.codes[:n], history.scores[:n])


def foreseen(surrogate: Surrogate, i: int) -> tuple[float, float]:
    """What the first trials that the kernel was fitted to, but for trial ``i``, let expect, by the textbook."""
    fitted = max((n for n in REFITS if n <= len(surrogate.kept)), default=len(surrogate.kept))
    codes = [surrogate.history.codes[k] for k in surrogate.kept]
    theta = fit_kernel(surrogate.space, beginning(surrogate.history, fitted))
    rows = surrogate.space.array(codes)
    embedding = Embedding(surrogate.space, rows)
    features = embedding.features(rows) * np.exp(theta[:-1] / 2)[embedding.groups]
    kernel = np.exp(-((features[:, None] - features) ** 2).sum(2) / 2)
    y = normal_scores(np.array([surrogate.history.scores[k] for k in surrogate.kept]), fitted)
    y -= y[:fitted].mean()
    noise = np.exp(theta[-1])
    whole = kernel[:fitted, :fitted] + noise * np.eye(fitted)
    scale = (y[:fitted] @ np.linalg.solve(whole, y[:fitted]) + 1) / (fitted + 1)
    others = [k for k in range(fitted) if k != i]
    known = kernel[np.ix_(others, others)] + noise * np.eye(len(others))
    explained = np.linalg.solve(known, kernel[others])
    variance = scale * (1 - kernel[i, others] @ explained[:, i] + (noise if i < fitted else 0))
    return float(kernel[i, others] @ np.linalg.solve(known, y[others])), float(np.sqrt(variance))


@pytest.mark.parametrize("name", [*SPACES, "wide"])
@pytest.mark.parametrize("trials", [1, 3, 12, 29])
def test_hindsight_is_what_the_others_let_expect(name: str, trials: int) -> None:
    space = SearchSpace([300] * 4) if name == "wide" else SPACES[name]
    found = Surrogate(space, searched(space, trials))
    expected = np.array([foreseen(found, i) for i in range(len(found.kept))])
    np.testing.assert_allclose(found.hindsight.means, expected[:, 0], atol=1e-8)
    np.testing.assert_allclose(found.hindsight.deviations, expected[:, 1], atol=1e-8)


def test_between_fits_hindsight_never_changes() -> None:
    space = SPACES["ordered"]
    history = searched(space, 24)
    rows = [np.stack(Surrogate(space, beginning(history, n)).hindsight) for n in range(20, 25)]
    for shorter, longer in pairwise(rows):
        np.testing.assert_allclose(longer[:, : shorter.shape[1]], shorter, rtol=1e-12)


def test_without_a_history_nothing_is_known_and_nothing_fitted() -> None:
    def no_fit(space: SearchSpace, history: History) -> np.ndarray:
        raise AssertionError

    empty = Surrogate(SPACES["ordered"], History(), no_fit)
    means, deviations, improvements = empty.appraise(["000", "111"])
    assert (means == 0).all()
    assert (deviations == 1).all()
    assert np.ptp(improvements) == 0
    assert [len(column) for column in empty.hindsight] == [0, 0, 0]
    assert empty.kept == []
    assert empty.best == 0


def test_a_surrogate_fits_once_when_it_is_asked() -> None:
    history, fits = searched(SPACES["shared"], 12), []

    def fit(space: SearchSpace, beginning: History) -> np.ndarray:
        fits.append(len(beginning))
        return fit_kernel(space, beginning)

    found = Surrogate(SPACES["shared"], history, fit)
    assert fits == []
    assert len(found.appraise([]).means) == 0
    assert found.hindsight.scores.shape == found.appraise(history.codes).means.shape == (12,)
    assert fits == [10]


def test_options_are_counted_among_the_positions_that_share_them() -> None:
    space = SPACES["partly shared"]
    rows = space.array(["00000", "20000", "20200", "01002"])
    embedding = Embedding(space, rows)
    features = embedding.features(rows)
    counts = features[:, -5:]  # [1, 2, 3] of a and c, ["x", "y"] of b and d; those of e are of another type
    assert counts * np.sqrt(2) == pytest.approx(
        np.array([[2, 0, 0, 2, 0], [1, 0, 1, 2, 0], [0, 0, 2, 2, 0], [2, 0, 0, 1, 1]])
    )
    assert np.bincount(embedding.groups).tolist()[-2:] == [3, 2]
    assert len(embedding.usual) - 1 == 3 * 2 + 2 + 2  # one-hot and place of a, c and e; one-hot of b and d; two counts


def test_one_change_costs_one_unit_and_numbers_in_order_are_near_their_neighbours() -> None:
    space = SPACES["ordered"]
    rows = space.array(["000", "100", "300", "010"])
    embedding = Embedding(space, rows)
    features, groups, prior = embedding.features(rows), embedding.groups, embedding.usual[:-1]
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
    for name, policy in ((name, policy_of(name)) for name in POLICIES):
        pool = policy(Surrogate(space, history), np.random.default_rng(1), 10, set(codes)).codes
        assert len(set(pool) - set(codes)) == 10
        means[name] = np.mean([score(space, effects, code) for code in pool])
    assert means["surrogate"] > means["local"] > means["paper"]


def test_equal_scores_and_a_history_beyond_the_cap_are_no_obstacle() -> None:
    space = SearchSpace([4] * 5)
    flat = History(tuple(space.sample(np.random.default_rng(0), 30)), (1.0,) * 30)
    assert np.isfinite(Surrogate(space, flat).appraise(["00000", "33333"]).improvements).all()
    long = searched(space, 260)
    assert len(promising(Surrogate(space, long), np.random.default_rng(0), 10, set(long.codes))) == 10


def test_neighbours_and_recombinations_respect_the_predicate() -> None:
    space = SearchSpace([3] * 4, valid=lambda configuration: configuration["p0"] != configuration["p1"])
    parents = ["0112", "1020", "2100"]
    children = space.codes(recombine(space, space.array(parents), np.random.default_rng(0), 50))
    assert children
    for child in children:
        assert child in space
        assert all(digit in {parent[i] for parent in parents} for i, digit in enumerate(child))
    near, rows = unseen(space, neighbourhood(space, space.array(parents), np.random.default_rng(0)), {"0012"})
    assert space.codes(rows) == near
    assert {*near} == {code for parent in parents for code in space.neighbours(parent)} - {"0012"}
    assert len(near) == len(set(near))
    assert all(code in space for code in near)


WIDE = {
    "one": SearchSpace({"lr": [0.1 * i for i in range(300)], "kind": ["a", "b", "c"]}),
    "shared": SearchSpace([40] * 6),
    "partly shared": SearchSpace({**{f"n{i}": [*range(60)] for i in range(3)}, "kind": ["a", "b"], "sort": ["a", "b"]}),
    "text": SearchSpace({"word": [str(i) for i in range(200)], "other": [str(i) for i in range(100)]}),
}


@pytest.mark.parametrize("space", WIDE.values(), ids=WIDE)
def test_options_that_no_trial_has_may_share_a_feature(space: SearchSpace, monkeypatch: pytest.MonkeyPatch) -> None:
    history, new = searched(space, 30), space.sample(np.random.default_rng(1), 200)
    whole = Surrogate(space, history)
    expected = whole.posterior(new)
    monkeypatch.setattr(kernels, "WIDE", 50)
    for cells in (1 << 22, 1000):
        monkeypatch.setattr(surrogate, "CELLS", cells)
        narrow = Surrogate(space, history)
        np.testing.assert_allclose(narrow.posterior(new), expected, rtol=1e-6)
        np.testing.assert_allclose(narrow.hindsight, whole.hindsight, rtol=1e-6)
        assert len(narrow._process.scales) < len(whole._process.scales)


@pytest.mark.parametrize("sizes", [[100_000], [99_000, 10], [4096] * 21])
@pytest.mark.parametrize("policy", ["surrogate", "local"])
def test_an_ask_in_a_space_of_very_many_options_is_small(sizes: list[int], policy: str) -> None:
    space = SearchSpace(sizes)
    codes = space.sample(np.random.default_rng(0), 40)
    history = History(tuple(codes), tuple(float(i % 7) for i in range(40)))
    tracemalloc.start()
    pool = policy_of(policy)(Surrogate(space, history), np.random.default_rng(0), 10, set(codes))
    assert len(pool.surrogate.hindsight.means) == len(pool.surrogate.kept)
    assert np.isfinite(pool.appraisal).all()
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(set(pool.codes) - set(codes)) == 10
    assert all(code in space for code in pool.codes)
    assert peak < 200 << 20
