"""LMSearcherSampler: Optuna's own contract tests, what it proposes and never proposes, workers, the real model."""

import json
import math
import re
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.samplers import BaseSampler, PartialFixedSampler, RandomSampler
from optuna.testing.pytest_samplers import (
    BasicSamplerTestCase,
    MultiObjectiveSamplerTestCase,
    RelativeSamplerTestCase,
)
from optuna.trial import TrialState, create_trial
from scripted import scripted_ranker

from lmsearcher_local.errors import NothingToPropose, PromptError, StudyError
from lmsearcher_local.model.ranker import Ranker
from lmsearcher_local.presets.tables import table
from lmsearcher_local.search.groups import CLAIM, Group, draw_values, encode_trials
from lmsearcher_local.search.options import SearchOptions
from lmsearcher_local.search.optuna_sampler import LMSearcherSampler
from lmsearcher_local.search.searcher import Searcher
from lmsearcher_local.search.state import State
from lmsearcher_local.spaces.distributions import BINS, LISTED, distributions, options
from lmsearcher_local.spaces.space import SearchSpace

optuna.logging.set_verbosity(optuna.logging.WARNING)
SPACE = SearchSpace({"a": ["x", "y", "z"], "b": [1, 2, 4, 8], "c": [True, False], "d": [0.1, 0.2, None]})


class Contract:
    """The sampler that Optuna's tests are run on.

    One of their kinds does not apply: ``SingleOnlySamplerTestCase`` wants several objectives refused. Nor does any
    for a sampler with a fixed space: they suggest parameters of their own, which it refuses on purpose (below).
    """

    @pytest.fixture
    def sampler(self) -> Callable[[], BaseSampler]:
        return lambda: LMSearcherSampler(scripted_ranker())


class TestBasic(Contract, BasicSamplerTestCase):
    pass


class TestRelative(Contract, RelativeSamplerTestCase):
    pass


class TestMultiObjective(Contract, MultiObjectiveSamplerTestCase):
    pass


def score(trial: optuna.Trial) -> float:
    chosen = {name: trial.suggest_categorical(name, choices) for name, choices in SPACE.describe().items()}
    return float(SPACE.encode(chosen)) % 97


def mixed(trial: optuna.Trial) -> float:
    rate = trial.suggest_float("rate", 1e-5, 1e-1, log=True)
    width = trial.suggest_int("width", 1, 512, log=True)
    layers = trial.suggest_int("layers", 2, 10, step=2)
    dropout = trial.suggest_float("dropout", 0.0, 0.5, step=0.1)
    return abs(np.log10(rate) + 3) + abs(np.log2(width) - 6) + layers / 10 + dropout


def conditional(trial: optuna.Trial) -> float:
    if trial.suggest_categorical("kind", ["linear", "deep"]) == "linear":
        return trial.suggest_float("slope", -1, 1)
    return trial.suggest_int("layers", 1, 8) / trial.suggest_int("width", 1, 8)


def study_of(**options: object) -> optuna.Study:
    direction = str(options.pop("direction", "maximize"))
    sampler = LMSearcherSampler(scripted_ranker(), **options)  # type: ignore[arg-type]
    return optuna.create_study(sampler=sampler, direction=direction)


def configurations(study: optuna.Study) -> list[dict[str, object]]:
    return [trial.params for trial in study.trials]


def distinct(study: optuna.Study) -> int:
    return len({json.dumps(params, sort_keys=True) for params in configurations(study)})


@pytest.mark.parametrize("direction", ["maximize", "minimize"])
def test_a_fixed_space_is_searched_as_by_ask_and_tell(direction: str) -> None:
    study = study_of(space=SPACE, seed=3, direction=direction)
    study.optimize(score, n_trials=20)
    searcher = Searcher(SPACE, scripted_ranker(), seed=3, direction=direction)  # type: ignore[arg-type]
    for trial in study.trials:
        [code] = searcher.ask()
        assert SPACE.decode(code) == trial.params
        searcher.tell(code, trial.value)  # type: ignore[arg-type]
    others = [study.ask(distributions(SPACE)) for _ in range(4)]  # running ones are not proposed to others
    assert [trial.number for trial in others] == [20, 21, 22, 23]
    assert distinct(study) == 24
    with pytest.raises(StudyError, match="'e' with these options is not in the sampler's search space of a, b, c, d"):
        study.ask().suggest_categorical("e", [1, 2])


