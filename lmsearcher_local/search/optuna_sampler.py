"""LMSearcherSampler: the searcher as an Optuna sampler; the study's storage is its only memory."""

import math
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from itertools import count
from threading import Lock
from typing import Any, NamedTuple
from zlib import crc32

import numpy as np
from optuna import TrialPruned
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler, RandomSampler
from optuna.study import Study, StudyDirection
from optuna.trial import FrozenTrial, TrialState

from lmsearcher_local.candidates.earlier import Earlier
from lmsearcher_local.candidates.history import Direction
from lmsearcher_local.errors import NothingToPropose, StudyError
from lmsearcher_local.model.ranker import Ranker
from lmsearcher_local.model.sharing import Gpu, shares
from lmsearcher_local.records.earlier_runs import as_earlier, studies_of, study_as_earlier
from lmsearcher_local.records.trials import Reader
from lmsearcher_local.search.calibration import Choice
from lmsearcher_local.search.options import SearchOptions
from lmsearcher_local.search.propose import propose
from lmsearcher_local.search.state import State
from lmsearcher_local.spaces.distributions import distributions, draw, edges, encode, space_of
from lmsearcher_local.spaces.space import Configuration, SearchSpace
from lmsearcher_local.system import optuna_internals as internals

KILLED = "killed"  # user attribute of a trial that ended with its process and says nothing about its code
CLAIM = "lmsearcher:proposed"  # system attribute of a trial: its values, which Optuna stores one by one and later
USED_UP = "lmsearcher:used up"  # system attribute of a trial for which the fixed space held no configuration


@dataclass(frozen=True, slots=True)
class Group:
    """Parameters that always occur together, and what is known of the search in the space that they make.

    ``codes`` are those of trials that ended, by number; they are the storage's own objects and do not change.
    """

    kinds: dict[str, BaseDistribution]
    state: State
    codes: dict[int, tuple[FrozenTrial, str | None]] = field(default_factory=dict)


class Known(NamedTuple):
    """What the trials of a study say about a group."""

    trials: list[tuple[str, FrozenTrial]]  # that have a code of it
    codes: set[str]  # that were told or closed
    varied: set[str]  # of these, the ones behind which other parameters were chosen


class NoConfiguration(NothingToPropose, TrialPruned):
    """The fixed space holds no other configuration; ``Study.optimize`` prunes the trial that hears it, and ends."""


