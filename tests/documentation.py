"""The code blocks of a documentation page."""

import re
from pathlib import Path
from typing import NamedTuple

DOCS = Path(__file__).parent.parent / "docs"
FENCE = re.compile(r'^```(\w+)(?: title="([^"]+)")?\n(.*?)^```$', re.MULTILINE | re.DOTALL)


class Block(NamedTuple):
    language: str
    title: str
    text: str


def blocks(page: str) -> list[Block]:
    """In order; a block with a title is a file, unless it is typed in a shell."""
    text = (DOCS / page).read_text()
    found = [Block(*match.groups(default="")) for match in FENCE.finditer(text)]
    assert text.count("```") == 2 * len(found), f"{page} has a code block of another form"
    return found
