"""Searches of several goals as studies: what is stored and found, the files, the command line, resumes and Optuna."""

import csv
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import optuna
import pytest
from click.testing import CliRunner, Result
from scripted import play_model, scripted_ranker

from lmsearcher_local.cli.main import main
from lmsearcher_local.errors import OptionError, StudyError
from lmsearcher_local.records.storage import load_study
from lmsearcher_local.search.optuna_sampler import LMSearcherSampler
from lmsearcher_local.search.searcher import Searcher
from lmsearcher_local.spaces.distributions import distributions
from lmsearcher_local.spaces.space import Configuration, SearchSpace
from lmsearcher_local.study.objectives.function import InProcess
from lmsearcher_local.study.results import Result as Found
from lmsearcher_local.study.run import run

optuna.logging.set_verbosity(optuna.logging.WARNING)
SPACE = SearchSpace({"rank": [2, 4, 8, 16, 32], "depth": [1, 2, 3, 4], "wide": [False, True]})
GOALS = ("accuracy:max", "latency:min")


def measure(configuration: Configuration) -> dict[str, float]:
    rank, depth, wide = configuration.values()
    size = rank * depth * (1 + wide)
    return {"accuracy": size**0.5 - abs(depth - 2.0), "latency": size + 3.0 * depth, "size": float(size)}


def search(out: Path, trials: int = 15, **options: object) -> Found:
    return run(InProcess(measure), SPACE, scripted_ranker(), out=out, trials=trials, **{"goals": GOALS, **options})


def codes(found: Found) -> list[str]:
    return [trial.code for trial in found.trials]


@pytest.mark.parametrize("limits", [(), ("size <= 24",)])
def test_the_front_is_found_stored_and_resumed(tmp_path: Path, limits: tuple[str, ...]) -> None:
    found = search(tmp_path / "whole", limits=limits)
    searcher = Searcher(SPACE, scripted_ranker(), goals=GOALS, limits=limits)
    for code in codes(found):
        assert searcher.ask() == [code]
        searcher.tell(code, measure(SPACE.decode(code)))
    assert {trial.code: dict(zip(("accuracy", "latency"), trial.values, strict=True)) for trial in found.front} == dict(
        searcher.front
    )
    study = load_study(str(tmp_path / "whole"))
    assert [one.name for one in study.directions] == ["MAXIMIZE", "MINIMIZE"]
    assert {trial.number + 1 for trial in study.best_trials} == {trial.number for trial in found.front}
    assert found.best is None
    search(tmp_path / "parts", 8, limits=limits)
    assert codes(search(tmp_path / "parts", 15, resume=True, limits=limits)) == codes(found)
    with pytest.raises(StudyError, match="another goals"):
        search(tmp_path / "parts", 16, resume=True, goals=("accuracy:max", "size:min"), limits=limits)


def test_the_file_of_the_front_holds_values_and_parameters(tmp_path: Path) -> None:
    found = search(tmp_path)
    with (tmp_path / "front.csv").open() as stream:
        rows = [*csv.DictReader(stream)]
    assert [row["ncode"] for row in rows] == [trial.code for trial in found.front]
    for row in rows:
        configuration = SPACE.decode(row["ncode"])
        assert {name: str(option) for name, option in configuration.items()}.items() <= row.items()
        assert float(row["measured accuracy"]) == measure(configuration)["accuracy"]
    first = [float(row["measured accuracy"]) for row in rows]
    assert first == sorted(first, reverse=True)


def test_a_missing_goal_fails_its_trial_and_a_warm_start_is_refused(tmp_path: Path) -> None:
    found = search(tmp_path / "a", 3, goals=("accuracy:max", "energy:min"))
    assert [trial.reason for trial in found.trials] == ["no energy was measured; there is accuracy, latency, size"] * 3
    assert found.front == ()
    with pytest.raises(StudyError, match="one value for each configuration"):
        search(tmp_path / "b", warm_start=[("000", 1.0)])


