"""Files of evaluated codes and of candidate pools: JSON, CSV and plain lists of codes, told apart by what they hold."""

import csv
import io
import json
import math
import os
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from lmsearcher_local.documents import parse_json
from lmsearcher_local.errors import HistoryError, SpaceError, brief
from lmsearcher_local.space import Option, SearchSpace

RESULTS = "historical_results.json"
COLUMNS = ["trial", "code", "value", "reason"]  # of a search's results as CSV, before those of the parameters
SHAPE = (
    '{"Trial1": {"cell": "012334", "prediction": 91.2}, ...} or a list of objects with "value" and "code" or every'
    " parameter"
)


def read_history(source: str | Path, space: SearchSpace) -> list[tuple[str, float]]:
    """Codes and values of what was evaluated before; trials without a value have failed and are left out.

    Args:
        source: a file, the output folder of a search, or another Optuna study as ``stored_study`` finds it. A file is
            the upstream JSON; a JSON list of objects with ``value`` and ``code`` or every parameter; a CSV with such
            columns, or of lines ``code,value``; or the journal of an Optuna storage.

    Raises:
        HistoryError: the source is missing or malformed, or a value is not a finite number.
        SpaceError: a code or a configuration is not of this space.
        StudyError: there is no such Optuna study.
    """
    path = Path(source)
    if path.is_dir():
        path /= RESULTS
    if not path.exists() and ("://" in str(source) or "#" in str(source)):
        entries = _study_values(str(source), space)
    elif (text := _text(path, HistoryError)).lstrip()[:1] not in ("{", "[") and path.suffix != ".json":
        entries = _csv_values(path, text, space)
    elif '"op_code"' in text.partition("\n")[0]:
        entries = _study_values(str(path), space)
    else:
        entries = _json_values(path, text, space)
    found = []
    try:
        for where, cell, value in entries:
            code = _checked_code(space, cell, f"{source}: {where}")
            found.append((code, _finite(value, f"{source}: {where}")))
    except csv.Error as error:
        raise HistoryError(f"{source} is no CSV: {error}") from error
    return found


def _finite(value: object, where: str) -> float:
    try:
        if isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value):
            return float(value)
    except OverflowError:  # a whole number that no float can hold
        pass
    raise HistoryError(f"{where}: the value is {brief(value)}; a finite number is needed")


def write_history(path: Path, values: Iterable[tuple[str, float]]) -> None:
    """Replace the file by the upstream JSON of these codes and values."""
    trials = [  # what json.dumps(..., indent=1) makes, but ten times as fast: a search writes all after each trial
        f' "Trial{i}": {{\n  "cell": "{code}",\n  "prediction": {json.dumps(value)}\n }}'
        for i, (code, value) in enumerate(values, 1)
    ]
    replaced(path, "{\n" + ",\n".join(trials) + "\n}" if trials else "{}")


def replaced(path: Path, text: str) -> None:
    """Replace the file by this text; a crash leaves the old file or the new one."""
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with open(handle, "w", encoding="utf-8") as stream:
            stream.write(text)
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
    try:
        for where, code in _candidates(path, space):
            if code in pool:
                raise SpaceError(f"{path}: {where}: {code} is listed twice")
            pool[code] = None
    except csv.Error as error:
        raise SpaceError(f"{path} is no CSV: {error}") from error
    if not pool:
        raise SpaceError(f"{path} holds no candidate; write one code a line, or a CSV with a column per parameter")
    return list(pool)


def _candidates(path: Path, space: SearchSpace) -> Iterator[tuple[str, str]]:
    text = _text(path, SpaceError)
    header = _header(text)
    missing = [name for name in space.names if name not in header]
    if len(missing) == len(space.names) or (missing and header[0] == "code"):
        for where, row in _rows(text):
            yield where, _checked_code(space, row[0], f"{path}: {where}")
        return
    for where, code, _ in _configurations(path, text, space):
        yield where, code


def _configurations(path: Path, text: str, space: SearchSpace) -> Iterator[tuple[str, str, list[str]]]:
    """Place, code and row of each configuration under a header that names the parameters."""
    header = _header(text)
    for name in space.names:
        if name not in header:
            raise SpaceError(f"{path}: line 1: there is no column {name}; the columns are {', '.join(header)}")
    columns = [header.index(name) for name in space.names]
    spellings = [_spellings(options) for options in space.options]
    for where, row in _rows(text, header):
        if len(row) != len(header):
            raise SpaceError(f"{path}: {where}: {len(row)} cells under {len(header)} column names")
        indices = []
        for name, options, column, known in zip(space.names, space.options, columns, spellings, strict=True):
            index = known.get(row[column])
            if index is None:
                index = known[row[column]] = _numeric(options, row[column])
            if index < 0:
                allowed = ", ".join(map(repr, options))
                raise SpaceError(f"{path}: {where}: {name} has no option {brief(row[column])}; allowed: {allowed}")
            indices.append(index)
        yield where, _checked_code(space, space.code(indices), f"{path}: {where}"), row


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


