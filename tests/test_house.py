"""What keeps the house in order: short functions, and a page of the commands that is theirs."""

import ast
from pathlib import Path

from bench import help_pages

ROOT = Path(__file__).parent.parent
LINES = 60  # of a function, at most


def test_no_function_is_long() -> None:
    found = [
        f"{file.relative_to(ROOT)}: {node.name} has {node.end_lineno - node.lineno + 1} lines"
        for folder in ("lmsearcher_local", "kernels", "bench")
        for file in (ROOT / folder).rglob("*.py")
        for node in ast.walk(ast.parse(file.read_text()))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and node.end_lineno is not None
        and node.end_lineno - node.lineno >= LINES
    ]
    assert not found


def test_the_page_of_the_commands_is_theirs() -> None:
    assert help_pages.PAGE.read_text() == help_pages.page(), "write it anew: python -m bench.help_pages"
