"""Text files of codes and configurations: reads CSV and pools of candidates, writes upstream's JSON."""

import csv
import io
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import chain, repeat
from pathlib import Path
from typing import NamedTuple

from lmsearcher_local.errors import HistoryError, SpaceError, brief
from lmsearcher_local.spaces.options import Option, is_number
from lmsearcher_local.spaces.space import SearchSpace
from lmsearcher_local.system.folders import write_atomically

RESULTS = "historical_results.json"
TABLE = "results.csv"
FRONT = "front.csv"
COLUMNS = ["trial", "code", "value", "reason"]  # of a search's results as CSV, before those of the parameters
MEASURE = "measured "  # begins the columns of measured values, behind those of the parameters
BREAKS = "breaks "  # begins the reason of a trial that has a value and breaks a limit
STOPPED = "stopped after step"  # in that JSON, of a trial that was stopped early
AMBIGUOUS = -2  # in place of an option's index: a cell of a CSV may mean several


class Unfit(NamedTuple):
    """In place of the code of a configuration that a space does not offer: why not."""

    reason: str


class Candidates(NamedTuple):
    """Codes of a pool, and one line about what was left out of it, empty where nothing was."""

    codes: list[str]
    note: str = ""


def write_history(path: Path, values: Iterable[tuple[str, float]], facts: Iterable[Mapping[str, object]] = ()) -> None:
    """Replace the file by the upstream JSON of these codes and values, with further facts about each."""
    others = ("".join(f",\n  {json.dumps(name)}: {json.dumps(fact)}" for name, fact in one.items()) for one in facts)
    trials = [  # what json.dumps(..., indent=1) makes, but ten times as fast: a search writes all after each trial
        f' "Trial{i}": {{\n  "cell": "{code}",\n  "prediction": {json.dumps(value)}{other}\n }}'
        for i, ((code, value), other) in enumerate(zip(values, chain(others, repeat("")), strict=False), 1)
    ]
    write_atomically(path, "{\n" + ",\n".join(trials) + "\n}" if trials else "{}")


def read_pool(path: Path, space: SearchSpace) -> Candidates:
    """Candidate codes: of a CSV whose header names every parameter, in any order, the configurations; else the first
    column, or one code a line. Of a search's ``results.csv``, configurations that the space does not offer are left
    out, and several trials of one configuration are one candidate.

    Raises:
        SpaceError: the file is missing or empty, a column is missing, or a candidate is foreign or listed twice.
    """
    text = text_of(path, SpaceError)
    pool: dict[str, None] = {}
    unfit: list[str] = []
    try:
        ours = header_of(path, text)[: len(COLUMNS)] == COLUMNS
        for where, code in _candidates(path, text, space, ours):
            if isinstance(code, Unfit):
                if not ours:
                    raise SpaceError(f"{path}: {where}: {code.reason}")
                unfit.append(f"{where}: {code.reason}")
            elif code in pool and not ours:
                raise SpaceError(f"{path}: {where}: {code} is listed twice")
            else:
                pool[code] = None
    except csv.Error as error:
        raise SpaceError(f"{path} is no CSV: {error}") from error
    if not pool and unfit:
        raise SpaceError(f"{path} holds no candidate of this space; {unfit[0]}")
    if not pool:
        raise SpaceError(f"{path} holds no candidate; write one code a line, or a CSV with a column per parameter")
    return Candidates(list(pool), omission(path, unfit, "candidate"))


def omission(source: object, unfit: Sequence[str], noun: str) -> str:
    """One line about what was left out and why the first was; empty where nothing was."""
    if not unfit:
        return ""
    if len(unfit) == 1:
        return f"{source}: 1 {noun} is left out, because this space does not offer it: {unfit[0]}"
    count = f"{len(unfit):,} {noun}s"
    return f"{source}: {count} are left out, because this space does not offer them; the first: {unfit[0]}"


def _candidates(path: Path, text: str, space: SearchSpace, ours: bool) -> Iterator[tuple[str, str | Unfit]]:
    header = header_of(path, text)
    missing = [name for name in space.names if name not in header]
    if not ours and (len(missing) == len(space.names) or (missing and header[0] == "code")):
        for where, row in rows_of(text):
            yield where, check_code(space, row[0], f"{path}: {where}")
        return
    for where, code, _ in configurations(path, text, space):
        yield where, code


def configurations(
    path: Path, text: str, space: SearchSpace, others: bool = False
) -> Iterator[tuple[str, str | Unfit, list[str]]]:
    """Place, code and row of each configuration under a header that names the parameters; ``others``: a search's
    results may have other parameters, too, which are ignored.

    Raises:
        SpaceError: a parameter has no column, a search's results have a column too many, or a row another length.
    """
    header = header_of(path, text)
    columns = {name: column for column, name in enumerate(header)}
    ours = header[: len(COLUMNS)] == COLUMNS
    if ours:  # those of parameters with these names are called otherwise there
        parameters = parameter_names(header[len(COLUMNS) :])
        columns = {name: column for column, name in enumerate(parameters, len(COLUMNS))}
        for name in parameters:
            if name not in space.names and not others:
                raise SpaceError(f"{path}: line 1: this space has no parameter {name}; it has {', '.join(space.names)}")
    for name in space.names:
        if name not in columns:
            raise SpaceError(f"{path}: line 1: there is no column {name}; the columns are {', '.join(header)}")
    spellings = [_spellings(options) for options in space.options]
    for where, row in rows_of(text, header):
        if len(row) != len(header):
            raise SpaceError(f"{path}: {where}: {len(row)} cells under {len(header)} column names")
        cells = [row[columns[name]] for name in space.names]
        yield where, _code_of_cells(space, cells, spellings, bits=not ours), row


