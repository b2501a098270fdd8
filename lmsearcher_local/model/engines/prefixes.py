"""Which token prefixes share a beginning that is worth computing once."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np

# A shared beginning costs a forward pass, and what follows it can no longer be computed as one batch of plain rows.
WORTH = 256  # tokens that it must save,
PART = 1 / 8  # and the part of all tokens at hand


@dataclass(frozen=True, slots=True)
class Shared:
    """A beginning of ``length`` tokens: of the prefixes ``ends`` itself, and of all prefixes of ``children``.

    ``first`` is one of those prefixes. Each of them is longer than ``length``.
    """

    first: int
    length: int
    ends: list[int] = field(default_factory=list)
    children: list["Shared"] = field(default_factory=list)


def shared_beginnings(prefixes: Sequence[np.ndarray]) -> Shared:
    """The tree of shared beginnings, its root of length 0, of distinct token ids in lexicographic order, none empty."""
    common = [_common(a, b) for a, b in pairwise(prefixes)]
    ends = np.cumsum([0, *map(len, prefixes)])
    root = Shared(0, 0)
    pending = [(root, 0, len(prefixes))]
    while pending:  # not recursion: a code may be hundreds of tokens long
        node, low, high = pending.pop()
        if high - low == 1:
            node.ends.append(low)
            continue
        least = min(common[low : high - 1])
        # In this order a prefix that the others begin with is the first. Something must be left of it to compute.
        length = min(least, len(prefixes[low]) - 1)
        at_hand = ends[high] - ends[low] - node.length * (high - low)
        if (length - node.length) * (high - low - 1) >= max(WORTH, PART * at_hand):
            node.children.append(Shared(low, length))
            node = node.children[-1]
        cuts = [low, *(i + 1 for i in range(low, high - 1) if common[i] == least), high]
        pending += [(node, start, end) for start, end in pairwise(cuts)]
    return root


def _common(a: np.ndarray, b: np.ndarray) -> int:
    """How many tokens two sequences begin with alike."""
    size = min(len(a), len(b))
    differ = a[:size] != b[:size]
    return int(differ.argmax()) if differ.any() else size
