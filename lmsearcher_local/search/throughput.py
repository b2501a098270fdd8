"""How fast a checkpoint ranks on this machine: pools per second, against a bare prefill of the same prompts."""

import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np

from lmsearcher_local.candidates.history import History
from lmsearcher_local.errors import EngineError
from lmsearcher_local.model.ranker import Ranker, Task
from lmsearcher_local.search.searcher import Searcher
from lmsearcher_local.spaces.space import SearchSpace
from lmsearcher_local.system.provenance import provenance

if TYPE_CHECKING:
    from lmsearcher_local.model.engines.vllm import VLLMEngine

SPACE = SearchSpace([5] * 10)
SEARCH = 192  # trials of a search (published protocol)
SECONDS = 2.0  # of every measurement, at least
PAUSE = 0.3  # in which threads of the method before stop waiting for work
CACHE = 1 << 30  # bytes of keys and values, at least: the longest prompts of a large batch

Row = dict[str, Any]
Answer = Callable[[Sequence[Task]], int]
"""A method that answers pools: how many of them it answered, counted from the first."""


def fresh_tasks(
    rng: np.random.Generator, batch: int, history: int, pool: int, space: SearchSpace = SPACE
) -> list[Task]:
    """Random pools, each with a random history of its own, of which nothing is computed yet."""
    tasks = []
    for _ in range(batch):
        codes = space.sample(rng, history + pool)
        seen = History(tuple(codes[pool:]), tuple(rng.normal(size=history).tolist()))
        tasks.append(Task.of(space, seen, codes[:pool]))
    return tasks


def pick(ranker: Ranker, tasks: Sequence[Task]) -> int:
    """One answer to each pool, which is what a search asks for."""
    for task, answer in zip(tasks, ranker.pick(tasks), strict=True):
        if answer.code not in task.pool.codes or not answer.log_prob <= 0:
            raise EngineError(f"{answer.code} is no answer to the pool {', '.join(task.pool.codes)}")
    return len(tasks)


def rank(ranker: Ranker, tasks: Sequence[Task]) -> int:
    """The probability of every candidate of each pool."""
    for task, ranking in zip(tasks, ranker.rank(tasks), strict=True):
        if ranking.greedy not in task.pool.codes or not np.isclose(np.exp(ranking.log_probs).sum(), 1):
            raise EngineError(f"{ranking.greedy} is no answer to the pool {', '.join(task.pool.codes)}")
    return len(tasks)


def prefill(ranker: Ranker, tasks: Sequence[Task]) -> int:
    """The floor: one token after each prompt, whatever it is."""
    from vllm import SamplingParams

    params = SamplingParams(max_tokens=1, temperature=0, detokenize=False)
    vllm_engine(ranker).generate([ranker.codec.prompt(*task) for task in tasks], [params] * len(tasks))
    return len(tasks)


METHODS = {"pick": pick, "ranking": rank, "prefill": prefill}


