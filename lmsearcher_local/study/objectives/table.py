"""The values of a benchmark table as an objective."""

from lmsearcher_local.presets.tables import Table
from lmsearcher_local.spaces.space import Configuration


class TableObjective:
    """The value that a benchmark table holds."""

    def __init__(self, table: Table) -> None:
        self.name = f"table {table.name}"
        self._table = table

    def __call__(self, code: str, configuration: Configuration) -> float:
        return self._table(code)

    def close(self) -> None:
        pass
