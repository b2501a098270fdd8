"""The trainer: resumable at any moment, same seed and same machine give the same weights."""

import copy
import json
import multiprocessing
import os
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lmsearcher_local.errors import StudyError
from lmsearcher_local.folders import unusable
from lmsearcher_local.prompt.compact import BINS, LIMIT
from lmsearcher_local.training.curves import draw_curves
from lmsearcher_local.training.evaluate import HISTORY_SIZES, figures, held_out_tasks, model_predictions
from lmsearcher_local.training.export import export
from lmsearcher_local.training.model import Output, Ranker
from lmsearcher_local.training.muon import Muon
from lmsearcher_local.training.start import set_start
from lmsearcher_local.training.trajectories import Batch, draw_batch, draw_shape, draw_task

ACCUMULATE = 3  # batches of different shapes per step
MATRIX_RATE, OTHER_RATE = 0.015, 5e-3
WARM_UP, COOL_DOWN = 50, 0.4  # steps; share of all steps with a falling rate
LEAST_WEIGHT = 0.5  # of a pool that improves on nothing; improvements count in normal scores
AVERAGE = 0.99  # weights are averaged over about the last 100 steps


def train(
    out: Path,
    seed: int,
    steps: int,
    tokens: int = 6000,
    save_every: int = 100,
    evaluate_every: int = 200,
    device: str = "cpu",
    show: Callable[[dict[str, Any]], None] = lambda row: None,
) -> Path:
    """Train (or go on training) in folder ``out``; returns the exported checkpoint folder.

    Args:
        out: holds ``state.pt``, ``log.jsonl``, ``curves.png`` and ``checkpoint/``.
        seed: of weights and data.
        steps: optimiser steps in all.
        tokens: about how many tokens a batch has; a step sees three batches.
        save_every: steps between states on disk.
        evaluate_every: steps between evaluations on held-out tasks.
        device: where the steps run, ``cpu`` or ``cuda``; a run may change it when it goes on.
        show: called after each step with its line of ``log.jsonl``.

    Raises:
        StudyError: the folder cannot be written, or holds another seed's run or a state that is none of this trainer's.
    """
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StudyError(f"cannot write to {out}: {unusable(out, error)}") from error
    model, averaged = Ranker(seed), Ranker(seed)
    set_start(model)
    averaged.load_state_dict(model.state_dict())
    model, averaged = model.to(device), averaged.to(device)
    optimisers = _optimisers(model)
    first, seconds = 0, 0.0
    state_file, log = out / "state.pt", out / "log.jsonl"
    if state_file.exists():
        first, seconds = read_state(state_file, seed, device, (model, averaged), optimisers)
    cut_log(log, first)
    for step, batches in _stream(seed, first, steps, tokens):
        began = time.perf_counter()
        for optimiser in optimisers:
            for group in optimiser.param_groups:
                group["lr"] = group["peak"] * _rate(step, steps)
        row: dict[str, float] = {}
        for batch in batches:
            with torch.device(device):  # what model and losses make on the way is made there
                with torch.autocast(device, torch.bfloat16, enabled=device != "cpu"):  # some processors emulate it
                    output = model(*(torch.from_numpy(part).to(device) for part in _inputs(batch)))
                loss, parts = losses(output, batch)
            (loss / len(batches)).backward()
            for name, value in parts.items():
                row[name] = row.get(name, 0.0) + value / len(batches)
        row["gradient"] = float(torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0))
        for optimiser in optimisers:
            optimiser.step()
            optimiser.zero_grad()
        with torch.no_grad():
            weight = 1 - min(AVERAGE, (step + 1) / (step + 10))
            for mean, parameter in zip(averaged.parameters(), model.parameters(), strict=True):
                mean.lerp_(parameter, weight)
        done = step + 1
        seconds += time.perf_counter() - began
        entry: dict[str, Any] = {"step": done, "seconds": round(seconds, 1)}
        entry |= {name: round(value, 4) for name, value in row.items()}
        if done % evaluate_every == 0 or done == steps:
            entry["held_out"] = evaluate(_on_cpu(averaged))
        with log.open("a") as stream:
            stream.write(json.dumps(entry) + "\n")
        if done % save_every == 0 or done == steps:
            state = {"model": model.state_dict(), "averaged": averaged.state_dict(), "step": done, "seconds": seconds}
            state |= {"seed": seed, "optimisers": [optimiser.state_dict() for optimiser in optimisers]}
            torch.save(state, out / "state.tmp")
            (out / "state.tmp").replace(state_file)
        show(entry)
    draw_curves(log, out / "curves.png")
    return export(_on_cpu(averaged), out / "checkpoint")


