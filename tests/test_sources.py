"""A source speaks for itself: what any file of a search says is read by name and value, in an edited space as well."""

import json
import shutil
from pathlib import Path
from typing import Any

import optuna
import pytest
from scripted import scripted_ranker

from lmsearcher_local.errors import HistoryError, LMSearcherError, SpaceError
from lmsearcher_local.records.sources import read_history
from lmsearcher_local.records.storage import JOURNAL, STUDY
from lmsearcher_local.report.page import page_of
from lmsearcher_local.spaces.files import RESULTS, TABLE, read_pool
from lmsearcher_local.spaces.space import Configuration, SearchSpace
from lmsearcher_local.study.results import Result, dataframe
from lmsearcher_local.study.run import run

optuna.logging.set_verbosity(optuna.logging.WARNING)
PARAMETERS: dict[str, list[Any]] = {
    "rank": [4, 8, 16],
    "lr": [0.1, 0.001],
    "on": [True, False],
    "name": ["a", "b, c", None],
}
SPACE = SearchSpace(PARAMETERS)
EDITED = {
    "the same": PARAMETERS,
    "an option more": PARAMETERS | {"rank": [2, 4, 8, 16]},
    "an option fewer": PARAMETERS | {"rank": [8, 16]},
    "options reordered": {name: options[::-1] for name, options in PARAMETERS.items()},
    "parameters reordered": dict(reversed(PARAMETERS.items())),
    "numbers spelled otherwise": PARAMETERS | {"rank": [4.0, 8.0, 16.0]},
    "booleans as bits": PARAMETERS | {"on": [0, 1]},
    "a parameter renamed": {"r" if name == "rank" else name: options for name, options in PARAMETERS.items()},
    "a parameter more": PARAMETERS | {"depth": [1, 2]},
    "a parameter fewer": {name: options for name, options in PARAMETERS.items() if name != "name"},
}
NONE_FITS = ("booleans as bits", "a parameter renamed", "a parameter more", "a parameter fewer")


def score(configuration: Configuration) -> float:
    if configuration["rank"] == 8 and configuration["on"]:
        raise ValueError("no")
    return float(SPACE.encode(configuration)) / 7


@pytest.fixture(scope="module")
def searched(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Result]:
    """Searches with a journal and with another storage, copies of the table, and what the first found."""
    home = tmp_path_factory.mktemp("searched")
    url = f"sqlite:///{home}/studies.db"
    result = run(score, SPACE, scripted_ranker(), out=home / "journal", trials=20, direction="minimize")
    run(score, SPACE, scripted_ranker(), out=home / "elsewhere", trials=20, direction="minimize", storage=url)
    (home / "copy").mkdir()
    for name in ("copy.csv", f"copy/{TABLE}"):
        shutil.copy(home / "journal" / TABLE, home / name)
    (home / "marked.csv").write_bytes("\ufeff".encode() + (home / "journal" / TABLE).read_bytes())
    dataframe(result).to_csv(home / "frame.csv", index=False)
    (home / "frame.json").write_text(dataframe(result).to_json(orient="records", double_precision=15))
    (home / "url").write_text(url)
    return home, result


@pytest.mark.parametrize("edit", EDITED)
@pytest.mark.parametrize(
    "source",
    [
        *("journal", f"journal/{RESULTS}", f"journal/{TABLE}", f"journal/{JOURNAL}"),
        *("elsewhere", f"elsewhere/{RESULTS}", f"elsewhere/{TABLE}", "STORAGE"),
        *("copy", "copy.csv", "marked.csv", "frame.csv", "frame.json"),
    ],
)
def test_round_trip(searched: tuple[Path, Result], source: str, edit: str) -> None:
    home, result = searched
    space = SearchSpace(EDITED[edit])
    told = [trial for trial in result.trials if trial.value is not None]
    fits = [t for t in told if edit not in NONE_FITS and t.configuration["rank"] in space.describe()["rank"]]
    expected = [(space.encode(trial.configuration), trial.value) for trial in fits]
    place = f"{(home / 'url').read_text()}#elsewhere" if source == "STORAGE" else str(home / source)
    if not fits:
        with pytest.raises(LMSearcherError, match=r"this space offers none of its 1|line 1: "):
            read_history(place, space)
    else:
        found = read_history(place, space)
        assert [(code, pytest.approx(value)) for code, value in expected] == list(found.entries)
        assert found.left_out == len(told) - len(fits)
        count = f"{found.left_out} trials are left out, because this space does not offer them; the first: "
        assert count in found.note if found.left_out else found.note == ""
        assert found.direction == (None if source.startswith(("copy", "marked", "frame")) else "minimize")
    if not source.endswith(".csv"):
        return
    fits = [t for t in result.trials if edit not in NONE_FITS and t.configuration["rank"] in space.describe()["rank"]]
    if not fits:
        with pytest.raises(SpaceError, match=r"line 1: |holds no candidate of this space; line"):
            read_pool(Path(place), space)
        return
    pool, note = read_pool(Path(place), space)
    assert pool == [space.encode(trial.configuration) for trial in fits]
    assert bool(note) == (len(fits) < len(result.trials))


