"""The house: rooms import upwards only, every file stands in ARCHITECTURE.md, the public names come lazily."""

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import lmsearcher_local

PACKAGE = Path(lmsearcher_local.__file__).parent
PAGE = PACKAGE.parent.joinpath("ARCHITECTURE.md").read_text(encoding="utf-8")
ROOMS = {name: level for level, name in enumerate(re.findall(r"^\| `(\w+)(?:/|\.py)` \|", PAGE, re.M))}


def imports(file: Path) -> Iterator[str]:
    """The rooms that a file imports."""
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("lmsearcher_local."):
            yield str(node.module).split(".")[1]


def test_rooms_import_upwards_only() -> None:
    files = [file for file in PACKAGE.rglob("*.py") if file.parent != PACKAGE]
    assert len(files) > 80
    wrong = []
    for file in files:
        own = ROOMS[file.relative_to(PACKAGE).parts[0]]
        wrong += [f"{file.name} imports {room}" for room in imports(file) if ROOMS[room] > own]
    assert not wrong


def test_every_file_stands_in_the_picture() -> None:
    lines = {room: line for room, line in re.findall(r"^\| `([\w/]+?)/?` \|(.*)", PAGE, re.M)}
    missing = []
    for file in PACKAGE.rglob("*.py"):
        room = file.relative_to(PACKAGE).parent.as_posix()
        if room != "." and file.name != "__init__.py" and f"`{file.name}`" not in lines[room]:
            missing.append(f"{room}/{file.name}")
    assert not missing


def test_the_public_names_come_when_they_are_used() -> None:
    program = (
        "import sys, lmsearcher_local as l; early = {*sys.modules};"
        "assert not early & {'numpy', 'torch', 'optuna', 'vllm'};"
        "print(*(getattr(l, name).__name__ for name in l.__all__)); assert 'vllm' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.split() == lmsearcher_local.__all__