def test_a_fixed_space_ends() -> None:
    study = study_of(space=SPACE, policy="paper")
    study.optimize(score, n_trials=99)
    assert len(study.trials) == distinct(study) == SPACE.size
    study.optimize(score, n_trials=9)  # one trial finds nothing, and says so
    assert [trial.state for trial in study.trials[SPACE.size :]] == [TrialState.PRUNED]
    by_hand = study.ask()
    with pytest.raises(NothingToPropose, match="all 72 valid configurations"):
        by_hand.suggest_categorical("a", SPACE.describe()["a"])
    study.tell(by_hand, state=TrialState.FAIL)


@pytest.mark.parametrize("valid", [None, lambda configuration: configuration["b"] > 1])
def test_a_fixed_space_ends_for_several_at_once(valid: Callable[[dict[str, Any]], bool] | None) -> None:
    space = SearchSpace({"a": ["x", "y", "z"], "b": [1, 2, 4, 8]}, valid=valid)

    def slow(trial: optuna.Trial) -> float:
        value = sum(len(str(trial.suggest_categorical(name, choices))) for name, choices in space.describe().items())
        time.sleep(0.01)
        return value

    study = study_of(space=space)
    study.optimize(slow, n_trials=60, n_jobs=4)
    done = [trial for trial in study.trials if trial.state == TrialState.COMPLETE]
    assert sorted(space.encode(trial.params) for trial in done) == [*space.enumerate()]
    assert {trial.state for trial in study.trials} <= {TrialState.COMPLETE, TrialState.PRUNED}
    assert len(study.trials) - len(done) <= 8  # those that began meanwhile
    other = optuna.create_study(sampler=study.sampler)  # what one study used up is free in another
    other.optimize(slow, n_trials=3)
    assert [trial.state for trial in other.trials] == [TrialState.COMPLETE] * 3


def test_a_predicate_holds_and_trials_that_it_refuses_do_not_count() -> None:
    space = SearchSpace(SPACE.describe(), valid=lambda configuration: configuration["c"])
    study = study_of(space=space)
    study.add_trial(create_trial(params=SPACE.decode("0010"), distributions=distributions(SPACE), value=1.0))
    study.optimize(score, n_trials=15)
    assert all(trial.params["c"] for trial in study.trials[1:])


@pytest.mark.parametrize("objective", [score, mixed, conditional])
def test_equal_seeds_give_equal_trials(objective: Callable[[optuna.Trial], float]) -> None:
    runs = [study_of(seed=seed) for seed in (5, 5, 6)]
    for study in runs:
        study.optimize(objective, n_trials=15)
    first, second, other = map(configurations, runs)
    assert first == second
    assert first != other


def test_a_sampler_made_anew_goes_on_as_the_old_one() -> None:
    whole, parts = study_of(), study_of()
    whole.optimize(conditional, n_trials=16)
    parts.optimize(conditional, n_trials=8)
    parts.sampler = LMSearcherSampler(scripted_ranker())
    parts.optimize(conditional, n_trials=8)
    assert configurations(parts) == configurations(whole)


def test_whatever_the_objective_suggests_is_searched_and_no_bin_twice() -> None:
    study = study_of(direction="minimize")
    study.optimize(mixed, n_trials=30)
    kinds = study.sampler.infer_relative_search_space(study, study.trials[-1])
    assert list(kinds) == ["dropout", "layers", "rate", "width"]
    space = SearchSpace({name: options(kind) for name, kind in kinds.items()})
    assert space.sizes == (6, 5, BINS, len(options(kinds["width"])))
    codes = [code for code, _ in encode_trials(Group(kinds, State(space, SearchOptions())), study.trials)]
    assert len(set(codes)) == 30


