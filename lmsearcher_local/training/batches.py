"""The batches that the trainer learns from, drawn ahead in a process of their own, which imports no torch."""

import multiprocessing
import os
import threading
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor

import numpy as np

from lmsearcher_local.training.trajectories import WRONG_KERNEL, Batch, draw_batch, draw_lesson, draw_shape

ACCUMULATE = 2  # batches of different shapes per step


def stream_batches(seed: int, first: int, steps: int, rows: int) -> Iterator[tuple[int, list[Batch]]]:
    """Each step from ``first`` on and its batches, which depend on seed and step alone."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn"), initializer=_end_with_parent) as worker:
        ahead = [worker.submit(_draw, seed, step, rows) for step in range(first, min(first + 8, steps))]
        for step in range(first, steps):
            batches = ahead.pop(0).result()
            if step + 8 < steps:
                ahead.append(worker.submit(_draw, seed, step + 8, rows))
            yield step, batches


def _draw(seed: int, step: int, rows: int) -> list[Batch]:
    rng = np.random.default_rng((seed, step))
    batches = []
    for _ in range(ACCUMULATE):
        positions, n, m, k, size = draw_shape(rng, rows)
        batches.append(draw_batch(rng, [draw_lesson(rng, positions, n, m, k, WRONG_KERNEL) for _ in range(size)]))
    return batches


def _end_with_parent() -> None:
    """A trainer that is killed takes the process that draws along; by itself that would wait for work forever."""
    parent = multiprocessing.parent_process()
    assert parent is not None

    def watch() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
