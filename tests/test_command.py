"""Shell commands as objectives: how they get the configuration, failures, time-outs, placeholders."""

import os
import sys
import time

import pytest
from processes import gone

from lmsearcher_local.errors import ObjectiveError
from lmsearcher_local.spaces.space import SearchSpace
from lmsearcher_local.study.objectives.base import ObjectiveFailed
from lmsearcher_local.study.objectives.command import CommandObjective

SPACE = SearchSpace({"rate": [0.1, 1e-8], "name": ["a b", "it's; rm -rf $HOME"], "on": [True, False]})
CODE = "010"
CONFIGURATION = SPACE.decode(CODE)


def test_command_gets_the_configuration_in_both_ways() -> None:
    check = (
        "import json, os, sys; config = json.loads(os.environ['LMSEARCHER_CONFIG']);"
        " assert os.environ['LMSEARCHER_NCODE'] == sys.argv[3] == '010';"
        " assert config['name'] == sys.argv[2]; assert config['on'] is json.loads(sys.argv[4]);"
        " print('noise'); print(float(sys.argv[1]) * 2); print()"
    )
    command = f'{sys.executable} -c "{check}" {{rate}} {{name}} {{ncode}} {{on}}'
    assert CommandObjective(command, SPACE)(CODE, CONFIGURATION) == 0.2


def test_a_command_may_print_several_numbers_by_name() -> None:
    command = 'echo noise; echo \'{"accuracy": 0.5, "latency": 3}\'; echo'
    assert CommandObjective(command, SPACE)(CODE, CONFIGURATION) == {"accuracy": 0.5, "latency": 3.0}


@pytest.mark.parametrize(
    ("command", "reason"),
    [
        ("echo '{\"a\": 1'", "the last line is no JSON object: '{"),
        ('echo \'{"a": 1, "a": 2}\'', "the last line is no JSON object: '{"),
        ("echo '{\"a\": NaN}'", "the objective returned nan for a; a finite number is needed"),
        ('echo \'{"a": "high"}\'', "the objective returned 'high' for a, which is no number"),
        ("echo 1; echo bad luck >&2; exit 3", "exit status 3: bad luck"),
        ("exit 4", "exit status 4: nothing on stderr"),
        ("true", "the command printed nothing"),
        ("echo fine", "the last line is no number: 'fine'"),
        ("echo nan", "the objective returned nan"),
        ("echo 1e999", "the objective returned inf"),
        ("kill -9 $$", "exit status -9"),
        ("no-such-program-here", "exit status 127: .*no-such-program-here"),
    ],
)
def test_command_failures_say_why(command: str, reason: str) -> None:
    with pytest.raises(ObjectiveFailed, match=reason):
        CommandObjective(command, SPACE)(CODE, CONFIGURATION)


def test_timeout_stops_a_command_and_its_children() -> None:
    mark = f"lmsearcher-{os.getpid()}-command"
    started = time.monotonic()
    with pytest.raises(ObjectiveFailed, match=r"not done after 0\.3 s"):
        CommandObjective(f"MARK={mark} sleep 600 & MARK={mark} sleep 600", SPACE, timeout=0.3)(CODE, CONFIGURATION)
    assert time.monotonic() - started < 5
    assert gone(mark)


def test_what_starts_others_meanwhile_is_ended_whole() -> None:
    """Each in a session of its own, so that only its parent tells whose it is."""
    for attempt in range(5):
        mark = f"lmsearcher-{os.getpid()}-forks-{attempt}"
        spawn = "import subprocess\nwhile True: subprocess.Popen(['sleep', '600'], start_new_session=True)"
        with pytest.raises(ObjectiveFailed, match="not done after"):
            CommandObjective(f'MARK={mark} {sys.executable} -S -c "{spawn}"', SPACE, timeout=0.5)(CODE, CONFIGURATION)
        assert gone(mark)


def test_a_process_left_behind_does_not_hold_the_search() -> None:
    started = time.monotonic()
    assert CommandObjective("sleep 5 & echo 7", SPACE)(CODE, CONFIGURATION) == 7
    assert time.monotonic() - started < 4


def test_command_placeholders_are_checked() -> None:
    with pytest.raises(ObjectiveError, match=r"the command names \{rte\}; allowed: \{ncode\}, \{rate\}, \{name\}"):
        CommandObjective("train {rte}", SPACE)
    with pytest.raises(ObjectiveError, match="the objective command is empty"):
        CommandObjective("  ", SPACE)
    shell = CommandObjective("X=4; for i in {1,2}; do :; done; echo ${X}2 | awk '{ print $1 }'", SPACE)
    assert shell(CODE, CONFIGURATION) == 42
