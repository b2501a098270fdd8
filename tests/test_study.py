"""Studies: the trajectory, what failures cost, resuming, the files, and every refusal."""

import json
import math
import time
from collections.abc import Callable
from pathlib import Path

import optuna
import pytest
from optuna.trial import TrialState
from scripted import scripted_ranker

from lmsearcher_local.errors import HistoryError, LMSearcherError, SpaceError, StudyError
from lmsearcher_local.records.sources import read_history
from lmsearcher_local.search.options import DEFAULTS, SearchOptions
from lmsearcher_local.search.searcher import Searcher
from lmsearcher_local.spaces.distributions import distributions
from lmsearcher_local.spaces.files import read_pool, write_history
from lmsearcher_local.spaces.space import Configuration, SearchSpace
from lmsearcher_local.study.objectives.base import Objective
from lmsearcher_local.study.objectives.function import FunctionObjective, InProcess
from lmsearcher_local.study.results import Result
from lmsearcher_local.study.run import JOURNAL, RESULTS, Plan, open_search, run

optuna.logging.set_verbosity(optuna.logging.WARNING)
SPACE = SearchSpace({"a": ["x", "y", "z"], "b": [1, 2, 4, 8], "c": [True, False], "d": [0.1, 0.2, None]})


def score(configuration: Configuration) -> float:
    return float(SPACE.encode(configuration)) % 97


def codes(result: Result) -> list[str]:
    return [trial.code for trial in result.trials]


def folder(path: Path) -> dict[str, bytes]:
    return {str(file.relative_to(path)): file.read_bytes() for file in path.rglob("*") if file.is_file()}


def search(
    out: Path, trials: int = 12, objective: Callable[[Configuration], float] = score, **options: object
) -> Result:
    """In this process, where functions share what the tests look at."""
    goal = objective if isinstance(objective, Objective) else InProcess(objective)
    return run(goal, SPACE, scripted_ranker(), out=out, trials=trials, **options)  # type: ignore[arg-type]


class Interrupt:
    """The objective ``score``, and Ctrl-C at the given call."""

    def __init__(self, at: int) -> None:
        self.left = at
        self.__qualname__ = score.__qualname__

    def __call__(self, configuration: Configuration) -> float:
        self.left -= 1
        if self.left < 0:
            raise KeyboardInterrupt
        return score(configuration)


def test_the_trajectory_is_that_of_ask_and_tell(tmp_path: Path) -> None:
    searcher, asked = Searcher(SPACE, scripted_ranker(), seed=3), []
    for _ in range(30):
        [code] = searcher.ask()
        searcher.tell(code, score(SPACE.decode(code)))
        asked.append(code)
    result = search(tmp_path, 30, seed=3)
    assert codes(result) == asked
    assert len(set(asked)) == 30
    assert result.best == searcher.best
    assert codes(search(tmp_path / "other", 30, seed=4)) != asked


@pytest.mark.parametrize("storage", [None, "sqlite"])
def test_resume_continues_the_trajectory(tmp_path: Path, storage: str | None) -> None:
    url = storage and f"sqlite:///{tmp_path}/studies.db"
    whole = search(tmp_path / "whole", 20, storage=url)
    out = tmp_path / "parts"
    search(out, 4, storage=url)
    with pytest.raises(KeyboardInterrupt):
        search(out, 20, Interrupt(5), storage=url, resume=True)
    assert len(json.loads((out / RESULTS).read_text())) == 9
    assert search(out, 20, storage=url, resume=True) == whole
    assert (out / RESULTS).read_bytes() == (tmp_path / "whole" / RESULTS).read_bytes()
    assert search(out, 20, storage=url, resume=True) == whole  # nothing left to do
    assert len(codes(whole)) == 20
    assert (out / JOURNAL).exists() == (storage is None)


def test_resume_in_an_empty_folder_starts(tmp_path: Path) -> None:
    assert codes(search(tmp_path / "a", 6, resume=True)) == codes(search(tmp_path / "b", 6))


