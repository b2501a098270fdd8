"""Reads earlier searches for a new one: parameters are matched by name, options by value.

What only the earlier search has is ignored: trials that differ in nothing else count with their mean. Of what only the
new one has, the earlier search says nothing.
"""

import logging
import math
from collections import Counter
from collections.abc import Container, Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from optuna import Study
from optuna.distributions import BaseDistribution
from optuna.study import StudyDirection
from optuna.trial import TrialState

from lmsearcher_local.candidates.earlier import Earlier, check_number
from lmsearcher_local.candidates.history import Direction
from lmsearcher_local.candidates.told import Told
from lmsearcher_local.errors import HistoryError
from lmsearcher_local.records.sources import File, check_objectives, is_csv, name_of, open_source, read_history
from lmsearcher_local.spaces.distributions import edges, encode, space_of
from lmsearcher_local.spaces.files import COLUMNS, header_of, parameter_names
from lmsearcher_local.spaces.space import SearchSpace
from lmsearcher_local.system.documents import parse_json


class Run(NamedTuple):
    """An earlier search, and sentences about what of it does not count."""

    earlier: Earlier
    notes: tuple[str, ...]


def read_earlier(source: str | Path | Study, space: SearchSpace, direction: Direction = "maximize") -> Run:
    """An earlier search as a new one of this space sees it.

    Args:
        source: as ``sources.read_history`` takes it.
        direction: of the values of a source that does not say it.

    Raises:
        HistoryError, SpaceError, StudyError: as ``sources.read_history`` raises them; also where the two share no
            parameter, or no trial has a value.
    """
    name, theirs = name_of(source), parameters_of(source, space)
    both = {own: options for own, options in space.describe().items() if own in theirs}
    where, when = space.constraints.among([*both]) if space.constraints else ([], {})
    both = {own: options for own, options in both.items() if own not in space.when or own in when}
    if not theirs:
        raise HistoryError(f"{name} holds no trial with a value")
    if not both:
        raise HistoryError(
            f"{name} has no parameter of this space: it has {', '.join(theirs)}, this space {', '.join(space.names)}"
        )
    shared = SearchSpace(both, where=where, when=when)
    found = read_history(source, shared, others=True)
    told = Told(1.0 if (found.direction or direction) == "maximize" else -1.0)
    for code, value in found.entries:
        told.tell(code, value)
    if not len(told):
        raise HistoryError(f"{name} holds no trial with a value")
    positions = tuple(space.names.index(own) for own in shared.names)
    notes = (found.note, _difference(name, theirs, space.names))
    return Run(Earlier(name, shared, positions, told.history), tuple(note for note in notes if note))


def as_earlier(study: Study | Earlier, space: SearchSpace) -> Earlier:
    """A study as an earlier search of this space; what of it does not count is logged."""
    if isinstance(study, Earlier):
        return study
    run = read_earlier(study, space)
    for note in run.notes:
        logging.getLogger(__name__).warning(note)
    return run.earlier


def studies_of(earlier: Sequence[Study | Earlier]) -> list[Study]:
    """The same, which must be studies of one objective, as no space is known yet; else ``HistoryError``."""
    check_number(len(earlier))
    studies = []
    for one in earlier:
        if not isinstance(one, Study):
            raise HistoryError(f"{one.name} was read for a fixed space; without one, name an Optuna study")
        check_objectives(one, name_of(one))
        studies.append(one)
    return studies


def parameters_of(source: str | Path | Study, space: SearchSpace) -> list[str]:
    """The parameters that most trials of a source have; bare codes are of this space, or of the search beside them."""
    opened = open_source(source)
    if isinstance(opened, Study):
        check_objectives(opened, name_of(source))
        trials = opened.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
        return _usual([trial.params for trial in trials], space.when)
    return _of_file(opened, space)


def _of_file(file: File, space: SearchSpace) -> list[str]:
    bare = [*(file.space or space).names]
    if is_csv(file.path, file.text):
        header = header_of(file.path, file.text)
        if header[: len(COLUMNS)] == COLUMNS:
            return parameter_names(header[len(COLUMNS) :])
        return [name for name in header if name != "value"] if set(header) & set(space.names) else bare
    try:
        items = parse_json(file.text)
    except (ValueError, RecursionError):  # whoever reads it says so
        return bare
    listed = items.values() if isinstance(items, dict) else items if isinstance(items, list) else []
    rows: list[Mapping[str, object]] = []
    for item in listed:
        keys = {*item} if isinstance(item, dict) else set()
        if keys >= {*COLUMNS}:
            rows.append(dict.fromkeys(parameter_names(key for key in item if key not in COLUMNS)))
        elif keys & ({*space.names} - {"value"}):
            rows.append(dict.fromkeys(key for key in item if key != "value"))
    return _usual(rows, space.when) if rows else bare


def _usual(configurations: Iterable[Mapping[str, object]], conditional: Container[str] = ()) -> list[str]:
    """The names that more than half of them have, all others would cost most trials; and any that may be inactive."""
    rows = [*configurations]
    counts = Counter(name for row in rows for name in row)
    return [name for name, count in counts.items() if 2 * count > len(rows) or name in conditional]


def _difference(name: str, theirs: Iterable[str], ours: Iterable[str]) -> str:
    """A sentence about parameters that only one side has; empty where there are none."""
    more = ", ".join(own for own in theirs if own not in ours)
    less = ", ".join(own for own in ours if own not in theirs)
    parts = [f"has {more} besides, which is ignored"] if more else []
    parts += [f"says nothing about {less}, which it does not have"] if less else []
    return f"{name} {', and '.join(parts)}" if parts else ""


def study_as_earlier(study: Study, kinds: Mapping[str, BaseDistribution]) -> Earlier | None:
    """An earlier study as a search of these parameters sees it, their numbers in bins; nothing where it says nothing.

    Trials that have a value outside of these parameters' ranges are left out.
    """
    trials = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    usual = _usual([trial.params for trial in trials])
    shared = {name: kind for name, kind in kinds.items() if name in usual}
    if not shared:
        return None
    cuts, space = {name: edges(kind) for name, kind in shared.items()}, space_of(shared)
    told = Told(1.0 if study.direction == StudyDirection.MAXIMIZE else -1.0)
    for trial in trials:
        code = encode(shared, cuts, space, trial.params)
        if any(violation > 0 for violation in trial.constraints.values()):
            continue
        if code is not None and trial.value is not None and math.isfinite(trial.value):
            told.tell(code, trial.value)
    positions = tuple(i for i, name in enumerate(kinds) if name in shared)
    return Earlier(name_of(study), space, positions, told.history) if len(told) else None
