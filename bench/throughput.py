"""Throughput against other methods that give the same answers: vLLM's server, its grammar, and a bare prefill.

``python -m bench.throughput --out runs/throughput`` writes ``rows.jsonl`` and ``table.md``. The workload is a Llama
of random weights with Llama 3's tokenizer and vocabulary, where head and tokenizer cost what they cost in practice.
Correctness is asserted before anything is timed. For the bundled checkpoint's rows there is ``bench/served_rows.py``.
"""

import json
import math
import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from itertools import product
from pathlib import Path
from tempfile import TemporaryDirectory
from types import MappingProxyType
from typing import Any, NamedTuple

import click
import numpy as np

from bench import llama
from bench.grammar import choose
from bench.rankers import search, surrogate, trials
from lmsearcher_local.cli.bench import BATCHES, HISTORIES, POOLS
from lmsearcher_local.errors import EngineError
from lmsearcher_local.model.checkpoint import load_checkpoint
from lmsearcher_local.model.codecs.text import TEMPLATES, message
from lmsearcher_local.model.load import load_ranker
from lmsearcher_local.model.ranker import Ranker, Task
from lmsearcher_local.search import throughput
from lmsearcher_local.search.throughput import (
    SEARCH,
    SPACE,
    Answer,
    Row,
    fresh_tasks,
    measure,
    pick,
    prefill,
    rank,
    vllm_engine,
)

LAYERS, HIDDEN = 4, 256  # of the Llama of random weights: 68 M parameters, nearly all of them for the vocabulary
TOLERANCE = 1e-3  # in probability, between vLLM and transformers, both in float32
FREE = 20  # questions that count how often a free answer is in the pool
WATCHED, RESTING = 0.3, 0.02  # seconds for which the server is watched, and processor time that is rest
SERVED = 8  # pools that the server is asked for a measurement; it answers one after the other
OTHERS = ("whole ranking", "prefill", "grammar", "server", "server, grammar")
CHECKED = ((20, 10), (100, 10), (20, 100))  # history items and candidates
FIRST = """
import sys, numpy as np
from lmsearcher_local.model.load import load_ranker
from lmsearcher_local.search.throughput import fresh_tasks
with load_ranker(sys.argv[1]) as ranker:
    ranker.rank(fresh_tasks(np.random.default_rng(0), 1, 20, 10))
"""


class Workload(NamedTuple):
    """A checkpoint folder, and the text and chat template that make a server's prompt the very same tokens."""

    folder: Path
    text: Callable[[Task], str]
    template: str
    length: Callable[[Task], int]  # tokens of an answer


@click.command(context_settings={"show_default": True})
@click.option("--batch", type=click.IntRange(1), multiple=True, default=BATCHES)
@click.option("--history", type=click.IntRange(0, 200), multiple=True, default=HISTORIES)
@click.option("--pool", type=click.IntRange(2, 128), multiple=True, default=POOLS)
@click.option("--repeats", type=click.IntRange(2), default=3)
@click.option("--out", type=click.Path(path_type=Path), required=True, help="Folder of the results.")
def main(batch: Sequence[int], history: Sequence[int], pool: Sequence[int], repeats: int, out: Path) -> None:
    """Time our ranking, vLLM's server, its grammar and a bare prefill, in turns."""
    rows: list[Row] = []
    with TemporaryDirectory() as scratch:
        load = random_llama(Path(scratch))
        for row in run(load, list(product(history, pool, batch)), repeats):
            click.echo(json.dumps(row) if "method" not in row else throughput.format_row(row))
            rows.append(row)
            throughput.write_rows(out / "rows.jsonl", rows)
    (out / "table.md").write_text(markdown(rows), encoding="utf-8")
    click.echo(markdown(rows))


def random_llama(scratch: Path) -> Workload:
    """A Llama of random weights with the real tokenizer, asked in the published text protocol."""
    folder = scratch / "llama"
    folder.mkdir()
    llama.write_tokenizer(folder)
    llama.write_model(folder, layers=LAYERS, hidden=HIDDEN)
    found = load_checkpoint(folder)
    profile, codec = found.profile, found.codec()
    before, after = TEMPLATES[profile.template].format(date=profile.date, message="\0").split("\0")
    template = f"{{{{ {before!r} + messages[0]['content'] + {after!r} }}}}"

    def text(task: Task) -> str:
        return message(task.history, task.pool.codes, profile.score_digits)

    def length(task: Task) -> int:
        return 1 + max(map(len, codec.answers(task.space, task.pool.codes)))  # and the end

    return Workload(folder, text, template, length)


