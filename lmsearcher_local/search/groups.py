"""The parameters of an Optuna study in groups that occur together, and what its trials say about each group.

Every trial is looked at until it has ended, and then no more, however long the study is.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from zlib import crc32

import numpy as np
from optuna.distributions import BaseDistribution
from optuna.study import Study, StudyDirection
from optuna.trial import FrozenTrial, TrialState

from lmsearcher_local.candidates.history import Direction
from lmsearcher_local.candidates.rungs import Curve, supported_values
from lmsearcher_local.errors import OptionError
from lmsearcher_local.records.trials import Reader
from lmsearcher_local.search.options import MOST
from lmsearcher_local.search.state import State
from lmsearcher_local.spaces.distributions import draw, edges, encode
from lmsearcher_local.system import optuna_internals as internals

KILLED = "killed"  # user attribute of a trial that ended with its process and says nothing about its code
ENDED = (TrialState.COMPLETE, TrialState.PRUNED)  # with something to show
Stopped = Mapping[int, tuple[FrozenTrial, float | None]]  # trials that were stopped early and their values, by number
CLAIM = "lmsearcher:proposed"  # system attribute of a trial: its values, which Optuna stores one by one and later


@dataclass
class Group:
    """Parameters that always occur together, and what is known of the search in the space that they make."""

    kinds: dict[str, BaseDistribution]
    state: State
    varied: set[str] = field(default_factory=set)  # codes behind which other parameters were chosen
    latest: list[tuple[str, FrozenTrial]] = field(default_factory=list)  # of the last read, with their codes


class Decomposition:
    """Parameters of completed and pruned trials, those together that occur in the same trials.

    This is Optuna's group decomposition. Parameters with one possible value are left out, as nothing is to be chosen;
    one whose range changes has the latest.
    """

    def __init__(self) -> None:
        self._latest: dict[str, tuple[int, BaseDistribution]] = {}
        self._parts: list[tuple[frozenset[str], int]] = []  # names, and in how many trials they occur

    def add(self, trial: FrozenTrial) -> None:
        """Take a trial into account, once."""
        if trial.state not in ENDED:
            return
        names = frozenset(trial.distributions)
        parts = [(part & names, count + 1) for part, count in self._parts]
        parts += [(part - names, count) for part, count in self._parts]
        parts.append((names - self._latest.keys(), 1))
        self._parts = [(part, count) for part, count in parts if part]
        for name, kind in trial.distributions.items():
            if name not in self._latest or self._latest[name][0] < trial.number:
                self._latest[name] = trial.number, kind

    def groups(self) -> list[dict[str, BaseDistribution]]:
        """The distributions of each group by name, the most frequent group first."""
        found = []
        for part, count in self._parts:
            kinds = {name: self._latest[name][1] for name in sorted(part)}
            if varying := {name: kind for name, kind in kinds.items() if not kind.single()}:
                found.append((-count, next(iter(varying)), varying))
        return [kinds for _, _, kinds in sorted(found, key=lambda one: one[:2])]


class Groups:
    """The groups of a study, brought up to date by ``read``.

    ``begin`` makes a group that knows nothing. In a fixed space ``fixed`` is the only group.
    """

    def __init__(self, begin: Callable[[dict[str, BaseDistribution]], Group], fixed: Group | None = None) -> None:
        self._begin = begin
        self._fixed = fixed
        self._groups = [fixed] if fixed else []
        self._reader: Reader | None = None
        self._decomposition = Decomposition()
        self._rungs = Rungs()

    def read(self, study: Study, number: int | None = None, attempt: int = 0) -> list[Group]:
        """The groups, which know all trials but the one of that number. Each ``attempt`` of a trial to pick draws other
        numbers."""
        if self._reader is None or not internals.is_same_study(self._reader.study, study):
            self._restart(study)
        trials = self._look(number)
        if not self._fixed and self._decomposition.groups() != [group.kinds for group in self._groups]:
            self._groups = [self._group(kinds) for kinds in self._decomposition.groups()]
            self._restart(study)
            trials = self._look(number)
        for group in self._groups:
            # Groups do not draw the same numbers, and neither do processes after they picked the same.
            own = 0 if self._fixed else crc32(" ".join(group.kinds).encode())
            group.state.seed = group.state.options.seed + own + attempt * (1 + (number or 0))
        _tell(self._groups, trials, self._rungs.changed(study, trials))
        return self._groups

    def rivals(self, number: int) -> list[FrozenTrial]:
        """Beside that trial, those that had not ended at the last read or are new since, as they are now."""
        return select_trials(self._reader.peek(), number) if self._reader else []

    def _restart(self, study: Study) -> None:
        """Forget all trials."""
        directions = directions_of(study)
        self._reader, self._decomposition, self._rungs = Reader(study), Decomposition(), Rungs()
        for group in self._groups:
            group.state.clear(*directions)
            group.varied.clear()

    def _look(self, number: int | None) -> list[FrozenTrial]:
        """The trials that are new or that had not ended."""
        assert self._reader is not None
        trials = select_trials(self._reader.read(), number)
        for trial in trials:
            self._decomposition.add(trial)
        return trials

    def _group(self, kinds: dict[str, BaseDistribution]) -> Group:
        return next((group for group in self._groups if group.kinds == kinds), None) or self._begin(kinds)


class Rungs:
    """The values of trials that were stopped early, which change as other trials run further."""

    def __init__(self) -> None:
        self._trials: list[FrozenTrial] = []  # that ended and reported steps
        self._values: dict[int, float | None] = {}  # of those stopped early, by number

    def changed(self, study: Study, trials: Iterable[FrozenTrial]) -> Stopped:
        """Those whose values are new or others with these trials."""
        fresh = [trial for trial in trials if trial.intermediate_values and trial.state in ENDED]
        if not fresh or len(study.directions) > 1:  # with several, Optuna stops none
            return {}
        self._trials = sorted([*self._trials, *fresh], key=lambda trial: trial.number)
        stopped = [trial.state == TrialState.PRUNED for trial in self._trials]
        if not any(stopped):
            return {}
        sign = 1.0 if directions_of(study)[0] == "maximize" else -1.0
        curves = [Curve({k: sign * v for k, v in t.intermediate_values.items()}, _final(t, sign)) for t in self._trials]
        found = {}
        for trial, early, score in zip(self._trials, stopped, supported_values(curves), strict=True):
            value = None if score is None else sign * score
            if early and (trial.number not in self._values or self._values[trial.number] != value):
                self._values[trial.number] = value
                found[trial.number] = trial, value
        return found


def _final(trial: FrozenTrial, sign: float) -> float | None:
    finite = trial.state == TrialState.COMPLETE and trial.value is not None and math.isfinite(trial.value)
    return sign * (trial.value or 0.0) if finite else None


def _tell(groups: Sequence[Group], trials: Sequence[FrozenTrial], stopped: Stopped) -> None:
    """Let the groups know these trials, those ``stopped`` early now or before, and forget which were pending."""
    for group in groups:
        group.state.forget_pending()
        group.latest = encode_trials(group, trials)
    deepest = {trial.number: i for i, group in enumerate(groups) for _, trial in group.latest}
    for i, group in enumerate(groups):
        for code, trial in group.latest:
            value: Any = stopped[trial.number][1] if trial.number in stopped else values_to_show(trial)
            behind = trial.state.is_finished() and deepest[trial.number] > i
            if value is not None:
                group.state.tell(code, value, trial.number, trial.constraints)
            elif behind:
                continue  # what failed may be what was chosen behind it
            elif trial.state.is_finished():
                group.state.close(code)
            else:
                group.state.begin(code)
            if behind:
                group.varied.add(code)
        before = [trial for number, (trial, _) in stopped.items() if number not in deepest]
        for code, trial in encode_trials(group, before):
            if (value := stopped[trial.number][1]) is not None:
                group.state.tell(code, value, trial.number)


def encode_trials(group: Group, trials: Iterable[FrozenTrial]) -> list[tuple[str, FrozenTrial]]:
    """The trials that have a configuration of the group, and its code; of unfinished ones what they are going to be."""
    cuts = {name: edges(kind) for name, kind in group.kinds.items()}
    found = ((_code(group, cuts, trial), trial) for trial in trials)
    return [(code, trial) for code, trial in found if code is not None]


def _code(group: Group, cuts: Mapping[str, Sequence[float]], trial: FrozenTrial) -> str | None:
    """The code of the trial's configuration of the group, if it has one."""
    values = trial.params
    if not trial.state.is_finished():
        values = trial.system_attrs.get(CLAIM, {}) | internals.enqueued_values(trial) | values
    space = group.state.space
    code = encode(group.kinds, cuts, space, values)
    return code if code is None or space.unrestricted or code in space else None


