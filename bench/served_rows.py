"""The bundled checkpoint in this process against vLLM's server, which takes its rows as ``prompt_embeds`` over HTTP.

``python -m bench.served_rows --out runs/served_rows.jsonl``. Both get the same rows, and both answer with the
log-probabilities of the pool's aliases, which must agree before anything is timed. Each computes on one thread. Every
measurement begins with an empty prefix cache and makes its rows anew; the surrogate behind them is fitted before. The
two take turns, so on a machine with other work their ratio is worth reading, and the least time.
"""

import base64
import io
import json
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import chain
from pathlib import Path
from shutil import copytree
from tempfile import TemporaryDirectory
from typing import Any

import click
import numpy as np

from bench.throughput import family, idle, replay, server
from lmsearcher_local.errors import EngineError
from lmsearcher_local.model.checkpoint import load_checkpoint
from lmsearcher_local.model.codecs.base import Codec
from lmsearcher_local.model.engines.base import prefix_key
from lmsearcher_local.model.load import load_ranker
from lmsearcher_local.model.ranker import Task
from lmsearcher_local.search import throughput
from lmsearcher_local.search.throughput import SEARCH, Answer, Row, fresh_tasks, pick, vllm_engine
from lmsearcher_local.spaces.space import SearchSpace

TOLERANCE = 1e-4  # in probability, between the two
NASBENCH, WIDE = SearchSpace([5] * 6), SearchSpace([5] * 48)
CELLS = ((NASBENCH, 1), (NASBENCH, 32), (WIDE, 1))  # spaces, and how many pools are asked for at a time
HISTORY, POOL = 200, 10
CHECKED = (20, 100, HISTORY)  # histories behind which the two must agree
FLAGS = ("--enable-prompt-embeds", "--max-logprobs", "128", "--max-num-seqs", "64")
ONE_THREAD = {"OMP_NUM_THREADS": "1", "VLLM_CPU_OMP_THREADS_BIND": "nobind"}


@click.command(context_settings={"show_default": True})
@click.option("--repeats", type=click.IntRange(2), default=15)
@click.option("--out", type=click.Path(path_type=Path), required=True, help="File of the rows, as JSON lines.")
def main(repeats: int, out: Path) -> None:
    """Time answers of the bundled checkpoint here and behind vLLM's server, in turns."""
    rows: list[Row] = []
    with TemporaryDirectory() as scratch, load_ranker(cache_bytes=throughput.CACHE) as ranker:
        folder = with_words(Path(scratch) / "small")
        with server(folder, "", FLAGS, ONE_THREAD) as (client, process, forget):
            rows.append({"what": "check", "apart": check(client, ranker)})
            click.echo(json.dumps(rows[-1]))
            methods: dict[str, Answer] = {
                "ours": partial(pick, ranker),
                "server": partial(ask_server, client, ranker.codec),
            }
            engine = vllm_engine(ranker)

            def rest() -> None:
                engine.forget()
                idle(process)

            ready: dict[str, Callable[[], object]] = {"ours": rest, "server": forget}

            def used() -> float:
                """Processor seconds of this process and the server's."""
                others = [member.cpu_times() for member in family(process)]
                return time.process_time() + sum(spent.user + spent.system for spent in others)

            for row in chain(measure(methods, ready, used, repeats), [replay(ranker, methods, ready)]):
                rows.append(row)
                click.echo(json.dumps(row))
                throughput.write_rows(out, rows, checkpoint=load_checkpoint().identity)


def with_words(folder: Path) -> Path:
    """A copy of the bundled checkpoint with a tokenizer, without which no server starts; it writes nothing."""
    from tokenizers import Tokenizer, models

    found = load_checkpoint()
    copytree(found.path, folder)
    words = {f"w{i}": i for i in range(found.vocabulary)}
    Tokenizer(models.WordLevel(words, unk_token="w0")).save(str(folder / "tokenizer.json"))
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "unk_token": "w0"}
    (folder / "tokenizer_config.json").write_text(json.dumps(config), encoding="utf-8")
    (folder / "SHA256SUMS").unlink()
    return folder


