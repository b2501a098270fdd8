"""Ask, tell, best: the search loop as a library, without input or output."""

import math
from collections.abc import Collection, Iterable, Iterator, Sequence
from functools import lru_cache
from typing import Any

import numpy as np

from lmsearcher_local.candidates.earlier import Earlier, Sources
from lmsearcher_local.candidates.history import Direction, History
from lmsearcher_local.candidates.kernel import fit_kernel
from lmsearcher_local.candidates.policies import policy as policy_of
from lmsearcher_local.candidates.pools import Pool, promising
from lmsearcher_local.candidates.surrogate import Surrogate, impute_pending
from lmsearcher_local.candidates.told import Told
from lmsearcher_local.errors import HistoryError, NothingToPropose, SpaceExhausted
from lmsearcher_local.model.ranker import Pick, Ranker, Task
from lmsearcher_local.search.calibration import Choice, levels_of
from lmsearcher_local.spaces.sampling import TRIES
from lmsearcher_local.spaces.space import SearchSpace

SCORED = 4  # histories until the model is again asked what score it expects, too: that takes as long as a pick
INITIAL = 5  # random trials before the model is asked (published protocol)
FITS = 4  # of the kernel that a search remembers: beginnings of its history, with codes under way and without


class Searcher:
    """Proposes codes of a space to evaluate, as the model picks them out of candidate pools.

    What ``ask`` proposes depends on the seed, on what was told and on nothing else: the random generator of a trial
    is derived from ``(seed, number of codes known)``, so a resumed search continues as the uninterrupted one.

    Args:
        space: what to search.
        ranker: the model.
        direction: whether values told are maximised or minimised.
        seed: of every random choice; at least 0.
        policy: how pools are made, a name in ``lmsearcher_local.candidates.policies.POLICIES``.
        pool_size: candidates shown to the model per trial.
        temperature: 0 takes the model's greedy answer, above 0 samples its answer.
        earlier: earlier searches, as ``earlier_runs.read_earlier`` reads them. The first ``INITIAL`` codes then are
            what these let expect most, and no longer random ones.
        first: codes to propose before all others, in this order; those known already are passed over.

    Raises:
        PromptError: the space does not fit the checkpoint.
        HistoryError: there are too many earlier searches.
        SpaceError: one of the first codes is not of this space.
    """

    def __init__(
        self,
        space: SearchSpace,
        ranker: Ranker,
        *,
        direction: Direction = "maximize",
        seed: int = 0,
        policy: str = "surrogate",
        pool_size: int = 10,
        temperature: float = 0.0,
        earlier: Sequence[Earlier] = (),
        first: Sequence[str] = (),
    ) -> None:
        if direction not in ("maximize", "minimize"):
            raise ValueError(f"direction is 'maximize' or 'minimize', not {direction!r}")
        if seed < 0 or pool_size < 1 or temperature < 0:
            raise ValueError(
                f"at least 0: seed ({seed}), temperature ({temperature}); at least 1: pool_size ({pool_size})"
            )
        ranker.check(space, pool_size)
        self.space = space
        self.ranker = ranker
        self.direction = direction
        self.seed = seed
        self.pool_size = pool_size
        self.temperature = temperature
        self.sources = Sources(earlier)
        self.first = tuple(first)
        self._policy = policy_of(policy)
        self._fit = lru_cache(maxsize=FITS)(fit_kernel)
        self.clear()
        self._valid: set[str] = set()  # codes that were checked, because the same ones are told again and again
        for code in first:
            self._check(code)
        self.choices: list[Choice] = []  # those codes of the last ask that the model picked, and out of what

    def ask(self, n: int = 1) -> list[str]:
        """The next ``n`` codes to evaluate, distinct, never evaluated before; all of them from one engine call.

        Codes asked before and not yet told count with the score that a Gaussian process expects of them
        (``surrogate.impute_pending``). Fewer come back when the space holds no more.

        Raises:
            SpaceExhausted: every valid code is evaluated, failed or being evaluated.
            NothingToPropose: no other code was found, in a space too large to list.
        """
        return ask_together([self], n)[0]

    def _pools(self, n: int) -> Iterator[tuple[Task, np.random.Generator]]:
        """What the model is asked for the next ``n`` codes."""
        known, pending = self._known, [*self._pending]
        surrogate = Surrogate(self.space, self._told.essential, self._fit, self.sources)
        if pending:
            surrogate = Surrogate(self.space, impute_pending(surrogate, pending), self._fit, self.sources)
        offered: set[str] = set()  # pools of one call are disjoint while codes last: workers get different points
        for trial in range(len(known), len(known) + n):
            rng = np.random.default_rng([self.seed, trial])
            taken = known | offered if offered else known
            if due := next((code for code in self.first if code not in taken), None):
                pool = Pool((due,), surrogate)
                offered.add(due)
            elif trial < INITIAL or not surrogate.history.codes:
                pool = self._first(surrogate, rng, known, taken)
            else:
                pool = self._policy(surrogate, rng, self.pool_size, taken)
                pool = pool if len(pool) else self._policy(surrogate, rng, self.pool_size, known)
                offered.update(pool.codes)
            if not len(pool):
                raise _nothing_left(self.space, len(known))
            yield Task(self.space, surrogate.history, pool), rng

    def _first(
        self, surrogate: Surrogate, rng: np.random.Generator, known: Collection[str], taken: Collection[str]
    ) -> Pool:
        """A pool of one code, before the model is asked: a random one, or what earlier searches let expect most."""
        if not self.sources:
            return Pool(tuple(self.space.sample(rng, 1, known)), surrogate)
        pool = promising(surrogate, rng, 2, taken)
        return pool.take(np.argsort(-pool.improvements, kind="stable")[:1])

    def _free(self, picks: Iterable[tuple[Pick, Task, np.random.Generator, tuple[float, ...] | None]]) -> list[str]:
        """The codes that the model's answers come to; from now on they are under way."""
        codes: list[str] = []
        self.choices = []
        for pick, task, rng, scores in picks:
            # Pools of one call may overlap: a code that is taken yields to others of its pool, then to any other.
            free = [code for code in (pick.code, *task.pool.codes) if code not in codes]
            found = free[:1] or self.space.sample(rng, 1, {*self._known, *codes})
            codes += found
            if len(task.pool) > 1 and found == [pick.code]:
                probability = float(f"{math.exp(pick.log_prob):.3g}")
                values = scores and tuple(self._told.sign * score for score in scores)
                self.choices.append(Choice(pick.code, task.pool.codes, probability, self._belief(task), values))
        self._pending.update(dict.fromkeys(codes))
        self._known.update(codes)
        return codes

    def _belief(self, task: Task) -> tuple[float, tuple[float, ...]] | None:
        """How far the earlier searches were believed, for the report."""
        if not self.sources:
            return None
        trust, agreements = task.pool.surrogate.belief
        return trust, tuple(round(agreement, 3) for agreement in agreements.tolist())

    def tell(self, code: str, value: float, number: int | None = None) -> None:
        """Report the value of a code, asked for or not. Told again, the code's score is the mean of its values.

        Args:
            number: the trial's place in the order of evaluation; by default behind all others.

        Raises:
            SpaceError: the code is not of this space.
            HistoryError: the value is not a finite number.
        """
        self._check(code)
        if isinstance(value, bool) or not isinstance(value, (int, float, np.number)) or not math.isfinite(value):
            raise HistoryError(f"the value of {code} is {value!r}; a finite number is needed")
        self._pending.pop(code, None)
        self._closed.discard(code)
        self._known.add(code)
        self._told.tell(code, float(value), number)

    def begin(self, code: str) -> None:
        """Note that somebody else evaluates a code: it counts as asked.

        Raises:
            SpaceError: the code is not of this space.
        """
        self._check(code)
        if code not in self._told:
            self._pending[code] = None
            self._known.add(code)

    def close(self, code: str) -> None:
        """Rule out a code without a value: its evaluation failed.

        Raises:
            SpaceError: the code is not of this space.
        """
        self._check(code)
        self._pending.pop(code, None)
        self._known.add(code)
        if code not in self._told:
            self._closed.add(code)

    def _check(self, code: str) -> None:
        if code not in self._valid:
            self.space.decode(code)
            self._valid.add(code)

    def clear(self) -> None:
        """Forget everything asked, told and closed, for a caller that keeps the state and tells it anew."""
        self._told = Told(1.0 if self.direction == "maximize" else -1.0)
        self._pending: dict[str, None] = {}  # asked and not yet told, in that order
        self._closed: set[str] = set()  # failed
        self._known: set[str] = set()  # all of these: never proposed again

    def forget_pending(self) -> None:
        """Forget what was asked or begun and not yet told, for a caller that says anew what is under way."""
        self._known.difference_update(self._pending.keys() - self._closed)
        self._pending.clear()

    @property
    def history(self) -> History:
        """What was told, in order of evaluation, as scores to maximise."""
        return self._told.history

    @property
    def best(self) -> tuple[str, float]:
        """The best code so far and its value.

        Raises:
            HistoryError: nothing was told yet.
        """
        if not len(self._told):
            raise HistoryError("nothing was told yet, so nothing is best")
        return self._told.best


