"""Text that is not ours, on the screen and in pictures: shown as it is, on one line, and never obeyed."""

from typing import Any


def plain(value: Any) -> str:
    """A value as text of one line; what would move the cursor or break a picture is written as Python writes it."""
    text = str(value)
    if text.isprintable():
        return text
    return "".join(mark if mark.isprintable() else repr(mark)[1:-1] for mark in text)
