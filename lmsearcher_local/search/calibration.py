"""How sure the model was of its picks, and what they turned out to be."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

RANKING = "ranking"  # trial user attribute: the pool that the model was shown, and the probability of its pick
BIN = 8  # picks of like probability that one share is taken over, at least
BINS = 5  # at most
LEVELS = (0.05, 0.25, 0.5, 0.75, 0.95)  # of a predicted distribution, ascending in score


@dataclass(frozen=True, slots=True)
class Choice:
    """A pick of the model: out of which pool, and with which probability.

    The probability has three significant digits. A search never reads it; where the engine is not exact, that of a
    resumed search may differ from that of an uninterrupted one by the engine's noise.
    """

    code: str
    pool: tuple[str, ...]
    probability: float
    belief: tuple[float, tuple[float, ...]] | None = None  # in earlier searches: ``surrogate.Belief``
    expected: tuple[float, ...] | None = None  # values at ``LEVELS`` of the score that the model predicted for the pick


class Bin(NamedTuple):
    """Picks of like probability: mean probability, share that nothing beats, its 95 % interval, share of a guess."""

    picks: int
    stated: float
    best: float
    low: float
    high: float
    guess: float


def against_pools(choices: Sequence[Choice], scores: Mapping[str, float]) -> list[Bin]:
    """How often a pick was the best of its pool as far as known, by the probability that the model gave it.

    Only members of a pool that have a score, higher better, can beat the pick. A pick without a score, or without
    another known member in its pool, says nothing and is left out. Unless all scores are known, the share can only be
    too high: it is of picks that nothing known beats. A guess is a uniform one among the known members.
    """
    rows = []
    for choice in choices:
        known = [scores[code] for code in choice.pool if code in scores]
        if len(known) > 1 and choice.code in scores:
            best = max(known)
            rows.append((choice.probability, scores[choice.code] >= best, known.count(best) / len(known)))
    rows.sort(key=lambda row: row[0])
    count = max(1, min(BINS, len(rows) // BIN))
    return [_bin(part) for part in np.array_split(np.array(rows, dtype=float), count)] if rows else []


def _bin(rows: np.ndarray) -> Bin:
    """Wilson's interval: it does not leave 0 to 1, and it is not empty where all picks are alike."""
    from scipy.stats import binomtest

    stated, best, guess = rows.mean(axis=0).tolist()
    interval = binomtest(int(rows[:, 1].sum()), len(rows)).proportion_ci(method="wilson")
    # Where all picks are alike the share is an end of its interval, but for rounding.
    return Bin(len(rows), stated, best, min(float(interval.low), best), max(float(interval.high), best), guess)


def against_trials(choices: Sequence[Choice], scores: Mapping[str, float]) -> list[tuple[float, float]]:
    """For each pick with a score its probability, and the share of the other scored codes that it is better than."""
    ordered = np.sort(list(scores.values()))
    if len(ordered) < 2:
        return []
    told = [choice for choice in choices if choice.code in scores]
    below = np.searchsorted(ordered, [scores[choice.code] for choice in told]) / (len(ordered) - 1)
    return [(choice.probability, share) for choice, share in zip(told, below.tolist(), strict=True)]


def levels_of(chances: np.ndarray, centres: np.ndarray) -> np.ndarray:
    """At which scores a distribution over bins, ``[bins]``, reaches each of ``LEVELS``: float64 ``[len(LEVELS)]``.

    Within a bin it rises evenly; the bins are of one width.
    """
    half = (centres[1] - centres[0]) / 2
    edges = np.append(centres - half, centres[-1] + half)
    return np.asarray(np.interp(LEVELS, np.append(0.0, np.cumsum(chances)), edges))


class Coverage(NamedTuple):
    """Of picks with a predicted score and a value: how many, and for each of ``LEVELS`` the share of values below."""

    picks: int
    below: tuple[float, ...]
    within_half: float  # between the levels .25 and .75
    within_most: float  # between the levels .05 and .95


def coverage(choices: Sequence[Choice], values: Mapping[str, float], sign: int) -> Coverage | None:
    """How well predicted scores fit the observed values of codes; nothing where none was predicted and observed.

    ``sign`` is 1 where values are maximised, -1 where they are minimised.
    """
    told = [choice for choice in choices if choice.expected is not None and choice.code in values]
    if not told:
        return None
    above = sign * np.array([values[choice.code] - np.array(choice.expected) for choice in told])
    share = ((above < 0) + 0.5 * (above == 0)).mean(0).tolist()  # a value that equals a level is half below it
    return Coverage(len(told), tuple(share), share[3] - share[1], share[4] - share[0])
