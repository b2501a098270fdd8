"""What a search found: its trials as the storage has them, and as a table, a CSV file or a pandas DataFrame."""

import csv
import io
import math
from bisect import bisect_left, insort
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import takewhile
from typing import TYPE_CHECKING, Any

import numpy as np
from optuna import Study
from optuna.trial import FrozenTrial, TrialState

from lmsearcher_local.candidates.goals import standing
from lmsearcher_local.candidates.history import Direction
from lmsearcher_local.candidates.limits import Points, excess
from lmsearcher_local.candidates.measures import Goal, Limit, breaks
from lmsearcher_local.candidates.pareto import on_front
from lmsearcher_local.errors import SpaceError, StudyError
from lmsearcher_local.records.storage import PLAN, space_of_plan
from lmsearcher_local.records.trials import Reader
from lmsearcher_local.search.calibration import RANKING
from lmsearcher_local.search.groups import KILLED
from lmsearcher_local.search.options import SearchOptions
from lmsearcher_local.spaces.files import BREAKS, COLUMNS, MEASURE, column_of
from lmsearcher_local.spaces.space import Configuration, Option, SearchSpace

if TYPE_CHECKING:
    import pandas

REASON = "reason"  # trial user attribute: why there is no value
OURS = "lmsearcher"  # trial user attribute: a search of this package began it
MEASURED = "measured"  # trial user attribute: what was measured by name, where that is several values
WARM = "warm start"  # trial user attribute: the value was given, not evaluated


@dataclass(frozen=True, slots=True)
class Trial:
    """One evaluation; one that failed or was stopped early has a reason instead of a value.

    Its number is that of its start, from 1; trials that a kill ended do not count.
    """

    number: int
    code: str
    parameters: tuple[tuple[str, Option], ...]  # active ones and options: immutable, because callbacks get it
    values: tuple[float, ...]  # of each goal; none where it failed or was stopped early
    reason: str | None
    given: bool  # by a warm start
    ranked: bool = False  # picked by the model out of a pool
    pruned: bool = False  # stopped early; its reason says when
    step: int | None = None  # the last one reported
    reported: float | None = None  # its value
    seconds: float | None = field(default=None, compare=False)  # of its evaluation, which an equal trial need not take
    measured: tuple[tuple[str, float], ...] = ()  # by name
    violations: tuple[tuple[str, float], ...] = ()  # of each limit: above 0 it is broken

    @property
    def value(self) -> float | None:
        """Of the first goal."""
        return self.values[0] if self.values else None

    @property
    def configuration(self) -> Configuration:
        """The options by name, a new dictionary each time."""
        return dict(self.parameters)

    @property
    def holds(self) -> bool:
        """Whether it has a value and breaks no limit."""
        return bool(self.values) and all(violation <= 0 for _, violation in self.violations)

    @property
    def breaks(self) -> str:
        """Which limits it breaks, and by how much, in words; empty where it breaks none."""
        return breaks(dict(self.violations))


