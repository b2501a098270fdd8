"""Writes a folder whole or not at all."""

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from lmsearcher_local.errors import LMSearcherError


@contextmanager
def new_folder(out: Path, refused: type[LMSearcherError]) -> Iterator[Path]:
    """A folder beside ``out`` that gets this name when all is written; a failure or an interrupt leaves nothing behind.

    Raises:
        LMSearcherError: of the class ``refused``, where nothing can be written.
    """
    try:
        partial = Path(tempfile.mkdtemp(dir=out.absolute().parent, prefix=f".{out.name}."))
    except OSError as error:
        raise refused(f"cannot write {out}: {error.strerror}") from error
    try:
        yield partial
        partial.chmod(0o755)  # mkdtemp's folders are the owner's alone
        partial.rename(out)
    except BaseException as error:
        shutil.rmtree(partial)
        if isinstance(error, OSError):
            raise refused(f"cannot write {out}: {error.strerror or error}") from error
        raise