def test_conditional_parameters_are_searched_in_groups() -> None:
    study = study_of()
    study.optimize(conditional, n_trials=30)
    kinds = study.sampler.infer_relative_search_space(study, study.trials[-1])
    assert sorted(kinds) == ["kind", "layers", "slope", "width"]
    assert {tuple(sorted(trial.params)) for trial in study.trials} == {("kind", "slope"), ("kind", "layers", "width")}
    deep = [trial.params for trial in study.trials if trial.params["kind"] == "deep"]
    assert len(deep) == len({(params["layers"], params["width"]) for params in deep}) >= 5  # used up is `kind` alone


def test_what_others_depend_on_is_taken_again_and_failures_behind_it_are_no_obstacle() -> None:
    def objective(trial: optuna.Trial) -> float:
        width = trial.suggest_categorical("width", [1, 2, 3])
        if width == 3:
            return 3.0  # nothing else to choose: once is enough
        depth = trial.suggest_int("depth", 0, 30)
        if trial.number % 2:
            raise ValueError
        return depth / 30 + width / 10

    study = study_of()
    study.optimize(objective, n_trials=30, catch=ValueError)
    widths = [trial.params["width"] for trial in study.trials]
    assert widths.count(3) <= 1
    assert min(widths.count(1), widths.count(2)) > 1
    assert distinct(study) == 30


@pytest.mark.parametrize(
    ("kind", "size"),
    [
        (CategoricalDistribution(["a", None, 2.5, True]), 4),
        (CategoricalDistribution([float("nan"), 1.0]), 2),  # a choice that no search space lists
        (IntDistribution(-3, 8), 12),
        (IntDistribution(0, 98, step=7), 15),
        (IntDistribution(1, LISTED), LISTED),
        (IntDistribution(1, LISTED + 1), BINS),
        (IntDistribution(0, 2**40), BINS),
        (IntDistribution(1, 100, log=True), 14),
        (FloatDistribution(-10.2, 10.2, step=0.1), BINS),
        (FloatDistribution(0, 1, step=0.1), 11),
        (FloatDistribution(-1, 1), BINS),
        (FloatDistribution(1e-7, 10, log=True), BINS),
    ],
)
def test_every_value_has_its_option_and_every_option_its_values(kind: BaseDistribution, size: int) -> None:
    assert len(options(kind)) == size
    space = SearchSpace({"x": options(kind)})
    group = Group({"x": kind}, State(space, SearchOptions()))
    rng = np.random.default_rng(0)

    def code(value: object) -> list[str]:
        trial = create_trial(params={"x": value}, distributions={"x": kind}, value=0.0)
        return [code for code, _ in encode_trials(group, [trial])]

    for wanted in space.enumerate():
        for _ in range(20):
            value = draw_values(group, wanted, rng)["x"]
            assert kind._contains(kind.to_internal_repr(value))
            assert code(value) == [wanted]
    if isinstance(kind, (IntDistribution, FloatDistribution)):
        assert space.indices(code(kind.low)[0]) == (0,)
        assert space.indices(code(kind.high)[0]) == (size - 1,)


def told(study: optuna.Study) -> State:
    """What the sampler knows of a study over SPACE."""
    sampler = study.sampler
    assert isinstance(sampler, LMSearcherSampler)
    [group] = sampler._groups.read(study)
    return group.state


@pytest.mark.parametrize("direction", ["maximize", "minimize"])
@pytest.mark.parametrize("space", [None, SPACE])
def test_pruned_trials_count_with_what_their_step_supports(space: SearchSpace | None, direction: str) -> None:
    """Again after each trial that ran further, and as if told for the first time."""
    study, kinds = study_of(space=space, direction=direction), distributions(SPACE)
    sign = 1 if direction == "maximize" else -1

    def add(code: str, steps: dict[int, float], value: float | None) -> dict[str, float]:
        state = TrialState.PRUNED if value is None else TrialState.COMPLETE
        signed = {step: sign * reached for step, reached in steps.items()}
        trial = create_trial(
            state=state,
            value=None if value is None else sign * value,
            params=SPACE.decode(code),
            distributions=kinds,
            intermediate_values=signed,
        )
        study.add_trial(trial)
        fresh = study_of(space=space, direction=direction)
        fresh.add_trials(study.trials)
        assert told(study).told.history == told(fresh).told.history
        return dict(zip(told(study).told.history.codes, told(study).told.history.scores, strict=True))

    assert add("0000", {1: 3.0}, None) == {"0000": 3}  # nothing else is known
    assert add("0001", {1: 2.0, 2: 8.0}, 8.0) == {"0000": 9, "0001": 8}
    assert add("0002", {1: 4.0, 2: 9.0}, 10.0) == {"0000": 9, "0001": 8, "0002": 10}
    assert add("0010", {1: 3.0, 2: 8.5}, None) == {"0000": 9, "0001": 8, "0002": 10, "0010": 9}
    assert add("0011", {1: math.nan}, None)["0011"] == 8


