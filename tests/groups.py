"""Groups of tests. One worker of pytest-xdist runs a group, in its order: its tests share what takes long to start."""

import re
from pathlib import PurePath

from xdist.scheduler import LoadScopeScheduling

GROUPS = {  # files of one group; others are groups of their own
    "clusters": ("docs", "executors", "evaluation_process", "foreign_code"),  # pages end with `ray stop`, so they begin
    "bundled checkpoint": ("vllm_engine", "presets", "optuna", "throughput"),
}
LONGEST = (  # first; short ones at the end keep both workers at work
    *("bundle", "clusters", "smollm2", "engines float32", "engines bfloat16", "bundled checkpoint", "memory"),
    *("train_command", "trim", "quantization", "rehearsal", "host", "offline", "hostile", "adapter"),
)
OF_FILE = {name: group for group, names in GROUPS.items() for name in names}


def group_of(nodeid: str) -> str:
    """Of a test the name of its group. A parameter stands for an engine in `test_engines.py` and for that alone."""
    name = PurePath(nodeid.partition("::")[0]).stem.removeprefix("test_")
    if name == "engines" and (found := re.search(r"\[(float32|bfloat16|bundled)\]$", nodeid)):
        return f"engines {found[1]}"
    return OF_FILE.get(name, name)


class GroupScheduling(LoadScopeScheduling):
    """Hands out groups, in the order of the tests."""

    def _split_scope(self, nodeid: str) -> str:
        return group_of(nodeid)
