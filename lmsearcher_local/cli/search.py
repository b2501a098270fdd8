"""The command ``search``: checks what is cheap to check, loads the model, and shows what the library does.

What is slow to import is imported when a search starts: ``--help`` must answer at once.
"""

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager, nullcontext
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from lmsearcher_local.candidates.policies import POLICIES
from lmsearcher_local.cli.main import chosen_direction, chosen_space, model_options, space_options
from lmsearcher_local.search.options import DEFAULTS, help_of
from lmsearcher_local.system.plain import counted, plain

if TYPE_CHECKING:
    from lmsearcher_local.candidates.earlier import Earlier
    from lmsearcher_local.candidates.history import Direction
    from lmsearcher_local.model.sharing import Gpu
    from lmsearcher_local.presets.tables import Table
    from lmsearcher_local.spaces.space import SearchSpace
    from lmsearcher_local.study.objectives.base import Objective
    from lmsearcher_local.study.plan import Values
    from lmsearcher_local.study.results import Result


PICTURE = "search.png"
HELP = """Search for the best configuration of a space.

SPACE is a YAML or JSON file: names with their options, like `rank: [4, 8, 16]`, a list of option counts, or a
discrete ConfigSpace's JSON.

\b
A benchmark table is space and objective in one:
  lmsearcher-local search --table nasbench201-cifar100 --trials 100
\b
A Python function `def score(configuration): ...` in train.py:
  lmsearcher-local search space.yaml --objective train:score
\b
A shell command; {rank} and {lr} become the options chosen, each one word without quotes of yours, {ncode} the code:
  lmsearcher-local search space.yaml --command 'python train.py --rank {rank} --lr {lr}'
Other braces stay as they are; {{rank}} writes {rank}. Without a shell, as a JSON list:
  lmsearcher-local search space.yaml --command '["python", "train.py", "--rank", "{rank}"]'
The command also finds the whole configuration as JSON in $LMSEARCHER_CONFIG. An evaluation that raises, exits
with an error or gives no finite number fails its own trial only.
\b
Go on after Ctrl-C, a crash or a power cut, exactly as if nothing had happened:
  lmsearcher-local search --table nasbench201-cifar100 --trials 100 --resume
\b
Learn from searches of the same space for other data; they need not have the same parameters:
  lmsearcher-local search space.yaml --objective train:score --earlier runs/a --earlier runs/b
\b
Stop bad trials early: `def score(configuration, trial)` calls trial.report(step, value) and returns when
trial.should_stop(); a command prints lines `step N value`. Settings are Optuna's, with commas:
  lmsearcher-local search space.yaml --objective train:score --pruner median:n_warmup_steps=3 --budget 8h
\b
Evaluate elsewhere, the model stays here; functions are imported there from the same folder:
  lmsearcher-local search space.yaml --objective train:score --workers 4
  lmsearcher-local search space.yaml --objective train:score --executor dask:tcp://10.0.0.1:8786
\b
Exit status: 0 a best configuration was found; 1 the search cannot go on or every trial failed; 2 wrong use;
130 Ctrl-C; 128 + N another signal N. After 1, 130 and 128 + N, --resume goes on.
"""


def search_option(name: str, kind: click.ParamType) -> Callable[..., Any]:
    """One of ``SearchOptions`` on the command line."""
    default, flag = getattr(DEFAULTS, name), "--" + name.replace("_", "-")
    return click.option(flag, type=kind, default=default, show_default=True, help=help_of(name))


