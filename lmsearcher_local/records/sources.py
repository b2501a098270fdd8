"""What was evaluated before, from wherever it is kept: by parameter name and value, with the source's own direction.

A code without its space is no configuration. Where a source says which parameters its trials had, they are read by name
and value; bare codes in the folder of a search are codes of that search's space.
"""

import csv
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from optuna import Study
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from lmsearcher_local.candidates.history import Direction
from lmsearcher_local.candidates.measures import is_finite
from lmsearcher_local.errors import HistoryError, StudyError, brief
from lmsearcher_local.records.storage import JOURNAL, STUDY, hide_password, load_study, read_plan, space_of_plan
from lmsearcher_local.spaces.files import (
    BREAKS,
    COLUMNS,
    MEASURE,
    RESULTS,
    STOPPED,
    TABLE,
    ByValue,
    Candidates,
    Unfit,
    accept_code,
    check_code,
    configurations,
    header_of,
    omission,
    parameter_names,
    rows_of,
    text_of,
)
from lmsearcher_local.spaces.space import SearchSpace
from lmsearcher_local.system.documents import parse_json

SHAPE = (
    '{"Trial1": {"cell": "012334", "prediction": 91.2}, ...} or a list of objects with "value" and "code" or every'
    " parameter"
)
BROKEN = "it broke a limit"
Entry = tuple[str, object, object]  # place, a code (text, an Unfit, or what is none), value


@dataclass(frozen=True, slots=True)
class Source:
    """Codes of a space and their values; how many trials the space does not offer, one line about them, empty where
    there are none; and the direction, where the source says it."""

    name: str
    entries: tuple[tuple[str, float], ...]
    left_out: int = 0
    note: str = ""
    direction: Direction | None = None

    def check(self, direction: Direction) -> None:
        """Raise ``HistoryError`` where the source contradicts a direction."""
        if self.direction not in (None, direction):
            raise HistoryError(
                f"{self.name} says that its values are {self.direction}d, here they are {direction}d:"
                f" use --direction {self.direction}, or another source"
            )


def read_history(source: str | Path | Study, space: SearchSpace, *, others: bool = False) -> Source:
    """What was evaluated before; trials without a value have failed and do not count.

    Args:
        source: a file, the output folder of a search, an Optuna study, or what ``load_study`` finds one by. A file is
            the upstream JSON; a JSON list of objects with ``value`` and ``code`` or every parameter; a CSV with such
            columns, or of lines ``code,value``; or the journal of an Optuna storage. Codes without parameters are of
            the space of the search in whose folder the file lies, elsewhere of this space.
        others: whether configurations may have other parameters, too, which are ignored.

    Raises:
        HistoryError: the source is missing or malformed, a value is not a finite number, or the space offers none of
            its configurations.
        SpaceError: a code without parameters is not of its space.
        StudyError: there is no such Optuna study.
    """
    name, opened = name_of(source), open_source(source)
    direction: Direction | None = None
    if isinstance(opened, Study):
        direction, entries = _of_study(opened, ByValue(space, others), name)
    else:
        path, text, home, values = opened
        direction, bare = values if path.name in (RESULTS, TABLE) else None, home or space
        entries = (_of_csv if is_csv(path, text) else _of_json)(path, text, space, bare, others)
    finite = ((where, code, _finite(value, f"{name}: {where}")) for where, code, value in entries)
    found, unfit = _sort_out(finite, space, name)
    if unfit and not found:
        raise HistoryError(f"{name}: this space offers none of its {len(unfit):,} trials; {unfit[0]}")
    return Source(name, tuple(found), len(unfit), omission(name, unfit, "trial"), direction)


def read_first(source: str | Path | Study, space: SearchSpace) -> Candidates:
    """Configurations to begin with, in order and each once; values are not needed, and ignored.

    Args:
        source: as ``read_history`` takes it; a CSV may also be one code a line, without a header.

    Raises:
        HistoryError, SpaceError, StudyError: as ``read_history`` raises them.
    """
    name, opened = name_of(source), open_source(source)
    entries: Iterator[Entry]
    if isinstance(opened, Study):
        by_value, trials = ByValue(space), opened.get_trials(deepcopy=False)
        entries = ((f"trial {one.number}", by_value.code(one.params), None) for one in trials if one.params)
    else:
        read = _codes_of_csv if is_csv(opened.path, opened.text) else partial(_of_json, valued=False)
        entries = read(opened.path, opened.text, space, opened.space or space)
    found, unfit = _sort_out(entries, space, name)
    if not found:
        reason = f"; {unfit[0]}" if unfit else ""
        raise HistoryError(f"{name} holds no configuration of this space{reason}")
    return Candidates([*dict(found)], omission(name, unfit, "configuration"))


