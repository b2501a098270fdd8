"""Checkpoints whose weights make logits NaN, infinite, constant, one-hot or huge, and what must hold of any answer.

A residual stream's first entry is the same positive number everywhere. A head that reads nothing else so gives each
token any logit, whatever the prompt. Other checkpoints are spoiled further down.
"""

import json
import shutil
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from bench import llama
from lmsearcher_local.candidates.history import History
from lmsearcher_local.errors import EngineError
from lmsearcher_local.model.checkpoint import TABLE, load_checkpoint
from lmsearcher_local.model.engines.base import with_path
from lmsearcher_local.model.load import load_ranker
from lmsearcher_local.model.ranker import Ranker, Task
from lmsearcher_local.model.trie import TokenTrie
from lmsearcher_local.model.trim import trim_checkpoint
from lmsearcher_local.spaces.space import SearchSpace

CODECS = ("compact", "text")
POOLS = (1, 2, 10, 100, 2, 10, 5, 50)  # of one candidate nothing is asked
HISTORIES = (0, 3, 30)
TEMPERATURES = (0.0, 1.0, 0.05, 10.0)
SPACES = (
    SearchSpace([5] * 6),
    SearchSpace([10] * 10),
    SearchSpace([2] * 20),
    SearchSpace({"width": [*range(12)], "norm": ["a", "b", None], "rate": [0.1, 0.01, 0.001], "on": [True, False]}),
)
CONTEXT = 4096  # tokens; keeps vLLM's cache small
CACHE = 64 << 20
FIRST = 8.0  # the first entry of the residual stream
TOLERANCE = 1e-3  # in probability, between an engine and a plain forward pass
CHECKED = 4  # of so many answers one is held against a plain forward pass
NAN, INF = float("nan"), float("inf")


def _some(values: Tensor, rng: torch.Generator, *others: float, share: float = 0.3) -> Tensor:
    """The values, a share of them replaced by one of the others."""
    picked = torch.rand(len(values), generator=rng) < share
    drawn = torch.tensor(others)[torch.randint(len(others), (len(values),), generator=rng)]
    return torch.where(picked, drawn, values)


def _some_rows(other: float, values: Tensor, rng: torch.Generator) -> Tensor:
    """The values, a few rows of them replaced."""
    return torch.where(torch.rand(len(values), 1, generator=rng) < 0.02, other, values)


# What the head answers for each token, in place of the normal numbers given.
LOGITS: dict[str, Callable[[Tensor, torch.Generator], Tensor]] = {
    "sane": lambda values, rng: values,
    "all NaN": lambda values, rng: torch.full_like(values, NAN),
    "all +inf": lambda values, rng: torch.full_like(values, INF),
    "all -inf": lambda values, rng: torch.full_like(values, -INF),
    "some NaN": lambda values, rng: _some(values, rng, NAN, share=0.02),
    "some +inf": lambda values, rng: _some(values, rng, INF, share=0.02),
    "some -inf": lambda values, rng: _some(values, rng, -INF),
    "constant": lambda values, rng: torch.ones_like(values),
    "one-hot": lambda values, rng: 1e5 * values,
    "1e38": lambda values, rng: 1e38 * values.clamp(-3, 3),
    "mixed": lambda values, rng: _some(values, rng, NAN, INF, -INF, 1e38, -1e38, 0.0, share=0.05),
}
# What the rest of the model is made of, by name of the tensor.
BODIES: dict[str, tuple[str, Callable[[Tensor, torch.Generator], Tensor]]] = {
    "NaN in some embeddings": ("embed_tokens", partial(_some_rows, NAN)),
    "inf in some embeddings": ("embed_tokens", partial(_some_rows, INF)),
    "1e38 in the attention": ("q_proj", lambda values, rng: torch.full_like(values, 1e38)),
    "NaN in the values": ("v_proj", lambda values, rng: torch.full_like(values, NAN)),
    "1e38 in the network": ("down_proj", lambda values, rng: 1e38 * torch.sign(values)),
    "zero norms": ("norm", lambda values, rng: torch.zeros_like(values)),
}
KINDS = (*LOGITS, *BODIES)


def write_sane(folder: Path) -> None:
    """Write a small checkpoint for each codec, ``compact`` and ``text``, of one layer and few tokens."""
    whole = folder / "whole"
    whole.mkdir(parents=True)
    llama.write_tokenizer(whole)
    llama.write_model(whole, layers=1)
    trim_checkpoint(load_checkpoint(whole), folder / "text", lambda _: None)
    shutil.rmtree(whole)
    llama.write_compact(folder / "compact", layers=1)
    table = load_file(folder / "compact" / TABLE)
    table["pick"][:, 0] = FIRST
    save_file(table, folder / "compact" / TABLE)
    config = json.loads((folder / "text" / "config.json").read_text())
    (folder / "text" / "config.json").write_text(json.dumps(config | {"max_position_embeddings": CONTEXT}))
    for codec in CODECS:
        file = folder / codec / "model.safetensors"
        tensors = load_file(file)
        tensors["model.embed_tokens.weight"][:, 0] = FIRST
        for name, values in tensors.items():
            if name.endswith(("o_proj.weight", "down_proj.weight")):
                values[0] = 0
        save_file(tensors, file, {"format": "pt"})


