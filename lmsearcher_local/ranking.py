"""Rank candidate pools: one engine call for any number of histories and pools."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from typing import NamedTuple

import numpy as np

from lmsearcher_local.engine.base import MAX_TOKENS, Engine, Question
from lmsearcher_local.errors import EngineError, PromptError
from lmsearcher_local.history import HISTORY_CAP, History
from lmsearcher_local.prompt.base import Codec
from lmsearcher_local.space import SearchSpace
from lmsearcher_local.trie import TokenTrie


class Task(NamedTuple):
    """One pool to rank, behind one history, in one space."""

    space: SearchSpace
    history: History
    pool: Sequence[str]


@dataclass(frozen=True, slots=True)
class Ranking:
    """The exact distribution of constrained decoding over a pool.

    ``log_probs`` has the shape ``[len(pool)]``; ``greedy`` is the candidate that greedy decoding answers.
    """

    pool: tuple[str, ...]
    log_probs: np.ndarray
    greedy: str

    def order(self) -> list[str]:
        """The pool, likeliest first; equal probabilities stay in pool order."""
        return [self.pool[i] for i in np.argsort(-self.log_probs, kind="stable")]

    def sample(self, rng: np.random.Generator) -> str:
        """One candidate, drawn as constrained sampling would draw it."""
        return self.pool[int(rng.choice(len(self.pool), p=np.exp(self.log_probs)))]


class Ranker:
    """A model that ranks: an engine and its checkpoint's codec. Stateless: the answer depends on the task alone."""

    def __init__(self, engine: Engine, codec: Codec) -> None:
        self.engine = engine
        self.codec = codec

    def rank(self, tasks: Sequence[Task], temperature: float = 1.0) -> list[Ranking]:
        """Rank every task's pool, all of them in one engine call.

        A pool that is larger than the codec's ``max_pool`` is ranked by tournament, one engine call a round for all
        such pools: the best quarter of every group of ``group`` candidates goes on, until one prompt holds the rest.
        Its ranking begins with those, then names the others, of later rounds first, with probability 0.

        Raises:
            PromptError: a pool is empty, repeats a candidate, or its prompt is longer than the context.
            EngineError: the model answered with something that is no probability.
        """
        for task in tasks:
            if len(set(task.pool)) < len(task.pool):
                raise PromptError("a pool holds each candidate once")
        running = list(tasks)
        lost: list[list[str]] = [[] for _ in tasks]
        while large := [i for i, task in enumerate(running) if len(task.pool) > self.codec.max_pool]:
            groups = [(i, group) for i in large for group in _dealt(running[i].pool, self.codec.group)]
            rankings = self._rank([running[i]._replace(pool=group) for i, group in groups], temperature)
            for i in large:
                orders = [ranking.order() for (owner, _), ranking in zip(groups, rankings, strict=True) if owner == i]
                kept = _by_turns(order[: max(1, len(order) // 4)] for order in orders)
                going_on = set(kept)
                lost[i] = [code for code in _by_turns(orders) if code not in going_on] + lost[i]
                running[i] = running[i]._replace(pool=kept)
        return [
            Ranking((*ranking.pool, *rest), np.append(ranking.log_probs, np.full(len(rest), -np.inf)), ranking.greedy)
            for ranking, rest in zip(self._rank(running, temperature), lost, strict=True)
        ]

    def _rank(self, tasks: Sequence[Task], temperature: float) -> list[Ranking]:
        tries, questions = [], []
        for space, history, pool in tasks:
            trie = TokenTrie(self.codec.answers(space, pool))
            tries.append(trie)
            if not trie.branches:
                continue  # a pool of one: nothing to ask
            prompt = self.codec.prompt(space, history, pool)
            longest = len(prompt) + max(len(branch.path) for branch in trie.branches)
            if longest > self.engine.max_length:
                raise PromptError(
                    f"{len(history)} trials and {len(pool)} candidates make a prompt of {longest} tokens;"
                    f" this checkpoint reads {self.engine.max_length}"
                )
            for branch in trie.branches:
                for start in range(0, len(branch.tokens), MAX_TOKENS):
                    questions.append(Question([*prompt, *branch.path], branch.tokens[start : start + MAX_TOKENS]))
        replies = iter(self.engine.log_probs(questions) if questions else [])
        rankings = []
        for (_, _, pool), trie in zip(tasks, tries, strict=True):
            answers = []
            for branch in trie.branches:
                parts = [next(replies) for _ in range(0, len(branch.tokens), MAX_TOKENS)]
                answers.append(np.concatenate(parts))
                if len(answers[-1]) != len(branch.tokens):
                    raise EngineError(f"the engine answered {len(answers[-1])} of {len(branch.tokens)} tokens")
            greedy = pool[trie.greedy(answers)]
            rankings.append(Ranking(tuple(pool), trie.log_probs(answers, temperature), greedy))
        return rankings

    def check(self, space: SearchSpace, pool_size: int) -> None:
        """Make sure that a full history and a pool of this space fit the checkpoint, before a search starts.

        Raises:
            PromptError: they do not.
        """
        pool_size = min(pool_size, self.codec.max_pool)
        codes = space.sample(np.random.default_rng(0), HISTORY_CAP + pool_size)
        pool, seen = codes[:pool_size], codes[pool_size:]
        history = History(tuple(seen), tuple(i / 9 for i in range(len(seen))))
        length = len(self.codec.prompt(space, history, pool)) + max(map(len, self.codec.answers(space, pool)))
        if length > self.engine.max_length:
            raise PromptError(
                f"{len(seen)} trials and {len(pool)} candidates of this space make a prompt of {length} tokens;"
                f" this checkpoint reads {self.engine.max_length}"
            )


def _dealt(pool: Sequence[str], size: int) -> list[list[str]]:
    """The pool dealt out into groups of at most ``size`` that differ by one at most."""
    groups = -(-len(pool) // size)
    return [list(pool[i::groups]) for i in range(groups)]


def _by_turns(orders: Iterable[Sequence[str]]) -> list[str]:
    """The first of each, then the second of each, and so on."""
    return [code for turn in zip_longest(*orders) for code in turn if code is not None]
