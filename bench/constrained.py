"""The best configuration that holds a limit: accuracy under a latency that one configuration in ten keeps to.

``python -m bench.constrained --problems dev``; the same command goes on where it was stopped. Regret is that of the
best that holds: 0 is the best of all that hold, 1 their median; before any was found, that of the worst of them.
"""

from collections.abc import Sequence
from functools import cache, partial

import numpy as np

from bench import measured
from bench.measured import METHODS, VIOLATION, Measured, Problem
from lmsearcher_local.presets.tables import table

SHARE = 0.1  # of the configurations that hold the limit
GROUPS = {
    "dev": measured.named(
        " within ",
        [
            ("hpolib-naval_propulsion", "val_loss", "model_size"),
            ("hpolib-naval_propulsion", "val_loss", "train_time"),
            ("hpolib-parkinsons_telemonitoring", "val_loss", "train_time"),
            ("hpobench-car", "val_acc", "train_time"),
        ],
    ),
    "report": measured.named(
        " within ",
        [
            (f"nasbench201-{data}", "val_acc", measure)
            for measure in ("latency", "model_size")
            for data in ("cifar10", "cifar100", "imagenet")
        ],
    ),
}


@cache
def problem(name: str) -> Problem:
    """The problem of that name: its table under a limit which ``SHARE`` of the codes hold."""
    place, goal, measure = next(found[name] for found in GROUPS.values() if name in found)
    found = table(place)
    amounts = np.array([found.measure(code, measure) for code in found.values])
    violations = amounts - np.quantile(amounts, SHARE, method="lower")
    columns = zip(measured.scores_of(found, goal).tolist(), violations.tolist(), strict=True)
    codes = {code: {"score": score, VIOLATION: over} for code, (score, over) in zip(found.values, columns, strict=True)}
    return Problem(found.space, codes, partial(regret, codes))


def regret(seen: dict[str, Measured], codes: Sequence[str]) -> list[float]:
    """Normalised regret of the best so far that holds the limit, after each of the codes."""
    holding = np.array([one["score"] for one in seen.values() if one[VIOLATION] <= 0])
    scores = [seen[code]["score"] if seen[code][VIOLATION] <= 0 else holding.min() for code in codes]
    return ((holding.max() - np.maximum.accumulate(scores)) / (holding.max() - np.median(holding))).tolist()


markdown = partial(
    measured.markdown,
    GROUPS,
    "Normalised regret of the best that holds the limit (0: the best of all that hold, 1: their median)",
)
plot = partial(measured.plot_means, GROUPS, "normalised regret within the limit, mean")
main = measured.command(
    "constrained",
    "Search tables under a limit, and compare.",
    GROUPS,
    METHODS,
    partial(measured.searches, problem),
    markdown=markdown,
    plot=plot,
)

if __name__ == "__main__":
    main()
