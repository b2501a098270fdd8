"""What a search found: its trials as the storage has them, and as a table, a CSV file or a pandas DataFrame."""

import csv
import io
from bisect import bisect_left, insort
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import takewhile
from typing import TYPE_CHECKING, Any

from optuna import Study
from optuna.trial import FrozenTrial, TrialState

from lmsearcher_local.candidates.history import Direction
from lmsearcher_local.errors import SpaceError, StudyError
from lmsearcher_local.records.storage import PLAN
from lmsearcher_local.records.trials import Reader
from lmsearcher_local.search.calibration import RANKING
from lmsearcher_local.search.groups import KILLED
from lmsearcher_local.spaces.files import COLUMNS
from lmsearcher_local.spaces.space import Configuration, Option, SearchSpace

if TYPE_CHECKING:
    import pandas

REASON = "reason"  # trial user attribute: why there is no value
OURS = "lmsearcher"  # trial user attribute: a search of this package began it
WARM = "warm start"  # trial user attribute: the value was given, not evaluated


@dataclass(frozen=True, slots=True)
class Trial:
    """One evaluation; one that failed or was stopped early has a reason instead of a value.

    Its number is that of its start, from 1; trials that a kill ended do not count.
    """

    number: int
    code: str
    parameters: tuple[tuple[str, Option], ...]  # names and options: immutable, because callbacks get it
    value: float | None
    reason: str | None
    given: bool  # by a warm start
    ranked: bool = False  # picked by the model out of a pool
    pruned: bool = False  # stopped early; its reason says when
    step: int | None = None  # the last one reported
    reported: float | None = None  # its value
    seconds: float | None = None  # of its evaluation

    @property
    def configuration(self) -> Configuration:
        """The options by name, a new dictionary each time."""
        return dict(self.parameters)


@dataclass(frozen=True)
class Result:
    """A search so far: its trials in order, whether the space is used up, how many other trials ended in the study
    that have no configuration of the space (of another program, which count for nothing), and why it ended early.

    ``latest`` are those of the trials that ended since the result before.
    """

    space: SearchSpace
    direction: Direction
    trials: tuple[Trial, ...]
    exhausted: bool = False
    foreign: int = 0
    ended: str = ""
    latest: tuple[Trial, ...] = field(default=(), compare=False, repr=False)

    @cached_property
    def evaluated(self) -> int:
        """The number of trials that were not given by a warm start."""
        return sum(not trial.given for trial in self.trials)

    @cached_property
    def best(self) -> tuple[str, float] | None:
        """The best code and its value; nothing where no trial has a value."""
        best = _best(self.trials, self.direction)
        return None if best is None else (best.code, best.value)  # type: ignore[return-value]

    @property
    def random(self) -> int:
        """How many trials, from the first, were drawn at random or given: the model was not asked yet."""
        return sum(1 for _ in takewhile(lambda trial: not trial.ranked, self.trials))


def result_of(study: Study) -> Result:
    """What a stored study of ``run`` holds.

    Raises:
        StudyError: it is a study of another program.
    """
    plan = study.user_attrs.get(PLAN)
    if not isinstance(plan, dict):
        raise StudyError(f"{study.study_name} is a study of another program, not of a search")
    return Tally(study, SearchSpace(dict(plan["space"])), plan["direction"]).update()


class Tally:
    """What a search has found so far, without a look at all of it after every trial."""

    def __init__(self, study: Study, space: SearchSpace, direction: Direction) -> None:
        self._reader = Reader(study)
        self._killed: list[int] = []  # numbers of trials that do not count
        self._best: Trial | None = None
        self._evaluated = 0
        self._result = self._counted(Result(space, direction, ()))

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
            self._evaluated += sum(not trial.given for trial in latest)
            self._best = _best([*([self._best] if self._best else []), *latest], before.direction)
            self._result = self._counted(
                replace(before, trials=trials, foreign=before.foreign + foreign, latest=tuple(latest))
            )
        return self._result

    def _counted(self, result: Result) -> Result:
        """The same, told what it would count itself."""
        best = self._best and (self._best.code, self._best.value)
        vars(result).update(evaluated=self._evaluated, best=best)
        return result


def _best(trials: Iterable[Trial], direction: Direction) -> Trial | None:
    """The best trial that has a value, of equal ones the first."""
    sign = -1 if direction == "maximize" else 1
    valued = ((sign * trial.value, trial.number, trial) for trial in trials if trial.value is not None)
    return min(valued, default=(0, 0, None))[2]


def code_of(values: Mapping[str, Any], space: SearchSpace) -> str | None:
    """The code of a trial's values, which may be those of more parameters; nothing where it has none."""
    try:
        return space.encode({name: values[name] for name in space.names})
    except (KeyError, SpaceError):
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
        None if pruned else trial.value,
        f"pruned at step {step}: {reported}" if pruned else attributes.get(REASON),
        given=WARM in attributes,
        ranked=RANKING in attributes,
        pruned=pruned,
        step=step,
        reported=reported,
        seconds=trial.duration.total_seconds() if trial.duration else None,
    )


def columns(names: Sequence[str]) -> list[str]:
    """The columns: about the trial, then one for each parameter."""
    return [*COLUMNS, *(f"parameter {name}" if name in COLUMNS else name for name in names)]


def rows(space: SearchSpace, trials: Iterable[Trial]) -> list[list[Any]]:
    """A row for each trial; of a failed one without a value, but with the reason."""
    return [
        [trial.number, trial.code, trial.value, trial.reason, *(trial.configuration[name] for name in space.names)]
        for trial in trials
    ]


def table_of(space: SearchSpace, trials: Iterable[Trial]) -> str:
    """Lines of a CSV, one for each trial."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows(space, trials))
    return text.getvalue()


def text_of(result: Result) -> str:
    """A CSV of all trials with its header, which ``sources.read_history`` reads."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerow(columns(result.space.names))
    return text.getvalue() + table_of(result.space, result.trials)


def dataframe(result: Result) -> "pandas.DataFrame":
    """All trials as a DataFrame.

    Raises:
        ModuleNotFoundError: pandas is not installed.
    """
    import pandas

    return pandas.DataFrame(rows(result.space, result.trials), columns=columns(result.space.names))
