"""The trainer: resumable at any moment, same seed and same machine give the same weights."""

import copy
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lmsearcher_local.errors import StudyError
from lmsearcher_local.model.checkpoint import TABLE
from lmsearcher_local.model.codecs.compact import CompactCodec
from lmsearcher_local.model.engines.transformers_internals import without_bars
from lmsearcher_local.system.checksums import write_checksums
from lmsearcher_local.system.folders import unusable
from lmsearcher_local.training.batches import stream_batches
from lmsearcher_local.training.curves import draw_curves
from lmsearcher_local.training.evaluate import HISTORY_SIZES, figures, held_out_tasks, model_predictions
from lmsearcher_local.training.model import Ranker
from lmsearcher_local.training.trajectories import Batch

QUESTIONS = 128  # held out, at each history size
MATRIX_RATE, OTHER_RATE = 0.015, 2e-3
WARM_UP, COOL_DOWN = 100, 0.4  # steps; share of all steps with a falling rate
IMPROVEMENT = 0.3  # by how much more a pool weighs for each normal score that its best exceeds the history by
SHARP = 3.0  # how sharply a pool's order follows its values, in their standard deviations
AVERAGE = 0.995  # weights are averaged over about the last 200 steps
Optimisers = list[torch.optim.Optimizer]


def train(
    out: Path,
    seed: int,
    steps: int,
    rows: int = 3000,
    save_every: int = 100,
    evaluate_every: int = 250,
    device: str = "cpu",
    show: Callable[[dict[str, Any]], None] = lambda row: None,
) -> Path:
    """Train (or go on training) in folder ``out``; returns the exported checkpoint folder.

    Args:
        out: holds ``state.pt``, ``log.jsonl``, ``curves.png`` and ``checkpoint/``.
        seed: of weights and data.
        rows: about how many rows a batch has; a step sees two batches.
        save_every, evaluate_every: steps between states on disk, and between evaluations on held-out tasks.
        device: where the steps run, ``cpu`` or ``cuda``; a run may change it when it goes on.
        show: called after each step with its line of ``log.jsonl``.

    Raises:
        StudyError: the folder cannot be written, or holds another seed's run or a state that is none of this trainer's.
    """
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StudyError(f"cannot write to {out}: {unusable(out, error)}") from error
    model = Ranker(seed).to(device)
    averaged = copy.deepcopy(model)
    optimisers = _optimisers(model)
    first, seconds = 0, 0.0
    state_file, log = out / "state.pt", out / "log.jsonl"
    if state_file.exists():
        first, seconds = read_state(state_file, seed, device, (model, averaged), optimisers)
    cut_log(log, first)
    for step, batches in stream_batches(seed, first, steps, rows):
        began = time.perf_counter()
        rate = min(1.0, (step + 1) / WARM_UP, (steps - step) / (COOL_DOWN * steps))
        row = _learn(model, optimisers, batches, rate)
        _average(averaged, model, step)
        done = step + 1
        seconds += time.perf_counter() - began
        entry: dict[str, Any] = {"step": done, "seconds": round(seconds, 1)}
        entry |= {name: round(value, 4) for name, value in row.items()}
        if done % evaluate_every == 0 or done == steps:
            entry["held_out"] = evaluate(averaged)
        with log.open("a") as stream:
            stream.write(json.dumps(entry) + "\n")
        if done % save_every == 0 or done == steps:
            state = {"model": model.state_dict(), "averaged": averaged.state_dict(), "step": done, "seconds": seconds}
            state |= {"seed": seed, "optimisers": [optimiser.state_dict() for optimiser in optimisers]}
            torch.save(state, out / "state.tmp")
            (out / "state.tmp").replace(state_file)
        show(entry)
    draw_curves(log, out / "curves.png")
    return export(averaged, out / "checkpoint")


def export(model: Ranker, folder: Path) -> Path:
    """Write the model as a checkpoint folder: a plain Llama and, beside it, the table of its codec."""
    from safetensors.torch import save_file

    model = copy.deepcopy(model).cpu()
    with torch.no_grad():
        model.llama.lm_head.weight.copy_(model.head())
    with without_bars():
        model.llama.save_pretrained(folder)
    (folder / "generation_config.json").unlink(missing_ok=True)  # nothing is generated
    table = folder / TABLE
    table.parent.mkdir(exist_ok=True)
    save_file({name: values.detach().contiguous() for name, values in model.table.items()}, table)
    (folder / "lmsearcher.json").write_text('{"codec": "compact"}\n', encoding="utf-8")
    write_checksums(folder)
    return folder


