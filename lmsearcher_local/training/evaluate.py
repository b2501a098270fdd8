"""Ranking quality on held-out synthetic spaces or any tasks: top-1, mean rank, Kendall's tau."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from lmsearcher_local.prompt.compact import FIRST_ALIAS, CompactCodec
from lmsearcher_local.training.model import Ranker
from lmsearcher_local.training.trajectories import Task, draw_batch, draw_task

HISTORY_SIZES = (10, 20, 50, 100, 200)
POOL = 10
HELD_OUT = 1_000_003  # first word of the held-out tasks' seeds; training seeds start with another


def held_out_tasks(n: int, count: int) -> list[Task]:
    """Always the same held-out tasks with ``n`` history items and 10 candidates, 3 to 10 positions."""
    tasks = []
    for i in range(count):
        rng = np.random.default_rng((HELD_OUT, n, i))
        tasks.append(draw_task(rng, int(rng.integers(3, 11)), n, POOL))
    return tasks


def figures(predictions: Sequence[np.ndarray], tasks: Sequence[Task]) -> dict[str, float]:
    """Share of pools whose best candidate is picked, mean rank of the pick (0 is best), mean Kendall tau."""
    top, rank, tau = [], [], []
    for guess, task in zip(predictions, tasks, strict=True):
        truth = task.truth
        guess = guess + 1e-9 * np.random.default_rng(0).random(len(guess))  # ties are broken at random
        better = (truth > truth[np.argmax(guess)]).sum()
        top.append(better == 0)
        rank.append(better)
        upper = np.triu_indices(len(truth), 1)
        pairs = np.sign(guess[:, None] - guess)[upper] * np.sign(truth[:, None] - truth)[upper]
        tau.append(pairs.mean())
    return {"top1": float(np.mean(top)), "rank": float(np.mean(rank)), "tau": float(np.mean(tau))}


@torch.no_grad()
def model_predictions(model: Ranker, tasks: Sequence[Task]) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """For each task the pick's logits and the expected score of each candidate, by the training form of the model."""
    picks, scores = [], []
    grid = torch.linspace(-1, 1, model.scores.shape[0])
    for task in tasks:
        batch = draw_batch(np.random.default_rng(0), [task], augment=False)
        out = model(*(torch.from_numpy(part) for part in (batch.digits, batch.bins, batch.hints, batch.aliases)))
        picks.append(out.pick[0][torch.from_numpy(batch.aliases[0])].numpy())
        scores.append((out.pool[0].softmax(-1) @ grid).numpy())
    return picks, scores


@torch.no_grad()
def checkpoint_predictions(folder: str | Path, tasks: Sequence[Task]) -> list[np.ndarray]:
    """The pick's logits by an exported checkpoint, through the codec and plain transformers."""
    from transformers import LlamaForCausalLM

    model = LlamaForCausalLM.from_pretrained(str(folder), dtype=torch.float32).eval()
    codec, found = CompactCodec(), []
    for task in tasks:
        ids = codec.prompt(task.space, *task.question())
        logits = model(torch.tensor([ids]), logits_to_keep=1).logits[0, -1]
        found.append(logits[FIRST_ALIAS : FIRST_ALIAS + len(task.pool)].numpy())
    return found