@click.command(help=HELP)
@space_options
@click.option("--objective", metavar="MODULE:FUNCTION", help="A function: configuration dictionary in, number out.")
@click.option("--command", metavar="SHELL", help="A shell command whose last line of output is the score.")
@click.option("--direction", type=click.Choice(["maximize", "minimize"]), help="[default: maximize, or the table's]")
@click.option("--trials", type=click.IntRange(min=1), default=100, show_default=True, help="Evaluations in all.")
@search_option("seed", click.IntRange(min=0))
@search_option("policy", click.Choice([*POLICIES]))
@search_option("pool_size", click.IntRange(min=1))
@click.option("--out", type=click.Path(path_type=Path), help="Output folder.  [default: runs/SPACE-seedSEED]")
@click.option("--resume", is_flag=True, help="Continue the study in the output folder, if there is one.")
@click.option("--storage", metavar="URL", help="Optuna storage.  [default: a journal file in the output folder]")
@click.option(
    "--warm-start",
    metavar="HISTORY",
    help="Results known before: JSON, CSV, the output folder of a search, or an Optuna study STORAGE_URL#NAME.",
)
@click.option(
    "--earlier",
    multiple=True,
    metavar="RUN",
    help="An earlier search to learn from, as --warm-start reads one; repeatable. Its values are not this task's.",
)
@click.option(
    "--first",
    metavar="FILE",
    help="Configurations to evaluate before all others, in this order; as --warm-start reads them, values not needed.",
)
@click.option(
    "--timeout-per-trial",
    type=click.FloatRange(min=0, min_open=True),
    metavar="SECONDS",
    help="Stop an evaluation after this time; its trial fails, the search goes on.",
)
@click.option(
    "--pruner",
    metavar="PRUNER",
    help="Stop bad trials early, by what they report: median, hyperband, successive-halving or patient of Optuna.",
)
@click.option(
    "--budget", metavar="TIME", help="Begin no trial after this time, like 90m, 8h or 1.5d; those under way end."
)
@click.option(
    "--workers", type=click.IntRange(min=1), help="Trials evaluated at once.  [default: 1, or what the cluster takes]"
)
@click.option(
    "--executor",
    "cluster",
    metavar="CLUSTER",
    help="Where to evaluate: dask:ADDRESS or ray:ADDRESS.  [default: processes of this machine]",
)
@click.option(
    "--gpu",
    type=click.Choice(["shared", "kept"]),
    help="Whether the model leaves the card while an evaluation runs.  [default: shared, where it can and that helps]",
)
@model_options
def search(
    space_file: Path | None,
    preset: str | None,
    table: str | None,
    objective: str | None,
    command: str | None,
    direction: str | None,
    trials: int,
    seed: int,
    out: Path | None,
    resume: bool,
    storage: str | None,
    warm_start: str | None,
    earlier: tuple[str, ...],
    first: str | None,
    timeout_per_trial: float | None,
    pruner: str | None,
    budget: str | None,
    workers: int | None,
    cluster: str | None,
    gpu: "Gpu | None",
    policy: str,
    pool_size: int,
    **model: Any,
) -> None:
    import optuna

    from lmsearcher_local.model.checkpoint import load_checkpoint
    from lmsearcher_local.model.load import load_ranker
    from lmsearcher_local.search.options import SearchOptions
    from lmsearcher_local.spaces.files import RESULTS, TABLE
    from lmsearcher_local.study.executors import connected
    from lmsearcher_local.study.pruning import parse_pruner
    from lmsearcher_local.study.run import Plan, open_search
    from lmsearcher_local.study.savings import savings
    from lmsearcher_local.study.timing import parse_budget
    from lmsearcher_local.system.interrupts import terminable

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    space, name, measured = chosen_space(space_file, preset, table)
    way = chosen_direction(direction, measured)
    seconds, judge = budget and parse_budget(budget), pruner and parse_pruner(pruner)
    goal = chosen_objective(space, measured, objective, command, timeout_per_trial)
    known, sources = known_before(warm_start, space, way), learned_from(earlier, space, way)
    begin = begun_with(first, space)
    options = SearchOptions(direction=way, seed=seed, policy=policy, pool_size=pool_size, earlier=sources, first=begin)
    identity = load_checkpoint(model["checkpoint"], base=model["base"], quantization=model["quantization"]).identity
    plan = Plan(space, goal.name, identity, options, known, judge or None)
    out = out or Path("runs") / f"{name}-seed{seed}"
    picture = (out / PICTURE).absolute()  # foreign code may change the working folder
    with (
        terminable(),
        open_search(out, plan, storage=storage, resume=resume) as opened,
        connected(cluster) if cluster else nullcontext((None, 1)) as (executor, slots),
        closing(goal),
    ):
        opened.prepare(goal, here=not cluster)
        click.echo(f"{plain(name)}: {counted(space.size, 'configuration')}; loading the model ...", err=True)
        loading = load_ranker(**model, space=space, pool_size=pool_size)
        with resumable(), loading as ranker, progress(trials, seconds or None) as show:
            result = opened.run(
                goal,
                ranker,
                trials,
                show,
                executor=executor,
                workers=workers or slots,
                gpu=gpu,
                budget=seconds or None,
            )
        draw(result, picture, out / PICTURE, f"{name}, seed {seed}", measured)
    report(result, measured)
    if judge:
        click.echo(savings(result))
    click.echo(f"\nPicture: {out / PICTURE}\nResults: {out / RESULTS}, {out / TABLE}")
    if result.best is None:
        sys.exit(1)


@contextmanager
def resumable() -> Iterator[None]:
    """Whoever interrupts is told how to go on."""
    try:
        yield
    except KeyboardInterrupt:
        click.echo("The same command with --resume goes on from here.", err=True)
        raise


def known_before(source: str | None, space: "SearchSpace", direction: "Direction") -> "Values":
    """The values that ``--warm-start`` names; what was left out of them is said."""
    from lmsearcher_local.records.sources import read_history

    if source is None:
        return ()
    known = read_history(source, space)
    known.check(direction)
    if known.note:
        click.echo(known.note, err=True)
    return known.entries


def learned_from(runs: Sequence[str], space: "SearchSpace", direction: "Direction") -> "list[Earlier]":
    """The searches that ``--earlier`` names; what of them does not count is said."""
    from lmsearcher_local.records.earlier_runs import read_earlier

    found = [read_earlier(run, space, direction) for run in runs]
    for note in (note for run in found for note in run.notes):
        click.echo(note, err=True)
    return [run.earlier for run in found]


