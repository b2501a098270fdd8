"""Rank candidate pools: one engine call for any number of histories and pools."""

from collections.abc import Sequence
from dataclasses import dataclass
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
        """Rank every task's pool in one engine call.

        Raises:
            PromptError: a pool is empty, too large, repeats a candidate, or its prompt is longer than the context.
            EngineError: the model answered with something that is no probability.
        """
        tries, questions = [], []
        for space, history, pool in tasks:
            if len(pool) > self.codec.max_pool:
                raise PromptError(
                    f"the pool has {len(pool)} candidates; this checkpoint ranks at most {self.codec.max_pool}"
                )
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
        codes = space.sample(np.random.default_rng(0), HISTORY_CAP + pool_size)
        pool, seen = codes[:pool_size], codes[pool_size:]
        history = History(tuple(seen), tuple(i / 9 for i in range(len(seen))))
        length = len(self.codec.prompt(space, history, pool)) + max(map(len, self.codec.answers(space, pool)))
        if length > self.engine.max_length:
            raise PromptError(
                f"{len(seen)} trials and {len(pool)} candidates of this space make a prompt of {length} tokens;"
                f" this checkpoint reads {self.engine.max_length}"
            )
