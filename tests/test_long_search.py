"""Searches that run long: what is counted on the way equals a count of all, and files grow line by line."""

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import optuna
import pytest
from optuna.search_space.group_decomposed import _GroupDecomposedSearchSpace
from scripted import scripted_ranker

from lmsearcher_local.candidates.history import HISTORY_CAP, History, truncate_history
from lmsearcher_local.candidates.told import Told
from lmsearcher_local.records.storage import load_study
from lmsearcher_local.records.trials import Reader
from lmsearcher_local.search import groups
from lmsearcher_local.search.groups import Decomposition
from lmsearcher_local.search.optuna_sampler import LMSearcherSampler
from lmsearcher_local.spaces.distributions import encode
from lmsearcher_local.spaces.files import RESULTS, TABLE
from lmsearcher_local.spaces.space import Configuration, SearchSpace
from lmsearcher_local.study import outputs
from lmsearcher_local.study.objectives.function import InProcess
from lmsearcher_local.study.results import Result, result_of, rows
from lmsearcher_local.study.run import run

optuna.logging.set_verbosity(optuna.logging.WARNING)
SPACE = SearchSpace({f"x{i}": [0, 1, 2, 3] for i in range(5)})


def score(configuration: Configuration) -> float:
    values = [int(str(value)) for value in configuration.values()]
    if values[0] == values[1] == 3:
        raise ValueError("these two,\nand a comma")
    return float(sum(values) % 7)


def search(out: Path, trials: int, **options: object) -> Result:
    return run(InProcess(score), SPACE, scripted_ranker(), out=out, trials=trials, **options)  # type: ignore[arg-type]


def lines(out: Path) -> list[list[str]]:
    with (out / TABLE).open(newline="") as stream:
        return [*csv.reader(stream)][1:]


def expected(result: Result) -> list[list[str]]:
    return [["" if cell is None else str(cell) for cell in row] for row in rows(result, result.trials)]


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_what_was_told_in_any_order_is_as_told_in_order(sign: float) -> None:
    rng = np.random.default_rng(0)
    codes = SPACE.sample(rng, 900)
    trials = [(codes[i % 880], float(rng.integers(50)), i) for i in range(900)]  # a few codes twice
    ordered, mixed = Told(sign), Told(sign)
    for trial in trials:
        ordered.tell(*trial)
    for i in rng.permutation(900):
        mixed.tell(*trials[i])
    values: dict[str, list[float]] = {}
    for code, value, _ in trials:
        values.setdefault(code, []).append(value)
    means = {code: sign * (sum(told) / len(told)) for code, told in values.items()}
    history = History(tuple(means), tuple(means.values()))
    assert ordered.history == mixed.history == history
    assert ordered.essential == mixed.essential
    best = history.best(1)
    assert ordered.best == mixed.best == (best.codes[0], sign * best.scores[0])
    few = ordered.essential
    assert len(few) <= 3 * HISTORY_CAP < len(history)
    assert few.codes[:HISTORY_CAP] == history.codes[:HISTORY_CAP]
    assert few.best(HISTORY_CAP) == history.best(HISTORY_CAP)
    assert [few.codes[i] for i in truncate_history(few.scores)] == [
        history.codes[i] for i in truncate_history(history.scores)
    ]


@pytest.mark.parametrize("workers", [1, 3])
def test_every_result_is_that_of_a_count_of_all(tmp_path: Path, workers: int) -> None:
    told: list[Result] = []

    def count(result: Result) -> None:
        anew = Result(result.space, result.direction, result.trials)
        assert (result.evaluated, result.best) == (anew.evaluated, anew.best)
        told.append(result)
        assert sorted(lines(tmp_path), key=lambda row: int(row[0])) == expected(result)

    options = {"workers": workers, "direction": "minimize", "warm_start": [("00000", 3.0), ("00001", 0.5)]}
    search(tmp_path, 20, on_trial=count, **options)
    told.clear()  # the next one begins with all of them
    result = search(tmp_path, 40, on_trial=count, resume=True, **options)
    ended = [trial for one in told[1:] for trial in one.latest]
    assert sorted([*told[0].trials, *ended], key=lambda trial: trial.number) == [*result.trials]
    assert result == result_of(load_study(tmp_path))
    assert lines(tmp_path) == expected(result)  # in order at the end


