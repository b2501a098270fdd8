"""Finds a study that is already there: in the output folder of a search, in a journal file, or in an Optuna storage."""

import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import optuna
from optuna.storages import BaseStorage, JournalStorage
from optuna.storages.journal import JournalFileBackend

from lmsearcher_local.errors import StudyError
from lmsearcher_local.spaces.space import SearchSpace
from lmsearcher_local.system.interrupts import defer_signals

JOURNAL = "study.journal"
STUDY = "study.json"  # in the folder of a search whose study is elsewhere: where, under what name, and its plan
PLAN = "lmsearcher"  # study user attribute: what was searched, and how
SECRET = re.compile(r"(://[^:/]*:)[^@]*@(?:[^/?#]*@)?")  # what SQLAlchemy takes for a password, and more of it
SECRET_ARGUMENT = re.compile(r"([?&][^=&#]*(?:pass|pwd|secret|token)[^=&#]*=)[^&#]*", re.IGNORECASE)


class JournalFile(JournalFileBackend):
    """Optuna's journal for one writer. A write that fails, for want of space, leaves no half line behind: the next
    would go on in it, and nobody could read the journal any more. Ctrl-C leaves no lock behind."""

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        size = os.path.getsize(self._file_path)
        try:
            with defer_signals():
                super().append_logs(logs)
        except OSError:
            os.truncate(self._file_path, size)
            raise


def hide_password(place: str) -> str:
    """A storage's URL as messages and files show it: without its password."""
    return SECRET_ARGUMENT.sub(r"\1***", SECRET.sub(r"\1***@", place))


def cannot_open(place: str, error: Exception) -> StudyError:
    """What to raise where opening a storage failed, without its password."""
    reason = " ".join(str(error).replace(place, hide_password(place)).split())
    return StudyError(f"cannot open the storage {hide_password(place)}: {reason}")


def load_study(source: str | Path) -> optuna.Study:
    """The study in a folder with a ``study.journal``, in a journal file, or that ``STORAGE_URL#STUDY_NAME`` names.

    The name may be left out where the storage holds one study. Nothing is written.

    Raises:
        StudyError: there is no such study, or its storage cannot be opened.
    """
    place, name = (str(source), "") if Path(source).exists() else _split_source(str(source))
    try:
        storage = _storage(place)
        names = optuna.get_all_study_names(storage)
        if not names:
            raise StudyError(f"{hide_password(place)} holds no study")
        if not name and len(names) != 1:
            url = hide_password(place)
            raise StudyError(f"{url} holds {len(names)} studies; name one: {url}#STUDY_NAME ({', '.join(names)})")
        if name and name not in names:  # of a search, the hash of its output folder may be left out
            whole = [other for other in names if re.fullmatch(re.escape(name) + "-[0-9a-f]{8}", other)]
            name = whole[0] if len(whole) == 1 else name
        if name and name not in names:
            raise StudyError(f"{hide_password(place)} holds no study {name!r}; it holds: {', '.join(names)}")
        study = optuna.load_study(study_name=name or names[0], storage=storage)
        for trial in study.get_trials(deepcopy=False):  # read now what a damaged journal makes unreadable
            _ = trial.params, trial.user_attrs, trial.value if len(study.directions) == 1 else trial.values
        return study
    except StudyError:
        raise
    except Exception as error:  # whatever a damaged journal or a database's driver raises
        raise cannot_open(place, error) from error


def read_plan(folder: Path) -> dict[str, Any] | None:
    """The plan of the search whose output folder this is, if it is one; ``StudyError`` where it cannot be read."""
    here = (folder / JOURNAL).is_file()
    plan = load_study(folder).user_attrs.get(PLAN) if here else read_link(folder).get("plan")
    return plan if isinstance(plan, dict) else None


def space_of_plan(plan: Mapping[str, Any]) -> SearchSpace:
    """The space of a search's plan, without a predicate; an error where it is not as a search writes it."""
    return SearchSpace(dict(plan["space"]), where=plan.get("where") or (), when=plan.get("when"))


def read_link(folder: Path) -> dict[str, Any]:
    """What a search's folder says of its study in another storage, if it does; ``StudyError`` where unreadable."""
    try:
        found = json.loads((folder / STUDY).read_bytes())
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise StudyError(f"cannot read {folder / STUDY}: {error}") from error
    return found if isinstance(found, dict) else {}


def _split_source(source: str) -> tuple[str, str]:
    """Storage and study; a # may also stand in a password."""
    secret = SECRET.search(source)
    start = secret.end() if secret else 0
    place, _, name = source[start:].partition("#")
    return source[:start] + place, name


def _storage(place: str) -> BaseStorage | str:
    if "://" in place:
        file = _database(place)
        if file and not Path(file.removeprefix("file:")).exists():  # SQLite would make it
            raise StudyError(f"there is no database {file}")
        return place
    journal = Path(place) / JOURNAL if Path(place).is_dir() else Path(place)
    if not journal.exists():  # Optuna would make it
        kept = read_link(Path(place))
        if {"storage", "study"} <= kept.keys():
            missing = " with its password" if "***" in kept["storage"] else ""
            raise StudyError(f"the study of {place} is elsewhere; name it{missing}: {kept['storage']}#{kept['study']}")
        raise StudyError(
            f"there is no {journal}; a search with another storage is named by its URL, STORAGE_URL#STUDY_NAME"
        )
    return JournalStorage(JournalFileBackend(str(journal)))


def absolute_url(storage: str) -> str:
    """The storage's URL with an absolute path, where it names a file."""
    from sqlalchemy.engine import make_url

    file = _database(storage)
    if not file:
        return storage
    kind = "file:" if file.startswith("file:") else ""  # a URI of SQLite's own
    whole = kind + os.path.abspath(file.removeprefix(kind))
    return make_url(storage).set(database=whole).render_as_string(hide_password=False)


def _database(storage: str) -> str:
    """The file of a storage's URL, as it is written there; empty where it names none."""
    from sqlalchemy.engine import make_url
    from sqlalchemy.exc import ArgumentError

    try:
        url = make_url(storage)
    except ArgumentError:  # whoever opens it says so
        return ""
    file = url.database or ""
    remote = not url.drivername.startswith("sqlite") or file.startswith("file://")
    return "" if remote or ":memory:" in file else file
