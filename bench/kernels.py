"""Speed of the kernel and of the transformers engine, each against the plain computation of the same result.

``python -m bench.kernels --out runs/kernels.jsonl``. Results are compared before anything is timed. On a GPU the Triton
kernel runs, and stands beside its reference, too; without one the reference is what is shipped.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

import click
import lmsearcher_kernels
import numpy as np
import torch
from lmsearcher_kernels import reference
from torch import Tensor

from lmsearcher_local.candidates.history import HISTORY_CAP, History
from lmsearcher_local.model.checkpoint import load_checkpoint
from lmsearcher_local.model.engines.base import Engine, Question
from lmsearcher_local.model.engines.transformers import TransformersEngine
from lmsearcher_local.model.ranker import Ranker, Task
from lmsearcher_local.search.throughput import write_rows
from lmsearcher_local.spaces.space import SearchSpace

SPACE = SearchSpace([5] * 10)
PLAIN_TOKENS = 32_768  # padded tokens in one plain forward pass
TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 1e-2}
WHOLE_HEAD = {torch.float32: 1e-5, torch.bfloat16: 5e-2}  # the whole head rounds its logits, the kernel does not
Row = dict[str, Any]


@click.command(context_settings={"show_default": True})
@click.option("--out", type=click.Path(path_type=Path), required=True, help="File of the rows, as JSON lines.")
@click.option("--checkpoint", type=click.Path(path_type=Path), help="Checkpoint folder.  [default: the bundled one]")
@click.option("--repeats", type=click.IntRange(2), default=5)
def main(out: Path, checkpoint: Path | None, repeats: int) -> None:
    """Time the kernel and the transformers engine."""
    gpu = torch.cuda.is_available()
    device = "cuda" if gpu else "cpu"
    click.echo(f"{'what':40} {'shape':40} {'plain':>10} {'shipped':>10} {'ratio':>6}  of the speed of a copy")
    rows: list[Row] = []
    for row in chain(head_rows(device, repeats), engine_rows(checkpoint, repeats)):
        rows.append(row)
        write_rows(out, rows)
        plain, shipped = row["plain_s"][1] * 1e3, row["shipped_s"][1] * 1e3
        reached = f"{row['fraction_of_copy']:.0%}" if "fraction_of_copy" in row else "-"
        if not gpu:
            reached = "not measured on a GPU"
        times = f"{plain:7.1f} ms {shipped:7.1f} ms {plain / shipped:6.1f}"
        click.echo(f"{row['what']:40} {row['shape']:40} {times}  {reached}")


def head_rows(device: str, repeats: int) -> Iterator[Row]:
    """The restricted head against the whole one, and on a GPU against the reference."""
    vocabulary, size = 128_256, 4096 if device == "cuda" else 512
    for dtype in (torch.float32, torch.bfloat16):
        torch.manual_seed(0)
        weight = torch.randn(vocabulary, size, dtype=dtype, device=device) / size**0.5
        for questions, tokens in ((1, 10), (32, 10), (32, 128), (256, 10)):
            hidden = torch.randn(questions, size, dtype=dtype, device=device)
            asked = torch.randint(vocabulary, (questions, tokens)).tolist()
            shipped = partial(lmsearcher_kernels.restricted_head, hidden, weight, asked)
            plain = {"whole head": partial(whole_head, hidden, weight, asked)}
            torch.testing.assert_close(shipped(), plain["whole head"](), atol=WHOLE_HEAD[dtype], rtol=0)
            if device == "cuda":
                plain["reference"] = partial(reference.restricted_head, hidden, weight, asked)
                torch.testing.assert_close(shipped(), plain["reference"](), atol=TOLERANCE[dtype], rtol=0)
            moved = questions * (tokens + 1) * size * weight.element_size()
            for name, call in plain.items():
                what = f"restricted_head, {str(dtype)[6:]}, {name}"
                shape = f"[{questions}, {size}] x [{vocabulary}, {size}], {tokens} ids"
                yield compare(what, shape, call, shipped, device, repeats, moved)


def whole_head(hidden: Tensor, weight: Tensor, questions: list[list[int]]) -> Tensor:
    """What ``restricted_head`` computes, by way of every logit; as many ids in each question."""
    logits = (hidden @ weight.T).float()
    return logits.gather(1, torch.tensor(questions, device=hidden.device)).log_softmax(1).flatten()


def engine_rows(checkpoint: Path | None, repeats: int) -> Iterator[Row]:
    """The transformers engine against plain forward passes and whole heads."""
    found = load_checkpoint(checkpoint)
    engine = TransformersEngine(found)
    shipped, plain = Ranker(engine, found.codec()), Ranker(PlainEngine(engine), found.codec())
    tolerance = 1e-5 if found.dtype == "float32" else 2e-2
    for name, tasks in workloads().items():
        for ours, theirs in zip(shipped.rank(tasks), plain.rank(tasks), strict=True):
            np.testing.assert_allclose(np.exp(ours.log_probs), np.exp(theirs.log_probs), atol=tolerance)
        calls = partial(plain.rank, tasks), partial(shipped.rank, tasks)
        row = compare("engine, whole prefixes and head", name, *calls, engine.model.device.type, repeats)
        yield {"checkpoint": found.identity} | row
    engine.close()


def workloads() -> dict[str, list[Task]]:
    """Pools of random codes behind one history, and behind one each."""
    rng = np.random.default_rng(0)
    codes = SPACE.sample(rng, HISTORY_CAP + 720)
    scores = rng.normal(size=HISTORY_CAP).tolist()
    history, candidates = History(tuple(codes[:HISTORY_CAP]), tuple(scores)), codes[HISTORY_CAP:]
    small = [candidates[i : i + 10] for i in range(0, 320, 10)]
    large = [candidates[i : i + 100] for i in range(320, 720, 100)]
    histories = []
    for trials in rng.integers(HISTORY_CAP + 1, size=len(small)):
        order = rng.permutation(HISTORY_CAP)[:trials]
        histories.append(History(tuple(codes[i] for i in order), tuple(scores[i] for i in order)))
    return {
        "1 pool of 10, history 200": [Task.of(SPACE, history, small[0])],
        "32 pools of 10, one history of 200": [Task.of(SPACE, history, pool) for pool in small],
        "4 pools of 100, one history of 200": [Task.of(SPACE, history, pool) for pool in large],
        "32 pools of 10, histories of 0 to 200": list(map(partial(Task.of, SPACE), histories, small)),
    }


class PlainEngine(Engine):
    """The primitive as it reads: each prefix forward as a whole, then the whole head. What the engine must equal."""

    def __init__(self, engine: TransformersEngine) -> None:
        self.max_length = engine.max_length
        self._model = engine.model

    def log_probs(self, questions: Sequence[Question]) -> list[np.ndarray]:
        """Log-probabilities of each question's tokens over the whole vocabulary."""
        answers: list[np.ndarray] = [np.empty(0)] * len(questions)
        order = sorted(range(len(questions)), key=lambda i: len(questions[i].prefix))
        while order:
            batch = order[-max(1, PLAIN_TOKENS // len(questions[order[-1]].prefix)) :]
            del order[-len(batch) :]
            rows = [torch.as_tensor(questions[i].prefix) for i in batch]
            padded = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True).to(self._model.device)
            with torch.inference_mode():
                given = {"input_ids" if padded.ndim == 2 else "inputs_embeds": padded}
                hidden = self._model.model(**given, use_cache=False).last_hidden_state
                logits = self._model.lm_head(hidden[range(len(batch)), [len(row) - 1 for row in rows]])
                values = logits.float().log_softmax(-1).double().cpu().numpy()
            for i, row in zip(batch, values, strict=True):
                answers[i] = row[list(questions[i].tokens)]
        return answers

    def close(self) -> None:
        """The engine owns the model."""


def compare(
    what: str,
    shape: str,
    plain: Callable[[], object],
    shipped: Callable[[], object],
    device: str,
    repeats: int,
    nbytes: int = 0,
) -> Row:
    """Seconds of both, in turns: the quartiles of ``repeats`` calls. Both have run before, so nothing is compiled.

    On a GPU also the share of its memory's speed, as a copy reaches it, at which the least number of bytes was moved.
    """
    spent: dict[str, list[float]] = {"plain_s": [], "shipped_s": []}
    for _ in range(repeats):
        for name, call in (("plain_s", plain), ("shipped_s", shipped)):
            spent[name].append(seconds(call, device))
    row: Row = {name: np.quantile(times, (0.25, 0.5, 0.75)).tolist() for name, times in spent.items()}
    if device == "cuda" and nbytes:
        block = torch.empty(1 << 30, dtype=torch.uint8, device=device)
        copied = 2 * block.numel() / min(seconds(block.clone, device) for _ in range(10))
        row |= {"bytes_per_s": nbytes / row["shipped_s"][1], "copy_bytes_per_s": copied}
        row["fraction_of_copy"] = row["bytes_per_s"] / copied
    return {"what": what, "shape": shape, "repeats": repeats} | row


def seconds(call: Callable[[], object], device: str) -> float:
    """Wall time of one call, the GPU's work included."""
    if device == "cuda":
        torch.cuda.synchronize()
    start = time.perf_counter()
    call()
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