def write_hostile(sane: Path, folder: Path, kind: str) -> None:
    """Write a copy of a sane checkpoint with weights of this kind."""
    shutil.copytree(sane, folder)
    file = folder / "model.safetensors"
    tensors = load_file(file)
    rng = torch.Generator().manual_seed(KINDS.index(kind))
    if kind in LOGITS:
        head = torch.zeros_like(tensors["lm_head.weight"])
        head[:, 0] = LOGITS[kind](torch.randn(len(head), generator=rng), rng) / FIRST
        tensors["lm_head.weight"] = head
    else:
        part, change = BODIES[kind]
        for name in tensors:
            if part in name:
                tensors[name] = change(tensors[name], rng)
    save_file(tensors, file, {"format": "pt"})


def ask(folder: Path, engine: str, answers: int) -> dict[str, Any]:
    """Ask for so many answers, single picks and whole rankings, assert what must hold of each, and count what came."""
    from transformers import AutoModelForCausalLM

    found: Counter[str] = Counter()
    with (
        warnings.catch_warnings(),
        load_ranker(folder, engine, cache_bytes=CACHE if engine == "vllm" else None) as ranker,
    ):
        warnings.simplefilter("error", RuntimeWarning)  # numpy's, of numbers that are none
        reference = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
        for number, (task, whole, temperature) in zip(range(answers), _questions(), strict=False):
            rng = np.random.default_rng(number)
            found["answers"] += 1
            try:
                code, chance = (_rank if whole else _pick)(ranker, task, temperature, rng)
                found["alone in the pool" if len(task.pool) == 1 else "in the pool"] += 1
            except EngineError:
                found["errors"] += 1
                code, chance = "", NAN
            if number % CHECKED == 0 and len(task.pool) > 1:
                found["checked"] += 1
                expected = _expect(ranker, task, code, whole, temperature or 1.0, reference)
                if not code:
                    found["refused numbers"] += expected is not None
                else:
                    assert expected is not None, f"{code} was answered, and its logits are no numbers: {task}"
                    assert abs(expected.chance - chance) < TOLERANCE, f"{chance} instead of {expected.chance}: {task}"
                    assert expected.greedy or (temperature and not whole), f"{code} is not the likeliest: {task}"
    return dict(found)


def _questions() -> Iterator[tuple[Task, bool, float]]:
    """Tasks of every pool size, history and space in turn, whether to rank or to pick, and a temperature."""
    number = 0
    while True:
        rng = np.random.default_rng(number)
        space = SPACES[number % len(SPACES)]
        size, shown = POOLS[number // 4 % len(POOLS)], int(rng.choice(HISTORIES))
        codes = space.sample(rng, size + shown)
        history = History(tuple(codes[size:]), tuple(rng.normal(size=shown).tolist()))
        yield Task.of(space, history, codes[:size]), number % 3 == 0, float(rng.choice(TEMPERATURES))
        number += 1


def _pick(ranker: Ranker, task: Task, temperature: float, rng: np.random.Generator) -> tuple[str, float]:
    [(code, log_prob)] = ranker.pick([task], [rng], temperature)
    assert code in task.pool.codes, f"{code} is not in the pool: {task}"
    assert -INF < log_prob <= 1e-9, f"the log-probability {log_prob}: {task}"
    return code, float(np.exp(log_prob))


def _rank(ranker: Ranker, task: Task, temperature: float, rng: np.random.Generator) -> tuple[str, float]:
    [ranking] = ranker.rank([task], temperature or 1.0)
    chances = np.exp(ranking.log_probs)
    assert sorted(ranking.pool) == sorted(task.pool.codes), f"another pool: {task}"
    assert ((chances >= 0) & (chances <= 1 + 1e-9)).all(), f"the probabilities {chances}: {task}"
    assert abs(chances.sum() - 1) < 1e-6, f"the probabilities come to {chances.sum()}: {task}"
    assert ranking.greedy in task.pool.codes, f"{ranking.greedy} is not in the pool: {task}"
    return (ranking.greedy, float(chances[ranking.pool.index(ranking.greedy)]))


class Expected(NamedTuple):
    """The probability of an answer, and whether each of its tokens is the likeliest one."""

    chance: float
    greedy: bool


def _expect(ranker: Ranker, task: Task, code: str, whole: bool, temperature: float, model: Any) -> Expected | None:
    """By plain forward passes without a cache; nothing where a logit that must be known is no number.

    For a pick these are the logits on the way to the code, for a whole ranking, or without a code, all of them.
    """
    trie = TokenTrie(ranker.codec.answers(task.space, task.pool.codes))
    prompt = ranker.codec.prompt(*task)
    leaf = task.pool.codes.index(code) if code else -1
    chance, greedy = 1.0, True
    for branch in trie.branches:
        child = next((i for i, leaves in enumerate(branch.leaves) if leaf in leaves), None)
        if child is None and code and not whole:
            continue
        with torch.inference_mode():
            prefix = with_path(prompt, branch.path)
            rows = isinstance(prefix, np.ndarray)
            given = {"inputs_embeds" if rows else "input_ids": torch.as_tensor(prefix)[None]}
            hidden = model.model(**given).last_hidden_state[0, -1]
            logits = (model.lm_head.weight[list(branch.tokens)] @ hidden).double()
        if logits.isnan().any() or logits.max().isinf():
            return None
        if child is not None:
            chance *= float((logits / temperature).softmax(0)[child])
            greedy &= bool(logits[child] >= logits.max() - TOLERANCE * (1 + logits.abs().max()))
    return Expected(chance, greedy)
