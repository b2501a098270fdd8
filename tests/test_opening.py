"""Whose study it is: names in shared storages, one process at a time, other programs' trials, predicates, passwords."""

import errno
import fcntl
import functools
import os
import re
import shlex
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import optuna
import psutil
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution
from optuna.trial import TrialState
from scripted import scripted_ranker

from lmsearcher_local.errors import StudyError
from lmsearcher_local.records.storage import JOURNAL, PLAN, STUDY, hide_password, load_study
from lmsearcher_local.report.page import page_of
from lmsearcher_local.spaces.files import RESULTS, TABLE
from lmsearcher_local.spaces.space import Configuration, SearchSpace
from lmsearcher_local.study.objectives.command import CommandObjective
from lmsearcher_local.study.objectives.function import InProcess
from lmsearcher_local.study.opening import LOCK, OWNER
from lmsearcher_local.study.plan import Plan, identity
from lmsearcher_local.study.recording import RUNS
from lmsearcher_local.study.results import Result
from lmsearcher_local.study.run import open_search, run

optuna.logging.set_verbosity(optuna.logging.WARNING)
SPACE = SearchSpace({"a": ["x", "y", "z"], "b": [1, 2, 4, 8], "c": [True, False]})


def score(configuration: Configuration) -> float:
    return float(SPACE.encode(configuration)) % 97


def search(out: Path, trials: int = 6, *, space: SearchSpace = SPACE, **options: Any) -> Result:
    return run(InProcess(score), space, scripted_ranker(), out=out, trials=trials, **options)


def trial_of(study: optuna.Study, **values: Any) -> optuna.trial.FrozenTrial:
    """A running trial of another program."""
    kinds = {name: CategoricalDistribution([value, "another"]) for name, value in values.items()}
    trial = optuna.trial.create_trial(state=TrialState.RUNNING, params=values, distributions=kinds)
    return study._storage.get_trial(study._storage.create_new_trial(study._study_id, trial))


def test_folders_of_one_name_are_studies_of_their_own(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/studies.db"
    first = search(tmp_path / "a" / "lora", storage=url)
    ours = load_study(f"{url}#lora")  # the hash may be left out while it is the only one
    running = ours._storage.create_new_trial(
        ours._study_id, optuna.trial.create_trial(state=TrialState.RUNNING, user_attrs={"lmsearcher": True})
    )
    assert search(tmp_path / "b" / "lora", 3, storage=url, resume=True).evaluated == 3
    assert search(tmp_path / "b" / "lora", 4, storage=url, resume=True).evaluated == 4
    assert ours._storage.get_trial(running).state == TrialState.RUNNING
    names = optuna.get_all_study_names(url)
    assert len(names) == 2
    assert all(name.startswith("lora-") for name in names)
    with pytest.raises(StudyError, match="holds no study 'lora'; it holds: lora-"):
        load_study(f"{url}#lora")
    assert search(tmp_path / "a" / "lora", storage=url, resume=True) == first


@pytest.mark.parametrize("move", [shutil.move, shutil.copytree])
def test_a_study_belongs_to_its_folder(tmp_path: Path, move: Callable[[Path, Path], Any]) -> None:
    url = f"sqlite:///{tmp_path}/studies.db"
    first = search(tmp_path / "a", storage=url)
    move(tmp_path / "a", tmp_path / "b")
    with pytest.raises(
        StudyError, match=f"belongs to the output folder {tmp_path}/a; resume it there, or if"
    ) as raised:
        search(tmp_path / "b", storage=url, resume=True)
    taken_over(str(raised.value))
    assert search(tmp_path / "b", storage=url, resume=True) == first


def taken_over(message: str) -> None:
    """Run the command that a message names."""
    command = shlex.split(message[message.index("optuna study") :])
    subprocess.run([str(Path(sys.executable).with_name("optuna")), *command[1:]], check=True)


def test_one_process_searches_in_a_study(tmp_path: Path) -> None:
    url, out = f"sqlite:///{tmp_path}/studies.db", tmp_path / "out"
    search(out, 3, storage=url)
    study = load_study(url)
    assert study.user_attrs[OWNER] is None
    parent = psutil.Process(os.getppid())
    owner = {"host": socket.gethostname(), "pid": parent.pid, "started": parent.create_time()}
    study.set_user_attr(OWNER, owner)
    with pytest.raises(StudyError, match=rf"is searched by process {parent.pid} on .*; wait for it or choose another"):
        search(out, storage=url, resume=True)
    study.set_user_attr(OWNER, owner | {"host": "another machine"})
    with pytest.raises(StudyError, match="on another machine; if that has ended, take over with optuna") as raised:
        search(out, storage=url, resume=True)
    taken_over(str(raised.value))
    assert search(out, 4, storage=url, resume=True).evaluated == 4
    study.set_user_attr(OWNER, owner | {"started": parent.create_time() - 100})  # its number is another process's now
    assert search(out, 5, storage=url, resume=True).evaluated == 5
    with open_search(out, Plan(SPACE, "function test_opening:score"), storage=url, resume=True) as opened:
        study.set_user_attr(OWNER, owner)  # it came while the model was loaded
        with pytest.raises(StudyError, match="is searched by process"):
            opened.run(lambda code, configuration: 0.0, scripted_ranker(), 9)  # type: ignore[arg-type]
    assert study.user_attrs[OWNER] == owner


@pytest.mark.parametrize("code", [errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP])
def test_a_file_system_without_locks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, code: int
) -> None:
    monkeypatch.setattr(fcntl, "flock", unable(lambda handle: True, code))
    assert search(tmp_path).evaluated == 6
    [record] = [record for record in caplog.records if record.name.startswith("lmsearcher")]
    assert f"{tmp_path} cannot be locked ({os.strerror(code)}); make sure that no other search runs" in record.message
    study = load_study(tmp_path)
    parent = psutil.Process(os.getppid())
    study.set_user_attr(OWNER, {"host": socket.gethostname(), "pid": parent.pid, "started": parent.create_time()})
    with pytest.raises(StudyError, match="is searched by process"):
        search(tmp_path, resume=True)


