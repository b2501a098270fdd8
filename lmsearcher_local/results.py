"""What a search found: its trials as the storage has them, and as a table, a CSV file or a pandas DataFrame."""

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from optuna import Study
from optuna.trial import FrozenTrial, TrialState

from lmsearcher_local.calibration import RANKING
from lmsearcher_local.errors import SpaceError, StudyError
from lmsearcher_local.files import COLUMNS, replaced
from lmsearcher_local.optuna import KILLED
from lmsearcher_local.searcher import Direction
from lmsearcher_local.space import Configuration, Option, SearchSpace
from lmsearcher_local.stored import PLAN

if TYPE_CHECKING:
    import pandas

REASON = "reason"  # trial user attribute: why there is no value
OURS = "lmsearcher"  # trial user attribute: a search of this package began it
WARM = "warm start"  # trial user attribute: the value was given, not evaluated


@dataclass(frozen=True, slots=True)
class Trial:
    """One evaluation; a failed one has a reason instead of a value.

    Its number is that of its start, from 1; trials that a kill ended do not count.
    """

    number: int
    code: str
    parameters: tuple[tuple[str, Option], ...]  # names and options: immutable, because callbacks get it
    value: float | None
    reason: str | None
    given: bool  # by a warm start
    ranked: bool = False  # picked by the model out of a pool

    @property
    def configuration(self) -> Configuration:
        """The options by name, a new dictionary each time."""
        return dict(self.parameters)


@dataclass(frozen=True, slots=True)
class Result:
    """A search so far: its trials in order, whether the space is used up, how many other trials ended in the study
    that have no configuration of the space (of another program, which count for nothing), and why it ended early."""

    space: SearchSpace
    direction: Direction
    trials: tuple[Trial, ...]
    exhausted: bool = False
    foreign: int = 0
    ended: str = ""

    @property
    def evaluated(self) -> int:
        """The number of trials that were not given by a warm start."""
        return sum(not trial.given for trial in self.trials)

    @property
    def best(self) -> tuple[str, float] | None:
        """The best code and its value; nothing where no trial has a value."""
        better = max if self.direction == "maximize" else min
        values = [(trial.code, trial.value) for trial in self.trials if trial.value is not None]
        return better(values, key=lambda item: item[1], default=None)

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
    return ended(study, SearchSpace(dict(plan["space"])), plan["direction"], {})


def ended(study: Study, space: SearchSpace, direction: Direction, known: dict[int, Trial | None]) -> Result:
    """The trials that ended, those in ``known`` as they are; the others join it."""
    trials = []
    counted = [trial for trial in study.get_trials(deepcopy=False) if KILLED not in trial.user_attrs]
    for number, trial in enumerate(counted, 1):
        if trial.state not in (TrialState.COMPLETE, TrialState.FAIL):
            continue
        if trial.number not in known:
            known[trial.number] = _trial(number, trial, space)
        trials.append(known[trial.number])
    ours = tuple(trial for trial in trials if trial is not None)
    return Result(space, direction, ours, foreign=len(trials) - len(ours))


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
    return Trial(
        number,
        code,
        tuple(space.decode(code).items()),
        trial.value,
        attributes.get(REASON),
        given=WARM in attributes,
        ranked=RANKING in attributes,
    )


def columns(names: Sequence[str]) -> list[str]:
    """The columns: about the trial, then one for each parameter."""
    return [*COLUMNS, *(f"parameter {name}" if name in COLUMNS else name for name in names)]


def rows(result: Result) -> list[list[Any]]:
    """A row for each trial in order; of a failed one without a value, but with the reason."""
    names = result.space.names
    return [
        [trial.number, trial.code, trial.value, trial.reason, *(trial.configuration[name] for name in names)]
        for trial in result.trials
    ]


def write_results(path: Path, result: Result) -> None:
    """Replace the file by a CSV of all trials, which ``sources.read_history`` reads."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns(result.space.names))
    writer.writerows(rows(result))
    replaced(path, text.getvalue())


def dataframe(result: Result) -> "pandas.DataFrame":
    """All trials as a DataFrame.

    Raises:
        ModuleNotFoundError: pandas is not installed.
    """
    import pandas

    return pandas.DataFrame(rows(result), columns=columns(result.space.names))