class LMSearcherSampler(BaseSampler):
    """Samples as the model picks, from a fixed search space or from whatever the objective suggests.

    What it proposes depends on the seed and on the trials in the storage only. Completed trials are shown to the model,
    whoever sampled them, and pruned ones with their last intermediate value; running and enqueued ones with the value
    that ``surrogate.impute_pending`` imputes. Those that failed, have no finite value or are infeasible are not shown.
    None is proposed again. Trials marked ``killed`` count as never started: a resumed study proposes theirs once more.

    Without a space, the parameters are those of the trials so far, in groups that always occur together; each group is
    searched on its own, as if there were no others. What no trial has shown yet, so all of the first trial, is random.
    A categorical choice is an option; to Optuna, and here, choices like ``True`` and ``1`` are one. So is every value
    of an integer or stepped parameter with at most ``distributions.LISTED`` of them. Other numbers are cut into bins,
    the model picks the bin and the value within is random. No code of a group is taken twice before all are known,
    except those behind which other parameters are chosen.

    A fixed space that is used up stops ``Study.optimize``. A trial that began meanwhile is pruned without a value.

    Threads and processes that share a study get different codes likewise: whoever writes down last what another has
    taken meanwhile picks again. Only what is random because no trial has completed yet may coincide.

    Args:
        ranker: the model.
        space: what to search, if fixed; ``trial.suggest_categorical`` must name its parameters and their options.
        gpu: "shared", the default where the engine can sleep: the model leaves the card when a trial has its values,
            and is back for the next question; "kept": it stays. With ``n_jobs`` above 1 it also comes back while other
            trials run, so there its memory must be free all the time.
        earlier: studies to learn from, each in its own direction. With a fixed space also what ``read_earlier`` read.
        options: any other of ``SearchOptions``, by name. The direction is the study's; ``first`` needs a fixed space.

    Raises:
        PromptError: the space does not fit the checkpoint.
        StudyError: "shared", and the engine cannot sleep.
        HistoryError: an earlier study cannot be used.
    """

    def __init__(
        self,
        ranker: Ranker,
        *,
        space: SearchSpace | None = None,
        gpu: Gpu | None = None,
        earlier: Sequence[Study | Earlier] = (),
        **options: Any,
    ) -> None:
        if "direction" in options:
            raise ValueError("the direction is the study's: create it with one")
        if options.get("first") and space is None:
            raise ValueError("without a fixed space there are no codes to take first")
        self._options = SearchOptions(**options)
        self._ranker = ranker
        self._shared = shares(gpu, ranker.engine)
        self._earlier = () if space else studies_of(earlier)
        known = [as_earlier(one, space) for one in earlier] if space else ()
        self._fixed = None if space is None else self._begun(distributions(space), space, known)
        if space is None:
            ranker.check(SearchSpace([2]), self._options.pool_size)
        self._reader: Reader | None = None  # of the study of which the searcher of the fixed space was told
        self._groups: list[Group] = []  # those of the last trial: mostly the next one's, too
        self._lock = Lock()  # Optuna's n_jobs are threads, and an engine is for one at a time

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """The fixed space, or every parameter that a trial has shown and that has more than one value."""
        found = [self._fixed.kinds] if self._fixed else decompose(study.get_trials(deepcopy=False))
        return {name: kind for kinds in found for name, kind in kinds.items()}

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """A value for each parameter; the model is asked for all groups at once.

        Raises:
            ValueError: the study has several objectives.
            PromptError: a group does not fit the checkpoint.
        """
        self._raise_error_if_multi_objective(study)
        with self._lock:
            values = self._sampled(study, trial, search_space) if search_space else {}
            if self._shared:  # also before the first trial, which asks nothing
                self._ranker.sleep()
            return dict(values)  # the storage may hold the other

    def _sampled(self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]) -> dict[str, Any]:
        for attempt in count():
            rng = np.random.default_rng([self._options.seed, trial.number])
            groups, known = self._told(study, trial.number, attempt)
            try:
                codes = self._asked(groups, known, rng)
            except NothingToPropose as error:  # the trial cannot be ended here; what it suggests says so
                internals.set_system_attribute(study, trial, USED_UP, str(error))
                return {}
            values: dict[str, Any] = {}
            for group, code in zip(groups, codes, strict=True):
                values |= drawn(group, code, rng)
            # A wrapper such as PartialFixedSampler leaves out of the search space what it decides itself.
            values = {name: value for name, value in values.items() if name in search_space}
            internals.set_system_attribute(study, trial, CLAIM, values)
            # Of processes that picked the same at the same time, the last to write sees it, and picks again.
            others = _others(self._reader.peek() if self._fixed and self._reader else _all(study), trial.number)
            if not any(_taken(*pick, others) for pick in zip(groups, codes, known, strict=True)):
                break
        return values

    def propose(self, study: Study, n: int = 1) -> list[tuple[Configuration, Choice | None]]:
        """Configurations of the fixed space to evaluate next, for a loop that stores whole trials itself.

        With each comes what the model picked it from, where it was asked. Fewer come back when the space holds no more.

        Raises:
            ValueError: the study has several objectives, or the sampler has no fixed space.
            NothingToPropose: no other configuration was found; ``SpaceExhausted``: there is none.
        """
        self._raise_error_if_multi_objective(study)
        if self._fixed is None:
            raise ValueError("without a fixed space, configurations are proposed to trials of a study only")
        with self._lock:
            self._told(study)
            state = self._fixed.state
            [proposals] = propose([state], self._ranker, n)
            return [(state.space.decode(code), choice) for code, choice in proposals]

    def after_trial(self, study: Study, trial: FrozenTrial, state: TrialState, values: Sequence[float] | None) -> None:
        """Stop ``Study.optimize`` where the fixed space has nothing left to begin."""
        if self._fixed is None:
            return
        with self._lock:
            if USED_UP in trial.system_attrs or self._all_taken(self._fixed, study):
                with suppress(RuntimeError):  # trials are asked and told by hand: there is no loop to stop
                    study.stop()

    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        """A random value, for a parameter that no trial has shown yet or that has another range now.

        Raises:
            ValueError: the study has several objectives.
            StudyError: the space is fixed. Nothing is sampled on its own there: a code's parameters belong together.
            NoConfiguration: the fixed space holds no other configuration, or none was found.
        """
        self._raise_error_if_multi_objective(study)
        if self._fixed:
            if reason := internals.read_trial(study, trial).system_attrs.get(USED_UP):
                raise NoConfiguration(reason)
            allowed = ", ".join(self._fixed.kinds)
            raise StudyError(f"{param_name!r} with these options is not in the sampler's search space of {allowed}")
        random = RandomSampler(seed=crc32(f"{self._options.seed} {trial.number} {param_name}".encode()))
        return random.sample_independent(study, trial, param_name, param_distribution)

    def _told(self, study: Study, number: int | None = None, attempt: int = 0) -> tuple[list[Group], list[Known]]:
        """The groups, which know all trials but the one of that number, and what they know."""
        if self._fixed:
            return [self._fixed], [self._tell_fixed(self._fixed, study, number, attempt)]
        trials = _others(_all(study), number)
        groups = [self._group(kinds) for kinds in decompose(trials)]
        self._groups = groups
        known = [Known(encoded(group, trials), set(), set()) for group in groups]
        deepest = {trial.number: i for i, group in enumerate(known) for _, trial in group.trials}
        for i, (group, (coded, codes, varied)) in enumerate(zip(groups, known, strict=True)):
            state = group.state
            # Groups do not draw the same numbers, and neither do processes after they picked the same.
            own = crc32(" ".join(group.kinds).encode())
            state.seed = self._options.seed + own + attempt * (1 + (number or 0))
            state.clear(_direction(study))
            for code, trial in coded:
                value, behind = _value(trial), trial.state.is_finished() and deepest[trial.number] > i
                if value is not None:
                    state.tell(code, value)
                elif behind:
                    continue  # what failed may be what was chosen behind it
                elif trial.state.is_finished():
                    state.close(code)
                else:
                    state.begin(code)
                codes.add(code)
                if behind:
                    varied.add(code)
        return groups, known

    def _tell_fixed(self, group: Group, study: Study, number: int | None, attempt: int) -> Known:
        """Let the fixed space's group know all trials but the one of that number: what ended since the last
        time, and what is under way now. Returned is what was not ended the last time."""
        state, reader = group.state, self._reader
        if reader is None or not internals.is_same_study(reader.study, study):
            self._reader = reader = Reader(study)
            state.clear(_direction(study))
        state.seed = self._options.seed + attempt * (1 + (number or 0))
        state.forget_pending()
        coded = encoded(group, _others(reader.read(), number))
        for code, trial in coded:
            value = _value(trial)
            if value is not None:
                state.tell(code, value, trial.number)
            elif trial.state.is_finished():
                state.close(code)
            else:
                state.begin(code)
        return Known(coded, set(), set())

    @staticmethod
    def _all_taken(group: Group, study: Study) -> bool:
        """Whether every code is; a predicate leaves that to the next trial, as its codes are not counted."""
        space, trials = group.state.space, _others(_all(study), None)
        if space.valid is not None or len(trials) < space.size:
            return False
        return len({code for code, _ in encoded(group, trials)}) == space.size

    def _asked(self, groups: Sequence[Group], known: Sequence[Known], rng: np.random.Generator) -> list[str]:
        """A code for each group."""
        if self._fixed:
            [[proposal]] = propose([self._fixed.state], self._ranker)
            return [proposal.code]
        codes = [again(group.state, what, rng) for group, what in zip(groups, known, strict=True)]
        fresh = [group.state for group, code in zip(groups, codes, strict=True) if code is None]
        proposed = iter(propose(fresh, self._ranker) if fresh else [])
        return [code or next(proposed)[0].code for code in codes]

    def _group(self, kinds: dict[str, BaseDistribution]) -> Group:
        for group in self._groups:
            if group.kinds == kinds:
                return group
        found = [study_as_earlier(study, kinds) for study in self._earlier]
        return self._begun(kinds, space_of(kinds), [one for one in found if one])

    def _begun(self, kinds: dict[str, BaseDistribution], space: SearchSpace, earlier: Sequence[Earlier]) -> Group:
        self._ranker.check(space, self._options.pool_size)
        return Group(kinds, State(space, replace(self._options, earlier=earlier)))


