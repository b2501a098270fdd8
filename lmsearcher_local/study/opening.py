"""Opens the study of a search and holds it, so that one process at a time searches there.

A lock on the output folder keeps out others that see the same folder. It says nothing to a machine with another folder
of the same name, and some file systems have no locks: then a note in the study itself says who is at work.
"""

import errno
import fcntl
import hashlib
import json
import logging
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import optuna
import psutil
from optuna.exceptions import StorageInternalError
from optuna.storages import BaseStorage, JournalStorage

from lmsearcher_local.errors import StudyError
from lmsearcher_local.records.storage import JOURNAL, PLAN, STUDY, JournalFile, cannot_open, hide_password, read_link
from lmsearcher_local.spaces.files import RESULTS
from lmsearcher_local.study.plan import Plan
from lmsearcher_local.study.results import OURS, WARM, code_of
from lmsearcher_local.system.folders import unusable, write_atomically

OWNER = "lmsearcher owner"  # study user attribute: the process that searches now
OUT = "lmsearcher out"  # study user attribute: the absolute output folder of a study kept elsewhere
LOCK = ".lock"  # in the output folder, where its file system locks files but no folders, as NFS does
TAKEN = (errno.EWOULDBLOCK, errno.EACCES)


@contextmanager
def lock_folder(out: Path) -> Iterator[bool]:
    """Make the output folder and lock it, or raise ``StudyError``; whether its file system knows locks."""
    try:
        out.mkdir(parents=True, exist_ok=True)
        lock = os.open(out, os.O_RDONLY)  # the folder itself: no lock file to leave behind
    except OSError as error:
        raise StudyError(f"cannot use the output folder {out}: {unusable(out, error)}") from error
    locks = [lock]
    try:
        reason = _lock(lock, out)
        if reason:
            locks.append(os.open(out / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666))
            reason = _lock(locks[-1], out)
        if reason:
            logging.getLogger(__name__).warning(
                f"{out} cannot be locked ({reason}); make sure that no other search runs in it"
            )
        yield not reason
    finally:
        for lock in locks:
            os.close(lock)


def _lock(handle: int, out: Path) -> str:
    """Lock a file or folder; why that is impossible here, or nothing."""
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in TAKEN:
            raise StudyError(f"another search is running in {out}; wait for it or choose another folder") from None
        return error.strerror or str(error)
    return ""


def find_study(out: Path, plan: Plan, storage: str | None, resume: bool) -> optuna.Study | None:
    """The study that is there already, if any; ``StudyError`` where this search may not go on with it."""
    name, study = study_name(out, storage), None
    if storage is not None or (out / JOURNAL).exists():
        try:
            study = optuna.load_study(study_name=name, storage=open_storage(out, storage))
        except KeyError:
            pass  # the storage has no study of this name
        except Exception as error:  # whatever a damaged journal or a database's driver raises
            raise cannot_open(storage or str(out / JOURNAL), error) from error
    if study is None:
        if (out / RESULTS).exists():
            raise StudyError(f"{out} holds the {RESULTS} of another study; choose another folder")
        return None
    found, trials = study.user_attrs.get(PLAN), study.get_trials(deepcopy=False)
    directions = tuple(direction.name.lower() for direction in study.directions)
    if found is None and not trials and directions == plan.options.directions:
        return study  # killed right after it was created
    where = str(out) if storage is None else f"study {name} of {hide_password(storage)}"
    if not resume:
        raise StudyError(f"{where} already holds a study: add --resume to continue it, or choose another folder")
    if not isinstance(found, dict):
        raise StudyError(f"{where} holds a study of another program; choose another folder")
    if difference := plan.difference(found):
        raise StudyError(
            f"{where} holds a study with another {difference}: resume it with the same, or choose another folder"
        )
    for trial in trials:
        if trial.params and {OURS, WARM} & trial.user_attrs.keys() and not code_of(trial.params, plan.space):
            raise StudyError(
                f"{where}: the space's validity predicate refuses trial {trial.number}, {trial.params}: resume with the"
                " predicate of that search, or choose another folder"
            )
    home = study.user_attrs.get(OUT)
    if home not in (None, str(out.resolve())):
        raise StudyError(
            f"{where} belongs to the output folder {home}; resume it there, or if that was moved here, run"
            f" {_command(study, storage, OUT, str(out.resolve()))}"
        )
    return study


