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
from contextlib import ExitStack, contextmanager
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
        stack.enter_context(_environment())
        os.environ.update(OFFLINE | dict(variables))
        # Before its state is read, and after its variables are set. A process's torch starts from a random seed.
        try:
            import torch
        except ImportError:  # the engine says so, in its own words
            torch = None  # type: ignore[assignment]
        stack.enter_context(warnings.catch_warnings())
        stack.callback(setattr, sys, "excepthook", sys.excepthook)  # torch.distributed's writes a rank before each line
        stack.enter_context(_loggers())
        stack.enter_context(_signals())
        stack.enter_context(_random_states(torch))
        stack.enter_context(_threads(torch))
        stack.enter_context(_garbage())
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


@contextmanager
def _environment() -> Iterator[None]:
    before = dict(os.environ)
    try:
        yield
    finally:
        for name in os.environ.keys() - before.keys():
            del os.environ[name]
        os.environ.update(before)


@contextmanager
def _loggers() -> Iterator[None]:
    """Those that exist already; a library's own are its own."""
    known = [entry for entry in logging.root.manager.loggerDict.values() if isinstance(entry, logging.Logger)]
    before = [
        (logger, logger.level, logger.handlers[:], logger.filters[:], logger.propagate, logger.disabled)
        for logger in (logging.root, *known)
    ]
    threshold = logging.root.manager.disable
    try:
        yield
    finally:
        for logger, level, handlers, filters, propagate, disabled in before:
            if logger.level != level:  # each call walks through all loggers
                logger.setLevel(level)
            logger.handlers[:], logger.filters[:] = handlers, filters
            logger.propagate, logger.disabled = propagate, disabled
        logging.disable(threshold)


@contextmanager
def _signals() -> Iterator[None]:
    before = {number: signal.getsignal(number) for number in signal.valid_signals()}
    try:
        yield
    finally:
        if threading.current_thread() is threading.main_thread():  # others can set none
            for number, handler in before.items():
                if handler is not None and signal.getsignal(number) is not handler:
                    signal.signal(number, handler)


@contextmanager
def _random_states(torch: Any) -> Iterator[None]:
    python, arrays = random.getstate(), np.random.get_state()
    tensors = torch.get_rng_state() if torch else None
    cards = torch.cuda.get_rng_state_all() if torch and torch.cuda.is_initialized() else None
    try:
        yield
    finally:
        random.setstate(python)
        np.random.set_state(arrays)
        if torch:
            torch.set_rng_state(tensors)
        if cards is not None:
            torch.cuda.set_rng_state_all(cards)
        elif torch and torch.cuda.is_initialized():
            torch.cuda.seed_all()  # as if it had been seeded by its first user, at random


@contextmanager
def _threads(torch: Any) -> Iterator[None]:
    """vLLM sets torch to one thread on a GPU, and makes the function that sets them do nothing on a processor."""
    if not torch:
        yield
        return
    function, count = torch.set_num_threads, torch.get_num_threads()
    try:
        yield
    finally:
        torch.set_num_threads = function
        if torch.get_num_threads() != count:
            function(count)


@contextmanager
def _garbage() -> Iterator[None]:
    """vLLM hides all objects alive from the garbage collector, the host's as well, which would never be freed."""
    hidden = gc.get_freeze_count()
    try:
        yield
    finally:
        if not hidden:
            gc.unfreeze()
