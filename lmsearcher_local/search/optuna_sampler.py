"""LMSearcherSampler: the searcher as an Optuna sampler; the study's storage is its only memory."""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from itertools import count
from threading import Lock
from typing import Any
from zlib import crc32

import numpy as np
from optuna import TrialPruned
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler, RandomSampler
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState

from lmsearcher_local.candidates.earlier import Earlier
from lmsearcher_local.errors import NothingToPropose, StudyError
from lmsearcher_local.model.ranker import Ranker
from lmsearcher_local.model.sharing import Gpu, shares
from lmsearcher_local.records.earlier_runs import as_earlier, studies_of, study_as_earlier
from lmsearcher_local.search.calibration import Choice
from lmsearcher_local.search.groups import CLAIM, Group, Groups, choose_again, draw_values, is_taken
from lmsearcher_local.search.options import SearchOptions
from lmsearcher_local.search.propose import propose
from lmsearcher_local.search.state import State
from lmsearcher_local.spaces.distributions import distributions, space_of
from lmsearcher_local.spaces.space import Configuration, SearchSpace
from lmsearcher_local.system import optuna_internals as internals

USED_UP = "lmsearcher:used up"  # system attribute of a trial for which the fixed space held no configuration


class NoConfiguration(NothingToPropose, TrialPruned):
    """The fixed space holds no other configuration; ``Study.optimize`` prunes the trial that hears it, and ends."""