def ask_together(searchers: Sequence[Searcher], n: int = 1) -> list[list[str]]:
    """What each searcher's ``ask(n)`` would return, from one engine call for all of them.

    The searchers are distinct and share their ranker and temperature; their spaces and histories may differ.

    Raises:
        NothingToPropose: one of the spaces holds nothing more, or none was found; no searcher has been asked then.
    """
    if n < 1:
        raise ValueError(f"ask for at least 1 code, not {n}")
    asked = [list(searcher._pools(n)) for searcher in searchers]
    ranker, temperature = searchers[0].ranker, searchers[0].temperature
    tasks = [task for pools in asked for task, _ in pools]
    picks = ranker.pick(tasks, [rng for pools in asked for _, rng in pools], temperature)
    answers = iter(zip(picks, _expected(ranker, tasks, picks), strict=True))

    def answered(pools: Sequence[tuple[Task, np.random.Generator]]) -> Iterator[Any]:
        for task, rng in pools:
            pick, scores = next(answers)
            yield pick, task, rng, scores

    return [searcher._free(answered(pools)) for searcher, pools in zip(searchers, asked, strict=True)]


def _expected(ranker: Ranker, tasks: Sequence[Task], picks: Sequence[Pick]) -> list[tuple[float, ...] | None]:
    """What scores the model expects of its picks, at ``calibration.LEVELS``, behind every ``SCORED``th history."""
    found: list[tuple[float, ...] | None] = [None] * len(tasks)
    asked = [i for i, task in enumerate(tasks) if len(task.pool) > 1 and len(task.history) % SCORED == 0]
    pools = [tasks[i].pool for i in asked]
    pools = [pool.take([pool.codes.index(picks[i].code)]) for i, pool in zip(asked, pools, strict=True)]
    chances = ranker.score_chances(pools)
    if chances is not None:
        centres = ranker.codec.score_centres  # type: ignore[attr-defined]  # of a ScoreCodec, which predicts
        for i, row in zip(asked, chances, strict=True):
            scores = tasks[i].pool.surrogate.scores_of(levels_of(row, centres))
            found[i] = tuple(float(f"{score:.6g}") for score in scores)
    return found


def _nothing_left(space: SearchSpace, known: int) -> NothingToPropose:
    if space.enumerable:
        return SpaceExhausted(f"all {known} valid configurations of the space are evaluated or under way")
    return NothingToPropose(
        f"no valid configuration beside the {known} evaluated or under way was found in {TRIES:,} tries;"
        " there may be more"
    )
