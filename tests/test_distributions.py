"""Whatever Optuna's own samplers take, ours takes, and stays within it; what Optuna cannot tell apart is one choice."""

import math
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np
import optuna
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.samplers import BaseSampler, RandomSampler
from scripted import scripted_ranker

from lmsearcher_local.errors import SpaceError
from lmsearcher_local.search.optuna_sampler import LMSearcherSampler
from lmsearcher_local.spaces.distributions import BINS, distributions, draw, edges, options, to_units
from lmsearcher_local.spaces.space import SearchSpace
from lmsearcher_local.study.run import run

TRIALS = 8
NAN = float("nan")


def sampled(kinds: dict[str, BaseDistribution], sampler: BaseSampler) -> list[dict[str, Any]]:
    """Parameters of a few trials that suggest values of these distributions."""

    def objective(trial: optuna.Trial) -> float:
        for name, kind in kinds.items():
            trial._suggest(name, kind)
        return float(trial.number % 5)

    study = optuna.create_study(sampler=sampler)
    study.optimize(objective, n_trials=TRIALS)
    return [trial.params for trial in study.trials]


@pytest.mark.filterwarnings("ignore:Choices for a categorical distribution")
@pytest.mark.parametrize(
    "kind",
    [
        CategoricalDistribution([1, 1.0, "sqrt"]),
        CategoricalDistribution([True, False, 1, 0]),
        CategoricalDistribution([None, "None", NAN, float("nan"), np.float32("nan")]),
        CategoricalDistribution([1, True]),
        CategoricalDistribution(["a", "a"]),
        CategoricalDistribution([(1, 2), [1, 2], {"a": 1}, ()]),  # type: ignore[list-item]
        CategoricalDistribution([10**300, -(10**300), math.inf, "\ud800", "", "\n"]),
        CategoricalDistribution([f"choice {i}" for i in range(500)]),
        IntDistribution(0, 2**64 - 1),
        IntDistribution(-(2**63), 2**63 - 1),
        IntDistribution(1, 2**64 - 1, log=True),
        IntDistribution(-(10**30), 10**30, step=7),
        IntDistribution(2**64, 2**64 + 2**13, step=2**12),
        IntDistribution(-7, -3),
        IntDistribution(5, 5),
        FloatDistribution(-8e307, 8e307),
        FloatDistribution(5e-324, 1.7e308, log=True),
        FloatDistribution(1.0, math.nextafter(1.0, 2.0)),
        FloatDistribution(1.0, math.nextafter(1.0, 2.0), log=True),
        FloatDistribution(0.0, 1.0, step=1e-20),
        FloatDistribution(0.0, 1.0, step=0.3),
        FloatDistribution(-0.0, 0.0),
        FloatDistribution(1e-300, 1e-300, log=True),
    ],
    ids=lambda kind: repr(kind)[:60],
)
def test_what_other_samplers_take(kind: BaseDistribution) -> None:
    kinds = {"x": kind, "": IntDistribution(0, 3)}
    sampled(kinds, RandomSampler(seed=0))
    for params in sampled(kinds, LMSearcherSampler(scripted_ranker())):
        assert all(own._contains(own.to_internal_repr(params[name])) for name, own in kinds.items())


NUMBERS = st.floats(allow_nan=False, allow_infinity=False)
CHOICES = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=3), st.sampled_from([0, 1]))


@st.composite
def kinds(draw: Callable[[st.SearchStrategy[Any]], Any]) -> BaseDistribution:
    match draw(st.integers(0, 5)):
        case 0:
            return CategoricalDistribution(draw(st.lists(CHOICES, min_size=1, max_size=40)))
        case 1:
            low, span = draw(st.integers(-(2**70), 2**70)), draw(st.integers(0, 2**70) | st.integers(0, 40))
            return IntDistribution(low, low + span, step=draw(st.integers(1, 10)))
        case 2:
            low = draw(st.integers(1, 100))
            return IntDistribution(low, low + draw(st.integers(0, 2**66) | st.integers(0, 40)), log=True)
        case 3:
            low, high = sorted(draw(st.tuples(NUMBERS, NUMBERS)))
            return FloatDistribution(low, high)
        case 4:
            low, step = draw(st.integers(-99, 99)), draw(st.sampled_from([0.001, 0.1, 0.3, 2.5]))
            return FloatDistribution(low, low + step * draw(st.integers(0, 60)), step=step)
        case _:
            positive = st.floats(min_value=5e-324, allow_infinity=False, exclude_min=False)
            low, high = sorted(draw(st.tuples(positive, positive)))
            return FloatDistribution(low, high, log=True)


@settings(max_examples=60, derandomize=True, database=None, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.lists(kinds(), min_size=1, max_size=3))
def test_any_distributions(found: list[BaseDistribution]) -> None:
    named = {f"x{i}": kind for i, kind in enumerate(found)}
    try:
        sampled(named, RandomSampler(seed=0))
    except (OverflowError, ValueError):
        assume(False)  # Optuna's own do not take it
    for params in sampled(named, LMSearcherSampler(scripted_ranker())):
        assert all(kind._contains(kind.to_internal_repr(params[name])) for name, kind in named.items())


@pytest.mark.parametrize("kind", [IntDistribution(0, 2**64 - 1), IntDistribution(-(2**63), 2**63 - 1)])
def test_values_of_wide_integers_are_of_their_bin_as_optuna_keeps_them(kind: IntDistribution) -> None:
    ends, rng = edges(kind), np.random.default_rng(0)
    assert len(ends) == BINS + 1
    for low, high in pairwise(ends):
        for _ in range(200):
            value = draw(kind, low, high, rng)
            assert value == kind.to_external_repr(kind.to_internal_repr(value))
            assert low <= to_units(kind, value) < high
            assert kind.low <= value <= kind.high


def test_choices_that_optuna_cannot_tell_apart_are_one() -> None:
    kind = CategoricalDistribution([True, "a", 1, NAN, 1.0, float("nan"), None])
    assert options(kind) == ["0", "1", "2", "3"]  # NaN is no option of a space
    assert [to_units(kind, choice) for choice in kind.choices] == [0, 1, 0, 2, 0, 2, 3]
    assert options(CategoricalDistribution([1, 1.0, "sqrt"])) == [1, "sqrt"]


def test_a_search_refuses_options_that_its_storage_cannot_tell_apart(tmp_path: Any) -> None:
    space = SearchSpace({"a": [True, 1], "b": [1, 2]})
    with pytest.raises(SpaceError, match="a: Optuna, which keeps a search, cannot tell True and 1 apart"):
        distributions(space)
    with pytest.raises(SpaceError, match="a: Optuna"):
        run(lambda _: 1.0, space, scripted_ranker(), out=tmp_path / "out")
    assert not (tmp_path / "out").exists()