@dataclass(frozen=True)
class Result:
    """A search so far."""

    space: SearchSpace
    direction: Direction
    trials: tuple[Trial, ...]  # by number
    exhausted: bool = False  # the space is used up
    foreign: int = 0  # trials of another program, without a configuration of the space, which count for nothing
    ended: str = ""  # why the search ended early
    latest: tuple[Trial, ...] = field(default=(), compare=False, repr=False)  # that ended since the result before
    goals: tuple[Goal, ...] = ()
    limits: tuple[Limit, ...] = ()

    @cached_property
    def evaluated(self) -> int:
        """The number of trials that were not given by a warm start."""
        return sum(not trial.given for trial in self.trials)

    @property
    def sign(self) -> int:
        """1 where higher values are better, else -1; with several goals of the first."""
        return 1 if self.direction == "maximize" else -1

    @cached_property
    def best_trial(self) -> Trial | None:
        """The best that holds every limit, of equal ones the first; nothing where there is none, or several goals."""
        held = self.holding if len(self.goals) < 2 else []
        return min(held, key=lambda trial: (-self.sign * trial.values[0], trial.number), default=None)

    @property
    def best(self) -> tuple[str, float] | None:
        """The code and the value of the best trial."""
        return None if self.best_trial is None else (self.best_trial.code, self.best_trial.values[0])

    @cached_property
    def front(self) -> tuple[Trial, ...]:
        """With several goals, the trials that hold every limit and that no other dominates, by the first goal."""
        if len(self.goals) < 2:
            return ()
        places = np.flatnonzero(on_front(self.scores(self.holding))) if self.holding else ()
        return tuple(
            sorted((self.holding[i] for i in places), key=lambda trial: (-self.sign * trial.values[0], trial.number))
        )

    def scores(self, trials: Sequence[Trial]) -> np.ndarray:
        """The values of trials that have some, higher better, ``[trials, goals]``."""
        directions = [goal.direction for goal in self.goals] or [self.direction]
        signs = [1 if direction == "maximize" else -1 for direction in directions]
        return np.array([trial.values for trial in trials]).reshape(len(trials), len(signs)) * signs

    @cached_property
    def valued(self) -> list[Trial]:
        """The trials that have a value."""
        return [trial for trial in self.trials if trial.values]

    @cached_property
    def holding(self) -> list[Trial]:
        """The trials that have a value and hold every limit."""
        return [trial for trial in self.valued if trial.holds]

    @cached_property
    def breaking(self) -> list[Trial]:
        """Those that have a value and break a limit."""
        return [trial for trial in self.valued if not trial.holds]

    @property
    def violations(self) -> np.ndarray:
        """Of the trials that have a value, ``[trials, limits]``; NaN where one is not known."""
        known = [[dict(trial.violations).get(str(limit), math.nan) for limit in self.limits] for trial in self.valued]
        return np.array(known).reshape(len(known), len(self.limits))

    @cached_property
    def merits(self) -> dict[str, float]:
        """Of each code that has values, how good it is, higher better: its value, or how near to the front it is."""
        valued = self.valued
        scores = self.scores(valued)
        if len(self.goals) > 1:
            scores = -standing(Points((), scores, self.violations))[:, None]
        return {trial.code: float(score) for trial, score in zip(valued, scores[:, 0], strict=True)}

    @cached_property
    def nearest(self) -> Trial | None:
        """The trial that breaks the limits least; nothing where none has a value."""
        return self.valued[int(np.argmin(excess(self.violations)))] if self.valued else None

    @property
    def names(self) -> list[str]:
        """The measured values that have a column of their own: what limits and several goals name."""
        goals = [goal.name for goal in self.goals]
        names = dict.fromkeys([*goals, *(limit.name for limit in self.limits)])
        return [name for name in names if [name] != goals]

    @property
    def random(self) -> int:
        """How many trials, from the first, were drawn at random or given: the model was not asked yet."""
        return sum(1 for _ in takewhile(lambda trial: not trial.ranked, self.trials))


def result_of(study: Study) -> Result:
    """What a stored study of ``run`` holds; ``StudyError`` for a study of another program."""
    plan = study.user_attrs.get(PLAN)
    if not isinstance(plan, dict):
        raise StudyError(f"{study.study_name} is a study of another program, not of a search")
    options = SearchOptions(direction=plan["direction"], goals=plan.get("goals") or (), limits=plan.get("limits") or ())
    return Tally(study, space_of_plan(plan), options).update()


