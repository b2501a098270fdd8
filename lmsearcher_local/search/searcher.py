"""Ask, tell, best: the search loop as a library, without input or output."""

from collections.abc import Mapping, Sequence
from typing import Any

from lmsearcher_local.candidates.history import History
from lmsearcher_local.candidates.measures import breaks, judge
from lmsearcher_local.errors import HistoryError
from lmsearcher_local.model.ranker import Ranker
from lmsearcher_local.search.calibration import Choice
from lmsearcher_local.search.options import SearchOptions
from lmsearcher_local.search.propose import Proposal, propose
from lmsearcher_local.search.state import State, check_number
from lmsearcher_local.spaces.space import SearchSpace


class Searcher:
    """Proposes codes of a space to evaluate, as the model picks them out of candidate pools.

    What ``ask`` proposes depends on the seed, on what was told and on nothing else, see ``propose``; so a resumed
    search continues as the uninterrupted one.

    Args:
        space: what to search.
        ranker: the model.
        options: any of ``SearchOptions``, by name.

    Raises:
        PromptError: the space does not fit the checkpoint.
        HistoryError: there are too many earlier searches.
        SpaceError: one of the first codes is not of this space.
        OptionError: an option is out of its range.
    """

    def __init__(self, space: SearchSpace, ranker: Ranker, **options: Any) -> None:
        self.options = SearchOptions(**options)
        ranker.check(space, self.options.pool_size)
        self.space = space
        self.ranker = ranker
        self.state = State(space, self.options)
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

    def tell(self, code: str, value: float | Mapping[str, float], number: int | None = None) -> None:
        """Report the value of a code, asked for or not. Told again, the code's score is the mean of its values.

        Args:
            value: a number; with goals or limits, what was measured by name.
            number: the trial's place in the order of evaluation; by default behind all others.

        Raises:
            SpaceError: the code is not of this space.
            HistoryError: the value is not a finite number.
            MeasureError: what a goal or a limit names is missing.
        """
        if isinstance(value, Mapping):
            for name, item in value.items():
                check_number(code, item, name)
        elif not self.options.limits and not self.options.goals:
            return self.state.tell(code, value, number)
        values, violations = judge(value, self.options.goals, self.options.limits)
        named = zip(map(str, self.options.limits), violations, strict=True)
        self.state.tell(code, values, number, dict(named))

    def begin(self, code: str) -> None:
        """Note that somebody else evaluates a code, which is one of the space: it counts as asked."""
        self.state.begin(code)

    def close(self, code: str) -> None:
        """Rule out a code of the space without a value: its evaluation failed."""
        self.state.close(code)

    @property
    def history(self) -> History:
        """What was told, in order of evaluation, as scores to maximise; of several goals, how far off the front."""
        return self.state.ranking()

    @property
    def best(self) -> tuple[str, float]:
        """The best code so far that holds every limit, and its value.

        A ``HistoryError`` where nothing was told yet, nothing holds every limit, or there are several goals.
        """
        if len(self.state.goals) > 1:
            raise HistoryError("a search of several goals has no single best code; Searcher.front has the best ones")
        told = self.state.told
        if not len(told):
            raise HistoryError("nothing was told yet, so nothing is best")
        if (best := told.best) is None:
            code, broken = told.nearest
            raise HistoryError(f"nothing told holds every limit; the nearest, {code}, breaks {breaks(broken)}")
        return best

    @property
    def front(self) -> list[tuple[str, dict[str, float]]]:
        """The codes that hold every limit and that no other dominates, in order of evaluation, and the goals' values.

        A ``HistoryError`` where the search has no goals.
        """
        if not (names := [goal.name for goal in self.options.goals]):
            raise HistoryError("only a search of goals has a front; give it some, such as ['accuracy:max', 'size:min']")
        return [(code, dict(zip(names, values, strict=True))) for code, values in self.state.front()]

    def _take(self, proposals: Sequence[Proposal]) -> list[str]:
        """Note what was proposed: from now on it is pending."""
        self.choices = [choice for _, choice in proposals if choice]
        for code, _ in proposals:
            self.state.begin(code)
        return [code for code, _ in proposals]


def ask_together(searchers: Sequence[Searcher], n: int = 1) -> list[list[str]]:
    """What each searcher's ``ask(n)`` would return, from one engine call for all of them.

    The searchers are distinct and share their ranker and temperature; their spaces and histories may differ.

    Raises:
        NothingToPropose: one of the spaces holds nothing more, or none was found; no searcher has been asked then.
    """
    found = propose([searcher.state for searcher in searchers], searchers[0].ranker, n)
    return [searcher._take(proposals) for searcher, proposals in zip(searchers, found, strict=True)]
