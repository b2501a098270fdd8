"""What a load leaves behind in the process that did it: nothing."""

import json
import os
import subprocess
import sys
from pathlib import Path

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
from lmsearcher_local.model.load import load_ranker
from lmsearcher_local.search.throughput import fresh_tasks

tasks = fresh_tasks(np.random.default_rng(0), 2, 20, 10)
before = state()
with load_ranker(sys.argv[2], sys.argv[1]) as ranker:
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
tracing = sys.modules.get("torch._dynamo.utils")
assert not tracing or not tracing.counters["frames"], "something was compiled"
print("as before")
"""


@pytest.mark.parametrize(
    ("engine", "variables"),
    [
        # vLLM itself takes a level in lower case; torch reads its own when it is imported, here before the load.
        ("vllm", {"VLLM_LOGGING_LEVEL": "error", "TORCH_CPP_LOG_LEVEL": "ERROR"}),
        ("transformers", {}),
    ],
)
def test_the_process_is_as_before_and_nothing_was_said(
    engine: str, variables: dict[str, str], llama_folder: Path, tmp_path: Path
) -> None:
    for file in ("model.safetensors", "tokenizer.json"):
        (tmp_path / file).symlink_to(llama_folder / file)
    config = json.loads((llama_folder / "config.json").read_text())
    del config["transformers_version"]  # which makes transformers suspect any large tokenizer of Mistral's fault
    (tmp_path / "config.json").write_text(json.dumps(config))
    names = ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "TRANSFORMERS_VERBOSITY", "VLLM_LOGGING_LEVEL")
    environment = {name: value for name, value in os.environ.items() if name not in names}
    found = subprocess.run(
        [sys.executable, "-c", SCRIPT, engine, str(tmp_path)],
        env=environment | variables,
        capture_output=True,
        text=True,
        check=False,
    )
    assert found.returncode == 0, found.stderr
    assert found.stdout == "as before\n"
    assert found.stderr == ""