class Tally:
    """What a search has found so far, without a look at all of it after every trial."""

    def __init__(self, study: Study, space: SearchSpace, options: SearchOptions) -> None:
        self._reader = Reader(study)
        self._killed: list[int] = []  # numbers of trials that do not count
        self._result = Result(space, options.direction, (), goals=options.goals, limits=options.limits)

    def update(self) -> Result:
        """The result now; the very one of before where no other trial ended."""
        before, latest, foreign = self._result, [], 0
        for trial in self._reader.read():
            if KILLED in trial.user_attrs:
                insort(self._killed, trial.number)
            elif trial.state in (TrialState.COMPLETE, TrialState.FAIL, TrialState.PRUNED):
                found = _trial(trial.number + 1 - bisect_left(self._killed, trial.number), trial, before.space)
                latest += [found] if found else []
                foreign += not found
        if latest or foreign:
            trials = (*before.trials, *latest)
            if before.trials and latest and latest[0].number < before.trials[-1].number:
                trials = tuple(sorted(trials, key=lambda trial: trial.number))
            self._result = replace(before, trials=trials, foreign=before.foreign + foreign, latest=tuple(latest))
            fresh = replace(before, trials=(*filter(None, [before.best_trial]), *latest))
            # What it would look for among all trials.
            evaluated = before.evaluated + sum(not trial.given for trial in latest)
            vars(self._result).update(evaluated=evaluated, best_trial=fresh.best_trial)
        return self._result


def code_of(values: Mapping[str, Any], space: SearchSpace) -> str | None:
    """The code of a trial's values, which may be those of more parameters; nothing where it has none."""
    try:
        return space.encode({name: values[name] for name in space.names if name in values})
    except SpaceError:
        return None


def _trial(number: int, trial: FrozenTrial, space: SearchSpace) -> Trial | None:
    code, attributes = code_of(trial.params, space), trial.user_attrs
    if code is None:
        return None
    pruned, step = trial.state == TrialState.PRUNED, trial.last_step
    reported = None if step is None else trial.intermediate_values[step]
    return Trial(
        number,
        code,
        tuple(space.decode(code).items()),
        () if pruned else tuple(trial.values or ()),
        _stop(step, reported) if pruned else attributes.get(REASON),
        measured=tuple(attributes.get(MEASURED, {}).items()),
        violations=tuple(trial.constraints.items()),
        given=WARM in attributes,
        ranked=RANKING in attributes,
        pruned=pruned,
        step=step,
        reported=reported,
        seconds=trial.duration.total_seconds() if trial.duration else None,
    )


def _stop(step: int | None, reported: object) -> str:
    """When a trial was stopped early, in words; what it reported may have been written by another hand."""
    value = f"{reported:.6g}" if isinstance(reported, (int, float)) else reported
    return "pruned before any step" if step is None else f"pruned at step {step}: {value}"


def columns(result: Result) -> list[str]:
    """The columns: about the trial, then one for each parameter and each measured value that has one."""
    return [*COLUMNS, *map(column_of, result.space.names), *(f"{MEASURE}{name}" for name in result.names)]


def rows(result: Result, trials: Iterable[Trial]) -> list[list[Any]]:
    """A row for each trial: of a failed one the reason in place of a value. One that breaks a limit has both. Inactive
    parameters have no value."""
    found = []
    for trial in trials:
        reason = trial.reason or (f"{BREAKS}{trial.breaks}" if trial.breaks else None)
        options = map(trial.configuration.get, result.space.names)
        measured = map(dict(trial.measured).get, result.names)
        found.append([trial.number, trial.code, trial.value, reason, *options, *measured])
    return found


def table_of(result: Result, trials: Iterable[Trial]) -> str:
    """Lines of a CSV, one for each trial."""
    return _csv(rows(result, trials))


def text_of(result: Result) -> str:
    """A CSV of all trials with its header, which ``sources.read_history`` reads."""
    return _csv([columns(result), *rows(result, result.trials)])


def front_text(result: Result) -> str:
    """A CSV of the front: a line for each trial on it, with the goals' values and the parameters."""
    names = result.space.names
    header = ["trial", "ncode", *(f"{MEASURE}{goal.name}" for goal in result.goals), *map(column_of, names)]
    front = ([one.number, one.code, *one.values, *map(one.configuration.get, names)] for one in result.front)
    return _csv([header, *front])


def _csv(lines: Iterable[Sequence[object]]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(lines)
    return text.getvalue()


def dataframe(result: Result) -> "pandas.DataFrame":
    """All trials as a pandas DataFrame."""
    import pandas

    return pandas.DataFrame(rows(result, result.trials), columns=columns(result))