def decompose(trials: Iterable[FrozenTrial]) -> list[dict[str, BaseDistribution]]:
    """Parameters of completed and pruned trials by name, those together that occur in the same trials.

    This is Optuna's group decomposition, the most frequent first. Parameters with one possible value are left out, as
    nothing is to be chosen; one whose range changes has the latest.
    """
    latest: dict[str, BaseDistribution] = {}
    occurrences: dict[str, list[int]] = {}
    for trial in trials:
        if trial.state in (TrialState.COMPLETE, TrialState.PRUNED):
            for name, kind in trial.distributions.items():
                latest[name] = kind
                occurrences.setdefault(name, []).append(trial.number)
    groups: dict[tuple[int, ...], dict[str, BaseDistribution]] = {}
    for name in sorted(latest):
        if not latest[name].single():
            groups.setdefault(tuple(occurrences[name]), {})[name] = latest[name]
    return [groups[numbers] for numbers in sorted(groups, key=len, reverse=True)]


def encoded(group: Group, trials: Iterable[FrozenTrial]) -> list[tuple[str, FrozenTrial]]:
    """The trials that have a configuration of the group, and its code; of unfinished ones what they are going to be."""
    found = []
    cuts = {name: edges(kind) for name, kind in group.kinds.items()}
    for trial in trials:
        known, code = group.codes.get(trial.number, (None, None))
        if known is not trial:
            code = _code(group, cuts, trial)
            if trial.state.is_finished():
                group.codes[trial.number] = trial, code
        if code is not None:
            found.append((code, trial))
    return found


