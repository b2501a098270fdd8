"""Real vLLM where things go wrong: failures inside a step, sleep, a second engine, ids that no model has."""

from contextlib import suppress
from typing import Any

import numpy as np
import pytest
from broken_steps import failing, limited
from interfaces import interfaces_of

from lmsearcher_local.errors import EngineError
from lmsearcher_local.model.checkpoint import load_checkpoint
from lmsearcher_local.model.engines import vllm_internals as internals
from lmsearcher_local.model.engines.base import Question
from lmsearcher_local.model.engines.vllm import VLLMEngine
from lmsearcher_local.model.ranker import Ranker
from lmsearcher_local.search.throughput import fresh_tasks


@pytest.fixture
def engine(bundled: Ranker) -> VLLMEngine:
    """The bundled checkpoint."""
    assert isinstance(bundled.engine, VLLMEngine)
    return bundled.engine


@pytest.fixture(scope="module")
def questions() -> list[Question]:
    """Three prompts of some hundred tokens."""
    codec = load_checkpoint().codec()
    return [
        Question(codec.prompt(*task), [token for [token] in codec.answers(task.space, task.pool.codes)])
        for task in fresh_tasks(np.random.default_rng(0), 3, 40, 10)
    ]


@pytest.mark.parametrize(
    ("name", "error", "late"),
    [
        ("execute_model", RuntimeError("out of something"), False),
        ("sample_tokens", KeyboardInterrupt(), False),  # vLLM's runner refuses to go on from there
        ("sample_tokens", KeyboardInterrupt(), True),
    ],
)
def test_after_a_failure_inside_a_step_the_next_answer_is_right(
    engine: VLLMEngine,
    questions: list[Question],
    name: str,
    error: BaseException,
    late: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with limited():
        engine.forget()
        expected = [engine.log_probs([question])[0] for question in questions]
        engine.forget()
        failing(engine, name, error, late, monkeypatch)
        with pytest.raises(KeyboardInterrupt if isinstance(error, KeyboardInterrupt) else EngineError):
            engine.log_probs(questions)
        computed = engine.computed_tokens
        answers = [engine.log_probs([question])[0] for question in questions]
    for answer, wanted in zip(answers, expected, strict=True):
        np.testing.assert_allclose(answer, wanted, atol=engine.noise)
    # No block that was only promised is taken for computed. The prompts share a beginning shorter than a block.
    assert engine.computed_tokens - computed == sum(len(prefix) for prefix, _ in questions)


def test_an_engine_that_cannot_be_mended_is_built_anew(
    engine: VLLMEngine, questions: list[Question], monkeypatch: pytest.MonkeyPatch
) -> None:
    with limited():
        [expected] = engine.log_probs(questions[:1])
        failing(engine, "execute_model", RuntimeError(), False, monkeypatch)
        with pytest.raises(EngineError, match="RuntimeError"):
            engine.log_probs(questions)
        broken = engine._llm
        monkeypatch.setattr(broken, "reset_prefix_cache", lambda: False)
        [answer] = engine.log_probs(questions[:1])
    assert engine._llm is not broken
    np.testing.assert_allclose(answer, expected, atol=engine.noise)


def test_cold_answers_read_no_cache_and_are_alone(engine: VLLMEngine, questions: list[Question]) -> None:
    warm = engine.log_probs(questions)
    before = engine.computed_tokens
    cold = engine.log_probs_cold(questions)
    assert engine.computed_tokens - before == sum(len(prefix) for prefix, _ in questions)
    assert [answer.tolist() for answer in cold] == [answer.tolist() for answer in engine.log_probs_cold(questions)]
    for one, other in zip(cold, warm, strict=True):
        np.testing.assert_allclose(one, other, atol=engine.noise)
    assert engine.noise == 1e-3  # float32 on a processor


def test_a_processor_cannot_sleep(engine: VLLMEngine) -> None:
    assert not engine.can_sleep
    with pytest.raises(EngineError, match="cannot sleep on this device"):
        engine.sleep()
    engine.wake_up()


def test_asleep_it_answers_nothing_and_awake_as_before(
    engine: VLLMEngine, questions: list[Question], monkeypatch: pytest.MonkeyPatch
) -> None:
    # vLLM's processor build goes through all of sleep's control flow, and keeps its memory.
    monkeypatch.setattr(engine, "can_sleep", True)
    with limited():
        expected = engine.log_probs_cold(questions)
        for _ in range(2):
            engine.sleep()
        assert engine.is_asleep
        with pytest.raises(EngineError, match="asleep"):
            engine.log_probs(questions)
        with monkeypatch.context() as patch:
            patch.setattr(engine._llm, "wake_up", lambda: 1 / 0)
            with pytest.raises(EngineError, match=r"back onto the card \(division by zero\)"):
                engine.wake_up()
        assert engine.is_asleep
        for _ in range(2):
            engine.wake_up()
        assert not engine.is_asleep
        assert [answer.tolist() for answer in engine.log_probs_cold(questions)] == [one.tolist() for one in expected]


@pytest.mark.parametrize("error", [RuntimeError("no memory to pin"), KeyboardInterrupt()])
def test_an_engine_that_fell_asleep_in_part_wakes_up_as_a_new_one(
    engine: VLLMEngine, questions: list[Question], error: BaseException, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_: int) -> None:
        raise error

    monkeypatch.setattr(engine, "can_sleep", True)
    with limited():
        expected = engine.log_probs_cold(questions)
        monkeypatch.setattr(engine._llm, "sleep", fail)
        with suppress(KeyboardInterrupt):
            engine.sleep()
        assert engine.is_asleep
        engine.wake_up()
        assert [answer.tolist() for answer in engine.log_probs_cold(questions)] == [one.tolist() for one in expected]


def test_too_little_host_memory_for_sleep_is_said(engine: VLLMEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "can_sleep", True)
    monkeypatch.setattr(engine, "_slept", False)
    monkeypatch.setattr("psutil.virtual_memory", lambda: type("Memory", (), {"available": 10**6}))
    with pytest.raises(EngineError, match=r"needs \d+\.\d GB of memory, and 0\.0 GB are free"):
        engine.sleep()
    assert not engine.is_asleep


def test_a_second_engine_in_the_process_is_refused_and_leaves_the_first(
    engine: VLLMEngine, questions: list[Question]
) -> None:
    with pytest.raises(EngineError, match="one checkpoint at a time"):
        VLLMEngine(load_checkpoint())
    engine.log_probs(questions)


def test_what_no_model_reads_is_refused_before_it_is_asked(engine: VLLMEngine) -> None:
    vocabulary = load_checkpoint().vocabulary
    for prefix, tokens in (
        ([vocabulary], [0]),
        ([-1], [0]),
        ([], [0]),
        ([0] * (engine.max_length + 1), [0]),
        ([0], []),
        ([0], [vocabulary]),
        ([0], [-1]),
        ([0], range(129)),
    ):
        with pytest.raises(EngineError, match="token"):
            engine.log_probs([Question(prefix, tokens)])


def test_a_small_model_computes_on_one_thread_and_leaves_the_process_its_own(
    engine: VLLMEngine, questions: list[Question], monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    threads: list[int] = []
    generate = engine._llm.generate

    def watched(*arguments: Any, **options: Any) -> Any:
        threads.append(torch.get_num_threads())
        return generate(*arguments, **options)

    monkeypatch.setattr(engine._llm, "generate", watched)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        engine.log_probs(questions)
        assert torch.get_num_threads() == 2
        monkeypatch.setattr(engine, "_small", False)
        engine.log_probs(questions)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
    assert threads == [1, 2]


def test_vllm_has_what_is_used(engine: VLLMEngine, questions: list[Question]) -> None:
    from vllm.platforms.interface import Platform

    with interfaces_of("vllm", internals), limited():
        assert internals.on_processor()
        assert not internals.can_sleep()
        assert "simple_compile_backend" in vars(Platform)
        assert internals.data_type(engine._llm) == "torch.float32"
        params = [internals.question(tokens, cold=True) for _, tokens in questions]
        outputs = engine.generate([prefix for prefix, _ in questions], params)
        assert [internals.cached_tokens(output) for output in outputs] == [0] * len(questions)
        assert internals.drop_requests(engine._llm)
