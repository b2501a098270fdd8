"""Several scores at once: which points no other beats, how much they dominate, how much more a candidate would.

Notation: ``n`` points or candidates, ``M`` goals (2 or 3), ``B`` boxes. All scores are higher better. The reference is
a point that every point of interest exceeds in every goal; the hypervolume is the volume between it and the points.
"""

import numpy as np
from scipy.special import ndtr

AUGMENTED = 0.05  # share of the weighted sum in a Chebyshev score: of two equal in the worst goal, the better one


def on_front(points: np.ndarray) -> np.ndarray:
    """Which of the points ``[n, M]`` no other dominates, bool ``[n]``; of equal points all or none."""
    # Ascending: a point follows all that dominate it.
    distinct, places = np.unique(-points, axis=0, return_inverse=True)
    if points.shape[1] == 2:
        best = np.minimum.accumulate(distinct[:, 1])
        kept = np.append(np.ones(len(best[:1]), dtype=bool), best[1:] < best[:-1])
        return np.asarray(kept[places.ravel()])
    kept = np.zeros(len(distinct), dtype=bool)
    left = np.arange(len(distinct))
    while len(left):
        kept[left[0]] = True
        left = left[(distinct[left] < distinct[left[0]]).any(1)]
    return np.asarray(kept[places.ravel()])


def layers(points: np.ndarray, enough: int | None = None) -> np.ndarray:
    """The layer of each of the points ``[n, M]``, int ``[n]``: 0 on the front, 1 on the front of the others, and so on.

    Once ``enough`` points have one, all others share the next (non-dominated sorting: Deb et al. 2002).
    """
    found = np.zeros(len(points), dtype=np.int64)
    left = np.arange(len(points))
    while len(left) and (enough is None or len(points) - len(left) < enough):
        found[left] += 1
        left = left[~on_front(points[left])]
    found[left] += 1
    return found - 1


def hypervolume(points: np.ndarray, reference: np.ndarray) -> float:
    """The volume of what lies above the reference ``[M]`` and below one of the points ``[n, M]``."""
    inside = points[(points > reference).all(1)]
    if not len(inside):
        return 0.0
    top = inside.max(0)
    lower, upper = free_boxes(inside, reference)
    free = (np.minimum(upper, top) - np.minimum(lower, top)).prod(1).sum()
    return float((top - reference).prod() - free)


def hypervolumes(points: np.ndarray, reference: np.ndarray) -> list[float]:
    """The hypervolume of the first points, of each number of them, from one to all of ``[n, M]``."""
    front, volume, found = np.empty((0, len(reference))), 0.0, []
    for point in points:
        if not (front >= point).all(1).any():
            front = np.vstack([front[~(front <= point).all(1)], point])
            volume = hypervolume(front, reference)
        found.append(volume)
    return found


def free_boxes(points: np.ndarray, reference: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Disjoint boxes that fill what lies above the reference ``[M]`` and not below any of the points ``[n, M]``.

    Their lower and upper corners, both ``[B, M]``; upper ones may be infinite. ``B`` is at most ``2 n + 1``. The third
    goal is swept downwards over a staircase of strips in the first two (as in Yang et al. 2019, JOGO 75, 3-34).
    """
    front = points[(points > reference).all(1)]
    front = front[on_front(front)]
    first, second = reference[:2]
    third = front[:, 2] if front.shape[1] == 3 else np.full(len(front), np.inf)  # two goals: one sweep, no boxes in it
    boxes: list[tuple[float, ...]] = []  # of each goal the lower, then the upper ends
    # Strips (x0, x1, y, z): free between x0 and x1, above y, and up to z; x ascends and y descends.
    strips: list[tuple[float, float, float, float]] = [(first, np.inf, second, np.inf)]
    for i in np.argsort(-third, kind="stable"):
        (x, y), z = front[i, :2].tolist(), float(third[i])
        changed = [k for k, strip in enumerate(strips) if strip[0] < x and strip[2] < y]
        if not changed:
            continue  # an equal one came before
        inside = [strips[k] for k in changed]
        boxes += [(x0, low, z, min(x1, x), np.inf, top) for x0, x1, low, top in inside if z < top]
        rest = [(x, *inside[-1][1:])] if x < inside[-1][1] else []
        strips[changed[0] : changed[-1] + 1] = [(inside[0][0], x, y, z), *rest]
    floor = reference[2] if front.shape[1] == 3 else -np.inf
    boxes += [(x0, low, floor, x1, np.inf, top) for x0, x1, low, top in strips]
    corners = np.array(boxes)
    goals = len(reference)
    return corners[:, :goals], corners[:, 3 : 3 + goals]


def expected_hypervolume_improvement(
    means: np.ndarray, deviations: np.ndarray, points: np.ndarray, reference: np.ndarray
) -> np.ndarray:
    """By how much each candidate is expected to raise the hypervolume of the points, float64 ``[n]``.

    Candidates' scores are independent normal ones of these means and deviations, both ``[n, M]``. Over the free boxes
    ``(l, u]`` it is the sum of ``prod_j (psi_j(l_j) - psi_j(u_j))`` with ``psi(a) = E[max(Y - a, 0)]``: exact for the
    disjoint boxes that they are (Yang et al. 2019).

    Where ``k`` points share the best value of a goal, what is expected beyond it is divided by ``k``: so many came up
    to it, and none exceeded it. A smallest size that many have is likely a bound, which a process knows nothing of.
    """
    lower, upper = free_boxes(points, reference)
    inside = points[(points > reference).all(1)]
    best = inside.max(0, initial=-np.inf)
    shared = (inside == best).sum(0)
    volumes = np.ones((len(means), len(lower)))
    for goal in range(len(reference)):
        ends, places = np.unique(np.concatenate([lower[:, goal], upper[:, goal]]), return_inverse=True)
        mean, deviation = means[:, goal, None], deviations[:, goal, None]
        z = (mean - ends) / deviation
        with np.errstate(invalid="ignore"):  # an infinite end: nothing is beyond it
            above = deviation * (z * ndtr(z) + np.exp(-z * z / 2) / np.sqrt(2 * np.pi))
        above[:, np.isinf(ends)] = 0.0
        if shared[goal] > 1:
            above[:, np.isinf(ends)] = above[:, ends == best[goal]] * (1 - 1 / shared[goal])
        below, beyond = places[: len(lower)], places[len(lower) :]
        volumes *= above[:, below] - above[:, beyond]
    return np.asarray(np.maximum(volumes, 0).sum(1))


def chebyshev(points: np.ndarray, weights: np.ndarray, best: np.ndarray | None = None) -> np.ndarray:
    """One score for each of the points ``[n, M]``, float64 ``[n]``: how far it stays behind the best of every goal.

    The best ``[M]`` is by default that of the points.

    ``-max_j w_j (b_j - y_j) - rho sum_j w_j (b_j - y_j)`` with ``b`` the best (the augmented Chebyshev
    scalarisation: Knowles 2006, IEEE TEVC 10, 50-66). A point of the front is best for some weights.
    """
    behind = weights * ((points.max(0, initial=-np.inf) if best is None else best) - points)
    return np.asarray(-behind.max(1) - AUGMENTED * behind.sum(1))
