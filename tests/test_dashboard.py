"""optuna-dashboard shows a search's storage as it is: the study in its interface, and in headless Chromium its page."""

import json
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.error import URLError
from urllib.request import ProxyHandler, build_opener

import pytest
from scripted import scripted_ranker

from lmsearcher_local.spaces.space import SearchSpace
from lmsearcher_local.study.run import JOURNAL, run

pytest.importorskip("optuna_dashboard")
SPACE = SearchSpace({"a": [1, 2, 4, 8], "b": ["x", "y", None]})


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A dashboard of a search, on this machine's loopback."""
    out = tmp_path_factory.mktemp("out")
    run(lambda configuration: float(str(configuration["a"])), SPACE, scripted_ranker(), out=out, trials=8)
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [str(Path(sys.executable).with_name("optuna-dashboard")), str(out / JOURNAL)]
    process = subprocess.Popen([*command, "--host", "127.0.0.1", "--port", str(port)])
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        process.kill()
        process.wait()


def asked(url: str) -> Any:
    """The interface's answer, once it is up."""
    opener = build_opener(ProxyHandler({}))
    for _ in range(300):
        try:
            with opener.open(url, timeout=10) as answer:
                return json.load(answer)
        except (URLError, ConnectionError):
            time.sleep(0.1)
    raise AssertionError(f"no answer from {url}")


def test_the_interface_lists_the_study(address: str) -> None:
    [study] = asked(f"{address}/api/studies")["study_summaries"]
    assert study["study_name"] == "search"
    detail = asked(f"{address}/api/studies/{study['study_id']}")
    assert len(detail["trials"]) == 8
    assert detail["best_trials"][0]["values"] == [8.0]
    assert {kind["name"] for kind in detail["union_search_space"]} == {"a", "b"}


def test_a_browser_shows_the_study(address: str, tmp_path: Path) -> None:
    browser = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if browser is None:
        pytest.skip("there is no Chromium here")
    asked(f"{address}/api/studies")
    options = ["--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path}", "--no-proxy-server"]
    command = [browser, *options, "--virtual-time-budget=15000", "--dump-dom", f"{address}/dashboard"]
    shown = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert "0. search</h5>" in shown.stdout, shown.stdout[-2000:] + shown.stderr[-2000:]
    assert "Direction: MAXIMIZE" in shown.stdout
