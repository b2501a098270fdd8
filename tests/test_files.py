"""History comes in as JSON, CSV, a search's folder or an Optuna study, and goes out as a table that comes in again."""

import csv
import json
from pathlib import Path
from typing import Any

import ConfigSpace
import numpy as np
import optuna
import pytest
from scripted import scripted_ranker

from lmsearcher_local.errors import LMSearcherError
from lmsearcher_local.records.sources import read_history
from lmsearcher_local.spaces.files import TABLE
from lmsearcher_local.spaces.space import Configuration, SearchSpace
from lmsearcher_local.study.results import Result, Trial, dataframe, text_of
from lmsearcher_local.study.run import RESULTS, run

optuna.logging.set_verbosity(optuna.logging.WARNING)
SPACE = SearchSpace({"rank": [4, 8, 16], "lr": [0.1, 0.001], "on": [True, False], "name": ["a", "b, c", None]})
CODES = ["0000", "1101", "2012"]
VALUES = [1.5, -2e-300, 3.0]
KNOWN = list(zip(CODES, VALUES, strict=True))
FORMS = {
    "upstream": '{"Trial1": {"cell": "0000", "prediction": 1.5}, "x": {"cell": "1101", "prediction": -2e-300},'
    ' "y": {"cell": "2012", "prediction": 3}}',
    "objects": '[{"code": "0000", "value": 1.5, "note": 1}, {"code": "1101", "value": -2e-300},'
    ' {"code": "0001", "value": null}, {"code": "2012", "value": 3}]',
    "named objects": '\n [{"rank": 4, "lr": 0.1, "on": true, "name": "a", "value": 1.5},'
    '{"value": -2e-300, "name": "b, c", "on": true, "lr": 1e-3, "rank": 8},'
    '{"rank": 16, "lr": 0.1, "on": false, "name": null, "value": 3}]',
    "lines": "0000,1.5\n\n1101 , -2e-300\n2012,3\n",
    "lines under any two names": "cell,accuracy\n0000,1.5\n1101,-2e-300\n2012,3\n",
    "columns": "seconds,value,code\n1,1.5,0000\n2,-2e-300,1101\n2,,0001\n3,3,2012\n",
    "named columns": "name,rank,seconds,lr,on,value\r\na,4,1,0.1,True,1.5\r\n"
    '"b, c",8,1,1e-3,true,-2e-300\r\na,8,1,0.1,TRUE,\r\n,16,1,.1,false,3\r\n',
}


def read(source: str | Path, space: SearchSpace) -> list[tuple[str, float]]:
    return [*read_history(source, space).entries]


def score(configuration: Configuration) -> float:
    if configuration["rank"] == 8 and configuration["on"]:
        raise ValueError("line 1,\nline 2")
    return float(SPACE.encode(configuration)) / 7


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", ["h", "h.csv", "h#1.txt"])
def test_forms_are_told_apart_by_what_they_hold(tmp_path: Path, form: str, name: str) -> None:
    (tmp_path / name).write_bytes(FORMS[form].encode("utf-8-sig" if "column" in form else "utf-8"))
    assert read(tmp_path / name, SPACE) == KNOWN
    assert read(str(tmp_path / name), SPACE) == KNOWN


