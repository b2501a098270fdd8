"""What a load leaves behind in the process that did it: nothing."""

import os
import subprocess
import sys

import pytest

SCRIPT = """
import gc, logging, os, random, signal, sys, warnings
import numpy as np
import torch

def state():
    loggers = [logging.root, logging.getLogger("mine"), logging.getLogger("httpx")]
    return {
        "torch": torch.get_rng_state().tolist(),
        "threads": (torch.get_num_threads(), torch.set_num_threads),
        "filters": warnings.filters[:],
        "environment": dict(os.environ),
        "random": random.getstate(),
        "numpy": [str(part) for part in np.random.get_state()],
        "signals": {number: signal.getsignal(number) for number in signal.valid_signals()},
        "hook": sys.excepthook,
        "loggers": [(one.level, one.handlers[:], one.propagate, one.disabled) for one in loggers],
        "frozen": gc.get_freeze_count(),
        "processors": os.sched_getaffinity(0),
    }

logging.basicConfig(level=logging.INFO)
signal.signal(signal.SIGUSR1, lambda *_: None)
import huggingface_hub.constants as hub
from lmsearcher_local.load import load_ranker
from lmsearcher_local.throughput import fresh_tasks

tasks = fresh_tasks(np.random.default_rng(0), 2, 20, 10)
before = state()
with load_ranker(engine=sys.argv[1]) as ranker:
    assert hub.HF_HUB_OFFLINE is False
    for moment in ("load", "ask", "close"):
        after = state()
        for name, value in before.items():
            assert after[name] == value, (moment, name, value, after[name])
        if moment == "load":
            ranker.rank(tasks)
        else:
            ranker.engine.log_probs_cold([])
after = state()
for name, value in before.items():
    assert after[name] == value, ("close", name, value, after[name])
print("as before")
"""


@pytest.mark.parametrize(
    ("engine", "variables"),
    [
        ("vllm", {"VLLM_LOGGING_LEVEL": "error"}),  # vLLM itself takes it in lower case
        ("transformers", {}),
    ],
)
def test_the_process_is_as_before(engine: str, variables: dict[str, str]) -> None:
    names = ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "VLLM_LOGGING_LEVEL")
    environment = {name: value for name, value in os.environ.items() if name not in names}
    found = subprocess.run(
        [sys.executable, "-c", SCRIPT, engine],
        env=environment | variables,
        capture_output=True,
        text=True,
        check=False,
    )
    assert found.returncode == 0, found.stderr
    assert found.stdout == "as before\n"