def test_a_file_system_that_locks_files_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fcntl, "flock", unable(lambda handle: os.path.isdir(f"/proc/self/fd/{handle}"), errno.EBADF))
    plan = Plan(SPACE, "function test_opening:score")
    with open_search(tmp_path, plan), pytest.raises(StudyError, match="another search is running in"):
        search(tmp_path)
    assert search(tmp_path).evaluated == 6
    assert (tmp_path / LOCK).exists()


def unable(when: Callable[[int], bool], code: int) -> Callable[[int, int], None]:
    """A ``flock`` that fails where ``when`` holds."""
    flock = fcntl.flock

    def failing(handle: int, operation: int) -> None:
        if when(handle):
            raise OSError(code, os.strerror(code))
        flock(handle, operation)

    return failing


def test_a_command_finds_the_output_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    command = CommandObjective('test "$LMSEARCHER_OUT" = "$PWD/out" && echo {b}', SPACE)
    result = run(command, SPACE, scripted_ranker(), out="out", trials=2)
    assert [trial.value for trial in result.trials] == [trial.configuration["b"] for trial in result.trials]


def test_a_file_where_a_folder_is_expected(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StudyError, match=r"cannot use the output folder .*/file: it is a file"):
        search(tmp_path / "file")


def test_trials_of_other_programs(tmp_path: Path) -> None:
    search(tmp_path, 6)
    study = load_study(tmp_path)
    other = study.ask({"lr": FloatDistribution(0, 1)})
    study.tell(other, 0.5)
    study.tell(study.ask(), state=TrialState.FAIL)
    running = trial_of(study, lr=0.1, a="x")
    enqueued = {"a": "z", "b": 8, "c": False}
    study.enqueue_trial({"a": "x"})
    study.enqueue_trial(enqueued)
    result = search(tmp_path, 9, resume=True)
    assert (result.evaluated, result.foreign) == (9, 2)
    assert result.trials[6].configuration == enqueued  # first of all
    states = {trial.number: trial.state for trial in load_study(tmp_path).trials}
    assert states[running.number] == TrialState.RUNNING
    assert states[running.number + 1] == TrialState.WAITING  # no configuration: left to who enqueued it
    assert search(tmp_path, 9, resume=True) == result
    assert "search report" in page_of(str(tmp_path))
    assert len((tmp_path / TABLE).read_text().splitlines()) == 10


def test_an_enqueued_trial_survives_a_kill(tmp_path: Path) -> None:
    search(tmp_path, 2)
    enqueued = {"a": "z", "b": 8, "c": False}
    load_study(tmp_path).enqueue_trial(enqueued)

    def interrupted(configuration: Configuration) -> float:
        raise KeyboardInterrupt

    interrupted.__module__, interrupted.__qualname__ = score.__module__, score.__qualname__
    with pytest.raises(KeyboardInterrupt):
        run(InProcess(interrupted), SPACE, scripted_ranker(), out=tmp_path, trials=4, resume=True)
    result = search(tmp_path, 4, resume=True)
    assert result.trials[2].configuration == enqueued
    assert result.evaluated == 4


