"""Steps of vLLM that fail, and a limit to what then never ends."""

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from lmsearcher_local.model.engines.vllm import VLLMEngine

LIMIT = 120  # seconds; what it stops would otherwise never end


@contextmanager
def limited() -> Iterator[None]:
    """A time limit that ends a loop of vLLM's as well."""

    def stop(*_: object) -> None:
        raise AssertionError(f"no end within {LIMIT} s")

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(LIMIT)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def failing(engine: VLLMEngine, name: str, error: BaseException, late: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a method of vLLM's model runner raise once, before or after it did its work."""
    runner = engine._llm.llm_engine.model_executor.driver_worker.worker.model_runner
    whole: Callable[..., Any] = getattr(runner, name)

    def once(*args: Any, **options: Any) -> Any:
        monkeypatch.undo()
        if late:
            whole(*args, **options)
        raise error

    monkeypatch.setattr(runner, name, once)
