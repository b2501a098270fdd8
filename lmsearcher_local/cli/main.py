"""The command line's frame: its commands, exit statuses, and the options that several commands share.

Only click is imported up here: ``--help`` must answer at once.
"""

import os
import signal
import sys
import warnings
from collections.abc import Callable
from functools import partial, reduce
from importlib import import_module
from io import TextIOWrapper
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from lmsearcher_local.errors import NO_ROOM, LMSearcherError, SpaceWarning
from lmsearcher_local.model.engines.registry import ENGINES
from lmsearcher_local.system.quick_exit import quick_exit

if TYPE_CHECKING:
    from lmsearcher_local.candidates.history import Direction
    from lmsearcher_local.presets.tables import Table
    from lmsearcher_local.spaces.space import SearchSpace

PRESETS = {file.stem: file for file in sorted((Path(__file__).parents[1] / "presets").glob("*.yaml"))}
COMMANDS = {  # name -> module, imported when used
    "bench": "lmsearcher_local.cli.bench",
    "bundle": "lmsearcher_local.shipping.bundle",
    "data": "lmsearcher_local.cli.training",
    "doctor": "lmsearcher_local.cli.doctor",
    "presets": "lmsearcher_local.cli.presets",
    "rank": "lmsearcher_local.cli.rank",
    "report": "lmsearcher_local.report.page",
    "search": "lmsearcher_local.cli.search",
    "train": "lmsearcher_local.cli.training",
    "trim": "lmsearcher_local.cli.trim",
    "verify": "lmsearcher_local.shipping.bundle",
}


class Commands(click.Group):
    """Commands whose every expected error is one sentence on stderr, with the exit status of its kind."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        return getattr(import_module(COMMANDS[cmd_name]), cmd_name) if cmd_name in COMMANDS else None

    def main(self, *args: Any, **kwargs: Any) -> Any:
        for stream in (sys.stdout, sys.stderr):  # a terminal that cannot show a letter is no reason to end
            if isinstance(stream, TextIOWrapper):
                stream.reconfigure(errors="backslashreplace")
        try:
            with warnings.catch_warnings():
                warnings.showwarning = partial(_show_warning, warnings.showwarning)
                status = super().main(*args, **{**kwargs, "standalone_mode": False})
        except click.exceptions.NoArgsIsHelpError as error:
            click.echo(error.format_message())
            status = 0
        except click.Abort as error:
            number = getattr(error.__cause__, "number", signal.SIGINT)
            click.echo(f"Ended by {signal.Signals(number).name}.", err=True)
            status = 128 + number
        except click.ClickException as error:
            status = _report_error(error.format_message(), error.exit_code)
        except LMSearcherError as error:
            status = _report_error(str(error), error.exit_status)
        except OSError as error:
            if error.errno not in NO_ROOM:
                raise
            _drop_output()
            status = _report_error(f"cannot write: {error.strerror}", 1)
        sys.exit(status)


def _drop_output() -> None:
    """Where standard output takes no more, forget what waits to be written to it: else the interpreter tries again."""
    try:
        if sys.stdout is not None:
            sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _report_error(message: str, status: int) -> int:
    click.echo(f"Error: {' '.join(message.split())}", err=True)
    return status


def _show_warning(others: Callable[..., None], message: Warning | str, category: type[Warning], *args: Any) -> None:
    """Our own warnings are one line without a place in the code."""
    if issubclass(category, SpaceWarning):
        click.echo(f"Warning: {message}", err=True)
    else:
        others(message, category, *args)


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="lmsearcher-local")
def main() -> None:
    """Search a discrete design space with a language model inside this process: no server.

    The model needs no network. Only `bundle` (it runs pip), --executor and storage URLs open connections.

    \b
    Try it on a real table (NAS-Bench-201, CIFAR-100):
      lmsearcher-local search --table nasbench201-cifar100
    \b
    Exit status: 0 done; 1 it cannot go on or found nothing (model, disk, executor, every trial failed);
    2 wrong use; 130 Ctrl-C; 128 + N another signal N.
    """


def run() -> None:
    """The command line as a process of its own."""
    with quick_exit():
        main()


Decorator = Callable[[Callable[..., None]], Callable[..., None]]


def _join(*options: Decorator) -> Decorator:
    """Several options, the first first on the page of the command."""
    return lambda command: reduce(lambda found, option: option(found), reversed(options), command)


space_options = _join(
    click.argument("space_file", metavar="[SPACE]", required=False, type=click.Path(path_type=Path)),
    click.option("--preset", type=click.Choice([*PRESETS]), help="A space that comes with the package."),
    click.option(
        "--table", metavar="NAME", help="A benchmark table: nasbench201-cifar100, hpobench-car, ... ('?' lists them)."
    ),
)
checkpoint_options = _join(
    click.option(
        "--checkpoint",
        type=click.Path(path_type=Path),
        help="A folder with an LM-Searcher checkpoint in Hugging Face format.  [default: the small bundled one]",
    ),
    click.option(
        "--base",
        type=click.Path(path_type=Path),
        help="The folder that the LoRA adapter in --checkpoint was trained on.",
    ),
    click.option(
        "--quantization",
        type=click.Choice(["fp8"]),
        help="Let vLLM quantise a folder of bfloat16 while it loads: about half the memory.",
    ),
)
model_options = _join(
    checkpoint_options,
    click.option(
        "--engine", type=click.Choice([*ENGINES]), default="vllm", show_default=True, help="What runs the model."
    ),
)


def choose_space(
    space_file: Path | None, preset: str | None, table: str | None
) -> "tuple[SearchSpace, str, Table | None]":
    """The space, its name, and the table where it comes from one."""
    from lmsearcher_local.presets.tables import table as load_table
    from lmsearcher_local.spaces.space import SearchSpace

    if sum(given is not None for given in (space_file, preset, table)) != 1:
        raise click.UsageError("name one space: a SPACE file, --preset NAME or --table NAME")
    if table is not None:
        measured = load_table(table)
        return measured.space, table, measured
    file = PRESETS[preset] if preset is not None else space_file
    assert file is not None
    return SearchSpace.load(file), file.stem, None


def choose_direction(given: str | None, table: "Table | None", otherwise: str | None = None) -> "Direction":
    """The table's direction, else the given one, else ``otherwise``, else up."""
    if table is not None:
        if given is not None:
            raise click.UsageError(f"the table {table.name} is {table.direction}d; leave --direction out")
        return table.direction
    return "minimize" if (given or otherwise) == "minimize" else "maximize"
