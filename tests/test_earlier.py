"""Earlier searches: what they expect enters the surrogate as the formula says, as far as the new trials bear it out."""

import tracemalloc
from itertools import pairwise

import numpy as np
import pytest

from bench.rankers import JudgeRanker
from bench.rankers import surrogate as own_pick
from lmsearcher_local.candidates import surrogate
from lmsearcher_local.candidates.earlier import SOURCES, STARTS, TRIALS, Earlier, Mean, Sources
from lmsearcher_local.candidates.history import History, normal_scores
from lmsearcher_local.candidates.kernel import Embedding, fit_kernel
from lmsearcher_local.candidates.pools import promising
from lmsearcher_local.candidates.surrogate import OFFSET, SLOPES, TRUSTS, USELESS, Surrogate, expected_improvement
from lmsearcher_local.errors import HistoryError
from lmsearcher_local.model.ranker import Task
from lmsearcher_local.search.propose import INITIAL
from lmsearcher_local.search.searcher import Searcher
from lmsearcher_local.spaces.space import SearchSpace

SPACE = SearchSpace([5] * 5)
EFFECTS = np.random.default_rng(7).standard_normal((5, 5))


def score(code: str, effects: np.ndarray = EFFECTS) -> float:
    return float(sum(effects[i, int(digit)] for i, digit in enumerate(code)))


def history(n: int, seed: int, effects: np.ndarray = EFFECTS) -> History:
    codes = SPACE.sample(np.random.default_rng(seed), n)
    return History(tuple(codes), tuple(score(code, effects) for code in codes))


def source(seed: int, n: int = 60, effects: np.ndarray = EFFECTS) -> Earlier:
    return Earlier(f"source {seed}", SPACE, (0, 1, 2, 3, 4), history(n, seed, effects))


def useless(seed: int) -> Earlier:
    return source(seed, effects=np.random.default_rng(seed).standard_normal((5, 5)))


Expected = tuple[np.ndarray, np.ndarray]  # means and deviations


def gaussian_process(kernel: np.ndarray, mean: np.ndarray, noise: float, y: np.ndarray) -> tuple[float, Expected]:
    """Logarithm of the marginal likelihood, and what the first ``len(y)`` codes let expect of the others."""
    n = len(y)
    inverse = np.linalg.inv(kernel[:n, :n] + noise * np.eye(n))
    rest, across = y - mean[:n], kernel[n:, :n]
    variance = (rest @ inverse @ rest + 1) / (n + 1)
    left = np.diag(kernel)[n:] - np.einsum("ij,jk,ik->i", across, inverse, across)
    likelihood = -0.5 * (n + 1) * np.log(variance) + 0.5 * np.linalg.slogdet(inverse)[1]
    return float(likelihood), (mean[n:] + across @ inverse @ rest, np.sqrt(variance * left))


def mixed(likelihoods: list[float], found: list[Expected]) -> Expected:
    shares = np.exp(np.array(likelihoods) - max(likelihoods))
    shares /= shares.sum()
    mean = sum(share * means for share, (means, _) in zip(shares, found, strict=True))
    second = sum(share * (spread**2 + means**2) for share, (means, spread) in zip(shares, found, strict=True))
    return np.asarray(mean), np.sqrt(second - mean**2)


def hypotheses(found: Surrogate, rows: np.ndarray, n: int) -> tuple[list[tuple[np.ndarray, np.ndarray]], float]:
    """Kernel and mean of each hypothesis as the formula says them, and the noise, given ``n`` trials, a refit."""
    theta = fit_kernel(found.space, found.history)
    embedding = Embedding(found.space, found.space.array(found.history.codes))
    features = embedding.features(rows) * np.exp(theta[:-1] / 2)[embedding.groups]
    kernel = np.exp(-((features[:, None] - features) ** 2).sum(2) / 2)
    means = np.stack([Mean(one.space, one.history)(rows) for one in found.sources.earlier])
    mean = means.mean(0)
    apart = means - mean if len(means) > 1 else np.zeros((1, len(rows)))
    shared = sum(np.outer(one, one) for one in apart) / len(means) + np.outer(mean, mean)
    mean = mean - mean[:n].mean()
    pairs = [(kernel + trust * shared + OFFSET, slope * mean) for trust in TRUSTS for slope in SLOPES]
    return pairs, float(np.exp(theta[-1]))  # of the first the sources are of no use


