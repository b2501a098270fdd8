"""The picture of a search: every trial, the best so far, and the optimum where it is known."""

from itertools import accumulate
from pathlib import Path

from lmsearcher_local.study import Result


def plot_search(result: Result, path: Path, title: str, label: str = "value", optimum: float | None = None) -> None:
    """Draw the search curve as a PNG; failed trials are crosses at the lower edge."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    figure = Figure(figsize=(8, 4.5), layout="constrained")
    FigureCanvasAgg(figure)  # no window system, and no global state of pyplot
    axes = figure.add_subplot()
    told = [(i, trial.value) for i, trial in enumerate(result.trials, 1) if trial.value is not None]
    if result.random:
        axes.axvspan(0.5, result.random + 0.5, color="0.92", label="before the model is asked")
    if optimum is not None:
        axes.axhline(optimum, color="tab:green", linestyle="--", label=f"optimum {optimum:.6g}")
    if told:
        numbers, values = zip(*told, strict=True)
        best = list(accumulate(values, max if result.direction == "maximize" else min))
        axes.plot(numbers, values, "o", color="tab:blue", alpha=0.6, markersize=5, label="trial")
        last = len(result.trials)
        axes.step(
            (*numbers, last), (*best, best[-1]), where="post", color="tab:orange", label=f"best so far {best[-1]:.6g}"
        )
    failed = [i for i, trial in enumerate(result.trials, 1) if trial.value is None]
    if failed:
        across = axes.get_xaxis_transform()  # x in trials, y from 0 at the lower edge
        axes.plot(failed, [0.02] * len(failed), "x", color="tab:red", transform=across, label="failed trial")
    axes.set_xlim(0.5, max(len(result.trials), 1) + 0.5)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_xlabel("trial")
    axes.set_ylabel(label)
    axes.set_title(title)
    axes.grid(alpha=0.3)
    axes.legend(loc="best", fontsize="small")
    figure.savefig(path, dpi=150)
