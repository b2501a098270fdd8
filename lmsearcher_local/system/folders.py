"""Folders and files: written whole or not at all, what is wrong with a folder that is not there, JSON files."""

import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from lmsearcher_local.errors import CheckpointError, LMSearcherError
from lmsearcher_local.system.documents import parse_json


@contextmanager
def new_folder(out: Path, refused: type[LMSearcherError]) -> Iterator[Path]:
    """A folder beside ``out`` that gets this name when all is written; a failure or an interrupt leaves nothing behind.

    Raises:
        LMSearcherError: of the class ``refused``, where nothing can be written.
    """
    try:
        partial = out.absolute().with_name(f".{out.name}.{secrets.token_hex(4)}")
        partial.mkdir()  # not tempfile, whose folders are the owner's alone: the umask says who may read it
    except OSError as error:
        raise refused(f"cannot write {out}: {error.strerror}") from error
    try:
        yield partial
        partial.rename(out)
    except BaseException as error:
        shutil.rmtree(partial)
        if isinstance(error, OSError):
            raise refused(f"cannot write {out}: {error.strerror or error}") from error
        raise


def write_atomically(path: Path, text: str) -> None:
    """Replace the file by this text; a crash leaves the old file or the new one."""
    partial = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    # Not tempfile, whose files are the owner's alone: the umask says who may read it.
    handle = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
    try:
        with open(handle, "w", encoding="utf-8") as stream:
            stream.write(text)
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(partial, path)
    except BaseException:
        with suppress(OSError):
            os.unlink(partial)
        raise


def read_json(file: Path) -> dict[str, Any]:
    """The JSON object in a file of a checkpoint; ``CheckpointError`` where there is none."""
    try:
        content = parse_json(file.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise CheckpointError(f"cannot read {file}: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{file} is not valid JSON: {error}") from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{file} does not hold a JSON object")
    return content


def absence(folder: Path) -> str:
    """What is wrong with the path of a folder that is none."""
    return "is a file, not a folder" if folder.exists() else "does not exist"


def unusable(folder: Path, error: OSError) -> str:
    """Why a folder cannot be made or written to."""
    return "it is a file" if folder.is_file() else str(error.strerror or error)
