"""``propose``: the next codes of searches, out of what is known of them and the model. It changes nothing."""

import math
from collections.abc import Collection, Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np

from lmsearcher_local.candidates.earlier import NO_SOURCES
from lmsearcher_local.candidates.goals import GoalsSurrogate, reweigh
from lmsearcher_local.candidates.pools import Pool, promising
from lmsearcher_local.candidates.surrogate import USELESS, Surrogate
from lmsearcher_local.errors import NothingToPropose, SpaceExhausted
from lmsearcher_local.model.ranker import Pick, Ranker, Task
from lmsearcher_local.search.calibration import Choice, levels_of
from lmsearcher_local.search.state import State
from lmsearcher_local.spaces.sampling import TRIES
from lmsearcher_local.spaces.space import SearchSpace

SCORED = 8  # histories until the model is again asked what score it expects, too: that takes as long as a pick
INITIAL = 5  # random trials before the model is asked (published protocol)
DOUBTFUL = 20  # trials after which a search has seen enough to say whether its earlier searches are of use


class Proposal(NamedTuple):
    """A code to evaluate, and what the model picked it out of, where it picked it."""

    code: str
    choice: Choice | None


class _Question(NamedTuple):
    """A pool to pick from, the random generator of its trial, and what is known, earlier searches included."""

    task: Task
    rng: np.random.Generator
    informed: Surrogate


Answer = tuple[Pick, tuple[float, ...] | None]
"""What the model picked, and the scores that it expects of it at ``calibration.LEVELS``, where it was asked."""


def propose(states: Sequence[State], ranker: Ranker, n: int = 1) -> list[list[Proposal]]:
    """The next ``n`` codes of each search, from one engine call for all: distinct, and none that is known.

    The generator of a trial is derived from ``(seed, number of codes known)``. So equal states give equal proposals,
    which do not depend on the searches beside them. Fewer come back when a space holds no more. The searches share
    their temperature; their spaces and histories may differ.

    Raises:
        SpaceExhausted: every valid code of a space is known.
        NothingToPropose: no other code was found, in a space too large to list.
    """
    if n < 1:
        raise ValueError(f"ask for at least 1 code, not {n}")
    asked = [list(_questions(state, n)) for state in states]
    questions = [question for part in asked for question in part]
    answers = iter(_answers(ranker, questions, states[0].options.temperature))
    return [
        _proposals(state, [(question, next(answers)) for question in part])
        for state, part in zip(states, asked, strict=True)
    ]


def _questions(state: State, n: int) -> Iterator[_Question]:
    """What the model is asked for the next ``n`` codes of a search."""
    known, size = state.known, state.options.pool_size
    informed = state.surrogate(state.sources)
    alone = state.surrogate(NO_SOURCES) if state.sources else informed
    offered: set[str] = set()  # pools of one call are disjoint while codes last: workers get different points
    for trial in range(len(known), len(known) + n):
        rng = np.random.default_rng([state.seed, trial])
        surrogate = informed if state.sources and _asks_sources(informed, trial, rng) else alone
        taken = known | offered if offered else known
        if due := next((code for code in state.options.first if code not in taken), None):
            pool = Pool((due,), surrogate)
        elif trial < INITIAL or not surrogate.history.codes:
            pool = _initial(surrogate, rng, known, taken)
        else:
            pool = state.policy(surrogate, rng, size, taken)
            pool = pool if len(pool) else state.policy(surrogate, rng, size, known)
        if not len(pool):
            raise _nothing_left(state.space, len(known))
        offered.update(pool.codes)
        pool = reweigh(pool, rng)
        yield _Question(Task(state.space, pool.surrogate.history, pool), rng, informed)


def _asks_sources(surrogate: Surrogate, trial: int, rng: np.random.Generator) -> bool:
    """Whether a pool is made with the earlier searches.

    The first trials cannot say whether these are of use: before the model is asked, every other one asks them. Up to
    trial ``DOUBTFUL`` a pool is made with them as probably as they are of use, later where this is likelier than it was
    before the first trial. The mean over the hypotheses is not enough: where an unlikely one errs far, it expects most,
    and picks follow it.
    """
    if trial < INITIAL or not surrogate.history.codes:
        return trial % 2 == 0
    return surrogate.trust > (rng.random() if trial < DOUBTFUL else 1 - USELESS)


def _initial(surrogate: Surrogate, rng: np.random.Generator, known: Collection[str], taken: Collection[str]) -> Pool:
    """A pool of one code, before the model is asked: a random one, or what earlier searches let expect most."""
    if not surrogate.sources:
        return Pool(tuple(surrogate.space.sample(rng, 1, known)), surrogate)
    pool = promising(surrogate, rng, 2, taken)
    pool = pool if len(pool) else promising(surrogate, rng, 2, known)
    return pool.take(np.argsort(-pool.improvements, kind="stable")[:1])


def _answers(ranker: Ranker, questions: Sequence[_Question], temperature: float) -> list[Answer]:
    """The model's picks and, behind every ``SCORED``th history, the scores that it expects of them."""
    tasks = [question.task for question in questions]
    picks = ranker.pick(tasks, [question.rng for question in questions], temperature)
    scores: list[tuple[float, ...] | None] = [None] * len(tasks)
    asked = [i for i, task in enumerate(tasks) if len(task.pool) > 1 and len(task.history) % SCORED == 0]
    asked = [i for i in asked if not isinstance(tasks[i].pool.surrogate, GoalsSurrogate)]  # their score is no value
    pools = [tasks[i].pool.take([tasks[i].pool.codes.index(picks[i].code)]) for i in asked]
    chances = ranker.score_chances(pools)
    if chances is not None:
        centres = ranker.codec.score_centres  # type: ignore[attr-defined]  # of a ScoreCodec, which predicts
        for i, row in zip(asked, chances, strict=True):
            found = tasks[i].pool.surrogate.scores_of(levels_of(row, centres))
            scores[i] = tuple(float(f"{score:.6g}") for score in found)
    return list(zip(picks, scores, strict=True))


def _proposals(state: State, answered: Iterable[tuple[_Question, Answer]]) -> list[Proposal]:
    """The codes that the answers come to."""
    codes: list[str] = []
    proposals = []
    for (task, rng, informed), (pick, scores) in answered:
        # Pools of one call may overlap: a code that is taken yields to others of its pool, then to any other.
        free = [code for code in (pick.code, *task.pool.codes) if code not in codes]
        for code in free[:1] or state.space.sample(rng, 1, {*state.known, *codes}):
            choice = None
            if len(task.pool) > 1 and code == pick.code:
                probability = float(f"{math.exp(pick.log_prob):.3g}")
                values = scores and tuple(state.told.sign * score for score in scores)
                choice = Choice(code, task.pool.codes, probability, _belief(informed), values)
            codes.append(code)
            proposals.append(Proposal(code, choice))
    return proposals


def _belief(surrogate: Surrogate) -> tuple[float, tuple[float, ...]] | None:
    """How far the earlier searches were believed, for the report."""
    if not surrogate.sources:
        return None
    trust, agreements = surrogate.belief
    return round(trust, 3), tuple(round(agreement, 3) for agreement in agreements.tolist())


def _nothing_left(space: SearchSpace, known: int) -> NothingToPropose:
    if space.enumerable:
        return SpaceExhausted(f"all {known} valid configurations of the space are evaluated or under way")
    return NothingToPropose(
        f"no valid configuration beside the {known} evaluated or under way was found in {TRIES:,} tries;"
        " there may be more"
    )
