"""What a search found as a table: a CSV file, or a pandas DataFrame."""

import csv
import io
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lmsearcher_local.files import COLUMNS, replaced

if TYPE_CHECKING:
    import pandas

    from lmsearcher_local.study import Result


def columns(names: Sequence[str]) -> list[str]:
    """The columns: about the trial, then one for each parameter."""
    return [*COLUMNS, *(f"parameter {name}" if name in COLUMNS else name for name in names)]


def rows(result: "Result") -> list[list[Any]]:
    """A row for each trial in order; of a failed one without a value, but with the reason."""
    names = result.space.names
    return [
        [i, trial.code, trial.value, trial.reason, *(trial.configuration[name] for name in names)]
        for i, trial in enumerate(result.trials, 1)
    ]


def write_results(path: Path, result: "Result") -> None:
    """Replace the file by a CSV of all trials, which ``files.read_history`` reads."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns(result.space.names))
    writer.writerows(rows(result))
    replaced(path, text.getvalue())


def dataframe(result: "Result") -> "pandas.DataFrame":
    """All trials as a DataFrame.

    Raises:
        ModuleNotFoundError: pandas is not installed.
    """
    import pandas

    return pandas.DataFrame(rows(result), columns=columns(result.space.names))
