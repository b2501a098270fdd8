"""Pictures of a search: its curve or front, its limits, its parameters, and how the model's confidence turned out."""

import math
from collections.abc import Mapping, Sequence
from textwrap import fill
from typing import TYPE_CHECKING, Any

import numpy as np

from lmsearcher_local.candidates.pareto import hypervolumes
from lmsearcher_local.presets.drawing import new_figure
from lmsearcher_local.search.calibration import Bin
from lmsearcher_local.study.results import Result, Trial
from lmsearcher_local.system.plain import plain

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FAR_OUT = 3.0  # interquartile ranges: values further out would flatten the rest of the picture


def draw_result(result: Result, title: str, label: str, optimum: float | None) -> "Figure":
    """The search: its curve, see ``draw_search``, or with several goals its front, see ``draw_front``."""
    return draw_front(result, title) if len(result.goals) > 1 else draw_search(result, title, label, optimum)


def draw_search(result: Result, title: str = "", label: str = "value", optimum: float | None = None) -> "Figure":
    """The search curve; trials that failed or are far worse than most are marks at the edge."""
    from matplotlib.ticker import MaxNLocator

    figure = new_figure(8, 4.5)
    axes = figure.add_subplot()
    last = max((trial.number for trial in result.trials), default=1)
    sign = result.sign
    told = [(trial.number, trial.values[0]) for trial in result.holding]
    if result.random:
        end = result.trials[result.random - 1].number + 0.5
        axes.axvspan(0.5, end, color="0.92", label="before the model is asked")
    if optimum is not None:
        axes.axhline(optimum, color="tab:green", linestyle="--", label=f"optimum {optimum:.6g}")
    if told:
        numbers, values = np.array(told).T
        lower, upper = np.percentile(sign * values, [25, 75])
        worst = sign * (lower - FAR_OUT * (upper - lower))
        shown = sign * values >= sign * worst
        axes.plot(numbers[shown], values[shown], "o", color="tab:blue", alpha=0.6, markersize=5, label="trial")
        best = sign * np.maximum.accumulate(sign * values)
        steps = [*numbers, last], [*best, best[-1]]
        axes.step(*steps, where="post", color="tab:orange", label=f"best so far {best[-1]:.6g}")
        if not shown.all():
            axes.set_ylim(**{"bottom" if sign > 0 else "top": worst})
            marks = {"marker": "v" if sign > 0 else "^", "color": "tab:blue", "alpha": 0.6, "linestyle": ""}
            _at_edge(axes, numbers[~shown], sign, **marks, label="trial outside the picture")
    _mark_broken(axes, result, bool(told))
    _mark_stopped(axes, result, sign)
    failed = [trial.number for trial in result.trials if trial.value is None and not trial.pruned]
    if failed:
        _at_edge(axes, failed, sign, marker="x", color="tab:red", linestyle="", label="failed trial")
    axes.set(xlim=(0.5, last + 0.5), xlabel="trial", ylabel=label)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_title(fill(plain(title), 80), parse_math=False)
    axes.grid(alpha=0.3)
    axes.legend(loc="best", fontsize="small")
    return figure


def _mark_broken(axes: Any, result: Result, ranged: bool) -> None:
    """Trials that break a limit; the picture's range stays, where others made it."""
    low, high = axes.get_ylim()
    found = [(trial.number, trial.values[0]) for trial in result.breaking]
    inside = [(number, value) for number, value in found if low <= value <= high or not ranged]
    if found:
        places = np.array(inside or np.empty((0, 2))).T
        axes.plot(*places, "o", mfc="none", color="tab:red", alpha=0.6, markersize=5, label="breaks a limit")
        if ranged:
            axes.set_ylim(low, high)


def draw_front(result: Result, title: str) -> "Figure":
    """Left the trials by their first two goals, and the front; a third goal is a colour. Right how the hypervolume of
    the trials that hold every limit grows, as a share of the box between each goal's worst and best value."""
    figure = new_figure(9, 4.2)
    left, right = figure.subplots(1, 2)
    names = [plain(str(goal)) for goal in result.goals]
    held, broken, front = result.holding, result.breaking, result.front
    if held:
        left.plot(*_columns(held), "o", alpha=0.5, markersize=4, color="tab:blue", label="trial")
    if broken:
        left.plot(*_columns(broken), "x", alpha=0.5, markersize=4, color="0.6", label="breaks a limit")
    if front:
        x, y = _columns(front)
        if len(result.goals) == 2:
            left.step(x, y, where="post", color="tab:orange")
            left.plot(x, y, "o", color="tab:orange", markersize=5, label=f"front of {len(front)}")
        else:
            third = left.scatter(x, y, c=[trial.values[2] for trial in front], s=24, zorder=3, label="front")
            figure.colorbar(third, ax=left).set_label(names[2], parse_math=False)
        scores = result.scores(held)
        low, high = scores.min(0), scores.max(0)
        scaled = (scores - low) / np.where(high > low, high - low, 1.0)
        volumes = hypervolumes(scaled, np.full(scores.shape[1], -1e-9))
        right.step([trial.number for trial in held], volumes, where="post", color="tab:orange")
    left.set_xlabel(names[0], parse_math=False)
    left.set_ylabel(names[1], parse_math=False)
    right.set(xlabel="trial", ylabel="hypervolume", title="share between the worst and best values")
    right.title.set_fontsize("medium")
    for axes in (left, right):
        axes.grid(alpha=0.3)
    if result.valued:
        left.legend(loc="best", fontsize="small")
    figure.suptitle(fill(plain(title), 80), parse_math=False)
    return figure