def losses(model: Ranker, batch: Batch) -> tuple[Tensor, dict[str, float]]:
    """Answer, score prediction and order of the pools; with the accuracies that say how far they are."""
    logits, scores = model(batch)
    device = scores.device
    pick = logits[:, :, : batch.truth.shape[2]]
    truth, values, known = (torch.from_numpy(part).to(device) for part in (batch.truth, batch.scores, batch.best))
    best = (truth == truth.max(2, keepdim=True).values).float()
    order = (SHARP * truth).softmax(2)
    target = 0.7 * best / best.sum(2, keepdim=True) + 0.3 * order
    weight = 1 + IMPROVEMENT * (values.amax(2) - known[:, None]).clip(0)
    answer = (weight * -(target * pick.log_softmax(2)).sum(2)).sum() / weight.sum()
    # When asked, an answer out of the pool is impossible; but to copy an alias from a row has to be learned first.
    outside = (logits.logsumexp(2) - pick.logsumexp(2)).mean()
    centres = torch.from_numpy(CompactCodec.score_centres).float().to(device)
    width = 1.5 * (centres[1] - centres[0])
    bell = (-0.5 * ((centres - values[..., None]) / width) ** 2).softmax(-1)  # around the true score
    score = _cross_entropy(scores, bell)
    expected = scores[1].softmax(-1) @ centres
    spread = values.std(2, keepdim=True) + 0.1
    listed = _cross_entropy(SHARP * expected / spread, order)
    parts = {"answer": _cross_entropy(pick, target), "score": score, "order": listed, "outside": outside}
    for name, found in (("top1", pick), ("top1_expected", expected)):
        parts[name] = best.gather(2, found.argmax(2, keepdim=True)).mean()
    return answer + 0.2 * outside + score + 0.5 * listed, {name: float(value.detach()) for name, value in parts.items()}


def evaluate(model: Ranker) -> dict[str, dict[str, float]]:
    """Held-out figures of the pick, the expected score and the hints' mean, by history size."""
    found = {}
    for n in HISTORY_SIZES:
        tasks = held_out_tasks(n, QUESTIONS)
        truths = [lesson.truth[0] for lesson in tasks]
        for name, predictions in model_predictions(model, tasks).items():
            found[f"{name}@{n}"] = {key: round(v, 3) for key, v in figures(predictions, truths).items()}
    return found


def _learn(model: Ranker, optimisers: Optimisers, batches: list[Batch], rate: float) -> dict[str, float]:
    """One step; the means of its batches' figures."""
    device = model.table["pick"].device.type
    row: dict[str, float] = {}
    for batch in batches:
        with torch.autocast(device, torch.bfloat16, enabled=device != "cpu"):  # some processors emulate it
            loss, parts = losses(model, batch)
        (loss / len(batches)).backward()
        for name, value in parts.items():
            row[name] = row.get(name, 0.0) + value / len(batches)
    row["gradient"] = float(torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0))
    for optimiser in optimisers:
        for group in optimiser.param_groups:
            group["lr"] = group["peak"] * rate
        optimiser.step()
        optimiser.zero_grad()
    return row


@torch.no_grad()
def _average(averaged: Ranker, model: Ranker, step: int) -> None:
    weight = 1 - min(AVERAGE, (step + 1) / (step + 10))
    for mean, parameter in zip(averaged.parameters(), model.parameters(), strict=True):
        mean.lerp_(parameter, weight)


def _cross_entropy(logits: Tensor, target: Tensor) -> Tensor:
    return -(target * logits.log_softmax(-1)).sum(-1).mean()


def _optimisers(model: Ranker) -> Optimisers:
    matrices = [p for p in model.llama.model.layers.parameters() if p.ndim == 2]
    held = {id(p) for p in matrices}
    others = [p for p in model.parameters() if id(p) not in held]
    muon = torch.optim.Muon(matrices, lr=MATRIX_RATE, weight_decay=0.0)
    adam = torch.optim.AdamW(others, lr=OTHER_RATE, betas=(0.9, 0.98), weight_decay=0.0)
    for optimiser in (muon, adam):
        for group in optimiser.param_groups:
            group["peak"] = group["lr"]
    return [muon, adam]


def read_state(
    path: Path, seed: int, device: str, models: tuple[torch.nn.Module, torch.nn.Module], optimisers: Optimisers
) -> tuple[int, float]:
    """Take up a run: weights, averaged weights and optimisers; the number of steps done, and their seconds.

    A ``StudyError`` where the file holds another seed's run, or is no state of this trainer.
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
    """Drop the lines after step ``last``, which are trained again, and a line that was cut off in writing."""
    try:
        rows = log.read_text(encoding="utf-8").splitlines(keepends=True) if log.exists() else []
        kept = [row for row in rows if row.endswith("\n") and json.loads(row)["step"] <= last]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise StudyError(f"{log} is not a log of this trainer; remove it or name another folder") from error
    part = log.with_suffix(".tmp")
    part.write_text("".join(kept), encoding="utf-8")
    part.replace(log)