def test_the_report_reads_what_a_search_wrote(searched: tuple[Path, Result]) -> None:
    home, _ = searched
    for source in (home / "journal", home / "journal" / JOURNAL, f"{(home / 'url').read_text()}#elsewhere"):
        assert "search report" in page_of(str(source))


def test_codes_in_the_folder_of_a_search_are_of_its_space(searched: tuple[Path, Result], tmp_path: Path) -> None:
    home, result = searched
    other = SearchSpace(EDITED["options reordered"])
    shutil.copytree(home / "elsewhere", tmp_path / "moved")
    assert (tmp_path / "moved" / STUDY).exists()
    (tmp_path / "moved" / "mine.csv").write_text("0000,1\n")
    assert read_history(tmp_path / "moved" / "mine.csv", other).entries == (("2112", 1),)
    (tmp_path / "moved" / STUDY).write_text('{"plan": {"space": 3}}')
    with pytest.raises(LMSearcherError, match="moved holds what no search of this package wrote"):
        read_history(tmp_path / "moved" / RESULTS, other)
    (tmp_path / "moved" / STUDY).unlink()  # codes without any space: of this one, as the documentation says
    (tmp_path / "moved" / TABLE).unlink()
    bare = [(trial.code, trial.value) for trial in result.trials if trial.value is not None]
    assert list(read_history(tmp_path / "moved", SPACE).entries) == bare


def test_cells_that_may_mean_several_options_are_left_out(tmp_path: Path) -> None:
    space = SearchSpace({"n": [1, "1", None, "", "x"]})
    for name, text in {
        "ours.csv": "trial,code,value,reason,n\n1,0,1.5,,1\n2,2,2.5,,\n3,4,3.5,,x\n",
        "theirs.csv": "value,n\n1.5,1\n2.5,\n3.5,x\n",
    }.items():
        (tmp_path / name).write_text(text)
        found = read_history(tmp_path / name, space)
        assert (found.entries, found.left_out) == ((("4", 3.5),), 2)
        assert "line 2: n has several options that are written '1'" in found.note
    with pytest.raises(SpaceError, match="line 2: n has several options that are written '1'"):
        read_pool(tmp_path / "theirs.csv", space)
    typed = json.dumps([{"n": 1, "value": 1}, {"n": "1", "value": 2}, {"n": None, "value": 3}, {"n": True, "value": 4}])
    (tmp_path / "typed.json").write_text(typed)
    found = read_history(tmp_path / "typed.json", space)
    assert (found.entries, found.left_out) == ((("0", 1), ("1", 2), ("2", 3)), 1)


def test_what_a_predicate_refuses_is_left_out_and_what_it_raises_is_said(tmp_path: Path) -> None:
    (tmp_path / "h.csv").write_text("a,value\n1,10\n2,20\n3,30\n")
    odd = SearchSpace({"a": [1, 2, 3]}, lambda configuration: configuration["a"] % 2)  # type: ignore[operator]
    found = read_history(tmp_path / "h.csv", odd)
    assert (found.entries, found.left_out) == ((("0", 10), ("2", 30)), 1)
    broken = SearchSpace({"a": [1, 2, 3]}, lambda c: c["a"] == 1 or 1 / (c["a"] - 2))  # type: ignore[operator]
    with pytest.raises(SpaceError, match="the validity predicate raised ZeroDivisionError"):
        read_history(tmp_path / "h.csv", broken)


def test_trials_that_broke_a_limit_are_left_out(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/a.db"
    study = optuna.create_study(storage=url, study_name="s")
    for place, limit in enumerate((-1.0, 1.0)):
        trial = study.ask({"n": optuna.distributions.CategoricalDistribution([1, 2])})
        trial.set_constraint("memory", limit)
        study.tell(trial, place)
    found = read_history(f"{url}#s", SearchSpace({"n": [1, 2]}))
    assert (len(found.entries), found.left_out) == (1, 1)
    assert "trial 1: it broke a limit" in found.note


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("code,code,value\n0,0,1\n", "line 1: the column code stands twice"),
        ('{"a": {"cell": "0", "prediction": 1}, "a": {"cell": "1", "prediction": 1}}', "stands twice"),
        ("trial,code,value,reason,m\n1,0,1.5,,1\n", "line 1: this space has no parameter m; it has n"),
        ("n,value\n3,1\n4,1\n", "this space offers none of its 2 trials; line 2: n has no option '3'; allowed: 1, 2"),
    ],
)
def test_what_is_refused(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "h").write_text(text)
    with pytest.raises(LMSearcherError) as raised:
        read_history(tmp_path / "h", SearchSpace({"n": [1, 2]}))
    assert message in str(raised.value)


def test_a_folder_without_a_search(tmp_path: Path) -> None:
    with pytest.raises(HistoryError, match=r"holds no search: there is no study\.journal, results\.csv or historical_"):
        read_history(tmp_path, SPACE)
