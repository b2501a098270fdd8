"""Reads a study so that every trial is looked at until it has ended and no more, however many there are."""

from optuna import Study
from optuna.trial import FrozenTrial

from lmsearcher_local.system import optuna_internals as internals


class Reader:
    """What changes in a study: each read returns the trials that are new or that were not ended at the read before."""

    def __init__(self, study: Study) -> None:
        self.study = study
        self._open: list[int] = []  # numbers of trials seen that had not ended
        self._next = 0  # number of the first trial not seen

    def read(self) -> list[FrozenTrial]:
        """These trials, by number."""
        found = self.peek()
        self._open = [trial.number for trial in found if not trial.state.is_finished()]
        self._next = max(self._next, found[-1].number + 1) if found else self._next
        return found

    def peek(self) -> list[FrozenTrial]:
        """The same, and the next read returns them again."""
        return internals.list_trials(self.study, self._open, self._next)
