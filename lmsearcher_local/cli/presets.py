"""``lmsearcher-local presets``: which spaces come with the package, and what a code of one means."""

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

from lmsearcher_local.system.plain import amount

if TYPE_CHECKING:
    from lmsearcher_local.presets.registry import Preset


@click.command()
@click.argument("name", required=False)
@click.argument("code", required=False)
@click.option("--json", "as_json", is_flag=True, help="Print the architecture as JSON, as a training script takes it.")
@click.option("--draw", type=click.Path(path_type=Path), metavar="FILE.png", help="Draw the architecture.")
def presets(name: str | None, code: str | None, as_json: bool, draw: Path | None) -> None:
    """List the spaces that come with the package, show one, or show what a CODE of one means.

    \b
    What there is, and the parameters of one:
      lmsearcher-local presets
      lmsearcher-local presets sam_lora
    \b
    The architecture that a code names, for a person, a training script or a slide:
      lmsearcher-local presets nasbench201 334131
      lmsearcher-local presets nasbench201 334131 --json
      lmsearcher-local presets nasbench201 334131 --draw cell.png
    """
    from lmsearcher_local.presets.registry import preset

    if code is None and (as_json or draw):
        raise click.UsageError("--json and --draw need a NAME and a CODE")
    if name is None:
        _list()
        return
    known = preset(name)
    if code is None:
        _describe(known)
        return
    configuration = known.space.decode(code)
    if draw:
        figure = known.draw(configuration)
        try:
            figure.savefig(draw, dpi=150)
        except OSError as error:
            raise click.UsageError(f"cannot write {draw}: {error.strerror}") from error
        except ValueError as error:  # a kind of picture that there is not
            raise click.UsageError(f"cannot draw {draw}: {error}") from error
    if as_json:
        click.echo(json.dumps(known.architecture(configuration)))
        return
    click.echo(known.summary(configuration))
    if draw:
        click.echo(f"Picture: {draw}")


def _list() -> None:
    from lmsearcher_local.presets.registry import PRESETS

    width = max(map(len, PRESETS))
    for known in PRESETS.values():
        click.echo(f"{known.name:<{width}}  {len(known.space.sizes):>2} positions, {amount(known.space.size)} codes")
        click.echo(f"  {known.title} ({known.source})")


def _describe(known: "Preset") -> None:
    space = known.space
    click.echo(f"{known.name}: {known.title} ({known.source})")
    click.echo(f"{len(space.sizes)} positions, {amount(space.size)} codes")
    width = max(map(len, space.names))
    for name, options in space.describe().items():
        click.echo(f"  {name:<{width}}  {', '.join(map(str, options))}")
