"""The published checkpoint in its real shape: what a user does with it, each step in a process of its own.

``python -m bench.rehearsal --shape 8b --folder DIR --out runs/rehearsal`` writes a checkpoint of random weights. It
plans it, searches with it, kills a search and resumes it, ranks a pool, trims it and searches with the copy. Random
weights rank nothing; sizes, files, times and memory are the real ones. A row a step goes to ``rehearsal.jsonl``. The
exit status is 1 where a step fails, a search differs from the first, or the plan of ``doctor`` is off by over 10 %.
"""

import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from datetime import datetime
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any

import click
import numpy as np
import optuna

from lmsearcher_local.model.checkpoint import load_checkpoint
from lmsearcher_local.model.memory import plan_memory
from lmsearcher_local.presets.tables import table as load_table
from lmsearcher_local.records.storage import load_study
from lmsearcher_local.search import throughput
from lmsearcher_local.search.calibration import RANKING
from lmsearcher_local.spaces.files import RESULTS, TABLE
from lmsearcher_local.system.folders import read_json

SHAPES = ("8b", "3b", "1b", "tiny")
BENCHMARK = "nasbench201-cifar100"
CANDIDATES = 1000  # of the ranking
KILLED_AT = 8  # trials: the first 5 are random, so the model has been asked
TOLERANCE = 0.1  # by how much the plan may be off
POLL = 0.05  # seconds between two looks at a process
WRITE = "import sys; from bench.llama import *; write_sharded(Path(sys.argv[1]), config_of(sys.argv[2]))"
COMMAND = (sys.executable, "-m", "lmsearcher_local")
COLUMNS = {  # of a row: key, unit, width
    "seconds": ("seconds", 1, 9),
    "first_ask_s": ("first ask", 1, 11),
    "ask_s": ("each ask", 1, 10),
    "peak_bytes": ("peak GB", 10**9, 9),
    "planned_bytes": ("planned", 10**9, 9),
}

Row = dict[str, Any]


@click.command(context_settings={"show_default": True})
@click.option("--shape", type=click.Choice(SHAPES), default="8b", help="Llama 3.1 8B, 3.2 3B, 3.2 1B, or a small one.")
@click.option("--trials", type=click.IntRange(KILLED_AT + 1), default=12, help="Of each search.")
@click.option("--folder", type=click.Path(path_type=Path), required=True, help="New folder of the two checkpoints.")
@click.option("--out", type=click.Path(path_type=Path), required=True, help="New folder of searches, logs and rows.")
def main(shape: str, trials: int, folder: Path, out: Path) -> None:
    """Do with a checkpoint of random weights all that a user does, and hold its memory against the plan."""
    for path in (folder, out):
        if path.exists() and any(path.iterdir()):
            raise click.UsageError(f"{path} holds files already; name a new folder")
        path.mkdir(parents=True, exist_ok=True)
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    rows: list[Row] = []
    click.echo(f"{'step':<18}" + "".join(f"{title:>{width}}" for title, _, width in COLUMNS.values()))
    for row in rehearse(shape, trials, folder, out):
        rows.append(row)
        click.echo(line(row))
        throughput.write_rows(out / "rehearsal.jsonl", rows, shape=shape, trials=trials)
    wrong = [*complaints(rows)]
    for complaint in wrong:
        click.echo(f"Wrong: {complaint}.", err=True)
    sys.exit(1 if wrong else 0)


def rehearse(shape: str, trials: int, folder: Path, out: Path) -> Iterator[Row]:
    """The steps in order, a row each, until one fails."""
    whole, trimmed, history, killed = folder / "whole", folder / "trimmed", out / "search", out / "killed"
    pool = out / "pool.txt"
    space = load_table(BENCHMARK).space
    pool.write_text("".join(f"{code}\n" for code in space.sample(np.random.default_rng(0), CANDIDATES)))
    search = (*COMMAND, "search", "--table", BENCHMARK, "--trials", str(trials))
    rank = (*COMMAND, "rank", "--table", BENCHMARK, "--history", history, "--pool", pool)

    yield run_step("write", (sys.executable, "-c", WRITE, whole, shape), out)
    yield run_step("doctor", (*COMMAND, "doctor", "--checkpoint", whole), out)
    row = run_step("search", (*search, "--checkpoint", whole, "--out", history), out)
    yield row | plan(whole) | times(history, row)
    command = (*search, "--checkpoint", whole, "--out", killed)
    yield run_step("search, killed", command, out, lambda: count_trials(killed) >= KILLED_AT) | plan(whole)
    row = run_step("search, resumed", (*command, "--resume"), out)
    yield row | plan(whole) | {"as_the_first": same_trials(history, killed)}
    yield run_step(f"rank of {CANDIDATES:,}", (*rank, "--checkpoint", whole), out) | plan(whole, CANDIDATES)
    yield run_step("trim", (*COMMAND, "trim", whole, trimmed), out)
    row = run_step("search, trimmed", (*search, "--checkpoint", trimmed, "--out", out / "trimmed"), out)
    yield row | plan(trimmed) | times(out / "trimmed", row) | {"as_the_first": same_trials(history, out / "trimmed")}


