"""The border of limits: what trials measured against their values, and which of them hold."""

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
    sign = 1 if result.direction == "maximize" else -1
    valued = [(trial, trial.value) for trial in result.trials if trial.value is not None]
    scores = np.array([sign * value for _, value in valued])
    violations = [[violation for _, violation in trial.violations] for trial, _ in valued]
    widest = max(map(len, violations), default=0)
    known = np.array([row + [np.nan] * (widest - len(row)) for row in violations]).reshape(len(valued), widest)
    return dict(zip((trial.code for trial, _ in valued), ranked(scores, known).tolist(), strict=True))


def limit_rows(result: Result) -> list[dict[str, Any]]:
    """For each limit how many trials break it, and what was measured of the best."""
    best = next((t for t in result.trials if result.best and t.code == result.best[0] and t.holds), None)
    return [
        {
            "limit": str(limit),
            "broken": sum(dict(trial.violations).get(str(limit), 0) > 0 for trial in result.trials),
            "best": dict(best.measured).get(limit.name) if best else None,
        }
        for limit in result.limits
    ]


def draw_borders(result: Result, label: str) -> "Figure":
    """A panel for each limit: the value of each trial against what is limited, which is allowed on one side."""
    figure = new_figure(8, 3.4 * len(result.limits))
    for i, (limit, axes) in enumerate(zip(result.limits, np.ravel(figure.subplots(len(result.limits))), strict=True)):
        points = [(t, dict(t.measured).get(limit.name), t.value) for t in result.trials if t.value is not None]
        for holds, marks, words in (
            (True, {"marker": "o", "color": "tab:blue"}, "holds every limit"),
            (False, {"marker": "x", "color": "tab:red"}, "breaks a limit"),
        ):
            some = [(measured, value) for t, measured, value in points if t.holds == holds and measured is not None]
            axes.plot(
                *np.array(some or np.empty((0, 2))).T, linestyle="", markersize=5, alpha=0.7, label=words, **marks
            )
        if result.best:
            [found] = [(m, v) for t, m, v in points if t.code == result.best[0] and t.holds][:1]
            axes.plot(*found, marker="*", color="tab:orange", markersize=14, linestyle="", label="best")
        low, high = axes.get_xlim()
        low, high = min(low, limit.bound), max(high, limit.bound)
        room = 0.03 * (high - low)
        axes.axvline(limit.bound, color="0.3", linestyle="--", label=plain(limit))
        axes.axvspan(
            *((limit.bound, high + room) if limit.upper else (low - room, limit.bound)), color="tab:red", alpha=0.07
        )
        axes.set_xlim(low - room, high + room)
        axes.set_xlabel(plain(limit.name), parse_math=False)
        axes.set_ylabel(plain(label), parse_math=False)
        axes.grid(alpha=0.3)
        if i == 0:
            axes.legend(loc="best", fontsize="small")
    return figure