def column_of(name: str) -> str:
    """The column of a parameter in a search's results."""
    return f"parameter {name}" if name in COLUMNS or name.startswith(MEASURE) else name


def parameter_names(columns: Iterable[str]) -> list[str]:
    """The parameters that columns of a search's results stand for; those of measured values stand for none."""
    own = (column for column in columns if not column.startswith(MEASURE))
    return [bare if column_of(bare := column.removeprefix("parameter ")) == column else column for column in own]


def _code_of_cells(
    space: SearchSpace, cells: Sequence[str], spellings: list[dict[str, int]], bits: bool
) -> str | Unfit:
    indices: dict[str, int] = {}
    for name, options, cell, known in zip(space.names, space.options, cells, spellings, strict=True):
        index = known.get(cell)
        if index is None:
            index = known[cell] = _numeric(options, cell, bits)
        if index == -1 and not cell and name in space.when:
            continue
        if index == AMBIGUOUS:
            return Unfit(f"{name} has several options that are written {brief(cell)}")
        if index < 0:
            return Unfit(f"{name} has no option {brief(cell)}; allowed: {', '.join(map(repr, options))}")
        indices[name] = index
    return complete_code(space, indices)


def _spellings(options: Sequence[Option]) -> dict[str, int]:
    """The index of each option by how Python, JSON and spreadsheets write it."""
    found: dict[str, int] = {}
    for i, option in enumerate(options):
        text = "" if option is None else str(option).strip()
        found[text] = AMBIGUOUS if text in found else i
    for i, option in enumerate(options):
        if option is None or isinstance(option, bool):
            for text in ("None", "null") if option is None else (json.dumps(option), str(option).upper()):
                found.setdefault(text, i)
    return found


def _numeric(options: Sequence[Option], cell: str, bits: bool) -> int:
    """The index of the number that a cell spells in another way (1e-3, 4.0); -1 where there is none.

    With ``bits`` 0 and 1 also spell a boolean.
    """
    try:
        value = float(cell)
    except ValueError:
        return -1
    numbers = (i for i, option in enumerate(options) if is_number(option) and option == value)
    booleans = (i for i, option in enumerate(options) if isinstance(option, bool) and option == value)
    return next(numbers, next(booleans, -1) if bits else -1)


class ByValue(NamedTuple):
    """Codes of a space for configurations from elsewhere, read by name and value.

    Numbers are equal whether whole or not; text, numbers, booleans and null differ from each other. With ``others``,
    configurations may name other parameters, too, which are ignored.
    """

    space: SearchSpace
    others: bool = False

    def code(self, configuration: Mapping[str, object]) -> str | Unfit:
        """The code of a configuration that names the parameters of the space, or why it has none. Inactive ones may be
        named or missing."""
        space, names = self.space, set(configuration)
        unknown = set() if self.others else names - set(space.names)
        if unknown or not names >= set(space.names) - space.when.keys():
            got = ", ".join(map(str, configuration)) or "none"
            return Unfit(f"a configuration names exactly {', '.join(space.names)}; got {got}")
        indices: dict[str, int] = {}
        for place, (name, options) in enumerate(zip(space.names, space.options, strict=True)):
            if configuration.get(name) is None and name in space.when and None not in options:
                continue
            try:
                indices[name] = space.index(place, configuration[name])
            except SpaceError as error:
                return Unfit(str(error))
        return complete_code(space, indices)


def complete_code(space: SearchSpace, indices: Mapping[str, int]) -> str | Unfit:
    """The code of option indices, where those of inactive parameters may be missing."""
    try:
        code = space.code(space.complete(indices))
    except SpaceError as error:
        return Unfit(str(error))
    return accept_code(space, code)


def accept_code(space: SearchSpace, code: str) -> str | Unfit:
    """The code, where the space's expressions and predicate accept it."""
    try:
        space.decode(code)
    except SpaceError as error:
        if error.__cause__ is not None:  # the predicate itself failed
            raise
        return Unfit(str(error))
    return code


def rows_of(text: str, header: Sequence[str] = ()) -> Iterator[tuple[str, list[str]]]:
    """Rows that are not empty, each with its place for messages; without the header, or what looks like one."""
    reader = csv.reader(io.StringIO(text, newline=""))
    for number, cells in enumerate(reader, 1):
        row = [cell.strip() for cell in cells]
        blank = row in ([], [""]) if header else not any(row)  # under a header, empty cells may be options
        if blank or (number == 1 and (header or row[0].isidentifier())):
            continue
        yield f"line {reader.line_num}", row


def header_of(path: Path, text: str) -> list[str]:
    """The cells of the first line; a ``HistoryError`` where one of its names stands twice."""
    header = [cell.strip() for cell in next(csv.reader(io.StringIO(text, newline="")), [])]
    for name in header:
        if name.isidentifier() and header.count(name) > 1:
            raise HistoryError(f"{path}: line 1: the column {name} stands twice")
    return header


def text_of(path: Path, failure: type[HistoryError] | type[SpaceError]) -> str:
    """The file's text, without a byte order mark; a failure of the given kind where it cannot be read."""
    try:
        return path.read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise failure(f"cannot read {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise failure(f"{path} is no text file in UTF-8") from error


def check_code(space: SearchSpace, code: object, where: str) -> str:
    """The code, where it is one of the space; else a ``SpaceError``."""
    if not isinstance(code, str):
        raise SpaceError(f"{where}: a code is text, not {brief(code)}")
    try:
        space.decode(code)
    except SpaceError as error:
        raise SpaceError(f"{where}: {error}") from error
    return code
