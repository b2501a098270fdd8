"""Faults on purpose: spoiled files, hostile weights, and a long search that is killed, filled up and made to hang.

``python -m bench.reliability fuzz --out runs/reliability`` (``hostile`` and ``soak`` likewise) writes ``fuzz.jsonl``,
versions and device in each row, and prints the table that ``bench/reliability.md`` holds. What must never be is an
error here, with what led to it.
"""

import json
import math
import re
import resource
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import click

from lmsearcher_local.search.throughput import write_rows
from lmsearcher_local.system.provenance import provenance

Row = dict[str, Any]
SHARES = {"transformers": 0.9, "vllm": 0.1}  # of the answers of hostile weights
MEMORY = 8 << 30  # address space while files are read


@click.group()
def main() -> None:
    """What happens when things go wrong."""


@main.command()
@click.option("--examples", type=click.IntRange(1), default=3000, show_default=True, help="Files per reader.")
@click.option("--seconds", type=click.IntRange(0), default=60, show_default=True, help="Of atheris per reader.")
@click.option("--out", type=click.Path(path_type=Path), required=True, help="Folder of the results.")
def fuzz(examples: int, seconds: int, out: Path) -> None:
    """Spoil files for every reader: it reads them, or refuses them in one sentence that names the file."""
    from bench.fuzz import readers

    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    atheris = find_spec("atheris") is not None
    if seconds and not atheris:
        click.echo("atheris is left out: it is not installed; pip install atheris", err=True)
    rows: list[Row] = []
    for name, reader in readers().items():
        row = {"reader": name, **spoil(name, max(1, examples // 50) if reader.slow else examples)}
        if seconds and atheris:
            row |= run_atheris(name, out / "corpus" / re.sub(r"\W+", "-", name), seconds)
        keep(row, rows, out / "fuzz.jsonl")
    keys = ("reader", "files", "read", "refused", "slowest_ms", "guided", "branches", "broken")
    click.echo(table(rows, keys, (*keys[:5], "files of atheris", "branches reached", "neither")))
    click.echo(about())


def spoil(name: str, examples: int) -> Row:
    """What becomes of spoiled files, which hypothesis draws."""
    from hypothesis import HealthCheck, given, settings
    from hypothesis import strategies as st

    from bench.fuzz import contents, prepare, readers, verdict

    reader = readers()[name]
    found: Counter[str] = Counter()
    slowest = 0.0
    with TemporaryDirectory() as scratch:
        prepare(reader, Path(scratch))

        @settings(
            max_examples=examples, database=None, deadline=None, derandomize=True, suppress_health_check=[*HealthCheck]
        )
        @given(st.data())
        def draw(data: st.DataObject) -> None:
            nonlocal slowest
            content = data.draw(contents(reader))
            started = time.perf_counter()
            found[verdict(reader, content, Path(scratch))] += 1
            slowest = max(slowest, time.perf_counter() - started)

        broken = 0
        try:
            draw()
        except Exception as error:
            broken = 1
            click.echo(f"{name}: {error!r}", err=True)
    return {"files": found.total(), **found, "slowest_ms": round(1000 * slowest), "broken": broken}


def run_atheris(name: str, corpus: Path, seconds: int) -> Row:
    """What atheris finds, in a process of its own."""
    command = [sys.executable, "-m", "bench.guided", name, str(corpus), str(seconds)]
    done = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False)
    files = re.findall(r"stat::number_of_executed_units:\s+(\d+)", done.stderr)
    branches = re.findall(r"cov: (\d+)", done.stderr)
    if done.returncode or not files:
        click.echo(f"{name}: {done.stderr[-3000:]}", err=True)
    row = {"guided": int(files[-1]) if files else 0, "branches": int(branches[-1]) if branches else 0}
    return row | ({"broken": 1} if done.returncode else {})


@main.command()
@click.option("--answers", type=click.IntRange(1), default=100_000, show_default=True, help="In all.")
@click.option("--out", type=click.Path(path_type=Path), required=True, help="Folder of the results.")
def hostile(answers: int, out: Path) -> None:
    """Ask checkpoints of hostile weights: an answer is in the pool, with its exact probability, or a typed error."""
    from transformers.utils import logging

    from bench.hostile import CODECS, KINDS, ask, write_hostile, write_sane

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    rows: list[Row] = []
    with TemporaryDirectory() as scratch:
        write_sane(Path(scratch))
        for kind in KINDS:
            for codec in CODECS:
                folder = Path(scratch) / f"{codec}-{len(rows)}"
                write_hostile(Path(scratch) / codec, folder, kind)
                for engine, share in SHARES.items():
                    started = time.perf_counter()
                    found = ask(folder, engine, math.ceil(answers * share / len(KINDS) / len(CODECS)))
                    row = {"weights": kind, "codec": codec, "engine": engine, **found}
                    keep(row | {"seconds": round(time.perf_counter() - started, 1)}, rows, out / "hostile.jsonl")
    sums: dict[str, Counter[str]] = {}
    for row in rows:
        counts = {key: value for key, value in row.items() if isinstance(value, int)}
        for name in (f"{row['weights']}, {row['engine']}", "all"):
            sums.setdefault(name, Counter()).update(counts)
    keys = ("answers", "in the pool", "alone in the pool", "errors", "checked", "refused numbers")
    sums["all"] = sums.pop("all")  # last
    shown = [{"weights": name, **dict.fromkeys(keys, 0), **counts} for name, counts in sums.items()]
    click.echo(table(shown, ("weights", *keys)))
    click.echo(about())


@main.command()
@click.option("--trials", type=click.IntRange(100), default=5000, show_default=True, help="Without a model.")
@click.option("--real", type=click.IntRange(100), default=300, show_default=True, help="With the bundled checkpoint.")
@click.option("--out", type=click.Path(path_type=Path), required=True, help="Folder of the results.")
def soak(trials: int, real: int, out: Path) -> None:
    """Kill a search, fill its disk, let its objective fail and hang: nothing told is lost, memory stays flat."""
    from bench.soak import soak as run

    rows: list[Row] = []
    for engine, count, kills, fills in (("none", trials, trials // 80, trials // 250), ("transformers", real, 12, 4)):
        keep(run(count, engine, kills, fills), rows, out / "soak.jsonl")
    for row in rows:
        click.echo(table([{"what": key, "": value} for key, value in row.items()], ("what", "")) + "\n")
    click.echo(about())


def keep(row: Row, rows: list[Row], file: Path) -> None:
    """Add a row, show it and write all rows."""
    rows.append(row)
    click.echo(json.dumps(row), err=True)
    write_rows(file, rows)


def table(rows: Iterable[Row], keys: Sequence[str], titles: Sequence[str] = ()) -> str:
    """Rows as Markdown."""
    lines = ["| " + " | ".join(titles or keys) + " |", "|" + " --- |" * len(keys)]
    for row in rows:
        cells = [row.get(key, "-") for key in keys]
        lines.append("| " + " | ".join(f"{cell:,}" if isinstance(cell, int) else str(cell) for cell in cells) + " |")
    return "\n".join(lines)


def about() -> str:
    """Versions and device, for under a table."""
    found: Row = provenance()
    versions = ", ".join(f"{name} {version}" for name, version in found["versions"].items())
    return f"\n{found['processor']}, {found['device']}; {versions}"


if __name__ == "__main__":
    main()
