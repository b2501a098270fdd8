"""Shared real parts: clusters, and Llama-3.1-shaped checkpoints with random weights and the real Llama 3 tokenizer."""

import os

os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # of torch's threads: two workers share two processors
# Hundreds of processes are started here, and each would compile this package anew.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)

import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from groups import LONGEST, GroupScheduling, group_of
from hypothesis import settings

from lmsearcher_local.model.load import load_ranker
from lmsearcher_local.model.ranker import Ranker

settings.register_profile("any machine", deadline=None)  # a busy one is slow now and then, which is no fault
settings.load_profile("any machine")


@pytest.fixture(scope="session")
def llama_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A float32 checkpoint in the layout of the published one."""
    from bench import llama  # imports torch, which most tests do without

    folder = tmp_path_factory.mktemp("llama")
    llama.write_tokenizer(folder)
    llama.write_model(folder)
    return folder


@pytest.fixture(scope="session")
def llama_bfloat16(tmp_path_factory: pytest.TempPathFactory, llama_folder: Path) -> Path:
    """The same in bfloat16."""
    import torch

    from bench import llama

    folder = tmp_path_factory.mktemp("llama-bfloat16")
    (folder / "tokenizer.json").symlink_to(llama_folder / "tokenizer.json")
    llama.write_model(folder, torch.bfloat16)
    return folder


@pytest.fixture(scope="session")
def rows_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small Llama of random weights in the layout of a compact checkpoint, its table included."""
    from bench import llama

    folder = tmp_path_factory.mktemp("rows")
    llama.write_compact(folder)
    return folder


_opened = ExitStack()
_bundled: list[Ranker] = []


@pytest.fixture
def bundled() -> Ranker:
    """The bundled checkpoint in vLLM, the same for all tests that ask for it one after the other."""
    if not _bundled:
        _bundled.append(_opened.enter_context(load_ranker()))
    return _bundled[0]


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Another test may load a checkpoint of its own, and vLLM holds one in a process."""
    if "bundled" not in getattr(item, "fixturenames", ()):
        pytest_sessionfinish()


def pytest_sessionfinish() -> None:
    """Close what is shared."""
    _bundled.clear()
    _opened.close()


@pytest.fixture(scope="session")
def dask() -> Iterator[str]:
    """The address of a Dask cluster."""
    distributed = pytest.importorskip("distributed")
    with distributed.LocalCluster(n_workers=4, threads_per_worker=1, dashboard_address=None) as cluster:
        yield cluster.scheduler_address


@pytest.fixture(scope="session")
def ray() -> Iterator[str]:
    """The address of a Ray cluster."""
    pytest.importorskip("ray")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    start = [str(Path(sys.executable).with_name("ray")), "start", "--head", "--block", f"--port={port}"]
    start += [f"--num-cpus={4}", "--include-dashboard=false", "--disable-usage-stats"]
    process = subprocess.Popen(start, stdout=subprocess.PIPE, text=True, start_new_session=True)
    assert process.stdout is not None
    for line in process.stdout:
        if "--block" in line:
            break
    yield f"127.0.0.1:{port}"
    process.terminate()
    process.wait()


SLOW = (  # files of tests that load vLLM or train, or start many processes or clusters
    *("adapter", "bundle", "dashboard", "docs", "engines", "evaluation_process", "examples", "executors"),
    *("foreign_code", "full_disk", "fuzz", "host", "hostile", "kill", "memory", "offline", "optuna", "presets"),
    *("pruning", "quantization", "rehearsal", "report", "rows", "sampling", "smollm2", "sources", "throughput"),
    *("train_command", "training", "trim", "vllm_engine", "bench", "prefilter", "ending", "objective"),
)


def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """Two workers for the whole suite; named tests run in this process."""
    return 2 if config.args_source is pytest.Config.ArgsSource.TESTPATHS else 0


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> GroupScheduling:
    """A worker runs whole groups."""
    return GroupScheduling(config, log)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what ``make test-fast`` leaves out, and bring groups into their order."""
    groups: dict[str, list[pytest.Item]] = {group: [] for group in LONGEST}
    for item in items:
        groups.setdefault(group_of(item.nodeid), []).append(item)
        if item.path.stem.removeprefix("test_") in SLOW:
            item.add_marker(pytest.mark.slow)
    groups["bundled checkpoint"].sort(key=lambda item: "bundled" not in getattr(item, "fixturenames", ()))
    items[:] = [item for group in groups.values() for item in group]
