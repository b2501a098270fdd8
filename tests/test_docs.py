"""Every code block of the documentation runs as it stands, page by page, and the site is built without a warning."""

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from documentation import DOCS, blocks
from warm import warm_commands

BY_BUNDLE_TEST = "howto/airgap.md"  # its blocks are those that test_bundle.py runs, on a machine without a network
PAGES = sorted(str(page.relative_to(DOCS)) for page in DOCS.rglob("*.md"))
BIN = Path(sys.executable).parent


@pytest.fixture(scope="module")
def commands(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    with warm_commands(tmp_path_factory.mktemp("warm")) as folder:
        yield folder


@pytest.mark.parametrize("page", [page for page in PAGES if blocks(page) and page != BY_BUNDLE_TEST])
def test_every_block_runs(page: str, tmp_path: Path, commands: Path) -> None:
    for language, title, text in blocks(page):
        if language == "python" and not title:
            run(["warm-python", "-c", text], tmp_path, commands)
        elif language == "sh":
            run(["bash", "-euo", "pipefail", "-c", text], tmp_path, commands)
        else:
            assert title, f"{page}: a block of {language} that is no file and cannot be run"
            (tmp_path / title).write_text(text)


@pytest.mark.parametrize(
    "command", [["warm-python", "-c", "1 / 0"], ["bash", "-eo", "pipefail", "-c", "lmsearcher-local nothing | cat"]]
)
def test_a_block_that_fails_is_noticed(command: list[str], tmp_path: Path, commands: Path) -> None:
    with pytest.raises(AssertionError):
        run(command, tmp_path, commands)


def run(command: list[str], folder: Path, commands: Path) -> None:
    """What it leaves in the background ends with it."""
    path = os.pathsep.join([str(commands), str(BIN), os.environ["PATH"]])
    environment = {**os.environ, "PATH": path, "PYTHONPATH": "."}
    found = [shutil.which(command[0], path=path) or command[0], *command[1:]]
    process = subprocess.Popen(found, cwd=folder, env=environment, start_new_session=True)
    try:
        assert process.wait(600) == 0, command[-1]
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)


def test_the_site_is_built_without_a_warning(tmp_path: Path) -> None:
    built = subprocess.run(
        [BIN / "mkdocs", "build", "--strict", "--site-dir", tmp_path], cwd=DOCS.parent, capture_output=True, text=True
    )
    assert built.returncode == 0, built.stderr
    reference = (tmp_path / "reference.html").read_text()
    for name in ("search.searcher.Searcher.ask", "search.optuna_sampler.LMSearcherSampler"):
        assert f'id="lmsearcher_local.{name}"' in reference
    pages = [file.read_text() for file in tmp_path.rglob("*.html")]
    assert not any('src="http' in page or 'rel="stylesheet" href="http' in page for page in pages)  # opens offline