def _sort_out(entries: Iterable[Entry], space: SearchSpace, name: str) -> tuple[list[tuple[str, Any]], list[str]]:
    """Codes of the space with their values, and why each of the other configurations is none."""
    found, unfit = [], []
    try:
        for where, code, value in entries:
            if isinstance(code, Unfit):
                unfit.append(f"{where}: {code.reason}")
            else:
                found.append((check_code(space, code, f"{name}: {where}"), value))
    except csv.Error as error:
        raise HistoryError(f"{name} is no CSV: {error}") from error
    return found, unfit


class File(NamedTuple):
    """A file with its text, and space and direction of the search in whose folder it lies."""

    path: Path
    text: str
    space: SearchSpace | None
    direction: Direction | None


def open_source(source: str | Path | Study) -> Study | File:
    """The study or the file in which a source keeps its trials; see ``read_history``."""
    if isinstance(source, Study):
        return source
    path = Path(source)
    if path.is_dir():
        path = _of_folder(path)
    if not path.exists() and ("://" in str(source) or "#" in str(source)):
        return load_study(str(source))
    text = text_of(path, HistoryError)
    if text.lstrip()[:1] == "{" and '"op_code"' in text.partition("\n")[0]:
        return load_study(str(path))
    return File(path, text, *_search_of(path.absolute().parent))


def name_of(source: str | Path | Study) -> str:
    """What messages call a source."""
    return f"study {source.study_name}" if isinstance(source, Study) else hide_password(str(source))


def check_objectives(study: Study, name: str) -> None:
    """Raise ``HistoryError`` where a study has several objectives."""
    if len(study.directions) > 1:
        raise HistoryError(f"{name} has {len(study.directions)} objectives; a history has one")


def is_csv(path: Path, text: str) -> bool:
    """Whether a file is a CSV, and not JSON."""
    return text.lstrip()[:1] not in ("{", "[") and path.suffix != ".json"


def _of_folder(folder: Path) -> Path:
    """The file that says most of what is in a folder."""
    names = (JOURNAL, RESULTS) if (folder / STUDY).exists() else (JOURNAL, TABLE, RESULTS)
    for name in names:
        if (folder / name).exists():
            return folder / name
    raise HistoryError(f"{folder} holds no search: there is no {JOURNAL}, {TABLE} or {RESULTS} in it")


def _search_of(folder: Path) -> tuple[SearchSpace | None, Direction | None]:
    """Space and direction of the search of which this is the output folder, if it is one."""
    plan = read_plan(folder)
    try:
        return (None, None) if plan is None else (space_of_plan(plan), plan["direction"])
    except (LookupError, TypeError, ValueError) as error:
        raise StudyError(f"{folder} holds what no search of this package wrote ({error})") from error


def _finite(value: object, where: str) -> float:
    if is_finite(value):
        return float(value)
    raise HistoryError(f"{where}: the value is {brief(value)}; a finite number is needed")


def _of_json(
    path: Path, text: str, space: SearchSpace, bare: SearchSpace, others: bool = False, valued: bool = True
) -> Iterator[Entry]:
    try:
        trials = parse_json(text)
    except (ValueError, RecursionError) as error:
        raise HistoryError(f"{path} is not valid JSON: {error}") from error
    if not isinstance(trials, dict) and not (isinstance(trials, list) and trials):
        raise HistoryError(f"{path} does not hold {SHAPE}")
    read, translated = ByValue(space, others), Translated(bare, space, others)
    items = trials.items() if isinstance(trials, dict) else ((f"item {i}", trial) for i, trial in enumerate(trials, 1))
    for where, trial in items:
        keys = trial.keys() if isinstance(trial, dict) else set()
        if not valued and isinstance(trial, dict):
            value = "prediction" if "cell" in keys else "value"
            trial, keys = trial | {value: 0.0}, keys | {value}
        if {"cell", "prediction"} <= keys:
            if STOPPED in keys and valued:
                continue  # its value is one of the middle of its training
            yield where, translated(trial["cell"], f"{path}: {where}"), trial["prediction"]
        elif "value" not in keys or ("value" in space.names and not keys >= set(COLUMNS)):
            raise HistoryError(f"{path}: {where} has no cell and prediction; the form is {SHAPE}")
        elif trial["value"] is None:
            continue  # it failed
        elif keys >= set(COLUMNS):  # a search's results as a DataFrame writes them
            cells = [(key, cell) for key, cell in trial.items() if key not in COLUMNS and not key.startswith(MEASURE)]
            names = parameter_names(key for key, _ in cells)
            code = read.code(dict(zip(names, (cell for _, cell in cells), strict=True)))
            yield where, Unfit(BROKEN) if str(trial["reason"]).startswith(BREAKS) else code, trial["value"]
        elif "code" in keys and not keys & (set(space.names) - {"value"}):
            yield where, translated(trial["code"], f"{path}: {where}"), trial["value"]
        else:
            yield where, read.code({name: trial[name] for name in space.names if name in keys}), trial["value"]