class LMSearcherSampler(BaseSampler):
    """Samples as the model picks, from a fixed search space or from whatever the objective suggests.

    What it proposes depends on the seed and on the trials in the storage only. Completed trials are shown to the model,
    whoever sampled them. Pruned ones are shown with the value that their last step supports
    (``rungs.supported_values``), running and enqueued ones with an imputed one (``surrogate.impute_pending``). What
    breaks a constraint is shown below all that hold, what failed or has no finite value is not shown. None is proposed
    again. Of Hyperband's brackets all count. Trials marked ``killed`` count as never started.

    Without a space, the parameters are those of the trials so far, in groups that always occur together. Each group is
    searched on its own. What no trial has shown yet, so all of the first trial, is random. A categorical choice is an
    option; to Optuna, and here, choices like ``True`` and ``1`` are one. So is every value of an integer or stepped
    parameter with at most ``distributions.LISTED`` of them. Other numbers are cut into bins: the model picks the bin,
    and the value within is random. No code of a group is taken twice before all are known, except those behind which
    other parameters are chosen.

    A fixed space that is used up stops ``Study.optimize``. A trial that began meanwhile is pruned without a value.

    Threads and processes that share a study get different codes likewise: whoever writes down last what another has
    taken meanwhile picks again. Only what is random because no trial has completed yet may coincide.

    Args:
        ranker: the model.
        space: what to search, if fixed; ``trial.suggest_categorical`` must name its parameters and their options, and
            those with a condition where it holds only.
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
        if options.get("goals"):
            raise ValueError("the goals are the study's: create it with a direction for each")
        if options.get("limits"):
            raise ValueError("limits are the study's: its trials say them with set_constraint")
        if options.get("first") and space is None:
            raise ValueError("without a fixed space there are no codes to take first")
        self._options = SearchOptions(**options)
        self._ranker = ranker
        self._shared = shares(gpu, ranker.engine)
        self._earlier = () if space else studies_of(earlier)
        known = [as_earlier(one, space) for one in earlier] if space else ()
        self._fixed = None if space is None else self._begin_group(distributions(space), space, known)
        if space is None:
            ranker.check(SearchSpace([2]), self._options.pool_size)
        self._groups = Groups(self._group, self._fixed)
        self._lock = Lock()  # Optuna's n_jobs are threads, and an engine is for one at a time

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """The fixed space, or every parameter that a trial has shown and that has more than one value."""
        with self._lock:
            groups = [self._fixed] if self._fixed else self._groups.read(study, trial.number)
            return {name: kind for group in groups for name, kind in group.kinds.items()}

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """A value for each parameter; the model is asked for all groups at once.

        An ``OptionError`` where the study has too many objectives, a ``PromptError`` where a group does not fit the
        checkpoint.
        """
        with self._lock:
            values = self._sample(study, trial, search_space) if search_space else {}
            if self._shared:  # also before the first trial, which asks nothing
                self._ranker.sleep()
            return dict(values)  # the storage may hold the other

    def _sample(self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]) -> dict[str, Any]:
        for attempt in count():
            rng = np.random.default_rng([self._options.seed, trial.number])
            groups = self._groups.read(study, trial.number, attempt)
            try:
                codes = self._ask(groups, rng)
            except NothingToPropose as error:  # the trial cannot be ended here; what it suggests says so
                internals.set_system_attribute(study, trial, USED_UP, str(error))
                return {}
            values: dict[str, Any] = {}
            for group, code in zip(groups, codes, strict=True):
                values |= draw_values(group, code, rng)
            # A wrapper such as PartialFixedSampler leaves out of the search space what it decides itself.
            values = {name: value for name, value in values.items() if name in search_space}
            internals.set_system_attribute(study, trial, CLAIM, values)
            # Of processes that picked the same at the same time, the last to write sees it, and picks again.
            rivals = self._groups.rivals(trial.number)
            if not any(is_taken(group, code, rivals) for group, code in zip(groups, codes, strict=True)):
                break
        return values

    def propose(self, study: Study, n: int = 1) -> list[tuple[Configuration, Choice | None]]:
        """Configurations of the fixed space to evaluate next, for a loop that stores whole trials itself.

        With each comes what the model picked it from, where it was asked. Fewer come back when the space holds no more.

        Raises:
            ValueError: the sampler has no fixed space.
            NothingToPropose: no other configuration was found; ``SpaceExhausted``: there is none.
        """
        if self._fixed is None:
            raise ValueError("without a fixed space, configurations are proposed to trials of a study only")
        with self._lock:
            self._groups.read(study)
            state = self._fixed.state
            [proposals] = propose([state], self._ranker, n)
            return [(state.space.decode(code), choice) for code, choice in proposals]

    def after_trial(self, study: Study, trial: FrozenTrial, state: TrialState, values: Sequence[float] | None) -> None:
        """Stop ``Study.optimize`` where the fixed space has nothing left to begin."""
        if self._fixed is None:
            return
        with self._lock:
            self._groups.read(study)
            known, space = self._fixed.state.known, self._fixed.state.space
            # With a predicate the number of valid codes is not known: the next trial finds that there is none.
            if USED_UP in trial.system_attrs or len(known) == space.count:
                with suppress(RuntimeError):  # trials are asked and told by hand: there is no loop to stop
                    study.stop()

    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        """A random value, for a parameter that no trial has shown yet or that has another range now.

        Raises:
            StudyError: the space is fixed. Nothing is sampled on its own there: a code's parameters belong together.
            NoConfiguration: the fixed space holds no other configuration, or none was found.
        """
        if self._fixed:
            if reason := internals.read_trial(study, trial).system_attrs.get(USED_UP):
                raise NoConfiguration(reason)
            if self._fixed.kinds.get(param_name) == param_distribution and param_name in self._fixed.state.space.when:
                raise StudyError(f"{param_name!r} is suggested where the sampler's space says that it is inactive")
            allowed = ", ".join(self._fixed.kinds)
            raise StudyError(f"{param_name!r} with these options is not in the sampler's search space of {allowed}")
        random = RandomSampler(seed=crc32(f"{self._options.seed} {trial.number} {param_name}".encode()))
        return random.sample_independent(study, trial, param_name, param_distribution)

    def _ask(self, groups: Sequence[Group], rng: np.random.Generator) -> list[str]:
        """A code for each group."""
        codes = [None if self._fixed else choose_again(group, rng) for group in groups]
        fresh = [group.state for group, code in zip(groups, codes, strict=True) if code is None]
        proposed = iter(propose(fresh, self._ranker) if fresh else [])
        return [code or next(proposed)[0].code for code in codes]

    def _group(self, kinds: dict[str, BaseDistribution]) -> Group:
        found = [study_as_earlier(study, kinds) for study in self._earlier]
        return self._begin_group(kinds, space_of(kinds), [one for one in found if one])

    def _begin_group(self, kinds: dict[str, BaseDistribution], space: SearchSpace, earlier: Sequence[Earlier]) -> Group:
        self._ranker.check(space, self._options.pool_size)
        return Group(kinds, State(space, replace(self._options, earlier=earlier)))
