"""Writes ``docs/cli.md`` from the ``--help`` of every command: ``python -m bench.help_pages``."""

from collections.abc import Iterator
from pathlib import Path

import click

from lmsearcher_local.cli.main import main

PAGE = Path(__file__).parent.parent / "docs" / "cli.md"
NAME = "lmsearcher-local"
WIDTH = 100  # columns


def page() -> str:
    """The page, in Markdown."""
    sections = [f"# Commands\n\nWritten by `python -m bench.help_pages`.\n\n{_block(_root())}"]
    for context in _commands(_root()):
        sections.append(f"## {context.command_path.removeprefix(NAME).strip()}\n\n{_block(context)}")
    return "\n\n".join(sections) + "\n"


def _root() -> click.Context:
    return click.Context(main, None, NAME, terminal_width=WIDTH, **main.context_settings)


def _commands(parent: click.Context) -> Iterator[click.Context]:
    """The commands of a group, each followed by its own."""
    assert isinstance(parent.command, click.Group)
    for name in parent.command.list_commands(parent):
        command = parent.command.get_command(parent, name)
        assert command is not None
        context = click.Context(command, parent, name, terminal_width=WIDTH)
        yield context
        if isinstance(command, click.Group):
            yield from _commands(context)


def _block(context: click.Context) -> str:
    return "\n".join(f"    {line}".rstrip() for line in context.command.get_help(context).splitlines())


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