def draw_borders(result: Result, label: str) -> "Figure":
    """A panel for each limit: the value of each trial against what is limited, which is allowed on one side."""
    figure = new_figure(8, 3.4 * len(result.limits))
    groups = [
        (result.holding, "o", "tab:blue", 5, "holds every limit"),
        (result.breaking, "x", "tab:red", 5, "breaks a limit"),
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


def _columns(trials: Sequence[Trial]) -> tuple[list[float], list[float]]:
    """The first two values of each trial."""
    return [trial.values[0] for trial in trials], [trial.values[1] for trial in trials]


def _mark_stopped(axes: Any, result: Result, sign: int) -> None:
    """Trials that were stopped early, at the last value that they reported; the picture's range stays."""
    low, high = axes.get_ylim()
    found = [(trial.number, trial.reported) for trial in result.trials if trial.reported is not None and trial.pruned]
    inside = [(number, value) for number, value in found if low <= value <= high]
    marks = {"marker": "d", "color": "0.45", "markersize": 4, "linestyle": ""}
    if found:
        axes.plot(*np.array(inside or np.empty((0, 2))).T, **marks, label="stopped early")
        _at_edge(axes, [number for number, value in found if not low <= value <= high], sign, **marks)
        axes.set_ylim(low, high)


def _at_edge(axes: Any, numbers: Sequence[float], sign: int, **marks: Any) -> None:
    """Marks at the edge of the picture where the worst values are."""
    across = axes.get_xaxis_transform()  # x in trials, y from 0 at the lower edge to 1
    axes.plot(numbers, [0.02 if sign > 0 else 0.98] * len(numbers), transform=across, **marks)


def draw_importance(shares: Mapping[str, float]) -> "Figure":
    """A bar per parameter, in the order given."""
    figure = new_figure(8, 0.7 + 0.27 * len(shares))
    axes = figure.add_subplot()
    places = range(len(shares))
    bars = axes.barh(places, list(shares.values()), color="tab:blue", alpha=0.75)
    axes.bar_label(bars, labels=[f"{share:.1%}" for share in shares.values()], padding=4, fontsize="small")
    # Names are a user's text: a dollar sign is no mathematics, and a long one leaves room for the bars.
    names = [name if len(name) <= 40 else f"{name[:39]}…" for name in map(plain, shares)]
    axes.set_yticks(places, names, fontsize="small", parse_math=False)
    axes.set(ylim=(len(shares) - 0.4, -0.6), xlim=(0, 1.12 * max(shares.values())), xticks=[])
    axes.spines[["top", "right", "bottom"]].set_visible(False)
    axes.tick_params(axis="y", length=0)
    return figure


def draw_calibration(bins: Sequence[Bin], points: Sequence[tuple[float, float]], complete: bool) -> "Figure":
    """Left the shares of ``calibration.against_pools``, right the points of ``calibration.against_trials``."""
    figure = new_figure(8, 3.8)
    left, right = figure.subplots(1, 2)
    left.plot([0, 1], [0, 1], "--", color="0.6", linewidth=1, label="as sure as right")
    if bins:
        stated, best = [bin.stated for bin in bins], [bin.best for bin in bins]
        away = [[bin.best - bin.low for bin in bins], [bin.high - bin.best for bin in bins]]
        left.errorbar(stated, best, away, fmt="o", color="tab:blue", capsize=3, label="picks, 95 % interval")
        left.plot(stated, [bin.guess for bin in bins], "_", color="tab:red", markersize=14, label="a guess")
    left.set_title("best of its pool" if complete else "beaten by no known candidate of its pool", fontsize="medium")
    left.set_ylabel("share of picks")
    left.legend(fontsize="small")
    right.plot(*np.array(points or np.empty((0, 2))).T, "o", color="tab:blue", alpha=0.5, markersize=5)
    right.set_title("its place among all trials", fontsize="medium")
    right.set_ylabel("share of trials that it beats")
    for axes in (left, right):
        axes.set(xlim=(-0.03, 1.03), ylim=(-0.04, 1.04), xlabel="probability that the model gave its pick")
        axes.grid(alpha=0.3)
    return figure