@pytest.mark.parametrize("sources", [[source(1)], [source(1), useless(2), useless(3)]], ids=["one", "three"])
def test_posterior_and_hindsight_are_the_mean_over_the_hypotheses(
    sources: list[Earlier], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(surrogate, "LEAST", 0.0)
    known, new = history(10, 5), [code for code in SPACE.sample(np.random.default_rng(9), 12)]
    found = Surrogate(SPACE, known, sources=Sources(sources))
    pairs, noise = hypotheses(found, SPACE.array([*known.codes, *new]), 10)
    y = normal_scores(np.array(known.scores), 10)
    y -= y.mean()
    each = [gaussian_process(kernel, mean, noise, y) for kernel, mean in pairs]
    likelihoods = [likelihood for likelihood, _ in each]
    odds = 0.25 * np.mean(np.exp(np.array(likelihoods[1:]) - likelihoods[0]))  # one to four before the first trial
    assert found.trust == pytest.approx(odds / (1 + odds))
    likelihoods[0] += np.log(4 * (len(likelihoods) - 1))
    means, deviations = mixed(likelihoods, [expected for _, expected in each])
    np.testing.assert_allclose(found.posterior(new), (means, deviations), rtol=1e-5, atol=1e-7)
    appraisal = found.appraise(new)
    best = float(y.max())
    improvements = [expected_improvement(*expected, best) for _, expected in each]
    shares = np.exp(np.array(likelihoods) - max(likelihoods))
    np.testing.assert_allclose(appraisal.improvements, shares @ np.stack(improvements) / shares.sum(), rtol=1e-4)
    for i in range(10):
        order = [*(k for k in range(10) if k != i), i]
        without = [
            gaussian_process(kernel[np.ix_(order, order)], mean[order], noise, y[order[:-1]])[1]
            for kernel, mean in pairs
        ]
        expected = mixed(likelihoods, [(one, spread) for one, spread in without])[0]
        np.testing.assert_allclose(found.hindsight.means[i], expected[0], rtol=1e-5, atol=1e-7)


def test_between_fits_hindsight_never_changes_with_sources() -> None:
    whole = history(12, 5)
    rows = [
        np.stack(Surrogate(SPACE, History(whole.codes[:n], whole.scores[:n]), sources=Sources([source(1)])).hindsight)
        for n in (10, 11, 12)
    ]
    for shorter, longer in pairwise(rows):
        np.testing.assert_allclose(longer[:, : shorter.shape[1]], shorter, rtol=1e-9)


def test_a_source_is_believed_as_far_as_the_trials_bear_it_out() -> None:
    known = history(32, 5)
    good = Surrogate(SPACE, known, sources=Sources([source(1)])).belief
    opposite = Surrogate(SPACE, known, sources=Sources([source(1, effects=-EFFECTS)])).belief
    bad = Surrogate(SPACE, known, sources=Sources([useless(2)])).belief
    assert min(good.trust, opposite.trust) > 0.99  # the sign is found
    assert good.agreements[0] > 0.8 > 0 > -0.8 > opposite.agreements[0]
    assert bad.trust < 0.1  # before any trial it is .2
    assert abs(bad.agreements[0]) < 0.5


@pytest.mark.parametrize("at_once", [1, 5])
def test_every_other_of_the_first_trials_asks_the_sources(at_once: int) -> None:
    used: list[bool] = []

    def judge(task: Task) -> np.ndarray:
        used.append(len(task.pool.surrogate.sources) > 0)
        return np.zeros(len(task.pool))

    searcher = Searcher(SPACE, JudgeRanker(judge), seed=3, earlier=[source(1)])
    plain = Searcher(SPACE, JudgeRanker(judge), seed=3)
    while len(used) < INITIAL:
        for code in searcher.ask(at_once):
            searcher.tell(code, score(code))
    assert used == [True, False, True, False, True]
    told = [*searcher.history.codes]
    assert told[1::2] == plain.ask(INITIAL)[1::2]
    assert min(map(score, told[::2])) > max(map(score, told[1::2]))


def test_without_a_value_no_more_than_half_of_the_pools_ask_the_sources() -> None:
    used: list[bool] = []

    def judge(task: Task) -> np.ndarray:
        used.append(len(task.pool.surrogate.sources) > 0)
        return np.zeros(len(task.pool))

    Searcher(SPACE, JudgeRanker(judge), seed=3, earlier=[source(1)]).ask(30)
    assert sum(used) == 15


def test_more_codes_than_there_are_are_asked_for_at_once() -> None:
    space = SearchSpace([2, 2])
    found = Earlier("all of it", space, (0, 1), History(("00", "01", "10", "11"), (0.0, 1.0, 2.0, 3.0)))
    searcher = Searcher(space, JudgeRanker(own_pick), seed=3, earlier=[found])
    codes = searcher.ask(10)
    assert sorted(codes) == ["00", "01", "10", "11"]
    assert codes[0] == "11"


def asks(trials: int, noise: int) -> tuple[float, float]:
    """The trust in a source of other effects after some trials, and the share of the next pools made with it."""
    used: list[bool] = []

    def judge(task: Task) -> np.ndarray:
        used.append(len(task.pool.surrogate.sources) > 0)
        return own_pick(task)

    effects = EFFECTS + np.random.default_rng(noise).standard_normal((5, 5))
    known, sources = history(trials, 5), [source(8, effects=effects)]
    trust = Surrogate(SPACE, known, sources=Sources(sources)).trust
    for seed in range(100):
        searcher = Searcher(SPACE, JudgeRanker(judge), seed=seed, earlier=sources)
        for code, value in zip(known.codes, known.scores, strict=True):
            searcher.tell(code, value)
        searcher.ask()
        assert searcher.choices[0].belief == (round(trust, 3), searcher.choices[0].belief[1])
    return trust, float(np.mean(used))


def test_pools_are_made_with_the_sources_as_often_as_these_are_probably_of_use() -> None:
    trust, used = asks(10, noise=8)
    assert 0.15 < trust < 0.85
    assert used == pytest.approx(trust, abs=0.15)


def test_late_pools_are_made_with_the_sources_where_the_trials_speak_for_these() -> None:
    trust, used = asks(30, noise=21)
    assert 1 - USELESS < trust < 0.8
    assert used == 1
    trust, used = asks(30, noise=13)
    assert trust < 1 - USELESS
    assert used == 0


def test_one_trial_leaves_the_order_that_the_sources_expect() -> None:
    """It says nothing for or against them."""
    codes, sources = SPACE.sample(np.random.default_rng(3), 200), Sources([source(1)])
    means, _ = Surrogate(SPACE, history(1, 5), sources=sources).posterior(codes)
    assert np.corrcoef(means, sources.mean(SPACE.array(codes)))[0, 1] > 0.9


def test_with_a_source_the_surrogate_is_nearer_the_truth() -> None:
    known, codes = history(8, 5), SPACE.sample(np.random.default_rng(3), 400)
    truth = [score(code) for code in codes]

    def correlation(sources: Sources) -> float:
        return float(np.corrcoef(Surrogate(SPACE, known, sources=sources).posterior(codes)[0], truth)[0, 1])

    assert correlation(Sources([source(1), useless(2)])) > 0.8 > correlation(Sources())


def test_the_first_codes_are_what_the_sources_expect_most_and_no_model_is_asked() -> None:
    def no_model(task: object) -> np.ndarray:
        raise AssertionError

    searcher = Searcher(SPACE, JudgeRanker(own_pick), earlier=[source(1), source(2)])
    [first] = searcher.ask()
    better = sum(score(code) > score(first) for code in SPACE.enumerate())
    assert better < 30  # of 3,125
    again = Searcher(SPACE, JudgeRanker(own_pick), earlier=[source(1), source(2)])
    codes = again.ask(4)  # four workers: nothing is told yet
    assert codes[0] == first
    assert len(set(codes)) == 4
    for code in codes:
        again.tell(code, score(code))
    assert not set(again.ask(2)) & set(codes)


def test_a_search_with_sources_goes_on_as_it_would_have() -> None:
    sources = [source(1), useless(2)]
    whole, codes = Searcher(SPACE, JudgeRanker(own_pick), seed=4, earlier=sources), []
    for _ in range(INITIAL + 5):
        codes += whole.ask()
        whole.tell(codes[-1], score(codes[-1]))
    for n in (1, 4, 7):
        rest = Searcher(SPACE, JudgeRanker(own_pick), seed=4, earlier=sources)
        for code in codes[:n]:
            rest.tell(code, score(code))
        assert rest.ask() == [codes[n]]


def regret(seed: int, sources: list[Earlier]) -> float:
    """By how much the best of 20 trials falls short of the optimum."""
    searcher, best = Searcher(SPACE, JudgeRanker(own_pick), seed=seed, earlier=sources), -np.inf
    for _ in range(20):
        [code] = searcher.ask()
        searcher.tell(code, score(code))
        best = max(best, score(code))
    return float(EFFECTS.max(1).sum() - best)


def test_sources_that_say_nothing_or_the_opposite_cost_little() -> None:
    """The benchmark's bound, on a small problem. Believed without doubt, the opposite leaves several times as much."""
    without = np.mean([regret(seed, []) for seed in range(4)])
    nothing = np.mean([regret(seed, [useless(100 + 3 * seed + i) for i in range(3)]) for seed in range(4)])
    opposite = np.mean([regret(seed, [source(200 + seed, effects=-EFFECTS)]) for seed in range(4)])
    assert without > 0
    assert max(nothing, opposite) <= 1.1 * without


def test_a_source_knows_only_the_parameters_that_both_have() -> None:
    wider = SearchSpace({"new": [1, 2, 3], **SPACE.describe()})
    partial = Earlier("partial", SPACE, (1, 2, 3, 4, 5), history(60, 1))
    rows = wider.array(["000000", "200000", "012340"])
    expected = Mean(SPACE, partial.history)(SPACE.array(["00000", "00000", "12340"]))
    np.testing.assert_allclose(Sources([partial]).means(rows)[:, 0], expected)
    starts = Sources([partial]).best(wider, np.random.default_rng(0))
    assert {code[1:] for code in starts} == set(partial.history.best(3).codes)


def test_codes_of_sources_that_the_predicate_refuses_are_not_proposed() -> None:
    space = SearchSpace([5] * 5, valid=lambda configuration: configuration["p0"] != 4)
    good = History(("40000", "41000"), (9.0, 8.0))
    searcher = Searcher(space, JudgeRanker(own_pick), earlier=[Earlier("one", SPACE, (0, 1, 2, 3, 4), good)])
    assert all(code in space for code in searcher.ask(3))


def test_fifty_sources_and_long_ones_are_bounded_and_more_are_refused() -> None:
    space, rng = SearchSpace([8] * 6), np.random.default_rng(0)

    def long(n: int) -> Earlier:
        codes = space.sample(rng, n)
        return Earlier("long", space, tuple(range(6)), History(tuple(codes), tuple(rng.random(n).tolist())))

    sources, known = Sources([long(3000), *[long(30) for _ in range(SOURCES - 1)]]), long(20).history
    tracemalloc.start()
    pool = promising(Surrogate(space, known, sources=sources), rng, 10, set(known.codes))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(pool) == 10
    assert peak < 100 << 20
    assert len(sources._means[0]._known) == TRIALS
    assert len(sources.best(space, rng)) == STARTS
    with pytest.raises(HistoryError, match="51 earlier searches were given; at most 50"):
        Sources([*sources.earlier, sources.earlier[0]])
