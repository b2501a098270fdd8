"""Several goals: how much of the front of a real table a search has found.

``python -m bench.pareto --problems dev``; the same command goes on where it was stopped. The unit of the hypervolume is
ranks among all codes, from the worst of each goal on, so what a value is measured in says nothing.
"""

from collections.abc import Sequence
from functools import cache, partial

import numpy as np
from scipy.stats import rankdata

from bench import measured
from bench.measured import METHODS, Problem
from lmsearcher_local.candidates.pareto import hypervolumes
from lmsearcher_local.presets.tables import table

GROUPS = {
    "dev": measured.named(
        ", ",
        [
            ("hpolib-naval_propulsion", "val_loss", "model_size"),
            ("hpolib-parkinsons_telemonitoring", "val_loss", "train_time"),
            ("hpobench-car", "val_acc", "train_time"),
            ("hpobench-kc1", "val_acc", "train_time"),
        ],
    ),
    "report": measured.named(
        ", ",
        [
            ("nasbench201-cifar10", "val_acc", "latency"),
            ("nasbench201-cifar100", "val_acc", "latency"),
            ("nasbench201-cifar100", "val_acc", "model_size"),
            ("nasbench201-imagenet", "val_acc", "model_size"),
        ],
    ),
}


@cache
def problem(name: str) -> Problem:
    """The problem of that name."""
    place, *metrics = next(found[name] for found in GROUPS.values() if name in found)
    found = table(place)
    columns = [measured.scores_of(found, metric) for metric in metrics]
    codes = {
        code: dict(zip(metrics, values, strict=True))
        for code, *values in zip(found.values, *(column.tolist() for column in columns), strict=True)
    }
    ranks = np.stack([rankdata(column) / len(codes) for column in columns], 1)
    places = {code: i for i, code in enumerate(codes)}
    worst = np.zeros(len(metrics))
    [*_, whole] = hypervolumes(ranks, worst)

    def missing(found: Sequence[str]) -> list[float]:
        """The share of the table's hypervolume that is missing after each of the codes."""
        return [1 - volume / whole for volume in hypervolumes(ranks[[places[code] for code in found]], worst)]

    return Problem(found.space, codes, missing)


markdown = partial(measured.markdown, GROUPS, "Missing hypervolume, in ranks (0: the whole front is found)")
plot = partial(measured.plot_means, GROUPS, "missing hypervolume, mean")
main = measured.command(
    "pareto",
    "Search real tables for fronts, and compare.",
    GROUPS,
    METHODS,
    partial(measured.searches, problem),
    markdown=markdown,
    plot=plot,
)

if __name__ == "__main__":
    main()