def test_a_cut_line_and_a_lost_file_are_made_whole(tmp_path: Path) -> None:
    whole = search(tmp_path / "whole", 30)
    out = tmp_path / "killed"
    search(out, 20)
    text = (out / TABLE).read_bytes()
    for spoiled in (text[:-9], text[: len(text) // 2], b"", None):  # as kill -9 may leave it, with the JSON behind
        shutil.rmtree(tmp_path / "copy", ignore_errors=True)
        shutil.copytree(out, tmp_path / "copy")
        (tmp_path / "copy" / TABLE).unlink() if spoiled is None else (tmp_path / "copy" / TABLE).write_bytes(spoiled)
        (tmp_path / "copy" / RESULTS).write_text("{}")
        assert search(tmp_path / "copy", 30, resume=True) == whole
        for name in (RESULTS, TABLE):
            assert (tmp_path / "copy" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_files_end_whole_however_a_search_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outputs, "SHARE", 1e9)  # the JSON is never due

    def stop(result: Result) -> None:
        if result.evaluated == 12:
            assert json.loads((tmp_path / RESULTS).read_text()) == {}
            assert lines(tmp_path) == expected(result)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        search(tmp_path, 20, on_trial=stop)
    found = [trial for trial in result_of(load_study(tmp_path)).trials if trial.value is not None]
    assert [entry["cell"] for entry in json.loads((tmp_path / RESULTS).read_text()).values()] == [t.code for t in found]


def test_a_reader_sees_each_trial_until_it_has_ended(tmp_path: Path) -> None:
    for storage in (None, f"sqlite:///{tmp_path}/a.db"):
        search(tmp_path / str(storage is None), 3, storage=storage)
        study = load_study(tmp_path / "True" if storage is None else f"{storage}#{'False'}")
        reader = Reader(study)
        assert [trial.number for trial in reader.read()] == [0, 1, 2]
        first, second = study.ask(), study.ask()
        for _ in range(2):
            assert [trial.number for trial in reader.peek()] == [3, 4]
        assert [trial.number for trial in reader.read()] == [3, 4]
        study.tell(second, 1.0)
        assert [trial.state.name for trial in reader.read()] == ["RUNNING", "COMPLETE"]
        assert [trial.number for trial in reader.read()] == [first.number]
        study.tell(first, 1.0)
        assert [trial.number for trial in reader.read()] == [first.number]
        assert reader.read() == []


def test_groups_are_those_of_optuna_and_trials_are_read_once(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)

    def objective(trial: optuna.Trial) -> float:
        names = [name for name in "abcdef" if rng.random() < 0.7] if trial.number % 3 else ["a", "b"]
        return float(sum(trial.suggest_int(name, 0, 9 + (trial.number > 15)) for name in names))

    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    found = Decomposition()
    for trials in range(1, 40):
        study.optimize(objective, n_trials=1)
        found.add(study.trials[-1])
        names = {frozenset(kinds) for kinds in found.groups()}
        wanted = _GroupDecomposedSearchSpace().calculate(study).search_spaces
        assert names == {frozenset(space) for space in wanted if space}, trials

    read: list[int] = []
    monkeypatch.setattr(groups, "encode", lambda *given: read.append(1) or encode(*given))
    study = optuna.create_study(sampler=LMSearcherSampler(scripted_ranker()))
    for _ in range(3):
        read.clear()
        study.optimize(lambda trial: trial.suggest_int("a", 0, 99) + trial.suggest_int("b", 0, 99), n_trials=20)
    assert len(read) <= 60  # of a study of 60 trials each ask would read all
