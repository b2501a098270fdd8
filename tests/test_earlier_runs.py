"""Earlier searches are read by parameter name and value, with their own direction; a resume sees the same ones."""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import optuna
import pytest
from click.testing import CliRunner
from optuna.distributions import FloatDistribution, IntDistribution
from scripted import Here, scripted_ranker

from lmsearcher_local.candidates.earlier import Earlier
from lmsearcher_local.cli.main import main
from lmsearcher_local.errors import HistoryError, LMSearcherError, SpaceError, StudyError
from lmsearcher_local.records.earlier_runs import read_earlier, study_as_earlier
from lmsearcher_local.records.sources import read_first
from lmsearcher_local.records.storage import load_study
from lmsearcher_local.report.page import page_of
from lmsearcher_local.search.optuna_sampler import LMSearcherSampler
from lmsearcher_local.search.propose import INITIAL
from lmsearcher_local.search.searcher import Searcher
from lmsearcher_local.spaces.space import Configuration, SearchSpace
from lmsearcher_local.study.plan import Plan
from lmsearcher_local.study.run import run
from lmsearcher_local.study.schema import choice_of

optuna.logging.set_verbosity(optuna.logging.WARNING)
SPACE = SearchSpace({"rank": [4, 8, 16], "lr": [0.1, 0.01], "kind": ["a", "b"]})


def loss(configuration: Configuration) -> float:
    return float(SPACE.encode(configuration)) / 7