def run_step(step: str, arguments: Sequence[str | Path], out: Path, enough: Callable[[], bool] | None = None) -> Row:
    """Run a command to its end, or with ``enough`` kill it once that is true; its peak memory in bytes and its time."""
    log = out / f"{step.replace(', ', '-').replace(' ', '-')}.log"
    peak = 0
    began, started = datetime.now(), time.perf_counter()
    with log.open("w") as output:
        process = subprocess.Popen([*map(str, arguments)], stdout=output, stderr=output)
        try:
            while process.poll() is None:
                with suppress(StopIteration, ProcessLookupError, FileNotFoundError):  # it is just ending
                    peak = throughput.peak_memory(process.pid)
                if enough and enough():
                    break
                time.sleep(POLL)
        finally:
            process.kill()  # after its end, nothing
            process.wait()
    if process.returncode != (-9 if enough else 0):
        said = " ".join(log.read_text(errors="replace").split())
        raise click.ClickException(f"{step} ended with {process.returncode}: {said[-2000:]}")
    seconds = time.perf_counter() - started
    return {"step": step, "began": began.isoformat(), "seconds": round(seconds, 2), "peak_bytes": peak}


def times(search: Path, row: Row) -> Row:
    """Seconds from the start of a search's process to the model's first suggestion, and from one to the next."""
    trials = load_study(search).get_trials(deepcopy=False)
    asked = [trial.datetime_complete for trial in trials if RANKING in trial.user_attrs and trial.datetime_complete]
    gaps = [(after - before).total_seconds() for before, after in pairwise(asked)]
    first = (asked[0] - datetime.fromisoformat(row["began"])).total_seconds()
    return {"first_ask_s": round(first, 2), "ask_s": round(median(gaps), 3), "longest_ask_s": round(max(gaps), 3)}


def plan(checkpoint: Path, pool: int = 10) -> Row:
    """What ``doctor`` plans for a search on the processor, and for a ranking of a larger pool."""
    found = load_checkpoint(checkpoint)
    longest = found.codec().longest_prompt(load_table(BENCHMARK).space, pool)
    return {"planned_bytes": plan_memory(found, longest, card=False).total}


def count_trials(search: Path) -> int:
    """Trials that a search has ended so far."""
    file = search / RESULTS
    return len(read_json(file)) if file.exists() else 0


def same_trials(first: Path, second: Path) -> bool:
    """Whether two searches tried the same configurations in the same order, and told the same values."""
    return (first / TABLE).read_bytes() == (second / TABLE).read_bytes()


def line(row: Row) -> str:
    """A row for the terminal: seconds, and GB of 10^9 bytes."""
    cells = [
        f"{row[key] / unit:>{width}.{2 if unit > 1 else 1}f}" if key in row else " " * width
        for key, (_, unit, width) in COLUMNS.items()
    ]
    words = f"{plan_error(row):+7.0%}" if "planned_bytes" in row else ""
    if "as_the_first" in row:
        words += "  same trials" if row["as_the_first"] else "  OTHER TRIALS"
    return f"{row['step']:<18}{''.join(cells)}{words}".rstrip()


def markdown(rows: Sequence[Row]) -> str:
    """The table of the documentation; GB of 10^9 bytes."""
    text = "| step | seconds | first suggestion, s | each ask, s | peak, GB | planned, GB | plan against peak |\n"
    text += f"|{' --- |' * 7}\n"
    for row in rows:
        words = {True: " (the same trials)", False: " (OTHER TRIALS)", None: ""}[row.get("as_the_first")]
        forms = {"seconds": "{:.0f}", "first_ask_s": "{:.0f}", "ask_s": "{:.1f}"}
        cells = [form.format(row[key]) if key in row else "" for key, form in forms.items()]
        cells += [f"{row[key] / 10**9:.2f}" if key in row else "" for key in ("peak_bytes", "planned_bytes")]
        cells.append(f"{round(100 * plan_error(row)):+d} %" if "planned_bytes" in row else "")
        text += f"| {row['step']}{words} | {' | '.join(cells)} |\n"
    return text


def plan_error(row: Row) -> float:
    """How much more was planned than needed, as a share of what was needed."""
    return float(row["planned_bytes"] / row["peak_bytes"] - 1)


def complaints(rows: Sequence[Row]) -> Iterator[str]:
    """What must not be."""
    for row in rows:
        if not row.get("as_the_first", True):
            yield f"{row['step']}: other trials than the first search's"
        if "planned_bytes" in row and abs(plan_error(row)) > TOLERANCE:
            yield f"{row['step']}: the plan is off by {plan_error(row):+.0%}, more than {TOLERANCE:.0%}"


if __name__ == "__main__":
    main()
