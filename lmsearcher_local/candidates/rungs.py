"""What the value of a trial that was stopped early says of the value that it would have had at its end."""

import math
from collections.abc import Callable, Mapping, Sequence
from functools import cache, partial
from typing import NamedTuple

import numpy as np


class Curve(NamedTuple):
    """What a trial reported, by step, and its value at the end; none where it was stopped early."""

    steps: Mapping[int, float]
    final: float | None


def supported_values(curves: Sequence[Curve]) -> list[float | None]:
    """The final value of each trial; of one that was stopped early, the value that its last step supports.

    In the middle of training a value is worse than at the end, but its rank is not. So a stopped trial is compared with
    those that ran further, at the same step, and gets the final value at the same rank among theirs. Between two ranks
    the value is interpolated; outside of all it keeps its distance to the nearest. Trials stopped later count as having
    run further, with the value that they get here. Where none that ran further has a value at the last step, an earlier
    step decides. Where none has at any, the last value counts as it is. One whose last value is not finite gets the
    worst final value. Values are scores here, higher better.

    There is no value for a curve that reported nothing, or nothing finite where no other ran further.
    """
    found = [curve.final for curve in curves]
    stopped: dict[int, list[int]] = {}  # places of stopped trials by their last step
    for i, curve in enumerate(curves):
        if curve.final is None and curve.steps:
            stopped.setdefault(max(curve.steps), []).append(i)
    further = [i for i, curve in enumerate(curves) if curve.final is not None]
    for last in sorted(stopped, reverse=True):
        others = [(curves[i].steps, final) for i in further if (final := found[i]) is not None]
        at_step = cache(partial(_at_step, others))
        for i in stopped[last]:
            found[i] = _supported(curves[i].steps, at_step)
        further += stopped[last]
    return found


Known = tuple[np.ndarray, np.ndarray]  # values at a step and final values, each ascending


def _at_step(others: Sequence[tuple[Mapping[int, float], float]], step: int) -> Known:
    known = [(steps[step], final) for steps, final in others if math.isfinite(steps.get(step, math.nan))]
    values, finals = np.sort(np.array(known, float).reshape(-1, 2).T)
    return values, finals


def _supported(steps: Mapping[int, float], at_step: Callable[[int], Known]) -> float | None:
    last = steps[max(steps)]
    for step in sorted(steps, reverse=True):
        values, finals = at_step(step)
        if len(values):
            return _mapped(steps[step], values, finals) if math.isfinite(last) else float(finals[0])
    return last if math.isfinite(last) else None


def _mapped(value: float, values: np.ndarray, finals: np.ndarray) -> float:
    """Where the value stands among the values, as the final value that stands there."""
    if not math.isfinite(value):
        return float(finals[0])
    known, places = np.unique(values, return_inverse=True)
    ranked = np.bincount(places, finals) / np.bincount(places)  # those of equal values: their mean
    nearest = float(np.clip(value, known[0], known[-1]))
    return float(np.interp(nearest, known, ranked)) + value - nearest