def test_an_optuna_study(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    backend = optuna.storages.journal.JournalFileBackend("log")
    for storage in ("sqlite:///a.db", optuna.storages.JournalStorage(backend)):
        study = optuna.create_study(study_name="mine", storage=storage)
        for code, value in KNOWN:
            study.enqueue_trial(SPACE.decode(code))

            def objective(trial: optuna.Trial, value: float = value) -> float:
                for name, options in SPACE.describe().items():
                    trial.suggest_categorical(name, options)
                return value

            study.optimize(objective, n_trials=1)
        study.ask()  # under way
    for source in ("sqlite:///a.db#mine", "sqlite:///a.db", "log", "log#mine"):
        assert read(source, SPACE) == KNOWN
    fewer = read_history("log", SearchSpace({**SPACE.describe(), "rank": [4, 8]}))
    assert (list(fewer.entries), fewer.left_out, fewer.direction) == (KNOWN[:2], 1, "minimize")
    assert fewer.note == (
        "log: 1 trial is left out, because this space does not offer it: trial 2: rank has no option 16; allowed: 4, 8"
    )
    with pytest.raises(LMSearcherError, match="log: this space offers none of its 3 trials; trial 0: a configuration"):
        read("log", SearchSpace([5]))
    optuna.create_study(study_name="two", directions=["minimize"] * 2, storage="sqlite:///a.db")
    with pytest.raises(LMSearcherError, match="#two has 2 objectives; a history has one"):
        read("sqlite:///a.db#two", SPACE)
    with pytest.raises(LMSearcherError, match=r"there is no database b\.db"):
        read("sqlite:///b.db#mine", SPACE)
    assert sorted(file.name for file in Path().iterdir()) == ["a.db", "log"]


def test_what_a_search_found_comes_in_again(tmp_path: Path) -> None:
    result = run(score, SPACE, scripted_ranker(), out=tmp_path, trials=20)
    told = [(trial.code, trial.value) for trial in result.trials if trial.value is not None]
    assert 0 < len(told) < 20
    for source in (tmp_path, tmp_path / RESULTS, tmp_path / TABLE, tmp_path / "study.journal"):
        assert read(source, SPACE) == told
    with (tmp_path / TABLE).open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert [*rows[0]] == ["trial", "code", "value", "reason", "rank", "lr", "on", "name"]
    assert [row["code"] for row in rows] == [trial.code for trial in result.trials]
    assert [row["reason"] for row in rows] == [trial.reason or "" for trial in result.trials]
    assert [row["trial"] for row in rows] == [str(i) for i in range(1, 21)]
    for row in rows:
        assert {k: row[k] for k in SPACE.names} == {
            k: "" if v is None else str(v) for k, v in SPACE.decode(row["code"]).items()
        }


def test_a_dataframe(tmp_path: Path) -> None:
    pandas = pytest.importorskip("pandas")
    result = run(score, SPACE, scripted_ranker(), out=tmp_path, trials=20)
    frame = dataframe(result)
    assert frame["code"].tolist() == [trial.code for trial in result.trials]
    assert frame["value"].isna().sum() == sum(trial.value is None for trial in result.trials)
    assert result.best is not None
    best = frame.loc[frame["value"].idxmax()]
    assert (best["code"], best["value"], best["rank"]) == (*result.best, SPACE.decode(result.best[0])["rank"])
    again = pandas.read_csv(tmp_path / TABLE, dtype={"code": str})
    pandas.testing.assert_series_equal(again["value"], frame["value"], rtol=0)
    told = read(tmp_path, SPACE)
    frame.to_csv(tmp_path / "frame.csv", index=False)
    frame.to_json(tmp_path / "frame", orient="records", double_precision=15)
    assert read(tmp_path / "frame.csv", SPACE) == told
    assert read(tmp_path / "frame", SPACE) == [(code, pytest.approx(value)) for code, value in told]


def test_parameters_called_like_our_columns(tmp_path: Path) -> None:
    space = SearchSpace({"value": [1, 2], "code": ["x", "y"], "trial": [True, False]})
    ended = [("010", (1.5,), None), ("111", (), "no"), ("000", (2.5,), None)]
    trials = tuple(
        Trial(i, code, tuple(space.decode(code).items()), values, reason, given=False)
        for i, (code, values, reason) in enumerate(ended, 1)
    )
    result = Result(space, "maximize", trials)
    (tmp_path / "t.csv").write_text(text_of(result))
    assert read(tmp_path / "t.csv", space) == [("010", 1.5), ("000", 2.5)]
    head = "trial,code,value,reason,parameter value,parameter code,parameter trial"
    assert (tmp_path / "t.csv").read_text().splitlines()[0] == head
    (tmp_path / "t.csv").write_text("value,code,trial\n1,x,true\n")
    with pytest.raises(LMSearcherError, match="a column called value is needed, which is no parameter, or lines code,"):
        read(tmp_path / "t.csv", space)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("rank,lr,on,name\n4,0.1,true,a\n", "line 1: a column called value is needed"),
        ("rank,lr,on,value\n4,0.1,true,1\n", "line 1: there is no column name; the columns are rank, lr, on, value"),
        ("rank,lr,on,name,value\n5,0.1,true,a,1\n", "line 2: rank has no option '5'; allowed: 4, 8, 16"),
        ("rank,lr,on,name,value\n4,0.1,true,a\n", "line 2: 4 cells under 5 column names"),
        ("rank,lr,on,name,value\n4,0.1,true,a,good\n", "line 2: the value is 'good'; a finite number is needed"),
        ("code,value,x\n0000,1\n", "line 2: a line is code,value,x, not 0000,1"),
        ('[{"rank": 4, "value": 1}]', "item 1: a configuration names exactly rank, lr, on, name; got rank"),
        ('[{"rank": 4}]', "item 1 has no cell and prediction; the form is"),
        ("[3]", "item 1 has no cell and prediction; the form is"),
        ('[{"code": "0000", "value": "1"}]', "item 1: the value is '1'; a finite number is needed"),
        ('[{"code": "9000", "value": 1}]', "item 1: '9000' is not of this space"),
        ("[1", "is not valid JSON"),
        ('{"op_code":9}\n', "cannot open the storage"),
    ],
)
def test_what_is_refused(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "h").write_text(text)
    with pytest.raises(LMSearcherError) as raised:
        read(tmp_path / "h", SPACE)
    assert message in str(raised.value)
    assert "\n" not in str(raised.value)


