"""Forbidden combinations and conditional parameters from end to end: studies, files, Optuna, the command line."""

import csv
import json
from contextlib import nullcontext
from pathlib import Path

import optuna
import pytest
from click.testing import CliRunner
from optuna.trial import Trial, TrialState
from scripted import scripted_ranker

from lmsearcher_local.cli.main import main
from lmsearcher_local.errors import HistoryError, StudyError
from lmsearcher_local.model import load
from lmsearcher_local.records.earlier_runs import read_earlier
from lmsearcher_local.records.sources import read_first, read_history
from lmsearcher_local.report.page import page_of
from lmsearcher_local.search.optuna_sampler import LMSearcherSampler
from lmsearcher_local.search.searcher import Searcher
from lmsearcher_local.spaces.files import read_pool
from lmsearcher_local.spaces.space import Configuration, SearchSpace
from lmsearcher_local.study.objectives.command import CommandObjective
from lmsearcher_local.study.objectives.function import InProcess
from lmsearcher_local.study.results import Result, dataframe
from lmsearcher_local.study.run import run

optuna.logging.set_verbosity(optuna.logging.WARNING)
OPTIONS = {"optimizer": ["adam", "sgd"], "momentum": [0.0, 0.5, 0.9], "rank": [4, 8, 16], "alpha": [4, 8, 16]}
WHERE, WHEN = ["rank <= alpha"], {"momentum": "optimizer == 'sgd'"}
SPACE = SearchSpace(OPTIONS, where=WHERE, when=WHEN)
FREE = SearchSpace(OPTIONS)


def score(configuration: Configuration) -> float:
    assert ("momentum" in configuration) == (configuration["optimizer"] == "sgd")
    return float(str(configuration["rank"])) / float(str(configuration.get("momentum", 0.1) or 1))