def test_what_is_begun_is_what_was_added(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    url = f"sqlite:///{tmp_path}/studies.db"
    create = optuna.storages.RDBStorage.create_new_trial

    def meanwhile(self: Any, study_id: int, template_trial: Any = None) -> int:
        number: int = create(self, study_id, template_trial)
        create(self, study_id)  # another program's, right behind ours
        return number

    monkeypatch.setattr(optuna.storages.RDBStorage, "create_new_trial", meanwhile)
    result = search(tmp_path / "out", 4, storage=url)
    assert [trial.value for trial in result.trials] == [score(trial.configuration) for trial in result.trials]
    assert result.evaluated == 4


LIMIT = 8


def small(configuration: Configuration) -> bool:
    return configuration["b"] < LIMIT  # type: ignore[operator]


def smaller(configuration: Configuration, limit: int = 4) -> bool:
    return configuration["b"] < limit  # type: ignore[operator]


def test_a_resume_checks_the_predicate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    options = SPACE.describe()
    first = search(tmp_path, space=SearchSpace(options, small))
    assert search(tmp_path, space=SearchSpace(options, small), resume=True) == first
    for other in (None, smaller, functools.partial(smaller, limit=8), lambda configuration: True):
        with pytest.raises(StudyError, match="holds a study with another validity predicate: resume it with the same"):
            search(tmp_path, space=SearchSpace(options, other), resume=True)
    monkeypatch.setattr(sys.modules[__name__], "LIMIT", 4)
    with pytest.raises(StudyError, match="another validity predicate"):
        search(tmp_path, space=SearchSpace(options, small), resume=True)
    study = load_study(tmp_path)
    plan = study.user_attrs[PLAN]
    study.set_user_attr(PLAN, plan | {"valid": plan["valid"] | {"python": "3.1"}})  # whose bytecode says nothing here
    with pytest.raises(StudyError, match=r"validity predicate refuses trial \d, \{'a': .*: resume with the predicate"):
        search(tmp_path, space=SearchSpace(options, small), resume=True)
    monkeypatch.setattr(sys.modules[__name__], "LIMIT", 8)
    assert search(tmp_path, space=SearchSpace(options, small), resume=True) == first


def test_predicates_differ_by_what_they_use() -> None:
    def closed(limit: int) -> Callable[[Configuration], bool]:
        return lambda configuration: configuration["b"] < limit  # type: ignore[operator]

    found = [
        identity(predicate)
        for predicate in (
            closed(1),
            closed(2),
            functools.partial(smaller, limit=1),
            functools.partial(smaller, limit=2),
            lambda configuration: configuration["b"] in {1, 2},
            lambda configuration: configuration["b"] in {1, 4},
            lambda configuration: [b for b in (1, 2) if configuration["b"] == b],
            lambda configuration: [b for b in (1, 2) if configuration["b"] != b],
        )
    ]
    assert len({(one["name"], one["code"]) for one in found if one}) == len(found)
    assert identity(closed(1)) == identity(closed(1))
    assert identity(None) is None


def test_a_resume_with_nothing_to_do_keeps_what_the_last_run_counted(tmp_path: Path) -> None:
    ranker = scripted_ranker()
    ranker.engine.prompt_tokens = 0  # type: ignore[attr-defined]
    run(InProcess(score), SPACE, ranker, out=tmp_path, trials=6)
    runs = load_study(tmp_path).user_attrs[RUNS]
    ranker.engine.prompt_tokens = 7  # type: ignore[attr-defined]
    run(InProcess(score), SPACE, ranker, out=tmp_path, trials=6, resume=True)
    assert load_study(tmp_path).user_attrs[RUNS] == runs
    assert len(runs) == 1


@pytest.mark.parametrize(("mask", "mode"), [(0o077, 0o600), (0o002, 0o664), (0o027, 0o640)])
def test_files_respect_the_umask(tmp_path: Path, mask: int, mode: int) -> None:
    before = os.umask(mask)
    try:
        search(tmp_path, 2)
    finally:
        os.umask(before)
    for name in (RESULTS, TABLE, JOURNAL):
        assert (tmp_path / name).stat().st_mode & 0o777 == mode, name


@pytest.mark.parametrize(
    ("url", "safe"),
    [
        ("postgresql://me:secret@host:5432/db#lora", "postgresql://me:***@host:5432/db#lora"),
        ("mysql+pymysql://me:se#c/r?e:t@host/db", "mysql+pymysql://me:***@host/db"),
        ("postgresql://me:se@cret@host/db", "postgresql://me:***@host/db"),
        ("postgresql:///db?user=me&password=secret&x=1#s", "postgresql:///db?user=me&password=***&x=1#s"),
        ("postgresql://me@host/db", "postgresql://me@host/db"),
        ("sqlite:///a:b@c.db#x", "sqlite:///a:b@c.db#x"),
        ("runs/a:b@c", "runs/a:b@c"),
    ],
)
def test_passwords_are_not_shown(url: str, safe: str) -> None:
    assert hide_password(url) == safe


def test_no_message_shows_a_password(tmp_path: Path) -> None:
    for url in ("postgresql://me:se#cret@host/db", "nosuchdialect://me:se#cret@host/db"):
        for attempt in (lambda url=url: search(tmp_path, storage=url), lambda url=url: page_of(f"{url}#mine")):
            with pytest.raises(StudyError, match=r"cannot open the storage \w+://me:\*\*\*@host/db") as raised:
                attempt()
            assert "cret" not in str(raised.value)


def test_a_page_about_a_url_is_called_after_its_study(tmp_path: Path) -> None:
    url = f"sqlite+pysqlite:///file:{tmp_path}/studies.db?uri=true&password=secret"
    search(tmp_path / "mine", storage=url)
    page = page_of(url)
    assert re.search("<title>mine-[0-9a-f]{8}", page)
    assert "secret" not in page
    assert "secret" not in (tmp_path / "mine" / STUDY).read_text()
    with pytest.raises(StudyError, match=r"there is no database file:/nowhere$"):
        page_of("sqlite:///file:/nowhere?uri=true&password=secret")