def serialised(**changes: Any) -> dict[str, Any]:
    """A ConfigSpace of each discrete kind, as versions before 1.0 wrote it."""
    kinds = [
        {"name": "op", "type": "categorical", "choices": ["conv", "pool"], "default": "conv", "weights": None},
        {"name": "size", "type": "ordinal", "sequence": ["s", "m", "l"], "default": "s"},
        {"name": "depth", "type": "uniform_int", "log": False, "lower": 2, "upper": 5, "default": 3, "q": None},
        {"name": "width", "type": "uniform_int", "log": True, "lower": 16, "upper": 64, "default": 16, "q": 16},
        {"name": "drop", "type": "uniform_float", "log": False, "lower": 0.1, "upper": 0.5, "default": 0.1, "q": 0.1},
        {"name": "seed", "type": "constant", "value": 7},
    ]
    return {"hyperparameters": kinds, "conditions": [], "forbiddens": [], "json_format_version": 0.2} | changes


def test_a_configspace(tmp_path: Path) -> None:
    (tmp_path / "space.json").write_text(json.dumps(serialised()))
    assert SearchSpace.load(tmp_path / "space.json").describe() == {
        "op": ["conv", "pool"],
        "size": ["s", "m", "l"],
        "depth": [2, 3, 4, 5],
        "width": [16, 32, 48, 64],
        "drop": [0.1, 0.2, 0.3, 0.4, 0.5],
        "seed": [7],
    }
    clauses = {  # as ConfigSpace 1.2 writes them
        "conditions": [
            {
                "type": "AND",
                "child": "size",
                "conditions": [
                    {"type": "GT", "child": "size", "parent": "depth", "value": 2},
                    {
                        "type": "OR",
                        "child": "size",
                        "conditions": [
                            {"type": "IN", "child": "size", "parent": "op", "values": ["conv"]},
                            {"type": "NEQ", "child": "size", "parent": "width", "value": 64},
                        ],
                    },
                ],
            },
            {"type": "LT", "child": "drop", "parent": "size", "value": "l"},
        ],
        "forbiddens": [
            {
                "type": "AND",
                "clauses": [
                    {"type": "EQUALS", "name": "op", "value": "pool"},
                    {"type": "IN", "name": "depth", "values": [2, 5]},
                ],
            },
            {"type": "RELATION_GT", "left": "depth", "right": "width"},
            {"type": "CLAUSE_GE", "name": "size", "value": "l"},
        ],
    }
    (tmp_path / "space.json").write_text(json.dumps(serialised(**clauses)))
    space = SearchSpace.load(tmp_path / "space.json")
    assert space.where == (
        "not (({op} == 'pool') and ({depth} in [2, 5]))",
        "not ({depth} > {width})",
        "not ({size} in ['l'])",
    )
    assert space.when == {
        "size": "({depth} > 2) and (({op} in ['conv']) or ({width} != 64))",
        "drop": "{size} in ['s', 'm']",
    }
    for code in space.sample(np.random.default_rng(0), 100):
        found = space.decode(code)
        assert ("size" in found) == (found["depth"] > 2 and (found["op"] == "conv" or found["width"] != 64))
        assert ("drop" in found) == ("size" in found)
        assert found["op"] == "conv" or found["depth"] in (3, 4)
    (tmp_path / "space.json").write_text('{"hyperparameters": ["lr", "rank"], "name": [1, 2]}')  # an ordinary space
    assert SearchSpace.load(tmp_path / "space.json").names == ("hyperparameters", "name")


