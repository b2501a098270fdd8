"""A running search on the terminal."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from functools import partial
from typing import TYPE_CHECKING

from lmsearcher_local.system.plain import plain, quantity

if TYPE_CHECKING:
    from lmsearcher_local.study.results import Result


@contextmanager
def progress(trials: int, budget: float | None = None) -> "Iterator[Callable[[Result], None]]":
    """A progress bar with the best value so far, the speed and the expected end; lines where stdout is no terminal."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

    console = Console()
    say = partial(console.print, markup=False, soft_wrap=True)  # a line stays one in a file
    columns = BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[speed]}{task.fields[best]}{task.fields[end]}")
    with Progress(*columns, console=console, disable=not console.is_terminal) as bar:
        task = bar.add_task("search", total=trials, speed="", best="best -", end="")
        started: int | None = None
        shown: str | None = None
        pruned = 0

        def show(result: "Result") -> None:
            nonlocal started, shown, pruned
            if started is None:
                started = result.evaluated
                pruned = sum(trial.pruned for trial in result.trials)
                bar.reset(task, total=trials, completed=started)
                if started:
                    done = f"{started} of {quantity(trials, 'trial')} are done already"
                    more = f"{quantity(started, 'trial')} are done already; {trials} were asked for"
                    say(done if started <= trials else more)
                if result.foreign:
                    say(f"left out, of other programs and no configurations of this space: {result.foreign}")
                return
            best = "best -" if result.best is None else f"best {result.best[1]:.6g} ({result.best[0]})"
            if len(result.goals) > 1:
                best = f"{len(result.front)} on the front"
            seconds = bar.tasks[0].elapsed or 0
            speed = f"{(result.evaluated - started) / seconds:.1f} trials/s, " if seconds else ""
            pruned += sum(trial.pruned for trial in result.latest)
            if pruned:
                speed += f"{pruned} pruned, "
            end = expected_end(trials - result.evaluated, result.evaluated - started, seconds, budget)
            bar.update(task, completed=result.evaluated, speed=speed, best=best, end=end)
            for trial in result.latest:
                if trial.breaks and not result.best and not result.front:
                    say(f"trial {trial.number} ({trial.code}) breaks {plain(trial.breaks)}")
                if trial.value is None and not trial.pruned:
                    say(f"trial {trial.number} ({trial.code}) failed: {plain(trial.reason)}")
            if not console.is_terminal and (best != shown or result.evaluated % 10 == 0):
                say(f"trial {result.evaluated}/{trials}: {speed}{best}{end}")
            shown = best

        yield show


def expected_end(left: int, done: int, seconds: float, budget: float | None) -> str:
    """When the search probably ends, in words; nothing where that cannot be told yet or it has ended.

    Args:
        left: trials to go.
        done: trials of this run, which took so many seconds.
        budget: seconds of a run after which no trial is begun.
    """
    if left <= 0 or done <= 0:
        return ""
    rest = left * seconds / done
    if budget is not None:
        rest = min(rest, max(0.0, budget - seconds))
    end = datetime.now() + timedelta(seconds=rest)
    return f", ends about {end:%H:%M}" if rest < 12 * 3600 else f", ends about {end:%d %b %H:%M}"