def test_failures_cost_their_trial_only(tmp_path: Path) -> None:
    answers = iter([1.0, math.nan, 2.0, "3", 4.0, None, math.inf, ZeroDivisionError("by zero"), 5.0, True])

    def failing(configuration: Configuration) -> float:
        answer = next(answers)
        if isinstance(answer, Exception):
            raise answer
        return answer  # type: ignore[return-value]

    result = search(tmp_path, 10, failing)
    assert [trial.value for trial in result.trials] == [1.0, None, 2.0, None, 4.0, None, None, None, 5.0, None]
    assert [trial.reason for trial in result.trials if trial.reason] == [
        "the objective returned nan; a finite number is needed",
        "the objective returned '3', which is no number",
        "the objective returned 'None', which is no number",
        "the objective returned inf; a finite number is needed",
        "ZeroDivisionError: by zero",
        "the objective returned 'True', which is no number",
    ]
    assert len(set(codes(result))) == 10  # a failed code is not proposed again
    assert list(json.loads((tmp_path / RESULTS).read_text())) == ["Trial1", "Trial2", "Trial3", "Trial4"]
    study = optuna.load_study(study_name=None, storage=journal(tmp_path))
    assert [trial.state for trial in study.trials].count(TrialState.FAIL) == 6


def sleepy(configuration: Configuration) -> float:
    if configuration["c"]:
        time.sleep(60)
    return 1.0


def test_timeouts_cost_their_trial_only(tmp_path: Path) -> None:
    result = search(tmp_path, 5, FunctionObjective(sleepy, timeout=0.3))  # type: ignore[arg-type]
    for trial in result.trials:
        assert trial.reason == ("not done after 0.3 s" if SPACE.decode(trial.code)["c"] else None)
    assert any(trial.reason for trial in result.trials)


def test_a_used_up_space_ends_the_search(tmp_path: Path) -> None:
    result = search(tmp_path, 100)
    assert result.exhausted
    assert sorted(codes(result)) == sorted(SPACE.enumerate())
    assert search(tmp_path, 100, resume=True) == result


def test_minimize(tmp_path: Path) -> None:
    result = search(tmp_path, direction="minimize")
    assert result.best is not None
    assert result.best[1] == min(trial.value for trial in result.trials if trial.value is not None)


def test_warm_start_is_shown_and_not_repeated(tmp_path: Path) -> None:
    first = search(tmp_path / "first", 15)
    known = read_history(tmp_path / "first" / RESULTS, SPACE).entries
    assert [code for code, _ in known] == codes(first)
    second = search(tmp_path / "second", 10, warm_start=known)
    assert codes(second)[:15] == codes(first)
    assert len(set(codes(second))) == 25
    assert (second.evaluated, second.random) == (10, 15)
    assert len(read_history(tmp_path / "second" / RESULTS, SPACE).entries) == 25
    third = tmp_path / "third"  # killed amid the warm start
    study = optuna.create_study(study_name="search", storage=journal(third), direction="maximize")
    study.set_user_attr("lmsearcher", Plan(SPACE, "function test_study:score", warm_start=known).describe())
    for code, value in known[:7]:
        given = optuna.trial.create_trial(
            params=SPACE.decode(code),
            distributions=distributions(SPACE),
            value=value,
            user_attrs={"warm start": True},
        )
        study.add_trial(given)
    assert search(third, 10, warm_start=known, resume=True) == second


def test_random_phase(tmp_path: Path) -> None:
    assert search(tmp_path / "five", 9).random == 5
    assert search(tmp_path / "short", 3).random == 3
    assert search(tmp_path / "given", 1, warm_start=[("0000", 1.0), ("0001", 2.0)]).random == 3
    failing = iter([None] * 7 + [1.0] * 3)
    assert search(tmp_path / "failing", 10, lambda configuration: next(failing)).random == 8  # type: ignore[arg-type,return-value]


