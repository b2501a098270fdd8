"""Loading a model leaves the process that does it as it was."""

import gc
import logging
import os
import random
import signal
import sys
import threading
import warnings
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from types import MappingProxyType
from typing import Any

import numpy as np

from lmsearcher_local.model.engines.transformers_internals import offline_hub

OFFLINE = {"HF_HUB_OFFLINE": "1", "DO_NOT_TRACK": "1"}


@contextmanager
def preserved_host(variables: Mapping[str, str] = MappingProxyType({})) -> Iterator[None]:
    """After the block the process is as it was before, whatever a library's load did to it.

    That is: the environment, loggers, warning filters, the hook for exceptions, the states of ``random``, numpy and
    torch, signal handlers, torch's threads, and whether the garbage collector looks at everything. ``variables`` and
    :data:`OFFLINE` are set for the block.
    """
    with ExitStack() as stack:
        stack.enter_context(offline_hub())
        stack.callback(_restore_environment, dict(os.environ))
        os.environ.update(OFFLINE | dict(variables))
        # Before its state is read, and after its variables are set. A process's torch starts from a random seed.
        with suppress(ImportError):  # the engine says so, in its own words
            import torch

            cards = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else None
            threads = torch.set_num_threads, torch.get_num_threads()
            stack.callback(_restore_torch, torch.get_rng_state(), cards, *threads)
        stack.enter_context(warnings.catch_warnings())
        stack.callback(setattr, sys, "excepthook", sys.excepthook)  # torch.distributed's writes a rank before each line
        stack.callback(logging.disable, logging.root.manager.disable)
        for logger in (logging.root, *logging.root.manager.loggerDict.values()):  # a library's own loggers are its own
            if isinstance(logger, logging.Logger):
                held = logger.handlers[:], logger.filters[:], logger.propagate, logger.disabled
                stack.callback(_restore_logger, logger, logger.level, *held)
        stack.callback(_restore_signals, {number: signal.getsignal(number) for number in signal.valid_signals()})
        stack.callback(random.setstate, random.getstate())
        stack.callback(np.random.set_state, np.random.get_state())
        if not gc.get_freeze_count():  # vLLM hides all objects alive, the host's as well, which would never be freed
            stack.callback(gc.unfreeze)
        yield


@contextmanager
def without_warnings() -> Iterator[None]:
    """Without transformers' warnings (it suspects tokenizers of Mistral's fault), unless the user asked for a level."""
    from transformers.utils import logging as transformers

    before = transformers.get_verbosity()
    if "TRANSFORMERS_VERBOSITY" not in os.environ:
        transformers.set_verbosity_error()
    try:
        yield
    finally:
        transformers.set_verbosity(before)


def _restore_environment(before: dict[str, str]) -> None:
    for name in os.environ.keys() - before.keys():
        del os.environ[name]
    os.environ.update(before)


def _restore_torch(state: Any, cards: Any, set_threads: Any, threads: int) -> None:
    import torch

    torch.set_rng_state(state)
    if cards is not None:
        torch.cuda.set_rng_state_all(cards)
    elif torch.cuda.is_initialized():
        torch.cuda.seed_all()  # as if they had been seeded by their first user, at random
    # vLLM sets one thread on a GPU, and makes the function that sets them do nothing on a processor.
    torch.set_num_threads = set_threads
    if torch.get_num_threads() != threads:
        set_threads(threads)


def _restore_logger(
    logger: logging.Logger, level: int, handlers: list[Any], filters: list[Any], propagate: bool, disabled: bool
) -> None:
    if logger.level != level:  # each call walks through all loggers
        logger.setLevel(level)
    logger.handlers[:], logger.filters[:] = handlers, filters
    logger.propagate, logger.disabled = propagate, disabled


def _restore_signals(before: Mapping[int, Any]) -> None:
    if threading.current_thread() is threading.main_thread():  # others can set none
        for number, handler in before.items():
            if handler is not None and signal.getsignal(number) is not handler:
                signal.signal(number, handler)