@pytest.mark.parametrize("space", [None, SPACE])
def test_what_other_samplers_and_people_leave_in_the_study(space: SearchSpace | None) -> None:
    study = study_of(space=space)
    study.sampler, ours = RandomSampler(seed=0), study.sampler
    study.optimize(score, n_trials=2)
    study.sampler = ours
    kinds = distributions(SPACE)

    def add(code: str, **rest: object) -> None:
        study.add_trial(create_trial(params=SPACE.decode(code), distributions=kinds, **rest))  # type: ignore[arg-type]

    random = [SPACE.encode(trial.params) for trial in study.trials]
    add("0000", value=1.0)
    add("0000", value=2.0)
    add("0001", value=5.0)
    add("1000", state=TrialState.FAIL)
    add("1001", state=TrialState.PRUNED)
    add("1002", state=TrialState.PRUNED, intermediate_values={0: 9.0, 3: 7.0})
    add("1010", value=float("inf"))
    add("1011", value=3.0, constraints={"memory": 1.0})
    add("1012", value=3.0, constraints={"memory": 0.0})
    add("1100", state=TrialState.FAIL, user_attrs={"killed": True})
    study.add_trial(create_trial(value=1.0))  # without a parameter
    other = CategoricalDistribution(["q"])
    study.add_trial(
        create_trial(params={**SPACE.decode("2000"), "a": "q"}, distributions={**kinds, "a": other}, value=1)
    )
    add("0002", value=4.0)  # the latest distribution counts
    study.enqueue_trial(SPACE.decode("1200"))
    study.enqueue_trial({"a": "y"})  # the rest is to be sampled
    state = told(study)
    shown = dict(zip(state.told.history.codes, state.told.history.scores, strict=True))
    assert {code: value for code, value in shown.items() if code not in random} == {
        "0000": 1.5,
        "0001": 5.0,
        "1002": 7.0,
        "1011": shown["1011"],  # it breaks a constraint
        "1012": 3.0,
        "0002": 4.0,
    }
    assert shown["1011"] < min(score for code, score in shown.items() if code != "1011")
    failed, waiting = {"1000", "1001", "1010"}, {"1200"}
    assert (state.closed, {*state.pending}) == (failed, waiting)
    study.optimize(score, n_trials=30)
    queued, partly, *sampled = [trial.params for trial in study.trials if trial.number > 14]
    assert queued == SPACE.decode("1200")
    assert partly["a"] == "y"
    proposed = [SPACE.encode(params) for params in sampled]
    assert len(set(proposed)) == len(proposed) == 28
    assert not {*failed, *waiting, *random, *shown} & {*proposed}


def test_a_used_up_space_repeats_what_is_good() -> None:
    study = study_of(direction="minimize")
    study.optimize(lambda trial: trial.suggest_int("x", 0, 9), n_trials=60)
    values = [trial.params["x"] for trial in study.trials]
    assert sorted(values[:10]) == list(range(10))
    assert np.mean(values[10:]) < 3  # the mean of the lowest of three among ten is 2.0

    def failing(trial: optuna.Trial) -> float:
        trial.suggest_int("y", 0, 2)
        raise ValueError

    study = study_of()
    study.add_trial(create_trial(params={"y": 0}, distributions={"y": IntDistribution(0, 2)}, state=TrialState.PRUNED))
    study.optimize(failing, n_trials=5, catch=ValueError)
    assert len({trial.params["y"] for trial in study.trials}) == 3


