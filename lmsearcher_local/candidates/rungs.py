"""What the value of a trial that was stopped early says of the value that it would have had at its end."""

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np


class Curve(NamedTuple):
    """What a trial reported, by step, and its value at the end; none where it was stopped early."""

    steps: Mapping[int, float]
    final: float | None


def supported_values(curves: Sequence[Curve]) -> list[float | None]:
    """The final value of each trial; of one that was stopped early, the value that its last step supports.

    A value in the middle of training is worse than one at the end, so the last value of a stopped trial would tell
    against it how early it was stopped. Its rank does not: it is compared with the trials that ran further, by what
    they had at the same step, and gets the final value that stands at the same rank among theirs. Between two ranks the
    value is interpolated; outside of all it keeps its distance to the nearest, in units of the value. Trials that were
    stopped later count among those that ran further, with the value that they get here. Where no trial that ran further
    has a value at the last step, an earlier step decides; where none has at any, the last value counts as it is.
    One whose last value is not finite gets the worst final value, lower or higher as the caller's sign has it: values
    here are scores, higher better.

    Returns:
        A value for each curve; nothing for one that reported nothing, or nothing finite where no other ran further.
    """
    found = [curve.final for curve in curves]
    stopped: dict[int, list[int]] = {}  # places of stopped trials by their last step
    for i, curve in enumerate(curves):
        if curve.final is None and curve.steps:
            stopped.setdefault(max(curve.steps), []).append(i)
    further = [i for i, curve in enumerate(curves) if curve.final is not None]
    for last in sorted(stopped, reverse=True):
        for i in stopped[last]:
            found[i] = _supported(curves, i, further, found)
        further += stopped[last]
    return found


def _supported(
    curves: Sequence[Curve], own: int, further: Sequence[int], found: Sequence[float | None]
) -> float | None:
    steps = curves[own].steps
    last = steps[max(steps)]
    for step in sorted(steps, reverse=True):
        pairs = [(curves[i].steps.get(step, math.nan), found[i]) for i in further]
        known = [(value, final) for value, final in pairs if math.isfinite(value) and final is not None]
        if not known:
            continue
        values, finals = np.sort(np.array(known).T)
        if not math.isfinite(last):
            return float(finals[0])
        return _mapped(steps[step] if math.isfinite(steps[step]) else last, values, finals)
    return last if math.isfinite(last) else None


def _mapped(value: float, values: np.ndarray, finals: np.ndarray) -> float:
    """Where the value stands among the ascending values, as the final value that stands there."""
    known, places = np.unique(values, return_inverse=True)
    ranked = np.bincount(places, finals) / np.bincount(places)  # those of equal values: their mean
    nearest = float(np.clip(value, known[0], known[-1]))
    return float(np.interp(nearest, known, ranked)) + value - nearest
