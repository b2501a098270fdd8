"""A private interface that another version lacks is named in one sentence."""

from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from types import ModuleType

import pytest


@contextmanager
def interfaces_of(package: str, module: ModuleType) -> Iterator[None]:
    """A block that tries what ``module`` uses of a package."""
    try:
        yield
    except (AttributeError, ImportError, TypeError, KeyError) as error:
        tested = str(module.__doc__).partition("Tested with ")[2].split("\n")[0].rstrip(".")
        file = module.__name__.rpartition(".")[2]
        pytest.fail(
            f"{package} {import_module(package).__version__} lacks what {file}.py uses (tested with {tested}): {error}"
        )