def test_ranges_that_change() -> None:
    study = study_of()
    study.optimize(lambda trial: trial.suggest_int("x", 0, 9), n_trials=5)
    study.optimize(lambda trial: trial.suggest_int("x", 100, 109), n_trials=8)
    assert len({trial.params["x"] for trial in study.trials}) >= 12  # one was random


@pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")
def test_hyperband_and_partly_fixed_studies() -> None:
    def reporting(objective: Callable[[optuna.Trial], float], trial: optuna.Trial) -> float:
        value = objective(trial)
        for step in range(5):
            trial.report(value, step)
            if trial.should_prune():
                raise optuna.TrialPruned
        return value

    for space, objective in ((None, mixed), (SPACE, score)):
        sampler = LMSearcherSampler(scripted_ranker(), space=space)
        study = optuna.create_study(sampler=sampler, pruner=optuna.pruners.HyperbandPruner(max_resource=5))
        study.optimize(partial(reporting, objective), n_trials=15)
        assert len(study.trials) == 15
    for space in (None, SPACE):
        study = study_of(space=space)
        study.optimize(score, n_trials=3)
        study.sampler = PartialFixedSampler({"c": False}, study.sampler)
        study.optimize(score, n_trials=6)
        assert not any(trial.params["c"] for trial in study.trials[3:])
        assert len(study.trials) == 9


def test_a_space_that_does_not_fit_and_arguments_are_refused_at_once() -> None:
    with pytest.raises(PromptError, match="this checkpoint reads 4096"):
        LMSearcherSampler(scripted_ranker(), space=SearchSpace([2] * 65))
    with pytest.raises(ValueError, match="policy is one of"):
        LMSearcherSampler(scripted_ranker(), policy="best")
    study = study_of()
    with pytest.raises(PromptError, match="this checkpoint reads 4096"):
        study.optimize(lambda trial: sum(trial.suggest_int(f"x{i}", 0, 1) for i in range(65)), n_trials=2)
    with pytest.raises(ValueError, match="without a fixed space"):
        LMSearcherSampler(scripted_ranker()).propose(study)


@pytest.mark.parametrize("fixed", [False, True])
def test_eight_workers_get_different_points(fixed: bool) -> None:
    nasbench = table("nasbench201-cifar100")
    study = study_of(space=nasbench.space if fixed else None, policy="local")

    def objective(trial: optuna.Trial) -> float:
        cell = {name: trial.suggest_categorical(name, choices) for name, choices in nasbench.space.describe().items()}
        return nasbench(nasbench.space.encode(cell))

    study.optimize(objective, n_trials=192, n_jobs=8)
    assert all(trial.state == TrialState.COMPLETE for trial in study.trials)
    assert distinct(study) == 192


class Interrupted(LMSearcherSampler):
    """Before it writes down its first pick, another process has made and written down its own."""

    def _ask(self, groups: Sequence[Group], rng: np.random.Generator) -> list[str]:
        codes = super()._ask(groups, rng)
        if meddling := self.__dict__.pop("meddling", None):
            meddling()
        return codes


@pytest.mark.parametrize("space", [None, SPACE])
def test_processes_that_pick_the_same_at_the_same_time(space: SearchSpace | None) -> None:
    study = study_of(space=space)
    study.optimize(score, n_trials=8)
    study.sampler, ours = Interrupted(scripted_ranker(), space=space), study.sampler
    there = optuna.load_study(study_name=study.study_name, storage=study._storage, sampler=ours)
    study.sampler.meddling = lambda: there.ask(distributions(SPACE))  # type: ignore[attr-defined]
    study.ask(distributions(SPACE))
    assert len(study.trials) == 10
    assert distinct(study) == 10


