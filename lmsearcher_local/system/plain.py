"""Text on the screen and in pictures: what is not ours is shown as it is, on one line, and never obeyed."""

import math
from typing import Any


def plain(value: Any) -> str:
    """A value as text of one line; what would move the cursor or break a picture is written as Python writes it."""
    text = str(value)
    if text.isprintable():
        return text
    return "".join(mark if mark.isprintable() else repr(mark)[1:-1] for mark in text)


def quantity(number: int, thing: str) -> str:
    """So many of a thing, in words: ``1 trial``, ``1,000 trials``."""
    return f"{amount(number)} {thing}{'s' * (number != 1)}"


def amount(number: int) -> str:
    """A whole number with commas; of a billion and more its power of ten."""
    return f"{number:,}" if number < 10**9 else f"10^{math.log10(number):.1f}"