def _json_values(path: Path, text: str, space: SearchSpace) -> Iterator[tuple[str, object, object]]:
    try:
        trials = parse_json(text)
    except (ValueError, RecursionError) as error:
        raise HistoryError(f"{path} is not valid JSON: {error}") from error
    if not isinstance(trials, dict) and not (isinstance(trials, list) and trials):
        raise HistoryError(f"{path} does not hold {SHAPE}")
    named = trials.items() if isinstance(trials, dict) else ((f"item {i}", trial) for i, trial in enumerate(trials, 1))
    for where, trial in named:
        keys = trial.keys() if isinstance(trial, dict) else set()
        if {"cell", "prediction"} <= keys:
            yield where, trial["cell"], trial["prediction"]
        elif "value" not in keys or "value" in space.names:
            raise HistoryError(f"{path}: {where} has no cell and prediction; the form is {SHAPE}")
        elif trial["value"] is not None:
            code = trial.get("code")
            if code is None or "code" in space.names:
                configuration = {name: trial[name] for name in space.names if name in keys}
                code = _encoded(space, configuration, f"{path}: {where}")
            yield where, code, trial["value"]


def _csv_values(path: Path, text: str, space: SearchSpace) -> Iterator[tuple[str, object, object]]:
    header = _header(text)
    ours = header[: len(COLUMNS)] == COLUMNS  # parameters of the same names are called otherwise there
    if "code" in header and "value" in header and (ours or "code" not in space.names):
        cells = _columns(path, text, header, header)
    elif not any(name in header for name in space.names):
        cells = _columns(path, text, ["code", "value"])
    elif "value" not in header or "value" in space.names:
        raise HistoryError(
            f"{path}: line 1: a column called value is needed, which is no parameter, or lines code,value; the columns"
            f" are {', '.join(header)}"
        )
    else:
        column = header.index("value")
        cells = ((where, code, row[column]) for where, code, row in _configurations(path, text, space))
    for where, code, value in cells:
        if not value:
            continue  # the trial failed
        try:
            yield where, code, float(value)
        except ValueError:
            raise HistoryError(f"{path}: {where}: the value is {brief(value)}; a finite number is needed") from None


def _columns(path: Path, text: str, names: Sequence[str], header: Sequence[str] = ()) -> Iterator[tuple[str, str, str]]:
    """Place, code and value of each row."""
    for where, row in _rows(text, header):
        if len(row) != len(names):
            raise HistoryError(f"{path}: {where}: a line is {','.join(names)}, not {','.join(row)}")
        yield where, row[names.index("code")], row[names.index("value")]


def _study_values(source: str, space: SearchSpace) -> Iterator[tuple[str, object, object]]:
    from optuna.trial import TrialState

    from lmsearcher_local.stored import stored_study

    study = stored_study(source)
    if len(study.directions) > 1:
        raise HistoryError(f"{source} has {len(study.directions)} objectives; a history has one")
    for trial in study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,)):
        where = f"trial {trial.number}"
        yield where, _encoded(space, trial.params, f"{source}: {where}"), trial.value


def _rows(text: str, header: Sequence[str] = ()) -> Iterator[tuple[str, list[str]]]:
    """Rows that are not empty, each with its place for messages; without the header, or what looks like one."""
    reader = csv.reader(io.StringIO(text, newline=""))
    for number, cells in enumerate(reader, 1):
        row = [cell.strip() for cell in cells]
        blank = row in ([], [""]) if header else not any(row)  # under a header, empty cells may be options
        if blank or (number == 1 and (header or row[0].isidentifier())):
            continue
        yield f"line {reader.line_num}", row


def _header(text: str) -> list[str]:
    return [cell.strip() for cell in next(csv.reader(io.StringIO(text, newline="")), [])]


def _text(path: Path, failure: type[HistoryError] | type[SpaceError]) -> str:
    try:
        return path.read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise failure(f"cannot read {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise failure(f"{path} is no text file in UTF-8") from error


def _encoded(space: SearchSpace, configuration: dict[str, Option], where: str) -> str:
    try:
        return space.encode(configuration)
    except SpaceError as error:
        raise SpaceError(f"{where}: {error}") from error


def _checked_code(space: SearchSpace, code: object, where: str) -> str:
    if not isinstance(code, str):
        raise SpaceError(f"{where}: a code is text, not {brief(code)}")
    try:
        space.decode(code)
    except SpaceError as error:
        raise SpaceError(f"{where}: {error}") from error
    return code
