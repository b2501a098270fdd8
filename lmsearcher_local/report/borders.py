"""The border of limits: what trials measured against their values, and which of them hold."""

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from lmsearcher_local.candidates.limits import ranked
from lmsearcher_local.presets.drawing import new_figure
from lmsearcher_local.study.results import Result
from lmsearcher_local.system.plain import plain

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def model_scores(result: Result) -> dict[str, float]:
    """The scores of codes as the model was shown them, higher better: what breaks a limit lies below all that hold."""
    scores = ranked(result.scores(result.valued)[:, 0], result.violations)
    return dict(zip((trial.code for trial in result.valued), scores.tolist(), strict=True))


def limit_rows(result: Result) -> list[dict[str, Any]]:
    """For each limit how many trials break it, and what was measured of the best."""
    broken = (result.violations > 0).sum(0).tolist()
    measured = dict(result.best_trial.measured) if result.best_trial else {}
    return [
        {"limit": str(limit), "broken": count, "best": measured.get(limit.name)}
        for limit, count in zip(result.limits, broken, strict=True)
    ]


def draw_borders(result: Result, label: str) -> "Figure":
    """A panel for each limit: the value of each trial against what is limited, which is allowed on one side."""
    figure = new_figure(8, 3.4 * len(result.limits))
    holding = [trial for trial in result.valued if trial.holds]
    breaking = [trial for trial in result.valued if not trial.holds]
    groups = [
        (holding, "o", "tab:blue", 5, "holds every limit"),
        (breaking, "x", "tab:red", 5, "breaks a limit"),
    ]
    if result.best_trial:
        groups.append(([result.best_trial], "*", "tab:orange", 14, "best"))
    for i, (limit, axes) in enumerate(zip(result.limits, np.ravel(figure.subplots(len(result.limits))), strict=True)):
        for trials, marker, color, size, words in groups:
            measured = [dict(trial.measured).get(limit.name, math.nan) for trial in trials]
            values = [trial.values[0] for trial in trials]
            axes.plot(measured, values, marker, color=color, markersize=size, alpha=0.7, label=words)
        low, high = axes.get_xlim()
        low, high = min(low, limit.bound), max(high, limit.bound)
        room = 0.03 * (high - low)
        axes.axvline(limit.bound, color="0.3", linestyle="--", label=plain(limit))
        forbidden = (limit.bound, high + room) if limit.upper else (low - room, limit.bound)
        axes.axvspan(*forbidden, color="tab:red", alpha=0.07)
        axes.set_xlim(low - room, high + room)
        axes.set_xlabel(plain(limit.name), parse_math=False)
        axes.set_ylabel(plain(label), parse_math=False)
        axes.grid(alpha=0.3)
        if i == 0:
            axes.legend(loc="best", fontsize="small")
    return figure