@pytest.mark.parametrize("fixed", [False, True])
def test_a_study_of_several_objectives_is_sampled(fixed: bool) -> None:
    def optimised(trials: int, study: optuna.Study | None = None) -> optuna.Study:
        sampler = LMSearcherSampler(scripted_ranker(), space=SPACE if fixed else None, seed=2)
        study = study or optuna.create_study(directions=["maximize", "minimize"])
        study.sampler = sampler
        study.optimize(objective, n_trials=trials)
        return study

    def objective(trial: optuna.Trial) -> tuple[float, float]:
        chosen = {name: trial.suggest_categorical(name, kind.choices) for name, kind in distributions(SPACE).items()}
        measured = measure(chosen)
        return measured["accuracy"], measured["latency"]

    whole = optimised(20)
    assert [trial.params for trial in optimised(8, optimised(12)).trials] == [trial.params for trial in whole.trials]
    assert len({tuple(trial.params.values()) for trial in whole.trials}) >= (20 if fixed else 15)
    best = np.array([trial.values for trial in whole.best_trials])
    assert len(best) > 2
    assert np.ptp(best[:, 0]) > 3


def test_more_objectives_than_goals_are_refused() -> None:
    for fixed in (SPACE, None):
        study = optuna.create_study(
            directions=["maximize"] * 4, sampler=LMSearcherSampler(scripted_ranker(), space=fixed)
        )
        with pytest.raises(OptionError, match="4 objectives; a search has at most 3 goals"):
            study.ask(distributions(SPACE))
    with pytest.raises(ValueError, match="the goals are the study's"):
        LMSearcherSampler(scripted_ranker(), goals=GOALS)


@pytest.fixture
def call(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[object]:
    """The command line in a folder of its own, with a scripted model."""
    play_model(monkeypatch, tmp_path)
    yield lambda *arguments: CliRunner().invoke(main, arguments)
    optuna.logging.set_verbosity(optuna.logging.INFO)


def test_the_command_line_shows_a_front_and_goes_on(call: object, tmp_path: Path) -> None:
    Path("space.yaml").write_text("rank: [2, 4, 8]\ndepth: [1, 2, 3]\n")
    command = """sh -c 'echo "{\\"accuracy\\": $0, \\"latency\\": $1}"' {rank} {depth}"""
    goals = ("--goal", "accuracy:max", "--goal", "latency:min")
    arguments = ("search", "space.yaml", "--command", command, *goals, "--out", "out")
    done: Result = call(*arguments, "--trials", "7")  # type: ignore[operator]
    assert done.exit_code == 0, done.output
    assert "that no other beats in every goal" in done.output
    assert "accuracy:max  latency:min" in done.output
    assert Path("out/search.png").stat().st_size > 5000
    again: Result = call(*arguments, "--trials", "9", "--resume")  # type: ignore[operator]
    assert "The front, 1 configuration of 9 trials" in again.output
    assert Path("out/front.csv").read_text().splitlines()[1].endswith(",20,8.0,1.0,8,1")
    page: Result = call("report", "out")  # type: ignore[operator]
    assert page.exit_code == 0, page.output
    text = Path("out/report.html").read_text()
    assert "The front" in text
    assert '<b id="front">1</b>' in text
    assert "hypervolume" in text


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--goal", "accuracy"], "a goal is written NAME:max or NAME:min, not 'accuracy'"),
        (["--goal", "a:max", "--direction", "minimize"], "--direction is for one value without a name"),
        ([f"--goal={name}:max" for name in "abcd"], "at most 3 goals, not 4"),
        (["--goal", "a:max", "--goal", "a:min"], "two goals are called a"),
    ],
)
def test_goals_that_cannot_be_searched_are_one_sentence(call: object, options: list[str], words: str) -> None:
    Path("space.yaml").write_text("rank: [2, 4, 8]\n")
    refused: Result = call("search", "space.yaml", "--command", "echo 1", "--out", "out", *options)  # type: ignore[operator]
    assert refused.exit_code == 2
    assert words in refused.output
    assert not Path("out").exists()
