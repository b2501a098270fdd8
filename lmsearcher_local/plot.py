"""The picture of a search: every trial, the best so far, and the optimum where it is known."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from lmsearcher_local.study import Result

FAR_OUT = 3.0  # interquartile ranges: values further out would flatten the rest of the picture


def plot_search(result: Result, path: Path, title: str, label: str = "value", optimum: float | None = None) -> None:
    """Draw the search curve as a PNG; trials that failed or are far worse than most are marks at the edge."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    figure = Figure(figsize=(8, 4.5), layout="constrained")
    FigureCanvasAgg(figure)  # no window system, and no global state of pyplot
    axes = figure.add_subplot()
    sign = 1 if result.direction == "maximize" else -1
    told = [(i, trial.value) for i, trial in enumerate(result.trials, 1) if trial.value is not None]
    if result.random:
        axes.axvspan(0.5, result.random + 0.5, color="0.92", label="before the model is asked")
    if optimum is not None:
        axes.axhline(optimum, color="tab:green", linestyle="--", label=f"optimum {optimum:.6g}")
    if told:
        numbers, values = np.array(told).T
        lower, upper = np.percentile(sign * values, [25, 75])
        worst = sign * (lower - FAR_OUT * (upper - lower))
        shown = sign * values >= sign * worst
        axes.plot(numbers[shown], values[shown], "o", color="tab:blue", alpha=0.6, markersize=5, label="trial")
        best = sign * np.maximum.accumulate(sign * values)
        steps = [*numbers, len(result.trials)], [*best, best[-1]]
        axes.step(*steps, where="post", color="tab:orange", label=f"best so far {best[-1]:.6g}")
        if not shown.all():
            axes.set_ylim(**{"bottom" if sign > 0 else "top": worst})
            marks = {"marker": "v" if sign > 0 else "^", "color": "tab:blue", "alpha": 0.6, "linestyle": ""}
            _at_edge(axes, numbers[~shown], sign, **marks, label="trial outside the picture")
    failed = [i for i, trial in enumerate(result.trials, 1) if trial.value is None]
    if failed:
        _at_edge(axes, failed, sign, marker="x", color="tab:red", linestyle="", label="failed trial")
    axes.set_xlim(0.5, max(len(result.trials), 1) + 0.5)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_xlabel("trial")
    axes.set_ylabel(label)
    axes.set_title(title)
    axes.grid(alpha=0.3)
    axes.legend(loc="best", fontsize="small")
    figure.savefig(path, dpi=150)


def _at_edge(axes: Any, numbers: Sequence[float], sign: int, **marks: Any) -> None:
    """Marks at the edge of the picture where the worst values are."""
    across = axes.get_xaxis_transform()  # x in trials, y from 0 at the lower edge to 1
    axes.plot(numbers, [0.02 if sign > 0 else 0.98] * len(numbers), transform=across, **marks)
