"""What a search stores in a study's attributes, read back: any of it may have been written by another hand."""

from collections.abc import Mapping
from typing import Any

from optuna import Study
from optuna.trial import FrozenTrial

from lmsearcher_local.candidates.measures import is_finite
from lmsearcher_local.errors import SpaceError, StudyError, brief
from lmsearcher_local.search.calibration import LEVELS, RANKING, Choice
from lmsearcher_local.spaces.space import SearchSpace
from lmsearcher_local.study.recording import RUNS
from lmsearcher_local.study.results import PLAN, REASON, Result, code_of, result_of

PLANNED: dict[str, type] = {
    "objective": str,
    "checkpoint": str,
    "direction": str,
    "seed": int,
    "policy": str,
    "pool_size": int,
}
RAN: dict[str, type] = {"engine": str, "trial": int, "device": str, "processor": str, "versions": dict}
COUNTED: dict[str, type] = {"prompt_tokens": int, "computed_tokens": int}

SPENT = ("wall", "asking", "evaluating", "waiting")  # seconds of a run


def plan_of(study: Study) -> dict[str, Any]:
    """What was searched, and how, as ``Plan.describe`` writes it; ``StudyError`` where no search wrote it."""
    plan = study.user_attrs.get(PLAN)
    if not isinstance(plan, dict) or len(study.directions) != max(1, len(plan.get("goals") or ())):
        raise StudyError(f"{study.study_name} is a study of another program, not of a search")
    _check(plan, PLANNED, "the plan")
    if plan["direction"] not in ("maximize", "minimize"):
        raise StudyError(f"the plan's direction is {brief(plan['direction'])}; allowed: maximize, minimize")
    pairs = plan.get("space")
    if not isinstance(pairs, list) or not all(isinstance(pair, list) and len(pair) == 2 for pair in pairs):
        raise StudyError("the plan's space is no list of names with their options")
    if not all(isinstance(name, str) for name, _ in pairs):
        raise StudyError("the plan's space names a parameter with something that is no text")
    earlier = plan.get("earlier") or []
    kinds = {"name": str, "trials": int}
    if not isinstance(earlier, list) or not all(isinstance(one, dict) for one in earlier):
        raise StudyError("the plan's earlier searches are no list of facts")
    for one in earlier:
        _check(one, kinds, "the plan of an earlier search")
    return plan


def read_result(study: Study) -> Result:
    """The trials of a search, whose values are finite numbers and whose reasons are text; else ``StudyError``."""
    for trial in study.get_trials(deepcopy=False):
        if not isinstance(trial.user_attrs, dict):
            raise StudyError(f"what is stored about trial {trial.number + 1} is no list of facts")
    result = result_of(study)
    for found in result.trials:
        if found.value is not None and not is_finite(found.value):
            raise StudyError(
                f"the value of trial {found.number} is {brief(found.value)}; a search stores finite numbers"
            )
        if found.step is not None and not (isinstance(found.step, int) and isinstance(found.reported, (int, float))):
            raise StudyError(f"what trial {found.number} reported is no list of numbers")
        if found.reason is not None and not isinstance(found.reason, str):
            raise StudyError(f"the {REASON} of trial {found.number} is no text")
    return result


def choice_of(trial: FrozenTrial, space: SearchSpace) -> Choice | None:
    """Out of what pool the model picked a trial's code, if it did; ``StudyError`` where no search wrote it."""
    ranking = trial.user_attrs.get(RANKING)
    if ranking is None:
        return None
    where = f"the pool of trial {trial.number + 1}"
    if not isinstance(ranking, dict) or not isinstance(pool := ranking.get("pool"), list) or not pool:
        raise StudyError(f"{where} is no list of codes")
    probability = ranking.get("probability")
    if not is_finite(probability) or not 0 <= probability <= 1 + 1e-6:
        raise StudyError(f"{where} has the probability {brief(probability)}; allowed: 0 to 1")
    try:
        for code in pool:
            space.indices(code)
    except SpaceError as error:
        raise StudyError(f"{where}: {error}") from error
    belief = None
    if "trust" in ranking:
        trust, agreements = ranking["trust"], ranking.get("agreements")
        if not is_finite(trust) or not isinstance(agreements, list) or not all(map(is_finite, agreements)):
            raise StudyError(
                f"what is stored about the earlier searches at trial {trial.number + 1} is no list of numbers"
            )
        belief = trust, tuple(agreements)
    expected = ranking.get("expected")
    if expected is not None:
        if not isinstance(expected, list) or len(expected) != len(LEVELS) or not all(map(is_finite, expected)):
            raise StudyError(f"what was expected of trial {trial.number + 1} is no list of {len(LEVELS)} numbers")
        expected = tuple(expected)
    code = code_of(trial.params, space)
    return None if code is None else Choice(code, tuple(pool), probability, belief, expected)


def runs_of(study: Study) -> list[dict[str, Any]]:
    """Engine, versions, device and tokens of each run; ``StudyError`` where no search wrote them."""
    runs = study.user_attrs.get(RUNS, [])
    if not isinstance(runs, list) or not all(isinstance(run, dict) for run in runs):
        raise StudyError("what is stored about its runs is no list of facts")
    for number, run in enumerate(runs, 1):
        _check(run, RAN, f"run {number}")
        if "seconds" in run:
            seconds, workers = run["seconds"], run.get("workers")
            known = isinstance(seconds, dict) and all(is_finite(seconds.get(name)) for name in SPENT)
            if not known or not isinstance(workers, int):
                raise StudyError(f"run {number} says {brief(seconds)} where its times are stored, as numbers")
        if COUNTED.keys() & run.keys():
            _check(run, COUNTED, f"run {number}")
    return runs


def _check(facts: Mapping[str, Any], kinds: Mapping[str, type], where: str) -> None:
    for name, kind in kinds.items():
        value = facts.get(name)
        if not isinstance(value, kind) or isinstance(value, bool):
            raise StudyError(f"{where} says {brief(value)} where {name} is stored, as {kind.__name__}")