def test_what_configspace_itself_writes(tmp_path: Path) -> None:
    space = ConfigSpace.ConfigurationSpace(
        space={"op": ["conv", "pool", "none"], "depth": (1, 6)}, name="cells", seed=0
    )
    space.add(ConfigSpace.OrdinalHyperparameter("size", ["s", "m", "l"]), ConfigSpace.Constant("epochs", 200))
    space.to_json(tmp_path / "space.json")
    found = SearchSpace.load(tmp_path / "space.json")
    for configuration in space.sample_configuration(50):
        found.encode(dict(configuration))
    assert found.size == space.estimate_size()
    space.add(ConfigSpace.Categorical("kernel", [3, 5]))
    space.add(ConfigSpace.EqualsCondition(space["kernel"], space["op"], "conv"))
    space.add(
        ConfigSpace.ForbiddenAndConjunction(
            ConfigSpace.ForbiddenEqualsClause(space["kernel"], 3), ConfigSpace.ForbiddenInClause(space["depth"], [5, 6])
        )
    )
    space.add(ConfigSpace.ForbiddenGreaterThanRelation(space["depth"], space["epochs"]))
    space.to_json(tmp_path / "space.json")
    found = SearchSpace.load(tmp_path / "space.json")
    drawn = {found.encode(dict(configuration)) for configuration in space.sample_configuration(2000)}
    assert drawn == {*found.enumerate()}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"forbiddens": [{"type": "EQUALS", "name": "o", "value": "conv"}]}, "a clause names 'o', which is no hyper"),
        ({"forbiddens": [{"type": "EQUALS", "name": "op"}]}, "there is no way to import the clause"),
        ({"forbiddens": [{"type": "NONE", "name": "op", "value": 1}]}, "there is no way to import the clause"),
        ({"forbiddens": [{"type": "AND", "clauses": []}]}, "a clause of the type AND has no list"),
        ({"forbiddens": [{"type": "IN", "name": "op", "values": 7}]}, "a clause of the type IN has no list of values"),
        ({"forbiddens": [{"type": "RELATION_LT", "left": "size", "right": "op"}]}, "no way to import the relation"),
        ({"forbiddens": ["op"]}, "forbiddens are a list of clauses, not ['op']"),
        (
            {"conditions": [{"type": "EQ", "child": "a", "parent": "op", "value": "conv"}]},
            "when names 'a', which is no",
        ),
        ({"conditions": [{"type": "EQ", "child": "op", "parent": "op", "value": "conv"}]}, "in a circle: op -> op"),
        ({"conditions": [{"type": "EQ", "child": "op", "parent": "size", "value": "xl"}]}, "size has no option 'xl'"),
        ({"conditions": [{"type": "LT", "child": "op", "parent": "size", "value": "xl"}]}, "size has no option 'xl'"),
        (
            {"hyperparameters": [{"name": "lr", "type": "uniform_float", "lower": 0.1, "upper": 1.0, "q": None}]},
            "lr is continuous (0.1 to 1.0); list the values to choose from, as an ordinal",
        ),
        (
            {"hyperparameters": [{"name": "n", "type": "uniform_int", "lower": 0, "upper": 10**12}]},
            "n has 1,000,000,000,001 values; at most 1,000 can be imported",
        ),
        ({"hyperparameters": [{"name": "n", "type": "normal"}]}, "n: there is no way to import the type 'normal'"),
        (
            {"hyperparameters": [{"name": "n", "type": "ordinal"}]},
            "n: the type ordinal is not written like this (KeyError",
        ),
    ],
)
def test_what_of_a_configspace_is_refused(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    (tmp_path / "space.json").write_text(json.dumps(serialised(**changes)))
    with pytest.raises(LMSearcherError) as raised:
        SearchSpace.load(tmp_path / "space.json")
    assert str(raised.value).startswith(f"{tmp_path / 'space.json'}: ")
    assert message in str(raised.value)