def losses(output: Output, batch: Batch) -> tuple[Tensor, dict[str, float]]:
    """Answer, score prediction and order of the pool; with the accuracies that say how far they are.

    A pool weighs more in the answer's loss the more its best candidate exceeds the history: of two candidates that are
    as likely the best, the one that would then be the greater improvement is the better thing to try.
    """
    device = output.pick.device
    bins, truth, aliases = (torch.from_numpy(part).to(device) for part in (batch.bins, batch.truth, batch.aliases))
    truth = truth.float()
    n = output.history.shape[1]
    pick = output.pick.float().gather(1, aliases)
    best = (truth == truth.max(1, keepdim=True).values).float()
    improvement = (bins[:, n:].amax(1) - bins[:, :n].amax(1)).clip(0) * (2 * LIMIT / (BINS - 1))
    target = 0.7 * best / best.sum(1, keepdim=True) + 0.3 * (3 * truth).softmax(1)
    answer = ((LEAST_WEIGHT + improvement) * -(target * pick.log_softmax(1)).sum(1)).mean()
    history = _score_loss(output.history.float(), bins[:, :n])
    pool = _score_loss(output.pool.float(), bins[:, n:])
    expected = output.pool.float().softmax(-1) @ torch.linspace(-3.5, 3.5, output.pool.shape[-1], device=device)
    order = _cross_entropy(3 * expected, (3 * truth).softmax(1))
    right = best.gather(1, pick.argmax(1, keepdim=True)).mean()
    right_expected = best.gather(1, expected.argmax(1, keepdim=True)).mean()
    explained = 1 - _cross_entropy(pick, target) / np.log(pick.shape[1])
    parts = {"answer": answer, "history": history, "pool": pool, "order": order, "explained": explained}
    parts |= {"top1": right, "top1_expected": right_expected}
    return answer + history + pool + order, {name: float(value.detach()) for name, value in parts.items()}


def evaluate(model: Ranker, count: int = 128) -> dict[str, dict[str, float]]:
    """Held-out figures of the pick and of the expected score, by history size."""
    found = {}
    for n in HISTORY_SIZES:
        tasks = held_out_tasks(n, count)
        picks, scores = model_predictions(model, tasks)
        for name, predictions in (("pick", picks), ("score", scores)):
            found[f"{name}@{n}"] = {key: round(v, 3) for key, v in figures(predictions, tasks).items()}
    return found


def _cross_entropy(logits: Tensor, target: Tensor) -> Tensor:
    return -(target * logits.log_softmax(-1)).sum(-1).mean()


def _score_loss(logits: Tensor, bins: Tensor) -> Tensor:
    """Cross-entropy against a bell of one and a half bins around the true one."""
    grid = torch.arange(logits.shape[-1], device=logits.device)
    target = (-0.5 * ((grid - bins[..., None]) / 1.5) ** 2).softmax(-1)
    return _cross_entropy(logits, target)


