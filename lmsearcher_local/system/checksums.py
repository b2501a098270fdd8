"""Checksums of a folder's files, in ``sha256sum``'s format: is what arrived what was sent?"""

import hashlib
import os
import re
from pathlib import Path

from lmsearcher_local.errors import ChecksumError
from lmsearcher_local.system.folders import absence

SUMS = "SHA256SUMS"


def write_checksums(folder: Path) -> None:
    """List every file of ``folder`` in its checksums file, or raise ``ChecksumError`` where one cannot be."""
    names = _files(folder)
    for name in names:
        if re.search(r"[\\\r\n]", name):
            raise ChecksumError(f"{folder} holds a file whose name a checksums file cannot list: {name!r}")
    lines = [f"{_digest(folder / name)}  {name}\n" for name in names]
    (folder / SUMS).write_text("".join(lines), encoding="utf-8")


def read_checksums(folder: Path) -> dict[str, str]:
    """The names and digests that a folder's checksums file lists; ``ChecksumError`` where it is not whole."""
    if not folder.is_dir():
        raise ChecksumError(f"the folder {folder} {absence(folder)}")
    file = folder / SUMS
    if not file.exists():
        raise ChecksumError(f"{folder} has no {SUMS}, so there is nothing to compare its files with")
    try:
        lines = file.read_text(encoding="utf-8-sig").split("\n")
    except (OSError, UnicodeError) as error:
        raise ChecksumError(f"cannot read {file}: {error}") from error
    listed = {}
    for number, line in enumerate(lines, 1):
        if not line:
            continue
        entry = re.fullmatch("([0-9a-f]{64}) [ *](.+)", line)
        if not entry:
            raise ChecksumError(f"{file}: line {number} is not a digest and a name, as sha256sum writes them")
        listed[entry[2]] = entry[1]
    if not listed:
        raise ChecksumError(f"{file} lists no files")
    return listed


def differences(folder: Path) -> list[str]:
    """Every file of ``folder`` that differs, is missing or is not listed, in words; ``ChecksumError`` as above."""
    listed, found = read_checksums(folder), set(_files(folder))
    problems = []
    for name in sorted(listed.keys() | found):
        if not os.path.isfile(folder / name):  # pathlib's raises where a name is too long
            problems.append(f"{name}: missing")
        elif name not in listed:
            problems.append(f"{name}: not listed")
        elif _digest(folder / name) != listed[name]:
            problems.append(f"{name}: differs")
    return problems


def _files(folder: Path) -> list[str]:
    """Names of the files, without hidden ones: tools leave those behind, and nothing here reads them."""
    names = (file.relative_to(folder) for file in folder.rglob("*") if file.is_file())
    return sorted(str(n) for n in names if str(n) != SUMS and not any(part.startswith(".") for part in n.parts))


def _digest(file: Path) -> str:
    try:
        with file.open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError as error:
        raise ChecksumError(f"cannot read {file}: {error.strerror}") from error