def test_half_a_line_and_a_lock_left_by_a_kill_are_no_obstacle(tmp_path: Path) -> None:
    whole = search(tmp_path / "whole", 12)
    out = tmp_path / "killed"
    search(out, 6)
    with (out / JOURNAL).open("a") as stream:
        stream.write('{"op_code":5,"worker')
    (out / f"{JOURNAL}.lock").symlink_to(out / JOURNAL)
    started = time.monotonic()
    assert search(out, 12, resume=True) == whole
    assert time.monotonic() - started < 10  # Optuna waits half a minute for such a lock


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"seed": 1}, r"another seed \(0, not 1\)"),
        ({"direction": "minimize"}, r"another direction \(maximize, not minimize\)"),
        ({"checkpoint": "abc"}, r"another checkpoint \(, not abc\)"),
        ({"policy": "paper"}, r"another policy \(surrogate, not paper\)"),
        ({"temperature": 1.0}, r"another temperature \(None, not 1.0\)"),
        ({"pool_size": 5}, r"another pool size \(10, not 5\)"),
        ({"space": SearchSpace([5] * 4)}, "another space: resume"),
        ({"space": SearchSpace(dict(reversed(SPACE.describe().items())))}, "another space: resume"),
        ({"space": SearchSpace({**SPACE.describe(), "c": [1, 0]})}, "another space: resume"),
        ({"objective": "command echo 1"}, r"another objective \(function test_study:score, not command echo 1\)"),
        ({"warm_start": (("0000", 1.0),)}, "another warm start: resume"),
    ],
)
def test_resume_with_another_plan_is_refused(tmp_path: Path, change: dict[str, object], message: str) -> None:
    search(tmp_path, 6)
    before = folder(tmp_path)
    options = {name: change[name] for name in DEFAULTS.without() if name in change}
    rest = {name: value for name, value in change.items() if name not in options}
    same = {"space": SPACE, "objective": "function test_study:score"}
    plan = Plan(**same | rest, options=SearchOptions(**options))  # type: ignore[arg-type]
    with pytest.raises(StudyError, match=message) as raised, open_search(tmp_path, plan, resume=True):
        pass
    assert "\n" not in str(raised.value)
    assert folder(tmp_path) == before


def test_an_old_study_is_not_overwritten(tmp_path: Path) -> None:
    search(tmp_path, 6)
    before = folder(tmp_path)
    with pytest.raises(StudyError, match="already holds a study: add --resume to continue it, or choose another"):
        search(tmp_path, 6)
    with pytest.raises(StudyError, match=f"holds the {RESULTS} of another study"):
        search(tmp_path, 6, storage=f"sqlite:///{tmp_path}/../other.db")
    assert folder(tmp_path) == before


def test_a_study_of_another_program_is_refused(tmp_path: Path) -> None:
    study = optuna.create_study(study_name="search", storage=journal(tmp_path))
    study.optimize(lambda trial: trial.suggest_float("x", 0, 1), n_trials=1)
    before = folder(tmp_path)
    with pytest.raises(StudyError, match="holds a study of another program"):
        search(tmp_path, resume=True)
    assert folder(tmp_path) == before
    (tmp_path / JOURNAL).write_text("{]\n{}\n")
    with pytest.raises(StudyError, match="cannot open the storage"):
        search(tmp_path, resume=True)
    assert folder(tmp_path) == {JOURNAL: b"{]\n{}\n"}


def test_one_search_a_folder(tmp_path: Path) -> None:
    plan = Plan(SPACE, "function test_study:score")
    with open_search(tmp_path, plan), pytest.raises(StudyError, match="another search is running in"):
        search(tmp_path)
    search(tmp_path)


