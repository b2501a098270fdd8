"""Without a network and without vLLM: a real search behind a loopback alone, and cheap imports."""

import json
import re
import statistics
import subprocess
import sys
import time
from pathlib import Path

import pytest

# Raises loopback by hand (SIOCGIFFLAGS, SIOCSIFFLAGS), shows that nothing else is reachable, then becomes the search.
ALONE = """
import fcntl, os, socket, struct, sys
link = socket.socket()
flags = struct.unpack("16sh", fcntl.ioctl(link, 0x8913, struct.pack("16sh", b"lo", 0))[:18])[1]
fcntl.ioctl(link, 0x8914, struct.pack("16sh", b"lo", flags | 1))
assert socket.if_nameindex() == [(1, "lo")]
try:
    socket.create_connection(("192.0.2.1", 80), timeout=5)
except OSError as error:
    assert error.errno == 101, error
os.execv(sys.executable, [sys.executable, "-c", sys.argv[1], *sys.argv[2:]])
"""
# The kernel's high-water mark of this very program; getrusage would count the parent that forked it, too.
MEASURED = """
import atexit
from lmsearcher_local.cli.main import main
atexit.register(lambda: print(next(line for line in open("/proc/self/status") if line.startswith("VmHWM"))))
main()
"""


def test_the_readme_search_runs_with_loopback_alone_in_4_gib(tmp_path: Path) -> None:
    isolate = ["unshare", "--net", "--map-root-user"]
    if subprocess.run([*isolate, "true"], capture_output=True).returncode:
        pytest.skip("this machine lets nobody make a network namespace")
    command = [*isolate, sys.executable, "-c", ALONE, MEASURED]
    command += ["search", "--table", "nasbench201-cifar100", "--trials", "100", "--out", "out"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, timeout=600)
    assert done.returncode == 0, done.stderr
    assert "The table's optimum: 73.4933" in done.stdout
    assert "of 15,625" in done.stdout
    results = json.loads((tmp_path / "out" / "historical_results.json").read_text())
    assert len({trial["cell"] for trial in results.values()}) == 100
    assert (tmp_path / "out" / "search.png").stat().st_size > 10_000
    peak = re.search(r"VmHWM:\s+(\d+) kB", done.stdout)
    assert peak
    assert int(peak[1]) < 4 * 2**20


def test_the_package_is_imported_without_an_engine() -> None:
    heavy = "import sys; sys.modules.update(dict.fromkeys(['torch', 'transformers', 'vllm']))"  # importing them raises
    subprocess.run([sys.executable, "-c", f"{heavy}; import lmsearcher_local"], check=True)


@pytest.mark.perf
@pytest.mark.parametrize(
    ("arguments", "seconds"), [(["-c", "import lmsearcher_local"], 0.5), (["-m", "lmsearcher_local", "--help"], 1.0)]
)
def test_start_is_quick(arguments: list[str], seconds: float) -> None:
    spent = []
    for _ in range(5):
        start = time.perf_counter()
        subprocess.run([sys.executable, *arguments], check=True, capture_output=True)
        spent.append(time.perf_counter() - start)
    assert statistics.median(spent) < seconds