def _of_csv(path: Path, text: str, space: SearchSpace, bare: SearchSpace, others: bool) -> Iterator[Entry]:
    header = header_of(path, text)
    ours = header[: len(COLUMNS)] == COLUMNS
    cells: Iterator[tuple[str, object, str]]
    translated = Translated(bare, space, others)
    if ours or any(name in header for name in space.names):
        if not ours and ("value" not in header or "value" in space.names):
            raise HistoryError(
                f"{path}: line 1: a column called value is needed, which is no parameter, or lines code,value; the"
                f" columns are {', '.join(header)}"
            )
        column = header.index("value")
        reason = header.index("reason") if ours else column
        cells = (
            (where, Unfit(BROKEN) if row[reason].startswith(BREAKS) else code, row[column])
            for where, code, row in configurations(path, text, space, others)
        )
    else:
        names = header if "code" in header and "value" in header else []
        if not names and len(header) != 2:  # also where it is the only line, and looks like a header
            raise HistoryError(f"{path}: line 1: a line is code,value, not {','.join(header) or 'empty'}")
        codes = _columns(path, text, names or ["code", "value"], names)
        cells = ((where, translated(code, f"{path}: {where}"), value) for where, code, value in codes if value)
    for where, code, value in cells:
        if not value:
            continue  # the trial failed
        try:
            number = float(value)
        except ValueError:
            raise HistoryError(f"{path}: {where}: the value is {brief(value)}; a finite number is needed") from None
        yield where, code, number


def _codes_of_csv(path: Path, text: str, space: SearchSpace, bare: SearchSpace) -> Iterator[Entry]:
    """Configurations under the names of parameters, or bare codes: the column called code, or the first one."""
    header = header_of(path, text)
    if header[: len(COLUMNS)] == COLUMNS or any(name in header for name in space.names):
        yield from configurations(path, text, space)
        return
    column, translated = header.index("code") if "code" in header else 0, Translated(bare, space)
    for where, row in rows_of(text, header if "code" in header else ()):
        yield where, translated(row[column] if column < len(row) else "", f"{path}: {where}"), None


def _columns(path: Path, text: str, names: Sequence[str], header: Sequence[str] = ()) -> Iterator[tuple[str, str, str]]:
    """Place, code and value of each row."""
    for where, row in rows_of(text, header):
        if len(row) != len(names):
            raise HistoryError(f"{path}: {where}: a line is {','.join(names)}, not {','.join(row)}")
        yield where, row[names.index("code")], row[names.index("value")]


class Translated:
    """Codes of one space as codes of another, by parameter name and value."""

    def __init__(self, theirs: SearchSpace, ours: SearchSpace, others: bool = False) -> None:
        self._theirs, self._ours = theirs, ours
        self._read = None if theirs is ours else ByValue(ours, others)

    def __call__(self, code: object, where: str) -> object:
        if self._read is None:
            return accept_code(self._ours, code) if isinstance(code, str) and self._ours.names_options(code) else code
        return self._read.code(self._theirs.decode(check_code(self._theirs, code, where)))


def _of_study(study: Study, read: ByValue, name: str) -> tuple[Direction, Iterator[Entry]]:
    check_objectives(study, name)

    def code(trial: FrozenTrial) -> str | Unfit:
        return Unfit(BROKEN) if any(v > 0 for v in trial.constraints.values()) else read.code(trial.params)

    trials = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    entries = ((f"trial {trial.number}", code(trial), trial.value) for trial in trials)
    return "maximize" if study.direction == StudyDirection.MAXIMIZE else "minimize", entries