def run(load: Workload, cells: Sequence[tuple[int, int, int]], repeats: int) -> Iterator[Row]:
    """All rows."""
    with load_ranker(load.folder, cache_bytes=throughput.CACHE) as ranker:
        with load_ranker(load.folder, "transformers") as reference:
            yield check(ranker, reference)
        with server(load.folder, load.template) as (client, process, forget):
            methods: dict[str, Answer] = {
                "ours": partial(pick, ranker),
                "whole ranking": partial(rank, ranker),
                "prefill": partial(prefill, ranker),
                "grammar": lambda tasks: len(ask_grammar(ranker, tasks)),
                "server": partial(ask_server, client, load, False),
                "server, grammar": partial(ask_server, client, load, True),
            }
            tasks = fresh_tasks(np.random.default_rng(1), FREE, 100, 10)
            valid = sum(request(client, load, task, False) in task.pool.codes for task in tasks)
            yield {"what": "free answers", "asked": len(tasks), "in_pool": valid}
            # The server's cache is emptied for its own methods only: whatever it is asked keeps it busy for a second.
            ready = {name: forget if name.startswith("server") else partial(idle, process) for name in methods}
            yield from measure(ranker, methods, cells, repeats, ready)
            yield replay(ranker, methods, ready)
            yield {"what": "server memory", "peak_bytes": peak_memory(process)}
    yield {"what": "process memory", "peak_bytes": throughput.peak_memory()}
    yield first_answer(load)


def check(ranker: Ranker, reference: Ranker) -> Row:
    """Make sure that both engines agree, and the grammar where it tokenises its answer as we do."""
    tasks = [task for n, pool in CHECKED for task in fresh_tasks(np.random.default_rng(n), 8, n, pool)]
    rankings = ranker.rank(tasks)
    apart = 0.0
    for one, other in zip(rankings, reference.rank(tasks), strict=True):
        apart = max(apart, float(np.abs(np.exp(one.log_probs) - np.exp(other.log_probs)).max()))
    if not apart < TOLERANCE:
        raise EngineError(f"vLLM and transformers differ by {apart} in probability")
    comparable = 0
    for task, ranking, (code, tokens) in zip(tasks, rankings, ask_grammar(ranker, tasks), strict=True):
        path = ranker.codec.answers(task.space, task.pool.codes)[task.pool.codes.index(code)]
        if tokens[: len(path)] == path:  # a grammar may spell a code in other tokens
            comparable += 1
            if ranking.greedy != code:
                raise EngineError(f"the grammar answers {code}, ours is {ranking.greedy}")
    return {"what": "check", "apart": apart, "tasks": len(tasks), "equal_to_grammar": comparable}


def ask_grammar(ranker: Ranker, tasks: Sequence[Task]) -> list[tuple[str, list[int]]]:
    """Codes and their tokens by vLLM's own constrained decoding, in this process."""
    prompts = [ranker.codec.prompt(*task) for task in tasks]
    return choose(vllm_engine(ranker), prompts, [task.pool.codes for task in tasks])


def request(client: Any, load: Workload, task: Task, constrained: bool) -> str:
    """The published way to ask: one chat request, in free form or held to the pool by the server's grammar."""
    longest = max(map(len, task.pool.codes)) + 1
    reply = client.chat.completions.create(
        model="model",
        messages=[{"role": "system", "content": load.text(task)}],
        max_tokens=longest if constrained else load.length(task),  # a grammar may take more tokens
        temperature=0,
        extra_body={"structured_outputs": {"choice": [*task.pool.codes]}} if constrained else None,
    )
    return str(reply.choices[0].message.content).strip()


def ask_server(client: Any, load: Workload, constrained: bool, tasks: Sequence[Task]) -> int:
    """One request after the other, as many as are returned. A free answer counts whether it is in the pool or not."""
    for task in tasks[:SERVED]:
        text = request(client, load, task, constrained)
        if constrained and text not in task.pool.codes:
            raise EngineError(f"the server's grammar answered {text!r}")
    return min(len(tasks), SERVED)


@contextmanager
def server(
    folder: Path,
    chat_template: str = "",
    flags: Sequence[str] = (),
    variables: Mapping[str, str] = MappingProxyType({}),
) -> Iterator[tuple[Any, subprocess.Popen[bytes], Callable[[], object]]]:
    """vLLM's OpenAI server on the loopback, with our engine's settings: a client, the process, emptying its cache."""
    from openai import OpenAI

    found = load_checkpoint(folder)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    url = f"http://127.0.0.1:{port}"
    template = folder.parent / f"{folder.name}.jinja"
    template.write_text(chat_template, encoding="utf-8")
    options = {
        "--model": folder,
        "--served-model-name": "model",
        "--host": "127.0.0.1",
        "--port": port,
        "--chat-template": template,
        "--dtype": found.dtype,
        "--max-model-len": found.context,
        "--kv-cache-memory-bytes": throughput.CACHE,
        "--block-size": 32,
    }
    arguments = [str(word) for option in options.items() for word in option]
    command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", *arguments, "--enforce-eager", *flags]
    modes = {"VLLM_ENABLE_V1_MULTIPROCESSING": "1", "VLLM_SERVER_DEV_MODE": "1"}  # the latter for /reset_...
    log = folder.parent / f"{folder.name}.log"
    with log.open("wb") as stream:
        process = subprocess.Popen(command, stdout=stream, stderr=stream, env={**os.environ, **modes, **variables})
    try:
        while True:
            try:
                urllib.request.urlopen(f"{url}/health", timeout=5)
                break
            except OSError:
                if process.poll() is not None:
                    raise EngineError(f"the server does not start: {log.read_text()[-2000:]}") from None
                time.sleep(0.1)
        empty = urllib.request.Request(f"{url}/reset_prefix_cache", method="POST")
        client = OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0)
        yield client, process, partial(urllib.request.urlopen, empty)
    finally:
        process.terminate()
        process.wait()


