"""The command ``search``: checks what is cheap to check, loads the model, and shows what the library does.

What is slow to import is imported when a search starts: ``--help`` must answer at once.
"""

import sys
from collections.abc import Callable, Mapping
from contextlib import closing, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from lmsearcher_local.candidates.measures import Goal, goals_of, limits_of
from lmsearcher_local.candidates.policies import POLICIES
from lmsearcher_local.cli.inputs import choose_objective, read_first_codes, read_sources, read_warm_start
from lmsearcher_local.cli.main import choose_direction, choose_space, model_options, space_options
from lmsearcher_local.cli.outcome import draw, report
from lmsearcher_local.cli.progress import progress
from lmsearcher_local.search.options import DEFAULTS, MEANINGS
from lmsearcher_local.system.plain import plain, quantity

if TYPE_CHECKING:
    from lmsearcher_local.model.sharing import Gpu
    from lmsearcher_local.presets.tables import Table
    from lmsearcher_local.study.objectives.base import Objective
    from lmsearcher_local.study.plan import Plan


PICTURE = "search.png"
MODEL = ("checkpoint", "base", "quantization", "engine")  # the options of ``model_options``
HELP = """Search for the best configuration of a space.

SPACE is a YAML or JSON file: names with their options, like `rank: [4, 8, 16]`, a list of option counts, or a
discrete ConfigSpace's JSON. It may forbid combinations and have conditional parameters (docs/howto/constraints.md).

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
Several values and a limit: the function returns a dictionary, or the command's last line is a JSON object, such as
{"accuracy": 0.91, "latency": 430}; the best is searched of those that hold every limit:
  lmsearcher-local search space.yaml --objective train:score --limit 'latency <= 500'
\b
Several goals: what is found is the front, in front.csv, that no other configuration beats in every goal:
  lmsearcher-local search --table nasbench201-cifar10 --goal val_acc:max --goal latency:min
\b
Stop bad trials early: `def score(configuration, trial)` calls trial.report(step, value) and returns when
trial.should_stop(); a command prints lines `step N value`. Settings are Optuna's, with commas:
  lmsearcher-local search space.yaml --objective train:score --pruner median:n_warmup_steps=3 --budget 8h
\b
Evaluate elsewhere, the model stays here; functions are imported there from the same folder:
  lmsearcher-local search space.yaml --objective train:score --workers 4
  lmsearcher-local search space.yaml --objective train:score --executor dask:tcp://10.0.0.1:8786
\b
Exit status: 0 a best configuration was found; 1 the search cannot go on, every trial failed or broke a limit; 2 wrong
use; 130 Ctrl-C; 128 + N another signal N. After 1, 130 and 128 + N, --resume goes on.
"""


def search_option(name: str, kind: click.ParamType) -> Callable[..., Any]:
    """One of ``SearchOptions`` on the command line."""
    default, flag = getattr(DEFAULTS, name), "--" + name.replace("_", "-")
    return click.option(flag, type=kind, default=default, show_default=True, help=MEANINGS[name])


