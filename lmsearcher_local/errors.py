"""Typed errors: each is one clear sentence for a person, and a builtin for the code that catches it."""

import errno
import reprlib

NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO)  # of what a disk says
SENTENCE = 1000  # characters of a message at most: what it quotes comes from files, which may hold anything


class LMSearcherError(Exception):
    """Base of everything this package raises on purpose; its message is one line.

    ``exit_status`` is that of a command that it ends: 2 for wrong use, 1 for what was asked rightly and cannot go on.
    """

    exit_status = 2

    def __str__(self) -> str:
        text = " ".join(super().__str__().splitlines())
        return text if len(text) <= SENTENCE else f"{text[:SENTENCE]} ..."


class SpaceError(LMSearcherError, ValueError):
    """A search space, an NCode or a configuration that is malformed or does not belong to the space."""


class SpaceWarning(UserWarning):
    """A search space that can be read, but may not mean what its author thinks."""


class NothingToPropose(LMSearcherError, RuntimeError):
    """No configuration was found that is not evaluated yet; there may be some."""


class SpaceExhausted(NothingToPropose):
    """Every valid configuration of the space has been evaluated or is being evaluated."""


class HistoryError(LMSearcherError, ValueError):
    """Evaluated points that cannot be used: a value that is not a finite number, a malformed file."""


class MeasureError(LMSearcherError, ValueError):
    """A goal or a limit that is not written as one, or measured values that lack what these name."""


class PromptError(LMSearcherError, ValueError):
    """A history and pool that cannot be shown to this checkpoint."""


class CheckpointError(LMSearcherError, ValueError):
    """A checkpoint folder that is missing, unsafe or unfit."""


class EngineError(LMSearcherError, RuntimeError):
    """The inference engine is missing, does not fit the machine, or answered something unusable."""

    exit_status = 1


class ObjectiveError(LMSearcherError, ValueError):
    """An objective that cannot be found or called."""


class OptionError(LMSearcherError, ValueError):
    """An option of a search that is out of its range."""


class StudyError(LMSearcherError, ValueError):
    """A study that cannot be started or resumed as asked."""


class SearchStopped(StudyError):
    """A search that cannot go on: no space to write, a broken executor. What was told is kept; it can be resumed."""

    exit_status = 1


class ChecksumError(LMSearcherError, ValueError):
    """Files that are not what their checksums say, or checksums that are missing or malformed."""


class BundleError(LMSearcherError, RuntimeError):
    """A bundle for a machine without a network that cannot be made."""


class FetchError(BundleError):
    """A bundle whose wheels pip cannot fetch."""

    exit_status = 1


def brief(value: object) -> str:
    """A value as Python writes it, shortened where it is long or nested, for messages about what a file holds."""
    try:
        return _SHORT.repr(value)
    except ValueError:  # Python refuses to write them
        return "a number of thousands of digits"


_SHORT = reprlib.Repr()
_SHORT.maxlevel, _SHORT.maxstring, _SHORT.maxother = 2, 100, 100
