"""Placeholders of a command: an option is one word and never runs, whatever it holds; elsewhere it is refused."""

import random
import subprocess
from pathlib import Path

import pytest

from lmsearcher_local.errors import ObjectiveError
from lmsearcher_local.spaces.space import SearchSpace
from lmsearcher_local.study.objectives.base import ObjectiveFailed
from lmsearcher_local.study.objectives.command import CommandObjective
from lmsearcher_local.study.objectives.template import Template

EVIL = '$(touch PWNED) `touch PWNED` it\'s "q"; touch PWNED * \\ '
NAMES = ("ncode", "name", "model.rank", "learning rate")
VALUES = {"ncode": "01", "name": EVIL, "model.rank": 8, "learning rate": 1e-3}


def printed(command: str) -> str:
    words = Template(command, NAMES).command(VALUES)
    done = subprocess.run(words, shell=isinstance(words, str), capture_output=True, text=True, stdin=subprocess.DEVNULL)
    assert done.returncode == 0, done.stderr
    return done.stdout.removesuffix("\n")


@pytest.mark.parametrize(
    ("command", "output"),
    [
        ("echo {ncode} {model.rank} {learning rate}", "01 8 0.001"),
        ("echo {name}", EVIL),
        ("echo a{name}b --x={model.rank}", f"a{EVIL}b --x=8"),
        ('x=$(printf %s {name}); echo "$x"', EVIL),
        ('echo "$(printf %s {name})"', EVIL),
        ("echo it\\'s {name}", f"it's {EVIL}"),
        ("echo 'a\\' {name}", f"a\\ {EVIL}"),
        ('echo "a \\" ${X:-it} b\' $((1 + 2))" {name}', f"a \" it b' 3 {EVIL}"),
        ("# it's a comment\necho {model.rank}#{name} # and another", f"8#{EVIL}"),
        ("(case {model.rank} in 8) echo {name};; esac)", EVIL),
        ("f() { echo $1 {name}; }; f 3", f"3 {EVIL}"),
        ("echo {{name}} '{{print}}' ${HOME:+1} {1,2}", "{name} {print} 1 {1,2}"),
        ("echo 1 2 | awk '{print $1}'", "1"),
        ("echo 1 2 | awk '{{print}}'", "1 2"),
        (
            '["echo", "{name}", "{ncode}{model.rank}", "\'{learning rate}\'", "{{name}}"]',
            f"{EVIL} 018 '0.001' {{name}}",
        ),
    ],
)
def test_an_option_is_one_word(command: str, output: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert printed(command) == output
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("echo '{name}'", "{name} inside single quotes"),
        ("echo 'a\\' 'b {name}'", "{name} inside single quotes"),
        ('echo "{name}"', "{name} inside double quotes"),
        ("echo `echo {name}`", "{name} inside backticks"),
        ("echo \\{name}", "{name} behind a backslash"),
        ("echo ${X:-{name}}", "{name} inside ${...}"),
        ("echo $(({model.rank} + 1))", "{model.rank} inside arithmetic"),
        ("echo 1 # it's {name}", "{name} inside a comment"),
        ("cat <<EOF\n{name}\nEOF", "{name} behind <<"),
        ("echo $'a' {name}", "{name} behind $'...'"),
        ("[[ {name} -gt 1 ]]", "{name} behind [["),
        ('echo "$(case a in a) echo;; esac)" {name}', "{name} behind a case within quotes"),
        ("echo {model.rnk}", "{model.rnk}; allowed: {ncode}, {name}, {model.rank}, {learning rate}; for braces of"),
        ("echo {learning rte}", "names {learning rte}; allowed"),
        ("echo 1 | awk '{print}'", "for braces of the command's own write {{print}}"),
        ('["echo", "{nme}"]', "names {nme}; allowed"),
        ('["echo", 1]', "a command that is a JSON list holds text only"),
        ('["echo"', "the command begins like a JSON list and is none"),
        (" ", "the objective command is empty"),
    ],
)
def test_elsewhere_it_is_refused(command: str, message: str) -> None:
    with pytest.raises(ObjectiveError) as raised:
        Template(command, NAMES)
    assert message in str(raised.value)


def test_no_option_ever_runs_or_stays_a_placeholder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    rng, ran = random.Random(0), 0
    pieces = [*["{name}"] * 8, *"'\"\\`()# \na$", "$(", "${X:-", "}", "$((", "))", " # ", "echo ", "; ", "&& ", "<<E"]
    while ran < 150:
        text = "echo " + "".join(rng.choices(pieces, k=rng.randint(1, 9)))
        try:
            command = Template(text, NAMES).command(VALUES)
        except ObjectiveError:
            continue
        done = subprocess.run(command, shell=True, capture_output=True, text=True, stdin=subprocess.DEVNULL)
        assert done.returncode or "lmsearcher" not in done.stdout, text
        assert list(tmp_path.iterdir()) == [], text
        ran += 1


def test_what_cannot_start_fails_its_trial() -> None:
    space = SearchSpace({"name": ["a\0b", "x" * 200_000]})
    for code in ("0", "1"):
        with pytest.raises(ObjectiveFailed, match="the command cannot start: "):
            CommandObjective("echo {name}", space)(code, space.decode(code))
    with pytest.raises(ObjectiveFailed, match=r"the command cannot start: FileNotFoundError: .*no-such-program"):
        CommandObjective('["no-such-program-here"]', space)("0", {"name": "a"})