def measure(
    ranker: Ranker,
    methods: Mapping[str, Answer],
    cells: Sequence[tuple[int, int, int]],
    repeats: int,
    ready: Mapping[str, Callable[[], object]] = MappingProxyType({}),
) -> Iterator[Row]:
    """A row for each cell ``(history, pool, batch)`` and method: quartiles of pools per second.

    In a repeat every method gets the same fresh tasks, in an order drawn anew: the first after a rest is slower. It
    starts with an empty prefix cache and makes its own prompts, fit of the surrogate included; ``prefill`` alone finds
    that fit. ``ready`` makes what is outside this process ready for a method. There are at least ``repeats``, more
    where they are quick.
    """
    engine = vllm_engine(ranker)
    for history, pool, batch in cells:
        rng = np.random.default_rng((history, pool, batch))
        spent, computed = ({name: list[float]() for name in methods} for _ in range(2))
        warm = False
        while len(spent["prefill"]) < repeats or min(map(sum, spent.values())) * batch < SECONDS:
            tasks = fresh_tasks(rng, batch, history, pool)
            for name in rng.permutation(list(methods)).tolist():
                engine.forget()
                if name in ready:
                    ready[name]()
                own = [Task.of(task.space, task.history, task.pool.codes) for task in tasks]
                if name == "prefill":
                    for task in own:
                        ranker.codec.prompt(*task)
                time.sleep(PAUSE)
                before, started = engine.computed_tokens, time.perf_counter()
                answered = methods[name](own)
                if warm:
                    spent[name].append((time.perf_counter() - started) / answered)
                    computed[name].append((engine.computed_tokens - before) / answered)
            warm = True
        floor = np.median(spent["prefill"])
        for name, seconds in spent.items():
            rate = np.quantile(1 / np.array(seconds), (0.25, 0.5, 0.75)).tolist()
            row = {"what": "fresh prompts", "history": history, "pool": pool, "batch": batch, "method": name}
            row |= {"pools_per_s": rate, "time_of_prefill": float(np.median(seconds) / floor)}
            yield row | {"tokens_per_pool": float(np.mean(computed[name])) or None, "repeats": len(seconds)}


def search(ranker: Ranker) -> Row:
    """A search of a random objective with one additive term per position and a little noise, one ask at a time."""
    engine, rng = vllm_engine(ranker), np.random.default_rng(0)
    effects = rng.normal(size=(len(SPACE.sizes), max(SPACE.sizes)))
    searcher = Searcher(SPACE, ranker)
    asked = 0.0
    engine.forget()
    total, computed = engine.prompt_tokens, engine.computed_tokens
    for _ in range(SEARCH):
        started = time.perf_counter()
        [code] = searcher.ask()
        asked += time.perf_counter() - started
        value = effects[np.arange(len(SPACE.sizes)), SPACE.indices(code)].sum() + 0.1 * rng.normal()
        searcher.tell(code, float(value))
    total, computed = engine.prompt_tokens - total, engine.computed_tokens - computed
    return {"what": "search", "trials": SEARCH, "seconds": asked, "computed_share": computed / total}


def format_row(row: Row) -> str:
    """A row for the screen."""
    match row["what"]:
        case "start":
            return f"model loaded after {row['load_s']:.1f} s, first answer after {row['first_answer_s']:.1f} s"
        case "search":
            share = f"{row['computed_share']:.0%} of the prompts' tokens computed, the rest from the prefix cache"
            return f"search of {row['trials']} trials: {row['seconds']:.1f} s in all for asking; {share}"
        case "memory":
            return f"peak memory of the process: {row['peak_bytes'] / 2**30:.2f} GiB"
    low, median, high = row["pools_per_s"]
    rate = f"{median:8.1f} pools/s ({low:.1f} to {high:.1f}), {row['time_of_prefill']:5.2f} x the time of a prefill"
    tokens = f", {row['tokens_per_pool']:6.0f} tokens/pool" if row["tokens_per_pool"] else ""
    cell = f"history {row['history']:3}, pool {row['pool']:4}, batch {row['batch']:3}"
    return f"{cell}: {row['method']:16} {rate}{tokens}"


def write_rows(out: Path, rows: Sequence[Row], **about: object) -> None:
    """The rows as JSON lines, versions and device in each."""
    common = {**about, **provenance()}
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text("".join(json.dumps(row | common) + "\n" for row in rows), encoding="utf-8")


def vllm_engine(ranker: Ranker) -> "VLLMEngine":
    """The ranker's engine, known to be vLLM's."""
    from lmsearcher_local.model.engines.vllm import VLLMEngine

    assert isinstance(ranker.engine, VLLMEngine)
    return ranker.engine


def peak_memory(process: int | None = None) -> int:
    """Of a process (this one) so far, in bytes; ``getrusage`` would count what it was before ``exec``."""
    status = Path(f"/proc/{process or 'self'}/status").read_text(encoding="ascii")
    return 1024 * next(int(row.split()[1]) for row in status.splitlines() if row.startswith("VmHWM"))
