"""Finds a study that is already there: in the output folder of a search, in a journal file, or in an Optuna storage."""

import os
from pathlib import Path
from typing import Any

import optuna
from optuna.storages import BaseStorage, JournalStorage
from optuna.storages.journal import JournalFileBackend

from lmsearcher_local.errors import StudyError
from lmsearcher_local.interrupts import undisturbed

JOURNAL = "study.journal"


class JournalFile(JournalFileBackend):
    """Optuna's journal for one writer. A write that fails, for want of space, leaves no half line behind: the next
    would go on in it, and nobody could read the journal any more. Ctrl-C leaves no lock behind."""

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        size = os.path.getsize(self._file_path)
        try:
            with undisturbed():
                super().append_logs(logs)
        except OSError:
            os.truncate(self._file_path, size)
            raise


def stored_study(source: str | Path) -> optuna.Study:
    """The study in a folder with a ``study.journal``, in a journal file, or that ``STORAGE_URL#STUDY_NAME`` names.

    The name may be left out where the storage holds one study. Nothing is written.

    Raises:
        StudyError: there is no such study, or its storage cannot be opened.
    """
    place, _, name = str(source).partition("#")
    if Path(source).exists():
        place, name = str(source), ""  # a # of the path's own
    try:
        storage = _storage(place)
        names = optuna.get_all_study_names(storage)
        if not name and len(names) != 1:
            raise StudyError(f"{place} holds {len(names)} studies; name one: {place}#STUDY_NAME ({', '.join(names)})")
        if name and name not in names:
            raise StudyError(f"{place} holds no study {name!r}; it holds: {', '.join(names) or 'none'}")
        study = optuna.load_study(study_name=name or None, storage=storage)
        for trial in study.get_trials(deepcopy=False):  # read now what a damaged journal makes unreadable
            _ = trial.params, trial.user_attrs, trial.value if len(study.directions) == 1 else trial.values
        return study
    except StudyError:
        raise
    except Exception as error:  # whatever a damaged journal or a database's driver raises
        raise StudyError(f"cannot open the storage {place}: {' '.join(str(error).split())}") from error


def _storage(place: str) -> BaseStorage | str:
    if "://" in place:
        file = Path(place.removeprefix("sqlite:///"))
        if place.startswith("sqlite:///") and not file.exists():  # SQLite would make it
            raise StudyError(f"there is no database {file}")
        return place
    journal = Path(place) / JOURNAL if Path(place).is_dir() else Path(place)
    if not journal.exists():  # Optuna would make it
        raise StudyError(
            f"there is no {journal}; a search with another storage is named by its URL, STORAGE_URL#STUDY_NAME"
        )
    return JournalStorage(JournalFileBackend(str(journal)))