def _command(study: optuna.Study, storage: str | None, key: str, value: str) -> str:
    """How a person sets an attribute of a study."""
    place = hide_password(storage) if storage else JOURNAL
    return f"optuna study set-user-attr --storage {place} --study-name {study.study_name} -k '{key}' --value '{value}'"


def claim(study: optuna.Study, storage: str | None) -> None:
    """Note in the study that this process searches, or raise ``StudyError`` where another one does."""
    check_free(study, storage)
    study.set_user_attr(OWNER, _this_process())
    check_free(study, storage)  # of two that came at once, the last to write sees itself


def check_free(study: optuna.Study, storage: str | None) -> None:
    """Raise ``StudyError`` where another process searches in the study, or one on a machine that this cannot ask."""
    owner = study.user_attrs.get(OWNER)
    if not isinstance(owner, dict) or owner == _this_process():
        return
    busy = f"study {study.study_name} is searched by process {owner.get('pid')} on {owner.get('host')}"
    if owner.get("host") != socket.gethostname():
        raise StudyError(f"{busy}; if that has ended, take over with {_command(study, storage, OWNER, '')}")
    if _runs(owner):
        raise StudyError(f"{busy}; wait for it or choose another folder")


def _runs(owner: dict[str, Any]) -> bool:
    """Whether a process of this machine is still there."""
    try:
        return abs(float(psutil.Process(owner["pid"]).create_time()) - owner["started"]) < 1
    except (psutil.Error, LookupError, TypeError, ValueError):
        return False


def release(study: optuna.Study) -> None:
    """Take the note of :func:`claim` away, if it is there."""
    with suppress(OSError, StorageInternalError):  # no space left to write: the process is going to end
        if study.user_attrs.get(OWNER) == _this_process():
            study.set_user_attr(OWNER, None)


def _this_process() -> dict[str, Any]:
    own = psutil.Process()
    return {"host": socket.gethostname(), "pid": own.pid, "started": own.create_time()}


def create_study(out: Path, plan: Plan, storage: str | None) -> optuna.Study:
    """A new study."""
    name = study_name(out, storage)
    return optuna.create_study(storage=open_storage(out, storage), study_name=name, directions=plan.options.directions)


def describe(study: optuna.Study, out: Path, plan: Plan, storage: str | None) -> None:
    """Write down what is searched: in the study, and of one that is elsewhere also in the output folder."""
    if PLAN not in study.user_attrs:
        study.set_user_attr(PLAN, plan.describe())
    if storage is not None:
        if OUT not in study.user_attrs:
            study.set_user_attr(OUT, str(out.resolve()))
        kept = {"storage": hide_password(storage), "study": study.study_name, "plan": plan.describe()}
        write_atomically(out / STUDY, json.dumps(kept, indent=1) + "\n")


def open_storage(out: Path, storage: str | None) -> BaseStorage | str:
    """The storage; foreign code may change the working folder, so its path is absolute."""
    return JournalStorage(JournalFile(str((out / JOURNAL).absolute()))) if storage is None else storage


def study_name(out: Path, storage: str | None) -> str:
    """The study's name: in a storage that others share, one for each output folder."""
    if storage is None:
        return "search"
    kept = read_link(out)
    if kept.get("storage") == hide_password(storage) and isinstance(kept.get("study"), str):
        return str(kept["study"])
    whole = out.resolve()
    return f"{whole.name}-{hashlib.sha256(str(whole).encode(errors='surrogateescape')).hexdigest()[:8]}"
