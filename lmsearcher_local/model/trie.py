"""The token trie of a pool: which tokens constrained decoding may emit, and the exact distribution it follows.

Only branching nodes need the model: where one token is allowed, constrained decoding emits it with probability 1.
The product of the renormalised probabilities along a leaf's branching nodes is the probability that constrained
sampling returns that leaf.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from lmsearcher_local.errors import EngineError, PromptError


@dataclass(frozen=True, slots=True)
class Branch:
    """A node with at least two children: the tokens behind it, and for each child its token and the leaves below."""

    path: tuple[int, ...]
    tokens: tuple[int, ...]
    leaves: tuple[tuple[int, ...], ...]


class TokenTrie:
    """The trie of the token sequences that name the candidates of a pool.

    Args:
        answers: one token sequence per candidate; leaf *i* is ``answers[i]``.

    Raises:
        PromptError: no candidates, or two that cannot be told apart (equal, or one the beginning of another).
    """

    def __init__(self, answers: Sequence[Sequence[int]]) -> None:
        if not answers:
            raise PromptError("a pool needs at least one candidate")
        self.size = len(answers)
        self.branches: list[Branch] = []
        self._branch_of: dict[tuple[int, ...], Branch] = {}
        pending: list[tuple[tuple[int, ...], tuple[int, ...]]] = [((), tuple(range(self.size)))]
        while pending:  # not recursion: a code may be hundreds of tokens long
            path, leaves = pending.pop()
            if len(leaves) == 1:
                continue
            depth = len(path)
            children: dict[int, list[int]] = {}
            for leaf in leaves:
                if len(answers[leaf]) == depth:
                    raise PromptError("two candidates of the pool have the same tokens, or one begins with the other")
                children.setdefault(answers[leaf][depth], []).append(leaf)
            below = tuple(tuple(group) for group in children.values())
            if len(children) > 1:
                self.branches.append(Branch(path, tuple(children), below))
                self._branch_of[leaves] = self.branches[-1]
            pending += [((*path, token), group) for token, group in zip(children, below, strict=True)]

    def log_probs(self, answers: Sequence[np.ndarray], temperature: float = 1.0) -> np.ndarray:
        """Log-probability that constrained sampling at ``temperature`` returns each leaf, float64 ``[size]``.

        ``answers`` are for each branch the model's log-probabilities of its tokens, any additive constant allowed. An
        ``EngineError`` where there is no finite one at a node.
        """
        total = np.zeros(self.size)
        for branch, values in zip(self.branches, answers, strict=True):
            for leaves, value in zip(branch.leaves, log_softmax(values / temperature), strict=True):
                total[list(leaves)] += value
        return total

    @property
    def gaps(self) -> int:
        """How many times the error of a gap between two tokens the log-probabilities of two leaves may be apart.

        The branch that tells them apart counts once; each branch below it, on the way of either, once more.
        """
        depths = np.zeros(self.size, dtype=np.int64)
        for branch in self.branches:
            depths[[leaf for group in branch.leaves for leaf in group]] += 1
        return max(1, 2 * int(depths.max()) - 1)

    def branch_of(self, leaves: tuple[int, ...]) -> Branch:
        """The branch that tells these leaves apart: all of them, or several that one token of a branch leads to."""
        return self._branch_of[leaves]

    def greedy(self, answers: Sequence[np.ndarray]) -> int:
        """The leaf that greedy constrained decoding returns: the likeliest token at each node on the way."""
        leaves = set(range(self.size))
        for branch, values in zip(self.branches, answers, strict=True):  # parents stand before their children
            if leaves.issuperset(leaf for group in branch.leaves for leaf in group):
                leaves.intersection_update(branch.leaves[int(np.argmax(log_softmax(values)))])
        return leaves.pop()


def log_softmax(values: np.ndarray) -> np.ndarray:
    """Log-probabilities over the values given, float64; an ``EngineError`` for NaN, ``+inf`` or nothing finite."""
    values = np.asarray(values, dtype=np.float64)
    top = values.max()
    if not np.isfinite(top):  # max is NaN where any value is
        raise EngineError(
            f"the model answered {top} instead of a log-probability: the checkpoint's weights are unusable"
        )
    shifted = values - top
    return shifted - np.log(np.exp(shifted).sum())
