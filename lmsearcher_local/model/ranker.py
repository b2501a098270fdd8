"""Rank candidate pools: one engine call for any number of histories and pools."""

from collections.abc import Callable, Iterable, Sequence, Sized
from dataclasses import dataclass
from itertools import zip_longest
from typing import NamedTuple

import numpy as np

from lmsearcher_local.candidates.history import HISTORY_CAP, History
from lmsearcher_local.candidates.pools import Pool
from lmsearcher_local.candidates.surrogate import Surrogate
from lmsearcher_local.errors import EngineError, PromptError
from lmsearcher_local.model.codecs.base import Codec, ScoreCodec
from lmsearcher_local.model.engines.base import MAX_TOKENS, Engine, Prefix, Question, with_path
from lmsearcher_local.model.trie import Branch, TokenTrie, log_softmax
from lmsearcher_local.spaces.space import SearchSpace


class Task(NamedTuple):
    """One pool to rank, behind one history, in one space."""

    space: SearchSpace
    history: History
    pool: Pool

    @classmethod
    def of(cls, space: SearchSpace, history: History, codes: Sequence[str]) -> "Task":
        """The task of ranking these codes."""
        return cls(space, history, Pool(tuple(codes), Surrogate(space, history)))


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


class Pick(NamedTuple):
    """One candidate that constrained decoding answered, and the log-probability with which it does."""

    code: str
    log_prob: float


