"""The trainer's log as a picture: losses, and top-1 accuracy on held-out tasks."""

import json
from pathlib import Path

import numpy as np

from lmsearcher_local.presets.drawing import new_figure


def draw_curves(log: Path, picture: Path) -> None:
    """Draw ``log.jsonl`` of a run."""
    rows = [json.loads(line) for line in log.read_text().splitlines()]
    figure = new_figure(11, 4)
    left, right = figure.subplots(1, 2)
    steps = np.array([row["step"] for row in rows])
    window = max(1, min(50, len(rows) // 5))
    for name in ("answer", "score", "order"):
        smooth = np.convolve([row[name] for row in rows], np.ones(window) / window, mode="valid")
        left.plot(steps[window - 1 :], smooth, label=name)
    left.set(xlabel="step", title=f"losses, mean of {window} steps")
    left.legend()
    marked = [row for row in rows if "held_out" in row]
    for name in sorted({name for row in marked for name in row["held_out"]}, key=lambda name: int(name.split("@")[1])):
        if name.startswith("pick"):
            at, top = zip(*((row["step"], row["held_out"][name]["top1"]) for row in marked), strict=True)
            right.plot(at, top, marker=".", label=f"{name[5:]} history items")
    right.axhline(0.1, color="grey", linestyle=":", label="chance")
    right.set(xlabel="step", title="top-1 of 10 on held-out spaces", ylim=(0, 1))
    right.legend(ncols=2)
    figure.savefig(picture, dpi=110)