def _optimisers(model: Ranker) -> list[torch.optim.Optimizer]:
    matrices = [p for p in model.blocks.parameters() if p.ndim == 2]
    held = {id(p) for p in matrices}
    others = [p for p in model.parameters() if id(p) not in held]
    muon = Muon(matrices, lr=MATRIX_RATE, momentum=0.95)
    adam = torch.optim.AdamW(others, lr=OTHER_RATE, betas=(0.9, 0.98), weight_decay=0.0)
    for optimiser, rate in ((muon, MATRIX_RATE), (adam, OTHER_RATE)):
        for group in optimiser.param_groups:
            group["peak"] = rate
    return [muon, adam]


def _rate(step: int, steps: int) -> float:
    left = (steps - step) / (COOL_DOWN * steps)
    return min(1.0, (step + 1) / WARM_UP, left)


def _draw(seed: int, step: int, tokens: int) -> list[Batch]:
    rng = np.random.default_rng((seed, step))
    batches = []
    for _ in range(ACCUMULATE):
        positions, n, m, size = draw_shape(rng, tokens)
        batches.append(draw_batch(rng, [draw_task(rng, positions, n, m) for _ in range(size)]))
    return batches


def _stream(seed: int, first: int, steps: int, tokens: int) -> Iterator[tuple[int, list[Batch]]]:
    """The steps' batches, drawn ahead in a process of their own; they depend on seed and step alone."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn"), initializer=_end_with_parent) as worker:
        ahead = [worker.submit(_draw, seed, step, tokens) for step in range(first, min(first + 4, steps))]
        for step in range(first, steps):
            batches = ahead.pop(0).result()
            if step + 4 < steps:
                ahead.append(worker.submit(_draw, seed, step + 4, tokens))
            yield step, batches


def _end_with_parent() -> None:
    """A trainer that is killed takes the process that draws along; by itself that would wait for work forever."""
    parent = multiprocessing.parent_process()
    assert parent is not None

    def watch() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _inputs(batch: Batch) -> tuple[np.ndarray, ...]:
    return batch.digits, batch.bins, batch.hints, batch.aliases


def _on_cpu(model: Ranker) -> Ranker:
    """The model itself where it is on the CPU, else a copy there."""
    return model if model.name_gain.device.type == "cpu" else copy.deepcopy(model).cpu()


def read_state(
    path: Path,
    seed: int,
    device: str,
    models: tuple[torch.nn.Module, torch.nn.Module],
    optimisers: list[torch.optim.Optimizer],
) -> tuple[int, float]:
    """Take up a run: weights, averaged weights and optimisers; the number of steps done, and their seconds.

    Raises:
        StudyError: the file holds another seed's run, or is no state of this trainer.
    """
    try:
        state: dict[str, Any] = torch.load(path, map_location=device, weights_only=True)
        known = state.get("seed", seed)  # states of older versions do not say
        if known == seed:
            for model, name in zip(models, ("model", "averaged"), strict=True):
                model.load_state_dict(state[name])
            for optimiser, saved in zip(optimisers, state["optimisers"], strict=True):
                optimiser.load_state_dict(saved)
            return int(state["step"]), float(state["seconds"])
    except (MemoryError, torch.OutOfMemoryError):
        raise  # the file is well, and worth hours
    except OSError as error:
        raise StudyError(f"cannot read {path}: {error.strerror or error}") from error
    except Exception as error:  # whatever a damaged archive raises
        raise StudyError(f"{path} is not a state of this trainer; remove it or name another folder") from error
    raise StudyError(f"{path.parent} holds a run with seed {known}, not {seed}; name another folder or that seed")


def cut_log(log: Path, last: int) -> None:
    """Drop the lines after step ``last``, which are trained again, and a line that was cut off in writing.

    Raises:
        StudyError: the file is no log of this trainer.
    """
    try:
        rows = log.read_text(encoding="utf-8").splitlines(keepends=True) if log.exists() else []
        kept = [row for row in rows if row.endswith("\n") and json.loads(row)["step"] <= last]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise StudyError(f"{log} is not a log of this trainer; remove it or name another folder") from error
    part = log.with_suffix(".tmp")
    part.write_text("".join(kept), encoding="utf-8")
    part.replace(log)