def draw_values(group: Group, code: str, rng: np.random.Generator) -> dict[str, Any]:
    """Values of active parameters that the code stands for; within a bin they are random."""
    values, rows = {}, group.state.space.array([code])
    for (name, kind), index, active in zip(group.kinds.items(), *rows, *group.state.space.active(rows), strict=True):
        if active:
            low, high = edges(kind)[index : index + 2]
            values[name] = draw(kind, low, high, rng)
    return values


def choose_again(group: Group, rng: np.random.Generator) -> str | None:
    """A code to take once more, the best of three evaluated ones; or none, to take a new one.

    The more of the group's codes are known, the likelier one is taken again behind which other parameters are chosen.
    Any other is taken again only when all are known.
    """
    state = group.state
    share = len(state.known) / state.space.size
    if rng.random() >= share or (share < 1 and not group.varied):
        return None
    history = state.ranking()
    places = [i for i, code in enumerate(history.codes) if code in (group.varied or state.known)]
    if not places:
        return state.space.sample(rng, 1)[0]
    return history.codes[max(rng.choice(places, size=3).tolist(), key=lambda i: history.scores[i])]


def is_taken(group: Group, code: str, trials: Iterable[FrozenTrial]) -> bool:
    """Whether one of the trials has taken a code since it was new."""
    # With its code, because a trial that picked again may have come to another one.
    before = {(trial.number, other) for other, trial in group.latest}
    rivals = (trial for other, trial in encode_trials(group, trials) if other == code)
    return code not in group.state.known and any((trial.number, code) not in before for trial in rivals)


def select_trials(trials: Iterable[FrozenTrial], number: int | None) -> list[FrozenTrial]:
    """The trials that count, but the one of that number."""
    return [trial for trial in trials if trial.number != number and KILLED not in trial.user_attrs]


def directions_of(study: Study) -> list[Direction]:
    """The direction of each of a study's objectives; an ``OptionError`` where there are more than goals of a search."""
    if len(study.directions) > MOST:
        raise OptionError(f"the study has {len(study.directions)} objectives; a search has at most {MOST} goals")
    return ["maximize" if direction == StudyDirection.MAXIMIZE else "minimize" for direction in study.directions]


def values_to_show(trial: FrozenTrial) -> list[float] | None:
    """What the model is shown of a trial that was not stopped early, if anything: a value for each objective."""
    values = trial.values if trial.state == TrialState.COMPLETE else None
    return values if values and all(map(math.isfinite, values)) else None
