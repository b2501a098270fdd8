"""Ranking quality on held-out synthetic spaces or any tasks: top-1, mean rank, Kendall's tau."""

from collections.abc import Sequence

import numpy as np
import torch

from lmsearcher_local.model.codecs.compact import CompactCodec
from lmsearcher_local.training.model import Ranker
from lmsearcher_local.training.trajectories import Lesson, draw_batch, draw_lesson

HISTORY_SIZES = (10, 20, 50, 100, 200)
POOL = 10
HELD_OUT = 1_000_003  # first word of the held-out tasks' seeds; training seeds start with another


def held_out_tasks(n: int, count: int) -> list[Lesson]:
    """Always the same held-out tasks with ``n`` history items and one pool of 10, of 3 to 10 positions."""
    tasks = []
    for i in range(count):
        rng = np.random.default_rng((HELD_OUT, n, i))
        tasks.append(draw_lesson(rng, int(rng.integers(3, 11)), n, POOL, 1))
    return tasks


def figures(predictions: Sequence[np.ndarray], truths: Sequence[np.ndarray]) -> dict[str, float]:
    """Share of pools whose best candidate is picked, mean rank of the pick (0 is best), mean Kendall tau."""
    rank, tau = [], []
    for guess, truth in zip(predictions, truths, strict=True):
        guess = guess + 1e-9 * np.random.default_rng(0).random(len(guess))  # ties are broken at random
        rank.append((truth > truth[np.argmax(guess)]).sum())
        upper = np.triu_indices(len(truth), 1)
        tau.append((np.sign(guess[:, None] - guess)[upper] * np.sign(truth[:, None] - truth)[upper]).mean())
    return {"top1": float(np.mean(np.equal(rank, 0))), "rank": float(np.mean(rank)), "tau": float(np.mean(tau))}


@torch.no_grad()
def model_predictions(model: Ranker, lessons: Sequence[Lesson]) -> dict[str, list[np.ndarray]]:
    """For each lesson of one pool the pick's logits, expected scores and the hints' means, by the training form."""
    found: dict[str, list[np.ndarray]] = {"pick": [], "score": [], "hints": []}
    for lesson in lessons:
        pick, scores = model(draw_batch(np.random.default_rng(0), [lesson], augment=False))
        found["pick"].append(pick[0, 0, : len(lesson.truth[0])].float().cpu().numpy())
        found["score"].append(scores[1, 0, 0].float().softmax(-1).cpu().numpy() @ CompactCodec.score_centres)
        found["hints"].append(lesson.surrogate.appraise(lesson.space.codes(lesson.pools[0])).means)
    return found