@pytest.mark.parametrize("space", [None, SPACE])
def test_a_running_trial_that_has_stored_little_is_not_proposed_again(space: SearchSpace | None) -> None:
    study = study_of(space=space)
    study.optimize(score, n_trials=8)
    for _ in range(6):
        study.ask().suggest_categorical("a", SPACE.describe()["a"])
    claims = [trial.system_attrs[CLAIM] for trial in study.trials[8:]]
    assert [trial.params for trial in study.trials[8:]] == [{"a": claim["a"]} for claim in claims]
    assert len({SPACE.encode(params) for params in [*configurations(study)[:8], *claims]}) == 14


def test_groups_and_processes_that_collided_draw_apart() -> None:
    study = study_of()
    study.optimize(conditional, n_trials=8)
    assert isinstance(study.sampler, LMSearcherSampler)
    seeds = [
        [group.state.seed for group in study.sampler._groups.read(study, n, attempt)]
        for n in (8, 9)
        for attempt in (0, 1)
    ]
    assert seeds[0] == seeds[2]
    assert len({*seeds[0], *seeds[1], *seeds[3]}) == 9


def test_a_rival_that_picks_again_and_comes_to_the_same_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    sampler = LMSearcherSampler(scripted_ranker(), space=SPACE)
    study = optuna.create_study(sampler=sampler)
    study.optimize(score, n_trials=6)
    [unseen] = SPACE.sample(np.random.default_rng(0), 1, [SPACE.encode(trial.params) for trial in study.trials])
    study.add_trial(create_trial(state=TrialState.RUNNING, system_attrs={CLAIM: SPACE.decode(unseen)}))
    rival, asked = study.trials[-1], sampler._ask
    claims: list[dict[str, Any]] = []

    def meanwhile(*arguments: Any) -> list[str]:
        [code] = asked(*arguments)
        if not claims:
            claims.append(SPACE.decode(code))
            study._storage.set_trial_system_attr(rival._trial_id, CLAIM, claims[0])
        return [code]

    monkeypatch.setattr(sampler, "_ask", meanwhile)
    assert study.ask(distributions(SPACE)).params not in (SPACE.decode(unseen), *claims)
    assert claims


WORKER = """
import sys
sys.path.insert(0, sys.argv[2])
import optuna
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from test_optuna import SPACE, LMSearcherSampler, score, scripted_ranker
storage = JournalStorage(JournalFileBackend(sys.argv[1]))
sampler = LMSearcherSampler(scripted_ranker(), space=SPACE, policy="paper")
print("ready", flush=True)
input()
optuna.load_study(study_name="shared", storage=storage, sampler=sampler).optimize(score, n_trials=30)
"""


def test_processes_get_different_points(tmp_path: Path) -> None:
    journal = str(tmp_path / "journal")
    storage = optuna.storages.JournalStorage(optuna.storages.journal.JournalFileBackend(journal))
    study = optuna.create_study(study_name="shared", storage=storage)
    command = [sys.executable, "-c", WORKER, journal, str(Path(__file__).parent)]
    workers = [subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    try:
        for worker in workers:
            assert worker.stdout
            assert worker.stdout.readline() == "ready\n"
        for worker in workers:
            assert worker.stdin
            worker.stdin.write("go\n")
            worker.stdin.flush()
        for worker in workers:
            worker.wait(60)
    finally:
        for worker in workers:
            worker.kill()
    assert [worker.returncode for worker in workers] == [0, 0]
    assert len(study.trials) == distinct(study) == 60


def test_the_ten_lines_of_the_readme() -> None:
    readme = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")
    [code] = [text for text in re.findall(r"```python\n(.*?)```", readme, re.DOTALL) if "LMSearcherSampler" in text]
    assert len([line for line in code.splitlines() if line]) <= 10
    names: dict[str, optuna.Study] = {}
    exec(code.replace("n_trials=100", "n_trials=12, n_jobs=8"), names)
    assert len(names["study"].trials) == distinct(names["study"]) == 12


def test_the_bundled_checkpoint_repeats_itself(bundled: Ranker) -> None:
    runs = []
    for _ in range(2):
        study = optuna.create_study(sampler=LMSearcherSampler(bundled, seed=1))
        study.optimize(mixed, n_trials=10)
        runs.append(configurations(study))
    assert runs[0] == runs[1]
    assert len({json.dumps(params) for params in runs[0]}) == 10