@pytest.fixture(scope="module")
def old(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A search of eight trials that minimises."""
    out = tmp_path_factory.mktemp("old") / "run"
    run(Here(loss), SPACE, scripted_ranker(), out=out, trials=8, direction="minimize")
    return out


@pytest.mark.parametrize("file", ["", "results.csv", "historical_results.json", "study.journal", "study"])
def test_every_form_of_a_search_says_the_same_in_its_own_direction(old: Path, file: str) -> None:
    source = load_study(old) if file == "study" else old / file
    earlier, notes = read_earlier(source, SPACE, "maximize")
    assert notes == ()
    assert earlier.positions == (0, 1, 2)
    scores = dict(zip(earlier.history.codes, earlier.history.scores, strict=True))
    assert scores == {code: -float(code) / 7 for code in scores}  # higher is better
    assert len(scores) == 8


@pytest.mark.parametrize("file", ["", "results.csv", "historical_results.json"])
def test_a_space_that_is_only_partly_the_same(old: Path, file: str) -> None:
    space = SearchSpace({"depth": [1, 2], "kind": ["b", "c", "a"], "rank": [32, 16, 8]})
    earlier, notes = read_earlier(old / file, space)
    assert earlier.positions == (1, 2)
    assert earlier.space.names == ("kind", "rank")
    told = [trial.params for trial in load_study(old).trials]
    fit = {(params["kind"], params["rank"]) for params in told if params["rank"] != 4}
    configurations = [earlier.space.decode(code) for code in earlier.history.codes]
    assert {(found["kind"], found["rank"]) for found in configurations} == fit
    for configuration, score in zip(configurations, earlier.history.scores, strict=True):
        both = [-loss(params) for params in told if params | configuration == params]  # whatever lr was
        assert score == pytest.approx(sum(both) / len(both))
    left_out = sum(params["rank"] == 4 for params in told)
    assert [note.replace(str(old / file), "RUN").split(";")[0] for note in notes] == [
        f"RUN: {left_out} trials are left out, because this space does not offer them",
        "RUN has lr besides, which is ignored, and says nothing about depth, which it does not have",
    ]


def test_csv_and_json_of_other_programs(tmp_path: Path) -> None:
    rows = [{"rank": 8, "kind": "a", "host": "x", "value": 2.5}, {"rank": 16, "kind": "b", "host": "y", "value": 1}]
    (tmp_path / "a.json").write_text(json.dumps(rows))
    (tmp_path / "a.csv").write_text("rank,kind,host,value\n8,a,x,2.5\n16,b,y,1\n")
    (tmp_path / "bare.csv").write_text("code,value\n100,2.5\n211,1\n")
    for name in ("a.json", "a.csv"):
        earlier, notes = read_earlier(tmp_path / name, SPACE, "minimize")
        assert earlier.history.codes == ("10", "21")
        assert earlier.history.scores == (-2.5, -1)
        assert notes[0].endswith(
            "has host besides, which is ignored, and says nothing about lr, which it does not have"
        )
    assert read_earlier(tmp_path / "bare.csv", SPACE).earlier.history.codes == ("100", "211")


def test_what_says_nothing_is_refused_in_one_sentence(old: Path, tmp_path: Path) -> None:
    with pytest.raises(HistoryError, match=r"has no parameter of this space: it has rank, lr, kind, this space x$"):
        read_earlier(old, SearchSpace({"x": [1, 2]}))
    with pytest.raises(HistoryError, match="this space offers none of its 8 trials"):
        read_earlier(old, SearchSpace({"rank": [64, 128]}))
    (tmp_path / "empty.csv").write_text("rank,value\n8,\n")
    with pytest.raises(HistoryError, match="holds no trial with a value"):
        read_earlier(tmp_path / "empty.csv", SPACE)
    with pytest.raises(LMSearcherError, match="nowhere"):
        read_earlier(tmp_path / "nowhere", SPACE)


def test_equal_seeds_and_a_resume_hold_and_a_changed_source_is_said(old: Path, tmp_path: Path) -> None:
    space = SearchSpace({**SPACE.describe(), "depth": [1, 2, 3]})

    def value(configuration: Configuration) -> float:
        return float(space.encode(configuration))

    first = read_earlier(old, space).earlier
    second = replace(first, name="second", history=first.history.best(6))
    sources = [first, second]

    def search(out: str, trials: int, resume: bool = False, earlier: Sequence[Earlier] = sources) -> list[str]:
        ranker = scripted_ranker()
        found = run(Here(value), space, ranker, out=tmp_path / out, trials=trials, resume=resume, earlier=earlier)
        return [trial.code for trial in found.trials]

    whole = search("whole", 12)
    assert search("again", 12) == whole
    assert search("whole", 12, resume=True) == whole
    search("parts", 3)
    search("parts", 8, resume=True)
    assert search("parts", 12, resume=True) == whole
    assert search("none", 12, earlier=()) != whole
    choice = choice_of(load_study(tmp_path / "whole").trials[INITIAL], space)
    assert choice is not None
    assert choice.belief is not None
    assert len(choice.belief[1]) == 2
    for other, reason in (
        ([], "RUN is missing now"),
        (sources[::-1], "they were given in another order"),
        ([*sources, first], "RUN was not given when it began"),
        ([replace(first, history=first.history.best(5)), second], "RUN has changed since"),
    ):
        with pytest.raises(StudyError, match="holds a study with another earlier search") as caught:
            search("parts", 12, True, other)
        assert f"({reason})" in str(caught.value).replace(str(old), "RUN")


@pytest.mark.parametrize("fixed", [True, False], ids=["fixed", "as suggested"])
def test_an_optuna_study_learns_from_others(fixed: bool) -> None:
    def objective(trial: optuna.Trial) -> float:
        x = trial.suggest_categorical("x", list(range(12))) if fixed else trial.suggest_float("x", 0, 12)
        y = trial.suggest_categorical("y", ["a", "b", "c"])
        return (x - 7) ** 2 + 5 * (y != "b")

    old = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    old.optimize(objective, n_trials=40)
    space = SearchSpace({"x": list(range(12)), "y": ["a", "b", "c"]}) if fixed else None
    new = optuna.create_study(sampler=LMSearcherSampler(scripted_ranker(), space=space, earlier=[old]))
    new.optimize(objective, n_trials=4)
    early = [trial.value for trial in new.trials[int(not fixed) :]]  # what no trial has shown is random
    assert min(value for value in early if value is not None) <= 1.5


def test_what_a_sampler_cannot_learn_from_is_refused_at_once(old: Path) -> None:
    several, one = optuna.create_study(directions=["minimize", "maximize"]), load_study(old)
    for earlier, reason in (
        ([several], "has 2 objectives"),
        ([one] * 51, "51 earlier searches were given; at most 50"),
    ):
        for space in (SPACE, None):
            with pytest.raises(HistoryError, match=reason):
                LMSearcherSampler(scripted_ranker(), space=space, earlier=earlier)
    with pytest.raises(HistoryError, match="was read for a fixed space"):
        LMSearcherSampler(scripted_ranker(), earlier=[read_earlier(old, SPACE).earlier])
    with pytest.raises(ValueError, match="without a fixed space"):
        LMSearcherSampler(scripted_ranker(), first=["000"])


def test_a_study_of_before_there_were_sources_goes_on() -> None:
    plan = Plan(SPACE, "objective")
    kept = {name: value for name, value in plan.describe().items() if name not in ("first", "earlier")}
    assert plan.difference(kept) is None


def test_numbers_of_a_study_are_read_in_bins_and_what_is_out_of_range_is_left_out() -> None:
    old = optuna.create_study(direction="maximize")
    for x, layers in ((0.05, 1), (0.95, 3), (3.0, 2), (0.5, 9)):
        kinds = {"x": FloatDistribution(0, 4), "layers": IntDistribution(1, 9)}
        old.add_trial(
            optuna.trial.create_trial(params={"x": x, "layers": layers}, distributions=kinds, value=x + layers)
        )
    found = study_as_earlier(old, {"new": IntDistribution(0, 3), "x": FloatDistribution(0, 1)})
    assert found is not None
    assert found.positions == (1,)
    assert found.history.codes == ("00", "15", "08")
    assert found.history.scores == pytest.approx((1.05, 3.95, 9.5))
    assert study_as_earlier(old, {"other": FloatDistribution(0, 1)}) is None


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.csv", "kind,rank,lr\nb,16,0.01\na,4,0.1\n"),
        ("b.csv", "kind,rank,lr,value\nb,16,0.01,\na,4,0.1,7\n"),
        ("c.csv", "211\n000\n"),
        ("d.csv", "code,value\n211,5\n000,\n"),
        ("e.json", '[{"kind": "b", "rank": 16, "lr": 0.01}, {"kind": "a", "rank": 4, "lr": 0.1, "value": null}]'),
        ("f.json", '[{"code": "211"}, {"code": "000", "value": 3}]'),
        ("g.json", '{"Trial1": {"cell": "211"}, "Trial2": {"cell": "000", "prediction": null}}'),
    ],
)
def test_configurations_to_begin_with_need_no_values(name: str, text: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(text)
    assert read_first(tmp_path / name, SPACE).codes == ["211", "000"]


def test_the_first_of_a_search_are_its_trials_in_order_and_what_does_not_fit_is_said(old: Path, tmp_path: Path) -> None:
    told = [trial.code for trial in run(Here(loss), SPACE, scripted_ranker(), out=tmp_path / "x", trials=3).trials]
    assert read_first(tmp_path / "x", SPACE).codes == told
    edited = SearchSpace({**SPACE.describe(), "rank": [8, 16, 32]})
    found = read_first(old, edited)
    assert found.note.startswith(f"{old}: ")
    assert "left out" in found.note
    (tmp_path / "bad.csv").write_text("999\n")
    with pytest.raises(SpaceError, match="rank has options 0 to 2"):
        read_first(tmp_path / "bad.csv", SPACE)
    (tmp_path / "none.csv").write_text("rank,lr,kind\n7,0.1,a\n")
    with pytest.raises(HistoryError, match="holds no configuration of this space; line 2: rank has no option '7'"):
        read_first(tmp_path / "none.csv", SPACE)


def test_what_is_to_be_first_is_proposed_first_also_after_a_resume_and_not_twice(tmp_path: Path) -> None:
    searcher = Searcher(SPACE, scripted_ranker(), first=["211", "000", "110"])
    searcher.tell("000", 1.0)
    assert searcher.ask(2) == ["211", "110"]
    assert not set(searcher.ask(2)) & {"211", "000", "110"}
    with pytest.raises(SpaceError, match="'999' is not of this space"):
        Searcher(SPACE, scripted_ranker(), first=["999"])
    for trials in (1, 2, 6):
        result = run(
            Here(loss), SPACE, scripted_ranker(), out=tmp_path, trials=trials, resume=True, first=["211", "000"]
        )
    assert [trial.code for trial in result.trials][:2] == ["211", "000"]
    assert len({trial.code for trial in result.trials}) == 6
    with pytest.raises(StudyError, match="holds a study with another list of first configurations"):
        run(Here(loss), SPACE, scripted_ranker(), out=tmp_path, trials=6, resume=True)


def test_the_command_line(old: Path, rows_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "space.yaml").write_text("rank: [4, 8, 16]\nlr: [0.1, 0.01]\ndepth: [1, 2, 3]\n")
    (tmp_path / "first.csv").write_text("rank,lr,depth\n16,0.1,2\n")
    arguments = ["search", str(tmp_path / "space.yaml"), "--command", "echo {rank}", "--trials", "3"]
    arguments += ["--engine", "transformers", "--checkpoint", str(rows_folder), "--out", str(tmp_path / "out")]
    arguments += ["--earlier", str(old), "--earlier", str(old / "results.csv"), "--first", str(tmp_path / "first.csv")]
    found = CliRunner().invoke(main, arguments)
    assert found.exit_code == 0, found.output
    sentence = "has kind besides, which is ignored, and says nothing about depth, which it does not have"
    assert found.output.count(sentence) == 2
    assert load_study(tmp_path / "out").trials[0].params == {"rank": 16, "lr": 0.1, "depth": 2}
    again = CliRunner().invoke(main, [*arguments[:-4], "--resume"])
    assert again.exit_code == 2
    assert "another list of first" in again.output


def test_the_report_shows_how_far_each_source_was_believed(old: Path, tmp_path: Path) -> None:
    sources = [read_earlier(old, SPACE).earlier, read_earlier(old / "results.csv", SPACE).earlier]
    run(Here(loss), SPACE, scripted_ranker(), out=tmp_path, trials=9, direction="minimize", earlier=sources)
    page = page_of(str(tmp_path))
    assert "What earlier searches said" in page
    assert "what comes before was taken from earlier searches or known" in page
    assert str(old) in page
    assert "0.2 before\nthe first trial" in page
    table = page.partition('<table id="earlier"')[2].partition("</table>")[0]
    assert table.count("<tr>") == 1 + 9 - INITIAL
    assert table.count("agreement of") == 2
    plain = tmp_path / "plain"
    run(Here(loss), SPACE, scripted_ranker(), out=plain, trials=7)
    assert "What earlier searches said" not in page_of(str(plain))