def replay(ranker: Ranker, methods: dict[str, Answer], ready: dict[str, Callable[[], object]]) -> Row:
    """The pools of a search of 192 trials, one after the other, by every method from an empty prefix cache on."""
    rng = np.random.default_rng(0)
    effects = rng.normal(size=(len(SPACE.sizes), max(SPACE.sizes)))
    tasks: list[Task] = []

    def judge(task: Task) -> np.ndarray:
        tasks.append(task)
        return surrogate(task)

    def score(code: str) -> float:
        return float(effects[np.arange(len(SPACE.sizes)), SPACE.indices(code)].sum() + rng.normal() / 9)

    trials(search(SPACE, 0, judge, {}), score, SEARCH)
    tasks = [task for task in tasks if len(task.pool) > 1]
    engine = vllm_engine(ranker)
    seconds = {}
    share = 0.0
    for name, answer in methods.items():
        engine.forget()
        ready[name]()
        before = engine.prompt_tokens, engine.computed_tokens
        started = time.perf_counter()
        for task in tasks:
            answer([task])
        seconds[name] = time.perf_counter() - started
        if name == "ours":
            share = (engine.computed_tokens - before[1]) / (engine.prompt_tokens - before[0])
    return {"what": "search", "pools": len(tasks), "seconds": seconds, "computed_share": share}


def first_answer(load: Workload) -> Row:
    """Seconds from the start of a process to its first answer: ours, and a server's with its client."""
    started = time.perf_counter()
    subprocess.run([sys.executable, "-c", FIRST, load.folder], check=True, capture_output=True)
    alone = time.perf_counter() - started
    started = time.perf_counter()
    with server(load.folder, load.template) as (client, *_):
        ask_server(client, load, True, fresh_tasks(np.random.default_rng(0), 1, 20, 10))
        served = time.perf_counter() - started
    return {"what": "first answer", "seconds": {"ours": alone, "server": served}}


def markdown(rows: Sequence[Row]) -> str:
    """Medians as ratios, for the documentation."""
    cells: dict[tuple[int, int, int], dict[str, Row]] = {}
    for row in rows:
        if "method" in row:
            cells.setdefault((row["history"], row["pool"], row["batch"]), {})[row["method"]] = row
    text = "Fresh prompts; other methods' time per pool in units of ours:\n\n"
    text += f"| history | pool | batch | tokens computed | pools/s | {' | '.join(OTHERS)} |\n|{' --- |' * 10}\n"
    for cell, measured in cells.items():
        rate = {method: row["pools_per_s"][1] for method, row in measured.items()}
        numbers = [f"{measured['ours']['tokens_per_pool']:.0f}", f"{rate['ours']:.1f}"]
        numbers += [f"{rate['ours'] / rate[other]:.2f}" for other in OTHERS]
        text += f"| {' | '.join([*map(str, cell), *numbers])} |\n"
    one = {row["what"]: row for row in rows}
    took, first, share = one["search"]["seconds"], one["first answer"]["seconds"], one["search"]["computed_share"]
    ratios = ", ".join(f"{other} {took[other] / took['ours']:.2f}" for other in OTHERS)
    here, there = (one[f"{name} memory"]["peak_bytes"] / 2**30 for name in ("process", "server"))
    return (
        f"{text}\nA search of {SEARCH} trials ({share:.0%} of the prompts' tokens computed): {ratios}.\n"
        f"First answer of a new process: ours {first['ours']:.0f} s, server {first['server']:.0f} s.\n"
        f"Peak memory: this process {here:.1f} GiB, server {there:.1f} GiB.\n"
        f"Free answers in the pool: {one['free answers']['in_pool']} of {one['free answers']['asked']}.\n"
    )


def idle(process: "subprocess.Popen[bytes]") -> None:
    """Wait until the server rests: after each answer it keeps a core busy for a second, which is one of ours."""
    spent = math.inf
    while spent > RESTING:
        before = [member.cpu_times() for member in family(process)]
        time.sleep(WATCHED)
        after = [member.cpu_times() for member in family(process)]
        spent = sum(sum(times[:2]) for times in after) - sum(sum(times[:2]) for times in before)


def peak_memory(process: "subprocess.Popen[bytes]") -> int:
    """Of a process and its children, in bytes, while they run."""
    return sum(throughput.peak_memory(member.pid) for member in family(process))


def family(process: "subprocess.Popen[bytes]") -> list[Any]:
    """A process and its children."""
    import psutil  # comes with vLLM

    root = psutil.Process(process.pid)
    return [root, *root.children(recursive=True)]


if __name__ == "__main__":
    main()