def request(client: Any, codec: Codec, tasks: Sequence[Task]) -> list[np.ndarray]:
    """Log-probabilities of each pool's aliases, all of them from one request."""
    import torch

    bodies = []
    for task in tasks:
        stream = io.BytesIO()
        torch.save(torch.from_numpy(np.array(codec.prompt(*task))), stream)
        bodies.append(base64.b64encode(stream.getvalue()).decode())
    aliases = [token for [token] in codec.answers(tasks[0].space, tasks[0].pool.codes)]
    about = {"prompt_embeds": bodies, "logprob_token_ids": aliases, "return_tokens_as_token_ids": True}
    reply = client.completions.create(
        model="model", prompt=None, max_tokens=1, temperature=0, logprobs=1, extra_body=about
    )
    found = [choice.logprobs.top_logprobs[0] for choice in sorted(reply.choices, key=lambda choice: choice.index)]
    return [np.array([named[f"token_id:{token}"] for token in aliases]) for named in found]


def ask_server(client: Any, codec: Codec, tasks: Sequence[Task]) -> int:
    """One request for all tasks of a call; how many they are."""
    for task, values in zip(tasks, request(client, codec, tasks), strict=True):
        if not np.isfinite(values[: len(task.pool)]).all():
            raise EngineError("the server answered with something that is no log-probability")
    return len(tasks)


def check(client: Any, ranker: Any) -> float:
    """By how much the probabilities of the two are apart at most, which is within the tolerance."""
    rng, apart = np.random.default_rng(0), 0.0
    for history in CHECKED:
        tasks = fresh_tasks(rng, 8, history, POOL, NASBENCH)
        assert len({prefix_key(ranker.codec.prompt(*task)) for task in tasks}) == len(tasks)
        for ranking, values in zip(ranker.rank(tasks), request(client, ranker.codec, tasks), strict=True):
            chances = np.exp(values - values.max())
            apart = max(apart, float(np.abs(np.exp(ranking.log_probs) - chances / chances.sum()).max()))
    if not apart < TOLERANCE:
        raise EngineError(f"the server's probabilities are {apart} from ours")
    return apart


def measure(
    methods: dict[str, Answer],
    ready: dict[str, Callable[[], object]],
    used: Callable[[], float],
    repeats: int,
) -> Iterator[Row]:
    """For each cell and method milliseconds a pool: the least and the quartiles of the time, and the mean of the
    processor time of client and server. The first repeat is not counted."""
    rng = np.random.default_rng(1)
    for space, batch in CELLS:
        times: dict[str, list[float]] = {name: [] for name in methods}
        processor: dict[str, list[float]] = {name: [] for name in methods}
        for _ in range(repeats + 1):
            for name in rng.permutation([*methods]).tolist():
                tasks = fresh_tasks(rng, batch, HISTORY, POOL, space)
                for task in tasks:
                    _ = task.pool.appraisal, task.pool.surrogate.hindsight  # fitted now
                ready[name]()
                before, started = used(), time.perf_counter()
                methods[name](tasks)
                times[name].append(1000 * (time.perf_counter() - started) / batch)
                processor[name].append(1000 * (used() - before) / batch)
        row: Row = {"what": "fresh", "positions": len(space.sizes), "history": HISTORY, "pool": POOL, "batch": batch}
        row["ms"] = {
            name: np.quantile(values[1:], (0, 0.25, 0.5, 0.75)).round(2).tolist() for name, values in times.items()
        }
        row["processor_ms"] = {name: round(float(np.mean(values[1:])), 2) for name, values in processor.items()}
        row["ratio"] = [round(b / a, 2) for a, b in zip(row["ms"]["ours"], row["ms"]["server"], strict=True)]
        yield row | {"processor_ratio": round(row["processor_ms"]["server"] / row["processor_ms"]["ours"], 2)}


def markdown(rows: Sequence[Row]) -> str:
    """The tables of the documentation: milliseconds a pool, and seconds of a search."""
    text = "| positions | at a time | ours, least / median | server, least / median | processor time, ours / server |\n"
    text += "| --- | --- | --- | --- | --- |\n"
    for row in rows:
        if row["what"] == "fresh":
            times = [f"{row['ms'][method][0]:.0f} / {row['ms'][method][2]:.0f}" for method in ("ours", "server")]
            spent = " / ".join(f"{row['processor_ms'][method]:.0f}" for method in ("ours", "server"))
            text += f"| {row['positions']} | {row['batch']} | {' | '.join(times)} | {spent} |\n"
    found = {row["what"]: row for row in rows}
    took = found["search"]["seconds"]
    return (
        f"{text}\nThe {found['search']['pools']} pools of a search of {SEARCH} trials took {took['ours']:.1f} s here"
        f" and {took['server']:.1f} s by the server."
        f" Probabilities were apart by {found['check']['apart']:.0e} at most.\n"
    )


if __name__ == "__main__":
    main()
