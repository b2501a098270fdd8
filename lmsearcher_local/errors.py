"""Typed errors: each is one clear sentence for a person, and a builtin for the code that catches it."""


class LMSearcherError(Exception):
    """Base of everything this package raises on purpose."""


class SpaceError(LMSearcherError, ValueError):
    """A search space, an NCode or a configuration that is malformed or does not belong to the space."""


class SpaceExhausted(LMSearcherError, RuntimeError):
    """Every valid configuration of the space has been evaluated or is being evaluated."""


class HistoryError(LMSearcherError, ValueError):
    """Evaluated points that cannot be used: a value that is not a finite number, a malformed file."""


class PromptError(LMSearcherError, ValueError):
    """A history and pool that cannot be shown to this checkpoint."""


class CheckpointError(LMSearcherError, ValueError):
    """A checkpoint folder that is missing, unsafe or unfit."""


class EngineError(LMSearcherError, RuntimeError):
    """The inference engine is missing, does not fit the machine, or answered something unusable."""


class ObjectiveError(LMSearcherError, ValueError):
    """An objective that cannot be found or called."""


class StudyError(LMSearcherError, ValueError):
    """A study that cannot be started or resumed as asked."""
