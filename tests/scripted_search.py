"""The command line with a scripted engine: ``python scripted_search.py search …`` loads no model."""

import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

from scripted import scripted_ranker

from lmsearcher_local.cli.main import main
from lmsearcher_local.model import checkpoint, load
from lmsearcher_local.model.ranker import Ranker


@contextmanager
def load_ranker(*arguments: Any, **options: Any) -> Iterator[Ranker]:
    yield scripted_ranker()


def search(arguments: list[str]) -> None:
    load.load_ranker = load_ranker  # type: ignore[assignment]
    checkpoint.load_checkpoint = lambda *arguments, **options: SimpleNamespace(identity="scripted")  # type: ignore
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):  # whoever started the tests may ignore some
        signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
    main(arguments)


if __name__ == "__main__":
    search(sys.argv[1:])