def begun_with(source: str | None, space: "SearchSpace") -> Sequence[str]:
    """The codes that ``--first`` names; what was left out of them is said."""
    from lmsearcher_local.records.sources import read_first

    if source is None:
        return ()
    found = read_first(source, space)
    if found.note:
        click.echo(found.note, err=True)
    return found.codes


def draw(result: "Result", picture: Path, shown: Path, title: str, table: "Table | None") -> None:
    """Write the search's picture, which is called ``shown`` where it cannot be written."""
    from lmsearcher_local.report.figures import plot_search

    label, optimum = (table.metric, table.optimum[1]) if table else ("value", None)
    try:
        plot_search(result, picture, title, label, optimum)
    except OSError as error:
        raise click.ClickException(f"cannot write {shown}: {error.strerror}; the results are kept") from error


def chosen_objective(
    space: "SearchSpace",
    table: "Table | None",
    function: str | None,
    command: str | None,
    timeout: float | None,
) -> "Objective":
    """What to optimise."""
    from lmsearcher_local.study.objectives.command import CommandObjective
    from lmsearcher_local.study.objectives.function import FunctionObjective
    from lmsearcher_local.study.objectives.table import TableObjective

    if sum(given is not None for given in (table, function, command)) != 1:
        raise click.UsageError("name one objective: --objective MODULE:FUNCTION, --command SHELL or --table NAME")
    if table is not None:
        return TableObjective(table)
    if command is not None:
        return CommandObjective(command, space, timeout)
    assert function is not None
    return FunctionObjective(function, timeout)


@contextmanager
def progress(trials: int, budget: float | None = None) -> "Iterator[Callable[[Result], None]]":
    """A progress bar with the best value so far, the speed and the expected end; lines where stdout is no terminal."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

    console = Console()
    columns = (
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[speed]}best {task.fields[best]}{task.fields[end]}"),
    )
    with Progress(*columns, console=console, disable=not console.is_terminal) as bar:
        task = bar.add_task("search", total=trials, speed="", best="-", end="")
        started: int | None = None
        shown: str | None = None

        def show(result: "Result") -> None:
            nonlocal started, shown
            if started is None:
                started = result.evaluated
                bar.reset(task, total=trials, completed=started)
                if started:
                    done = f"{started} of {counted(trials, 'trial')} are done already"
                    more = f"{counted(started, 'trial')} are done already; {trials} were asked for"
                    console.print(done if started <= trials else more)
                if result.foreign:
                    console.print(f"left out, of other programs and no configurations of this space: {result.foreign}")
                return
            best = "-" if result.best is None else f"{result.best[1]:.6g} ({result.best[0]})"
            seconds = bar.tasks[0].elapsed or 0
            speed = f"{(result.evaluated - started) / seconds:.1f} trials/s, " if seconds else ""
            if stopped := sum(trial.pruned for trial in result.trials):
                speed += f"{stopped} pruned, "
            end = expected_end(trials - result.evaluated, result.evaluated - started, seconds, budget)
            bar.update(task, completed=result.evaluated, speed=speed, best=best, end=end)
            for trial in result.latest:
                if trial.value is None and not trial.pruned:
                    console.print(
                        f"trial {trial.number} ({trial.code}) failed: {plain(trial.reason)}",
                        markup=False,
                        soft_wrap=True,
                    )
            if not console.is_terminal and (best != shown or result.evaluated % 10 == 0):
                line = f"trial {result.evaluated}/{trials}: {speed}best {best}{end}"
                console.print(line, markup=False, soft_wrap=True)
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


def report(result: "Result", table: "Table | None") -> None:
    """What was found, in words."""
    from lmsearcher_local.presets.registry import preset_of

    if result.exhausted:
        click.echo("The space is used up: every valid configuration was evaluated.")
    elif result.ended:
        click.echo(f"The search ended early: {result.ended}.")
    if result.best is None:
        if any(trial.pruned for trial in result.trials):
            click.echo("No trial ran to its end: the pruner stopped them, or they failed.")
        elif result.trials:
            click.echo(f"No trial gave a value; the last one failed: {plain(result.trials[-1].reason)}")
        return
    code, value = result.best
    configuration = result.space.decode(code)
    width = max(len(plain(name)) for name in configuration)
    click.echo(f"\nBest of {counted(len(result.trials), 'trial')}: {code}")
    for key, option in configuration.items():
        click.echo(f"  {plain(key):<{width}}  {plain(option)}")
    if known := preset_of(result.space):
        click.echo(known.summary(configuration))
    click.echo(f"{table.metric if table else 'Value'}: {value:.6g}")
    if table is not None:
        best, optimum = table.optimum
        click.echo(f"The table's optimum: {optimum:.6g} ({best})")
        click.echo(f"Found: rank {table.rank(code):,} of {len(table.values):,}")