class Ranker:
    """A model that ranks: an engine and its checkpoint's codec. Stateless: what is picked depends on the task alone.

    What an engine answers may depend a little on what it was asked before and beside (``Engine.noise``). So wherever
    that could turn a pick, or who goes on in a tournament, the question is asked again cold, and that answer counts.

    ``repeated`` counts the branches asked again. ``drift`` is the most, in nats, by which a gap between two of their
    tokens then was another. A drift above the engine's noise says that the noise is set too low.
    """

    def __init__(self, engine: Engine, codec: Codec) -> None:
        self.engine = engine
        self.codec = codec
        self.repeated = 0
        self.drift = 0.0

    def sleep(self) -> None:
        """Let the model's memory leave the card until it is asked again, where the engine can do that."""
        if self.engine.can_sleep and not self.engine.is_asleep:
            self.engine.sleep()

    def wake_up(self) -> None:
        """Bring the model back, if it sleeps."""
        if self.engine.is_asleep:
            self.engine.wake_up()

    def rank(self, tasks: Sequence[Task], temperature: float = 1.0) -> list[Ranking]:
        """Rank every task's pool, all of them in one engine call.

        A pool larger than the codec's ``max_pool`` is ranked by tournament, one engine call a round for all such pools.
        The best quarter of every group of ``group`` candidates goes on, until one prompt holds the rest. The ranking
        begins with those, then names the others, of later rounds first, with probability 0.

        Raises:
            PromptError: a pool is empty, repeats a candidate, or its prompt is longer than the context.
            EngineError: the model answered with something that is no probability.
        """
        finals, lost = self._play(tasks, temperature)
        return [
            Ranking((*ranking.pool, *rest), np.append(ranking.log_probs, np.full(len(rest), -np.inf)), ranking.greedy)
            for ranking, rest in zip(self._rank(finals, temperature), lost, strict=True)
        ]

    def pick(
        self, tasks: Sequence[Task], rngs: Sequence[np.random.Generator] = (), temperature: float = 0
    ) -> list[Pick]:
        """One answer to each task's pool, as constrained decoding gives it.

        Asks along the way of that answer alone, one engine call a branch, where :meth:`rank` asks about every branch.
        Equal arguments give equal codes whatever was asked before; log-probabilities may differ by the engine's noise.

        Args:
            rngs: one for each task, for a temperature above 0.
            temperature: 0 answers greedily, with probabilities at a temperature of 1. Above 0 each token is drawn as
                the likeliest after noise was added (Gumbel's), so that it, too, hangs on a margin.

        Raises:
            PromptError, EngineError: as :meth:`rank` does.
        """
        scale = temperature or 1.0
        finals, _ = self._play(tasks, scale)
        tries, prompts = self._tries_and_prompts(finals)
        left = [tuple(range(trie.size)) for trie in tries]
        log_probs = [0.0] * len(finals)
        while going := [i for i, leaves in enumerate(left) if len(leaves) > 1]:
            asked = [(prompts[i], tries[i].branch_of(left[i])) for i in going]
            answers = self._ask(asked)
            draws = [rngs[i].gumbel(size=len(tries[i].branch_of(left[i]).tokens)) if temperature else 0 for i in going]
            chances = [log_softmax(values / scale) + draw for values, draw in zip(answers, draws, strict=True)]
            answers = self._ask_again(asked, answers, [_margin(one) <= self.engine.noise / scale for one in chances])
            for i, (_, branch), values, draw in zip(going, asked, answers, draws, strict=True):
                own = log_softmax(values / scale)
                child = int(np.argmax(own + draw))
                left[i] = branch.leaves[child]
                log_probs[i] += float(own[child])
        leaves = [task.pool.codes[leaf] for task, (leaf,) in zip(finals, left, strict=True)]
        return [Pick(*answer) for answer in zip(leaves, log_probs, strict=True)]

    def score_chances(self, pools: Sequence[Pool]) -> np.ndarray | None:
        """How likely each score bin of the codec is for the candidates of these pools, one after the other.

        One engine call: float64 ``[candidates, bins]``; nothing where the model predicts no scores.
        """
        if not isinstance(codec := self.codec, ScoreCodec):
            return None
        questions = [Question(prompt, codec.score_tokens) for pool in pools for prompt in codec.score_prompts(pool)]
        if not questions:
            return np.empty((0, len(codec.score_tokens)))
        self.wake_up()
        return np.exp([log_softmax(answer) for answer in self.engine.log_probs(questions)])

    def _play(self, tasks: Sequence[Task], temperature: float) -> tuple[list[Task], list[list[str]]]:
        """The tasks with pools that one prompt holds, and for each the candidates that a tournament left behind."""
        for task in tasks:
            if len(set(task.pool.codes)) < len(task.pool):
                raise PromptError("a pool holds each candidate once")
        running = list(tasks)
        lost: list[list[str]] = [[] for _ in tasks]
        while large := [i for i, task in enumerate(running) if len(task.pool) > self.codec.max_pool]:
            groups = []
            for i in large:  # dealt out into groups that differ by one at most
                size, count = len(running[i].pool), -(-len(running[i].pool) // self.codec.group)
                groups += [(i, running[i].pool.take(range(start, size, count))) for start in range(count)]
            rankings = self._rank([running[i]._replace(pool=group) for i, group in groups], temperature, _survivors)
            for i in large:
                orders = [ranking.order() for (owner, _), ranking in zip(groups, rankings, strict=True) if owner == i]
                kept = _interleave(order[: _survivors(order)] for order in orders)
                going_on = set(kept)
                lost[i] = [code for code in _interleave(orders) if code not in going_on] + lost[i]
                places = {code: place for place, code in enumerate(running[i].pool.codes)}
                running[i] = running[i]._replace(pool=running[i].pool.take([places[code] for code in kept]))
        return running, lost

    def _rank(
        self, tasks: Sequence[Task], temperature: float, certain: Callable[[Sized], int] = lambda _: 0
    ) -> list[Ranking]:
        """Rank pools that one prompt holds.

        Of each pool the first ``certain(pool)`` candidates are those of cold answers, in their order.
        """
        tries, prompts = self._tries_and_prompts(tasks)
        owners = [i for i, trie in enumerate(tries) for _ in trie.branches]
        asked = [(prompts[i], branch) for i, trie in enumerate(tries) for branch in trie.branches]
        answers = self._ask(asked)
        rankings = _rankings(tasks, tries, answers, temperature)
        if noise := self.engine.noise / temperature:
            parts = zip(tasks, tries, rankings, strict=True)
            close = [_least_gap(one.log_probs, certain(task.pool)) <= noise * trie.gaps for task, trie, one in parts]
            answers = self._ask_again(asked, answers, [close[i] for i in owners])
            rankings = _rankings(tasks, tries, answers, temperature)
        return rankings

    def _tries_and_prompts(self, tasks: Sequence[Task]) -> tuple[list[TokenTrie], list[Prefix]]:
        """Each task's trie and its prompt, which leaves room for the answers; none for a pool of one."""
        tries = [TokenTrie(self.codec.answers(space, pool.codes)) for space, _, pool in tasks]
        prompts: list[Prefix] = []
        for task, trie in zip(tasks, tries, strict=True):
            prompts.append(self.codec.prompt(*task) if trie.branches else [])
            longest = len(prompts[-1]) + max((len(branch.path) for branch in trie.branches), default=0)
            self._check_length(len(task.history), f"{len(task.pool)} candidates make a prompt of", longest)
        return tries, prompts

    def _check_length(self, trials: int, others: str, length: int) -> None:
        if length > (most := self.engine.max_length):
            raise PromptError(f"{trials} trials and {others} {length} tokens; as loaded, this checkpoint reads {most}")

    def _ask_again(
        self, branches: Sequence[tuple[Prefix, Branch]], answers: Sequence[np.ndarray], close: Sequence[bool]
    ) -> list[np.ndarray]:
        """The answers, but those that are close asked again cold, where the engine is not exact."""
        settled = list(answers)
        repeated = [k for k, again in enumerate(close) if again and self.engine.noise]
        for k, cold in zip(repeated, self._ask([branches[k] for k in repeated], cold=True), strict=True):
            finite = np.isfinite(answers[k]) & np.isfinite(cold)
            if finite.any():
                self.drift = max(self.drift, float(np.ptp(answers[k][finite] - cold[finite])))
            settled[k] = cold
        self.repeated += len(repeated)
        return settled

    def _ask(self, branches: Sequence[tuple[Prefix, Branch]], cold: bool = False) -> list[np.ndarray]:
        """For each branch behind its prompt the log-probabilities of its tokens, from one engine call."""
        questions = [
            Question(with_path(prompt, branch.path), branch.tokens[start : start + MAX_TOKENS])
            for prompt, branch in branches
            for start in range(0, len(branch.tokens), MAX_TOKENS)
        ]
        if questions:  # random trials ask nothing, so there the model sleeps on
            self.wake_up()
        ask = self.engine.log_probs_cold if cold else self.engine.log_probs
        replies = iter(ask(questions) if questions else [])
        answers = []
        for _, branch in branches:
            values = np.concatenate([next(replies) for _ in range(0, len(branch.tokens), MAX_TOKENS)])
            if len(values) != len(branch.tokens):
                raise EngineError(f"the engine answered {len(values)} of {len(branch.tokens)} tokens")
            answers.append(values)
        return answers

    def check(self, space: SearchSpace, pool_size: int) -> None:
        """Refuse, with a ``PromptError``, a space whose full history and pool do not fit the checkpoint."""
        others = f"{min(pool_size, self.codec.max_pool)} candidates of this space make a prompt of up to"
        self._check_length(HISTORY_CAP, others, self.codec.longest_prompt(space, pool_size))


def _rankings(
    tasks: Sequence[Task], tries: Sequence[TokenTrie], answers: Sequence[np.ndarray], temperature: float
) -> list[Ranking]:
    """What the answers, branch after branch of task after task, say of each pool."""
    replies, rankings = iter(answers), []
    for task, trie in zip(tasks, tries, strict=True):
        own = [next(replies) for _ in trie.branches]
        greedy = task.pool.codes[trie.greedy(own)]
        rankings.append(Ranking(task.pool.codes, trie.log_probs(own, temperature), greedy))
    return rankings


def _margin(values: np.ndarray) -> float:
    """By how much the largest of at least two values leads."""
    second, first = np.partition(values, -2)[-2:]
    return float(first - second)


def _least_gap(log_probs: np.ndarray, first: int) -> float:
    """The least gap between neighbours among the ``first`` largest values and the next one; infinite for none."""
    ordered = np.sort(log_probs)[::-1][: first + 1]
    with np.errstate(invalid="ignore"):
        gaps = np.nan_to_num(-np.diff(ordered), nan=0.0, posinf=np.inf)  # those without any chance are equal
    return float(gaps.min(initial=np.inf))


def _survivors(group: Sized) -> int:
    """How many of a tournament's group the next round sees."""
    return max(1, len(group) // 4)


def _interleave(orders: Iterable[Sequence[str]]) -> list[str]:
    """The first of each, then the second of each, and so on."""
    return [code for turn in zip_longest(*orders) for code in turn if code is not None]
