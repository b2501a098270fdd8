"""The values of a benchmark table as an objective."""

from collections.abc import Collection

from lmsearcher_local.errors import ObjectiveError
from lmsearcher_local.presets.tables import Table
from lmsearcher_local.spaces.space import Configuration
from lmsearcher_local.study.objectives.base import Measured


class TableObjective:
    """The value that a benchmark table holds, or those of several names.

    Raises:
        ObjectiveError: the table has no value of such a name.
    """

    def __init__(self, table: Table, names: Collection[str] = ()) -> None:
        for name in names:
            if name not in table.measures:
                raise ObjectiveError(f"the table {table.name} holds no {name!r}; it holds {', '.join(table.measures)}")
        self.name = f"table {table.name}"
        self._table = table
        self._names = tuple(dict.fromkeys(names))

    def __call__(self, code: str, configuration: Configuration) -> Measured:
        if not self._names:
            return self._table(code)
        return {name: self._table.measure(code, name) for name in self._names}

    def close(self) -> None:
        pass
