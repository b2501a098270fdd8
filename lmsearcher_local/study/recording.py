"""What a study keeps of each run: versions, device, tokens, and where the time went."""

from collections.abc import Iterator
from contextlib import contextmanager, suppress

import optuna
from optuna.exceptions import StorageInternalError

from lmsearcher_local.model.ranker import Ranker
from lmsearcher_local.study.timing import Clock
from lmsearcher_local.system.provenance import provenance

RUNS = "lmsearcher runs"  # study user attribute: a dictionary for each run


@contextmanager
def record_run(study: optuna.Study, ranker: Ranker, first: int, clock: Clock) -> Iterator[None]:
    """Keep with the study what evaluates from trial ``first`` on, and in the end how much was asked and how long."""
    engine = ranker.engine
    run = {"trial": first, "engine": type(engine).__name__, "workers": clock.workers, "noise": engine.noise}
    runs, counts = [*study.user_attrs.get(RUNS, []), {**run, **provenance()}], _counts(ranker)
    study.set_user_attr(RUNS, runs)  # now, because a kill may end it
    try:
        yield
    finally:
        runs[-1] |= {name: count - counts[name] for name, count in _counts(ranker).items()}
        runs[-1] |= {"drift": ranker.drift, "seconds": clock.seconds()}
        with suppress(OSError, StorageInternalError):  # that there is no space has been said
            study.set_user_attr(RUNS, runs)


def _counts(ranker: Ranker) -> dict[str, int]:
    """Questions repeated, and the engine's tokens where it counts them."""
    names = ("prompt_tokens", "computed_tokens")
    tokens = {name: getattr(ranker.engine, name) for name in names if hasattr(ranker.engine, name)}
    return {"repeated": ranker.repeated, **tokens}
