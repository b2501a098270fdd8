"""What early stopping saved."""

from statistics import median
from typing import NamedTuple

from lmsearcher_local.study.results import Result
from lmsearcher_local.study.timing import in_units
from lmsearcher_local.system.plain import amount, quantity


class Savings(NamedTuple):
    """How many trials reported steps and how many of these were stopped early; how many steps were run, and how many
    steps and seconds of evaluation were not: as if each stopped trial had gone on like the median of those that ran to
    their end. Nothing where none did."""

    reported: int
    pruned: int
    steps: int
    saved_steps: int | None = None
    saved_seconds: float | None = None

    def __str__(self) -> str:
        """In a sentence."""
        if not self.reported:
            return "No trial reported a step, so none could be stopped early."
        said = f"Early stopping: {amount(self.pruned)} of {quantity(self.reported, 'trial')} were pruned"
        if not self.pruned:
            return f"Early stopping: none of {quantity(self.reported, 'trial')} was pruned."
        if self.saved_steps is None or self.saved_seconds is None:
            return f"{said}; how much that saved is not known, as none ran to its end."
        share = 100 * self.saved_steps / max(1, self.steps + self.saved_steps)
        return (
            f"{said}, which saved about {quantity(self.saved_steps, 'step')} of training ({share:.0f} %) and"
            f" {in_units(self.saved_seconds)} of evaluation."
        )


def savings(result: Result) -> Savings:
    """What early stopping saved in a search, all runs together."""
    found = [(trial, trial.step) for trial in result.trials if trial.step is not None and not trial.given]
    pruned, steps = sum(trial.pruned for trial, _ in found), sum(step for _, step in found)
    whole = [(step, trial.seconds or 0.0) for trial, step in found if trial.value is not None]
    if not whole:
        return Savings(len(found), pruned, steps)
    length, seconds = (median(column) for column in zip(*whole, strict=True))
    saved = sum(max(0, round(length - step)) for trial, step in found if trial.pruned)
    faster = sum(max(0.0, seconds - (trial.seconds or 0.0)) for trial, _ in found if trial.pruned)
    return Savings(len(found), pruned, steps, saved, faster)