def _code(group: Group, cuts: Mapping[str, Sequence[float]], trial: FrozenTrial) -> str | None:
    """The code of the trial's configuration of the group, if it has one."""
    values = trial.params
    if not trial.state.is_finished():
        values = trial.system_attrs.get(CLAIM, {}) | internals.enqueued_values(trial) | values
    space = group.state.space
    code = encode(group.kinds, cuts, space, values)
    return code if code is None or space.valid is None or code in space else None


def drawn(group: Group, code: str, rng: np.random.Generator) -> dict[str, Any]:
    """Values that the code stands for; within a bin they are random."""
    values = {}
    for (name, kind), index in zip(group.kinds.items(), group.state.space.indices(code), strict=True):
        low, high = edges(kind)[index : index + 2]
        values[name] = draw(kind, low, high, rng)
    return values


def again(state: State, known: Known, rng: np.random.Generator) -> str | None:
    """A code to take once more, the best of three evaluated ones; or none, to take a new one.

    The more of the group's codes are known, the likelier one is taken again behind which other parameters are chosen.
    Any other is taken again only when all are known.
    """
    share = len(known.codes) / state.space.size
    if rng.random() >= share or (share < 1 and not known.varied):
        return None
    history = state.told.history
    places = [i for i, code in enumerate(history.codes) if code in (known.varied or known.codes)]
    if not places:
        return state.space.sample(rng, 1)[0]
    return history.codes[max(rng.choice(places, size=3).tolist(), key=lambda i: history.scores[i])]


def _all(study: Study) -> list[FrozenTrial]:
    """All trials, the storage's own."""
    return study.get_trials(deepcopy=False)


def _others(trials: Iterable[FrozenTrial], number: int | None) -> list[FrozenTrial]:
    """The trials that count, but the one of that number."""
    return [trial for trial in trials if trial.number != number and KILLED not in trial.user_attrs]


def _direction(study: Study) -> Direction:
    return "maximize" if study.direction == StudyDirection.MAXIMIZE else "minimize"


def _taken(group: Group, code: str, known: Known, trials: Iterable[FrozenTrial]) -> bool:
    """Whether one of the trials has taken a code since it was new."""
    # With its code, because a trial that picked again may have come to another one.
    before = {(trial.number, other) for other, trial in known.trials}
    return code not in known.codes and any(
        other == code and (trial.number, other) not in before for other, trial in encoded(group, trials)
    )


def _value(trial: FrozenTrial) -> float | None:
    """What the model is shown of a trial, if anything."""
    if any(violation > 0 for violation in trial.constraints.values()):
        return None
    if trial.state == TrialState.COMPLETE:
        value = trial.value
    elif trial.state == TrialState.PRUNED and trial.last_step is not None:
        value = trial.intermediate_values[trial.last_step]
    else:
        return None
    return value if value is not None and math.isfinite(value) else None
