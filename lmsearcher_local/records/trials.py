"""Reads a study so that every trial is looked at until it has ended and no more, however many there are."""

from collections.abc import Iterable

from optuna import Study
from optuna.storages import JournalStorage
from optuna.trial import FrozenTrial


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
        return _trials(self.study, self._open, self._next)


def _trials(study: Study, numbers: Iterable[int], start: int) -> list[FrozenTrial]:
    """The trials of these numbers and all from ``start`` on. They are the storage's own."""
    storage, known = study._storage, study._study_id
    if not isinstance(storage, JournalStorage):
        found = study.get_trials(deepcopy=False)
        return [*(found[number] for number in numbers), *found[start:]]
    with storage._thread_lock:  # a listing of all would take longer the longer the study is
        storage._sync_with_backend()
        ids, trials = storage._replay_result._study_id_to_trial_ids[known], storage._replay_result._trials
        return [trials[ids[number]] for number in numbers] + [trials[one] for one in ids[start:]]
