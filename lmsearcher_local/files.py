"""Files of evaluated codes and of candidate pools: the upstream JSON, CSV, and plain lists of codes."""

import csv
import json
import math
import os
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path

from lmsearcher_local.errors import HistoryError, SpaceError
from lmsearcher_local.space import SearchSpace


def read_history(path: Path, space: SearchSpace) -> list[tuple[str, float]]:
    """Codes and values from the upstream JSON (name ending in .json) or from CSV lines ``code,value``.

    Raises:
        HistoryError: the file is missing or malformed, or a value is not a finite number.
        SpaceError: a code is not of this space.
    """
    found = []
    for where, cell, value in _upstream(path) if path.suffix == ".json" else _csv_values(path):
        code = _checked_code(space, cell, f"{path}: {where}")
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
            raise HistoryError(f"{path}: {where}: the value is {value!r}; a finite number is needed")
        found.append((code, float(value)))
    return found


def write_history(path: Path, values: Iterable[tuple[str, float]]) -> None:
    """Replace the file by the upstream JSON of these codes and values; a crash leaves the old file or the new one."""
    trials = {f"Trial{i}": {"cell": code, "prediction": value} for i, (code, value) in enumerate(values, 1)}
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with open(handle, "w", encoding="utf-8") as stream:
            json.dump(trials, stream, indent=1)
            stream.flush()
            os.fsync(stream.fileno())
        os.chmod(name, 0o644)  # mkstemp's files are the owner's alone
        os.replace(name, path)
    except BaseException:
        os.unlink(name)
        raise


def read_pool(path: Path, space: SearchSpace) -> list[str]:
    """Candidate codes, one a line; of a CSV the first column.

    Raises:
        SpaceError: the file is missing or empty, or a code is foreign or listed twice.
    """
    pool: dict[str, None] = {}
    for where, row in _rows(path, SpaceError):
        code = _checked_code(space, row[0], f"{path}: {where}")
        if code in pool:
            raise SpaceError(f"{path}: {where}: {code} is listed twice")
        pool[code] = None
    if not pool:
        raise SpaceError(f"{path} holds no candidate; write one code a line")
    return list(pool)


def _upstream(path: Path) -> Iterator[tuple[str, object, object]]:
    shape = '{"Trial1": {"cell": "012334", "prediction": 91.2}, ...}'
    try:
        trials = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise HistoryError(f"cannot read {path}: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise HistoryError(f"{path} is not valid JSON: {error}") from error
    if not isinstance(trials, dict):
        raise HistoryError(f"{path} does not hold {shape}")
    for name, trial in trials.items():
        if not isinstance(trial, dict) or not {"cell", "prediction"} <= trial.keys():
            raise HistoryError(f"{path}: {name} has no cell and prediction; the form is {shape}")
        yield name, trial["cell"], trial["prediction"]


def _csv_values(path: Path) -> Iterator[tuple[str, object, object]]:
    for where, row in _rows(path, HistoryError):
        if len(row) != 2:
            raise HistoryError(f"{path}: {where}: a line is code,value, not {','.join(row)}")
        try:
            yield where, row[0], float(row[1])
        except ValueError:
            raise HistoryError(f"{path}: {where}: the value is {row[1]!r}; a finite number is needed") from None


def _rows(path: Path, failure: type[HistoryError] | type[SpaceError]) -> Iterator[tuple[str, list[str]]]:
    """Rows that are not empty, without a header, each with its place for messages."""
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except OSError as error:
        raise failure(f"cannot read {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise failure(f"{path} is no text file in UTF-8") from error
    for number, row in enumerate(csv.reader(lines), 1):
        row = [cell.strip() for cell in row]
        if not any(row) or (number == 1 and row[0].isidentifier()):
            continue
        yield f"line {number}", row


def _checked_code(space: SearchSpace, code: object, where: str) -> str:
    if not isinstance(code, str):
        raise SpaceError(f"{where}: a code is text, not {code!r}")
    try:
        space.decode(code)
    except SpaceError as error:
        raise SpaceError(f"{where}: {error}") from error
    return code
