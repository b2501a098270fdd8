"""Files of evaluated codes and of candidate pools: the upstream JSON, CSV, and plain lists of codes."""

import csv
import json
import math
import os
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from lmsearcher_local.errors import HistoryError, SpaceError
from lmsearcher_local.space import Option, SearchSpace


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
    """Candidate codes: of a CSV whose header names every parameter, in any order, the configurations; else the first
    column, or one code a line.

    Raises:
        SpaceError: the file is missing or empty, a column is missing, or a candidate is foreign or listed twice.
    """
    pool: dict[str, None] = {}
    for where, code in _candidates(path, space):
        if code in pool:
            raise SpaceError(f"{path}: {where}: {code} is listed twice")
        pool[code] = None
    if not pool:
        raise SpaceError(f"{path} holds no candidate; write one code a line, or a CSV with a column per parameter")
    return list(pool)


def _candidates(path: Path, space: SearchSpace) -> Iterator[tuple[str, str]]:
    lines = _lines(path, SpaceError)
    header = [cell.strip() for cell in next(csv.reader(lines[:1]), [])]
    missing = [name for name in space.names if name not in header]
    if len(missing) == len(space.names) or (missing and header[0] == "code"):
        for where, row in _rows(path, SpaceError):
            yield where, _checked_code(space, row[0], f"{path}: {where}")
        return
    if missing:
        raise SpaceError(f"{path}: line 1: there is no column {missing[0]}; the columns are {', '.join(header)}")
    columns = [header.index(name) for name in space.names]
    spellings = [_spellings(options) for options in space.options]
    for number, row in enumerate(csv.reader(lines[1:]), 2):
        row = [cell.strip() for cell in row]
        if row in ([], [""]):
            continue
        where = f"line {number}"
        if len(row) != len(header):
            raise SpaceError(f"{path}: {where}: {len(row)} cells under {len(header)} column names")
        indices = []
        for name, options, column, known in zip(space.names, space.options, columns, spellings, strict=True):
            index = known.get(row[column])
            if index is None:
                index = known[row[column]] = _numeric(options, row[column])
            if index < 0:
                allowed = ", ".join(map(repr, options))
                raise SpaceError(f"{path}: {where}: {name} has no option {row[column]!r}; allowed: {allowed}")
            indices.append(index)
        yield where, _checked_code(space, space.code(indices), f"{path}: {where}")


def _spellings(options: Sequence[Option]) -> dict[str, int]:
    """The index of each option by how Python, JSON and spreadsheets write it."""
    found = {str(option).strip(): i for i, option in reversed([*enumerate(options)])}
    for i, option in enumerate(options):
        others = ("", "null") if option is None else (json.dumps(option), str(option).upper())
        for text in others if option is None or isinstance(option, bool) else ():
            found.setdefault(text, i)
    return found


def _numeric(options: Sequence[Option], cell: str) -> int:
    """The index of the number that a cell spells in another way (1e-3, 4.0), -1 where there is none."""
    try:
        value = float(cell)
    except ValueError:
        return -1
    return next((i for i, option in enumerate(options) if not isinstance(option, str) and option == value), -1)


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
    for number, row in enumerate(csv.reader(_lines(path, failure)), 1):
        row = [cell.strip() for cell in row]
        if not any(row) or (number == 1 and row[0].isidentifier()):
            continue
        yield f"line {number}", row


def _lines(path: Path, failure: type[HistoryError] | type[SpaceError]) -> list[str]:
    try:
        return path.read_text(encoding="utf-8-sig").splitlines()
    except OSError as error:
        raise failure(f"cannot read {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise failure(f"{path} is no text file in UTF-8") from error


def _checked_code(space: SearchSpace, code: object, where: str) -> str:
    if not isinstance(code, str):
        raise SpaceError(f"{where}: a code is text, not {code!r}")
    try:
        space.decode(code)
    except SpaceError as error:
        raise SpaceError(f"{where}: {error}") from error
    return code