def search(out: Path, trials: int, space: SearchSpace = SPACE, **options: object) -> Result:
    return run(InProcess(score), space, scripted_ranker(), out=out, trials=trials, **options)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def old(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A search of the space without expressions: 54 configurations, 30 evaluated."""
    out = tmp_path_factory.mktemp("old") / "run"
    run(InProcess(lambda c: float(c["rank"])), FREE, scripted_ranker(), out=out, trials=30)  # type: ignore[arg-type]
    return out


def test_a_search_of_all_that_is_allowed(tmp_path: Path) -> None:
    result = search(tmp_path / "whole", 99)
    assert result.exhausted
    assert len(result.trials) == SPACE.count == 24
    assert not any(trial.reason for trial in result.trials)
    searcher, asked = Searcher(SPACE, scripted_ranker()), []
    for _ in range(24):
        [code] = searcher.ask()
        searcher.tell(code, score(SPACE.decode(code)))
        asked.append(code)
    assert asked == [trial.code for trial in result.trials]
    search(tmp_path / "parts", 9)
    resumed = search(tmp_path / "parts", 99, resume=True)
    assert [trial.code for trial in resumed.trials] == asked
    for trial in optuna.load_study(study_name=None, storage=storage(tmp_path / "whole")).trials:
        assert ("momentum" in trial.params) == (trial.params["optimizer"] == "sgd")
    assert dataframe(result)["momentum"].isna().sum() == 6


def storage(out: Path) -> optuna.storages.JournalStorage:
    backend = optuna.storages.journal.JournalFileBackend(str(out / "study.journal"))
    return optuna.storages.JournalStorage(backend)


@pytest.mark.parametrize("other", [{"where": WHERE}, {"when": WHEN}, {"where": ["alpha >= rank"], "when": WHEN}])
def test_a_resume_with_other_expressions_is_refused(tmp_path: Path, other: dict[str, object]) -> None:
    search(tmp_path, 3)
    space = SearchSpace(OPTIONS, **other)  # type: ignore[arg-type]
    with pytest.raises(StudyError, match="another list of expressions in whe"):
        search(tmp_path, 5, space, resume=True)


@pytest.mark.parametrize("file", ["", "results.csv", "historical_results.json", "study.journal"])
def test_every_form_of_a_search_is_read_again(tmp_path: Path, file: str) -> None:
    result = search(tmp_path / "run", 20)
    entries = [(trial.code, trial.value) for trial in result.trials]
    source = read_history(tmp_path / "run" / file, SPACE)
    assert [*source.entries] == entries
    assert source.note == ""
    earlier, notes = read_earlier(tmp_path / "run" / file, SPACE)
    assert notes == ()
    assert len(earlier.history) == 20
    assert [*read_first(tmp_path / "run" / file, SPACE).codes] == [code for code, _ in entries]
    dataframe(result).to_json(tmp_path / "frame.json", orient="records")
    framed = read_history(tmp_path / "frame.json", SPACE).entries
    assert [(code, pytest.approx(value)) for code, value in framed] == entries


@pytest.mark.parametrize("file", ["", "results.csv", "historical_results.json"])
def test_trials_that_break_an_expression_are_counted_and_left_out(old: Path, tmp_path: Path, file: str) -> None:
    source = read_history(old / file, SPACE)
    left = sum(not rank_fits(row["code"]) for row in evaluated(old))
    assert source.left_out == left > 0
    assert len(source.entries) == 30 - left
    assert f"{left} trials are left out, because this space does not offer them; the first: " in source.note
    assert "breaks 'rank <= alpha'" in source.note
    assert all(code in SPACE for code, _ in source.entries)  # a momentum of adam's is of no account
    earlier, notes = read_earlier(old / file, SPACE)
    assert f"{left} trials are left out" in notes[0]
    assert earlier.space.where == ("rank <= alpha",)
    result = search(tmp_path, 12, warm_start=source.entries, earlier=[earlier])
    assert all(trial.code in SPACE for trial in result.trials)
    first = read_first(old / file, SPACE)
    assert (len(first.codes), "left out" in first.note) == (len({code for code, _ in source.entries}), True)
    bare = tmp_path.parent / "bare.csv"
    bare.write_text("0020,1\n0000,2\n")
    assert read_history(bare, SPACE).left_out == 1
    bare.write_text("0020,1\n")
    with pytest.raises(HistoryError, match="this space offers none of its 1 trials"):
        read_history(bare, SPACE)


def evaluated(out: Path) -> list[dict[str, str]]:
    return [*csv.DictReader((out / "results.csv").read_text().splitlines())]


def rank_fits(code: str) -> bool:
    return code[2] <= code[3]


def test_an_earlier_search_that_shares_some_parameters(tmp_path: Path) -> None:
    """Expressions that read others are of no account, and neither is a parameter whose condition reads others."""
    search(tmp_path, 15)
    space = SearchSpace(
        {**OPTIONS, "more": [1, 2]}, where=[*WHERE, "more == 1 or rank == 4"], when={**WHEN, "alpha": "more == 1"}
    )
    earlier, _ = read_earlier(tmp_path, space)
    assert earlier.space == SearchSpace({name: OPTIONS[name] for name in ("optimizer", "momentum", "rank")}, when=WHEN)
    searcher = Searcher(space, scripted_ranker(), earlier=[earlier])
    for _ in range(8):
        [code] = searcher.ask()
        searcher.tell(code, 1.0)


def test_an_objective_of_optuna_suggests_what_is_active() -> None:
    def objective(trial: Trial) -> float:
        configuration: Configuration = {}
        for name in ("optimizer", "rank", "alpha"):
            configuration[name] = trial.suggest_categorical(name, OPTIONS[name])
        if configuration["optimizer"] == "sgd":
            configuration["momentum"] = trial.suggest_categorical("momentum", OPTIONS["momentum"])
        assert SPACE.encode(configuration)
        return score(configuration)

    sampler = LMSearcherSampler(scripted_ranker(), space=SPACE)
    study = optuna.create_study(direction="maximize", sampler=sampler)
    study.enqueue_trial({"optimizer": "sgd", "momentum": 0.5, "rank": 4, "alpha": 4})
    study.optimize(objective, n_trials=50)
    assert [trial.state for trial in study.trials] == [TrialState.COMPLETE] * 24  # the space is used up, and it ends
    assert len({json.dumps(trial.params, sort_keys=True) for trial in study.trials}) == 24
    again = optuna.create_study(direction="maximize", sampler=LMSearcherSampler(scripted_ranker(), space=SPACE))
    again.enqueue_trial({"optimizer": "sgd", "momentum": 0.5, "rank": 4, "alpha": 4})
    again.optimize(objective, n_trials=10)
    assert [trial.params for trial in again.trials] == [trial.params for trial in study.trials[:10]]

    def careless(trial: Trial) -> float:
        return sum(len(str(trial.suggest_categorical(name, options))) for name, options in OPTIONS.items())

    with pytest.raises(StudyError, match="'momentum' is suggested where the sampler's space says that it is inactive"):
        optuna.create_study(sampler=LMSearcherSampler(scripted_ranker(), space=SPACE)).optimize(careless, n_trials=24)


def test_what_a_command_gets_of_an_inactive_parameter() -> None:
    active, inactive = SPACE.decode("1200"), SPACE.decode("0000")
    shell = CommandObjective(
        'm={momentum}; set -- ${m:+--momentum "$m"} {rank}; test $# = 1; echo $((1 - $?))$#', SPACE
    )
    assert shell("0000", inactive) == 11
    assert shell("1200", active) == 3
    program = '["sh", "-c", "echo $#", "sh", "--rank={rank}", "--momentum={momentum}"]'
    words = CommandObjective(program, SPACE)
    assert (words("0000", inactive), words("1200", active)) == (1, 2)


def test_the_commands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(load, "load_ranker", lambda *_, **__: nullcontext(scripted_ranker()))
    space = {"parameters": OPTIONS, "where": WHERE, "when": WHEN}
    Path("space.json").write_text(json.dumps(space))
    command = ["search", "space.json", "--command", "m={momentum}; echo ${m:-7}", "--out", "out"]
    done = CliRunner().invoke(main, [*command, "--trials", "8"])
    assert done.exit_code == 0, done.output
    assert "space: 24 configurations" in done.stderr
    done = CliRunner().invoke(main, [*command, "--trials", "60", "--resume"])
    assert done.exit_code == 0, done.output
    assert "The space is used up" in done.stdout
    rows = evaluated(Path("out"))
    assert len(rows) == 24
    assert {row["value"] for row in rows if row["optimizer"] == "adam"} == {"7.0"}
    page = page_of("out")
    assert '<p class="soft" id="where">Every configuration satisfies <code>rank &lt;= alpha</code>.</p>' in page
    assert "<code>momentum</code> counts when <code>optimizer == &#39;sgd&#39;</code>" in page
    Path("pool.csv").write_text("optimizer,momentum,rank,alpha\nadam,,4,8\nsgd,0.9,4,8\n")
    assert read_pool(Path("pool.csv"), SPACE).codes == ["0001", "1201"]
    ranked = CliRunner().invoke(main, ["rank", "space.json", "--history", "out", "--pool", "pool.csv", "--json"])
    assert ranked.exit_code == 0, ranked.output
    configurations = {row["code"]: row["configuration"] for row in json.loads(ranked.stdout)["ranking"]}
    assert configurations["0001"] == {"optimizer": "adam", "rank": 4, "alpha": 8}
    Path("pool.csv").write_text("optimizer,momentum,rank,alpha\nadam,,8,4\n")
    refused = CliRunner().invoke(main, ["rank", "space.json", "--history", "out", "--pool", "pool.csv"])
    assert refused.exit_code == 2
    assert "pool.csv: line 2: '0010' names a configuration that breaks 'rank <= alpha'" in refused.stderr