@click.command(help=HELP)
@space_options
@click.option("--objective", metavar="MODULE:FUNCTION", help="A function: configuration dictionary in, number out.")
@click.option("--command", metavar="SHELL", help="A shell command whose last line of output is the score.")
@click.option("--direction", type=click.Choice(["maximize", "minimize"]), help="[default: maximize, or the table's]")
@click.option(
    "--goal",
    "goals",
    multiple=True,
    metavar="GOAL",
    help="A measured value to search for the best of: accuracy:max, latency:min; repeatable, up to three.",
)
@click.option(
    "--limit",
    "limits",
    multiple=True,
    metavar="LIMIT",
    help="What a measured value may be at most or at least: 'latency <= 500'; repeatable.",
)
@click.option("--trials", type=click.IntRange(min=1), default=100, show_default=True, help="Evaluations in all.")
@search_option("seed", click.IntRange(min=0))
@search_option("policy", click.Choice([*POLICIES]))
@search_option("pool_size", click.IntRange(min=1))
@search_option("temperature", click.FloatRange(min=0))
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
    trials: int,
    out: Path | None,
    resume: bool,
    storage: str | None,
    budget: str | None,
    workers: int | None,
    cluster: str | None,
    gpu: "Gpu | None",
    **given: Any,
) -> None:
    import optuna

    from lmsearcher_local.model.load import load_ranker
    from lmsearcher_local.spaces.files import FRONT, RESULTS, TABLE
    from lmsearcher_local.study.executors import connect
    from lmsearcher_local.study.run import open_search
    from lmsearcher_local.study.savings import savings
    from lmsearcher_local.study.timing import parse_budget
    from lmsearcher_local.system.interrupts import raise_on_termination

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    seconds = parse_budget(budget) if budget else None
    model = {name: given.pop(name) for name in MODEL}
    name, table, goal, plan = make_plan(given, model)
    out = out or Path("runs") / f"{name}-seed{plan.options.seed}"
    picture = (out / PICTURE).absolute()  # foreign code may change the working folder
    with (
        raise_on_termination(),
        open_search(out, plan, storage=storage, resume=resume) as opened,
        connect(cluster) if cluster else nullcontext((None, 1)) as (executor, slots),
        closing(goal),
    ):
        opened.prepare(goal, here=not cluster)
        size = plan.space.count or plan.space.size
        click.echo(f"{plain(name)}: {quantity(size, 'configuration')}; loading the model ...", err=True)
        loading = load_ranker(**model, space=plan.space, pool_size=plan.options.pool_size)
        workers = workers or slots
        try:
            with loading as ranker, progress(trials, seconds) as show:
                result = opened.run(
                    goal, ranker, trials, show, executor=executor, workers=workers, gpu=gpu, budget=seconds
                )
        except KeyboardInterrupt:
            click.echo("The same command with --resume goes on from here.", err=True)
            raise
        draw(result, picture, out / PICTURE, f"{name}, seed {plan.options.seed}", table)
    report(result, table)
    if plan.pruner:
        click.echo(savings(result))
    files = (RESULTS, TABLE, FRONT) if result.front else (RESULTS, TABLE)
    click.echo(f"\nPicture: {out / PICTURE}\nResults: {', '.join(str(out / name) for name in files)}")
    if result.best is None and not result.front:
        sys.exit(1)


def make_plan(given: Mapping[str, Any], model: Mapping[str, Any]) -> "tuple[str, Table | None, Objective, Plan]":
    """What to search, by its name, with its benchmark table if it is one, its objective and its plan."""
    from lmsearcher_local.model.checkpoint import load_checkpoint
    from lmsearcher_local.search.options import SearchOptions
    from lmsearcher_local.study.plan import Plan
    from lmsearcher_local.study.pruning import parse_pruner

    pruner = parse_pruner(given["pruner"]) if given["pruner"] else None
    space, name, table = choose_space(given["space_file"], given["preset"], given["table"])
    direction = choose_direction(given["direction"], table)
    limits, goals = limits_of(given["limits"]), goals_of(given["goals"])
    if goals and given["direction"]:
        raise click.UsageError("--direction is for one value without a name; a goal says its own, such as latency:min")
    if table and limits and not goals:
        goals = (Goal(table.metric, direction),)
    names = [goal.name for goal in goals] + [limit.name for limit in limits]
    goal = choose_objective(space, table, given["objective"], given["command"], given["timeout_per_trial"], names)
    warm_start = read_warm_start(given["warm_start"], space, direction)
    options = SearchOptions(
        direction=direction,
        earlier=read_sources(given["earlier"], space, direction),
        first=read_first_codes(given["first"], space),
        goals=goals,
        limits=limits,
        **{name: given[name] for name in ("seed", "policy", "pool_size", "temperature")},
    )
    identity = load_checkpoint(model["checkpoint"], base=model["base"], quantization=model["quantization"]).identity
    return name, table, goal, Plan(space, goal.name, identity, options, warm_start, pruner)