def test_an_output_folder_that_cannot_be_written_and_a_storage_that_cannot_be_opened(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StudyError, match="cannot use the output folder"):
        search(tmp_path / "file")
    for url in ("nonsense", "nosuchdialect:///x", f"sqlite:///{tmp_path}/no/such/folder/db"):
        with pytest.raises(StudyError, match=f"cannot open the storage {url}"):
            search(tmp_path / "out", storage=url)


def test_a_model_that_fails_leaves_nothing_behind(tmp_path: Path) -> None:
    ranker = scripted_ranker()
    ranker.engine.max_length = 10
    with pytest.raises(LMSearcherError, match="this checkpoint reads 10"):
        run(score, SPACE, ranker, out=tmp_path)
    search(tmp_path, 6)


def test_history_files_round_trip(tmp_path: Path) -> None:
    values = [("0000", 1.5), ("2312", -1e-300), ("0100", 1e300)]
    write_history(tmp_path / "h.json", values)
    assert json.loads((tmp_path / "h.json").read_text())["Trial1"] == {"cell": "0000", "prediction": 1.5}
    assert [*read_history(tmp_path / "h.json", SPACE).entries] == values
    (tmp_path / "h.csv").write_text("code,value\n0000,1.5\n\n2312 , -1e-300\r\n0100,1e300\n")
    assert [*read_history(tmp_path / "h.csv", SPACE).entries] == values
    assert [file.name for file in sorted(tmp_path.iterdir())] == ["h.csv", "h.json"]


@pytest.mark.parametrize(
    ("name", "text", "error", "message"),
    [
        ("h.json", None, HistoryError, "cannot read .*h.json: No such file"),
        ("h.json", "{", HistoryError, "is not valid JSON"),
        ("h.json", "[]", HistoryError, "does not hold"),
        ("h.json", '{"Trial1": 3}', HistoryError, "Trial1 has no cell and prediction"),
        ("h.json", '{"Trial1": {"cell": "9999", "prediction": 1}}', SpaceError, "Trial1: '9999' is not of this space"),
        ("h.json", '{"Trial1": {"cell": 12, "prediction": 1}}', SpaceError, "Trial1: a code is text, not 12"),
        ("h.json", '{"T": {"cell": "0000", "prediction": NaN}}', HistoryError, "T: the value is nan; a finite number"),
        ("h.json", '{"T": {"cell": "0000", "prediction": "1"}}', HistoryError, "T: the value is '1'; a finite number"),
        ("h.csv", "0000", HistoryError, "line 1: a line is code,value, not 0000"),
        ("h.csv", "code,value\n0000,best", HistoryError, "line 2: the value is 'best'; a finite number is needed"),
        ("h.csv", "0000,nan", HistoryError, "line 1: the value is nan; a finite number is needed"),
        ("h.csv", "0000,1\n01,1", SpaceError, "line 2: '01' is not of this space: its codes are 4 digits long"),
        ("h.csv", "0000\udcff,1", HistoryError, "no text file in UTF-8"),
    ],
)
def test_malformed_histories(tmp_path: Path, name: str, text: str | None, error: type[Exception], message: str) -> None:
    if text is not None:
        (tmp_path / name).write_text(text, errors="surrogateescape")
    with pytest.raises(error, match=message):
        read_history(tmp_path / name, SPACE)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "cannot read .*: No such file"),
        ("code\n", "holds no candidate; write one code a line"),
        ("0000\n0001\n0000\n", "line 3: 0000 is listed twice"),
        ("0000\n0400\n", "line 2: '0400' is not of this space: b has options 0 to 3, not 4"),
    ],
)
def test_malformed_pools(tmp_path: Path, text: str | None, message: str) -> None:
    if text is not None:
        (tmp_path / "pool").write_text(text)
    with pytest.raises(SpaceError, match=message):
        read_pool(tmp_path / "pool", SPACE)


def journal(out: Path) -> optuna.storages.JournalStorage:
    out.mkdir(exist_ok=True)
    return optuna.storages.JournalStorage(optuna.storages.journal.JournalFileBackend(str(out / JOURNAL)))
