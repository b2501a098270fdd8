"""LMSearcherSampler: the searcher as an Optuna sampler; the study's storage is its only memory."""

from threading import Lock
from typing import Any

from optuna.distributions import BaseDistribution, CategoricalDistribution
from optuna.samplers import BaseSampler
from optuna.study import Study, StudyDirection
from optuna.trial import FrozenTrial, TrialState

from lmsearcher_local.errors import StudyError
from lmsearcher_local.ranking import Ranker
from lmsearcher_local.searcher import Searcher
from lmsearcher_local.space import Configuration, SearchSpace

KILLED = "killed"  # user attribute of a trial that ended with its process and says nothing about its code


def distributions(space: SearchSpace) -> dict[str, BaseDistribution]:
    """The space as Optuna writes it: one categorical distribution per parameter."""
    return {name: CategoricalDistribution(options) for name, options in space.describe().items()}


class LMSearcherSampler(BaseSampler):
    """Samples from a fixed search space as the model picks.

    What it proposes depends on the seed and on the trials in the storage only: completed ones are shown to the model,
    failed, pruned and running ones are never proposed again, and those marked ``killed`` count as never started, so
    that a resumed study proposes the same configuration once more.

    Args:
        space: what to search; ``trial.suggest_categorical`` must name its parameters and their options.
        ranker, seed, policy, pool_size, temperature: as in ``Searcher``.

    Raises:
        PromptError: the space does not fit the checkpoint.
    """

    def __init__(
        self,
        space: SearchSpace,
        ranker: Ranker,
        *,
        seed: int = 0,
        policy: str = "surrogate",
        pool_size: int = 10,
        temperature: float = 0.0,
    ) -> None:
        self._searcher = Searcher(
            space, ranker, seed=seed, policy=policy, pool_size=pool_size, temperature=temperature
        )  # made once, because it checks that the space fits the checkpoint; refilled for every trial
        self._distributions = distributions(space)
        self._lock = Lock()  # Optuna's n_jobs are threads

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """The whole space."""
        return self._distributions

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """The configuration to evaluate next; see ``propose``."""
        return self.propose(study, trial.number)

    def propose(self, study: Study, number: int | None = None) -> Configuration:
        """The configuration to evaluate next, in the trial of that number where the storage holds it already.

        Raises:
            StudyError: the study has a completed trial from outside the space.
            ValueError: the study has several objectives.
            SpaceExhausted: every valid configuration is evaluated, failed or being evaluated.
        """
        self._raise_error_if_multi_objective(study)
        searcher = self._searcher
        with self._lock:
            searcher.clear()
            searcher.direction = "maximize" if study.direction == StudyDirection.MAXIMIZE else "minimize"
            for trial in study.get_trials(deepcopy=False):
                if trial.number == number or KILLED in trial.user_attrs:
                    continue
                if trial.params.keys() == self._distributions.keys():
                    code = searcher.space.encode(trial.params)
                    if trial.state == TrialState.COMPLETE and trial.value is not None:
                        searcher.tell(code, trial.value)
                    else:
                        searcher.close(code)
                elif trial.state == TrialState.COMPLETE:
                    raise StudyError(f"trial {trial.number} of this study is not of the sampler's search space")
            return searcher.space.decode(searcher.ask()[0])

    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        """Nothing is sampled on its own: the parameters of a code belong together.

        Raises:
            StudyError: always.
        """
        allowed = ", ".join(self._distributions)
        raise StudyError(f"{param_name!r} with these options is not in the sampler's search space of {allowed}")
