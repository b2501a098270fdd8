"""The memory plan: whatever the geometry, vLLM's cache holds the longest prompt, and the block that vLLM keeps."""

import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from bench import llama
from lmsearcher_local.candidates.history import History
from lmsearcher_local.errors import EngineError
from lmsearcher_local.model.checkpoint import load_checkpoint
from lmsearcher_local.model.engines.base import Question
from lmsearcher_local.model.engines.vllm import VLLMEngine
from lmsearcher_local.model.load import load_ranker
from lmsearcher_local.model.memory import CACHE_FLOOR, STEP, blocks, plan_memory
from lmsearcher_local.model.ranker import Ranker, Task
from lmsearcher_local.presets.registry import preset
from lmsearcher_local.search.throughput import vllm_engine
from lmsearcher_local.spaces.space import SearchSpace

SPACE = preset("nasbench201").space


@given(
    st.integers(64, 1 << 22),
    st.integers(1, 20_480),
    st.none() | st.integers(1, 30_000),
    st.none() | st.integers(0, 1 << 34),
    st.integers(1 << 20, 1 << 36),
    st.booleans(),
)
def test_the_cache_holds_the_longest_prompt_and_one_block_more(
    token_bytes: int, context: int, prompt: int | None, cache_bytes: int | None, weights: int, card: bool
) -> None:
    checkpoint = replace(load_checkpoint(), token_bytes=token_bytes, context=context, weight_bytes=weights)
    plan = plan_memory(checkpoint, prompt, card=card, cache_bytes=cache_bytes)
    held, rest = divmod(plan.cache, plan.block * token_bytes)
    assert rest == 0
    assert (held - 1) * plan.block >= plan.context
    assert plan.cache >= plan.least_cache
    assert plan.context <= context
    if prompt is not None and prompt < context:
        assert plan.context > prompt  # its answer token as well
        assert plan.context <= prompt + prompt / 32 + 1 + STEP
    assert plan.batch_tokens >= plan.sequences
    if cache_bytes is not None:
        assert plan.cache == max(plan.least_cache, cache_bytes - cache_bytes % (plan.block * token_bytes))


def test_what_an_8b_takes_follows_the_longest_prompt() -> None:
    published = replace(
        load_checkpoint(),
        **{"token_bytes": 131_072, "context": 20_480, "weight_bytes": 16_060_556_376, "dtype": "bfloat16"},
        **{"hidden": 4096, "intermediate": 14_336, "vocabulary": 128_256},
    )
    whole, short = (plan_memory(published, prompt, card=True) for prompt in (None, 1660))
    assert whole.cache == whole.least_cache == 2_686_451_712
    assert (short.context, short.cache, short.least_cache) == (1792, 512 << 20, 113 * 16 * 131_072)
    assert (short.batch_tokens, short.sequences) == (2048, 130)
    assert short.total == pytest.approx(18.1e9, rel=0.01)
    assert short.asleep == 1.2e9
    assert short.host >= 18e9


@contextmanager
def loaded(folder: Path, space: SearchSpace | None, cache_bytes: int | None) -> Iterator[tuple[Ranker, VLLMEngine]]:
    """A ranker whose engine has as many blocks as planned, and of whose model nothing is left afterwards."""
    with load_ranker(folder, space=space, cache_bytes=cache_bytes) as ranker:
        engine = vllm_engine(ranker)
        cache = engine._llm.llm_engine.vllm_config.cache_config
        size = engine.plan.block * load_checkpoint(folder).token_bytes
        assert (cache.block_size, cache.num_gpu_blocks) == (engine.plan.block, engine.plan.cache // size)
        runner = engine._llm.llm_engine.model_executor.driver_worker.worker.model_runner
        model = weakref.ref(runner.model)
        del cache, runner
        yield ranker, engine
    assert model() is None


@pytest.fixture(scope="module")
def geometry(tmp_path_factory: pytest.TempPathFactory, llama_folder: Path) -> Path:
    """The published checkpoint's keys and values and its tokenizer, on a body of tiny width."""
    folder = tmp_path_factory.mktemp("geometry")
    (folder / "tokenizer.json").symlink_to(llama_folder / "tokenizer.json")
    llama.write_model(folder, torch.bfloat16, layers=32, heads=(32, 8, 128))
    assert load_checkpoint(folder).token_bytes == 131_072
    return folder


# Before those that load, which shows that nothing is left of it.
def test_too_little_memory_names_the_number_to_lower() -> None:
    with pytest.raises(EngineError, match=r"out of memory; .* GB of cache \(cache_bytes, at least \d\.\d+ GB\)"):
        VLLMEngine(load_checkpoint(), 1500, 1 << 50)


def test_the_published_geometry_loads_with_all_of_its_context(geometry: Path) -> None:
    with loaded(geometry, None, None) as (ranker, engine):
        assert engine.plan.context == 20_480
        assert engine.plan.cache == engine.plan.least_cache > 2 << 30
        [ranking] = ranker.rank([Task.of(SPACE, History(), list(SPACE.sample(np.random.default_rng(0), 10)))])
    assert np.exp(ranking.log_probs).sum() == pytest.approx(1)


@pytest.mark.parametrize("name", ["published", "tiny"])
def test_the_longest_prompt_is_answered_in_the_least_cache(name: str, geometry: Path, llama_folder: Path) -> None:
    folder = geometry if name == "published" else llama_folder
    codes = SPACE.sample(np.random.default_rng(0), 210)
    task = Task.of(SPACE, History(tuple(codes[10:]), tuple(np.linspace(0, 1, 200))), codes[:10])
    with loaded(folder, SPACE, 1) as (ranker, engine):
        assert engine.plan.cache == blocks(engine.plan.context, 32) * 32 * load_checkpoint(folder).token_bytes
        assert ranker.codec.longest_prompt(SPACE, 10) <= engine.max_length < 2000
        [ranking] = ranker.rank([task])
        assert np.exp(ranking.log_probs).sum() == pytest.approx(1)
        prompt = ranker.codec.prompt(*task)
        prompt += prompt[: engine.max_length - len(prompt)]
        [answer] = engine.log_probs([Question(prompt, [0, 1])])
        assert np.isfinite(answer).all()
        with pytest.raises(EngineError, match="this engine reads 1 to"):
            engine.log_probs([Question([*prompt, 0], [0, 1])])


def test_a_small_model_caches_many_histories(llama_folder: Path) -> None:
    small = plan_memory(load_checkpoint(llama_folder), 1660, card=False)
    assert small.cache == CACHE_FLOOR
    bundled = load_checkpoint()
    plan = plan_memory(bundled, 1500, card=False)
    assert plan.cache // bundled.token_bytes >= 8 * bundled.context - 32


def test_cache_bytes_are_vllms() -> None:
    with pytest.raises(ValueError, match="keeps none"), load_ranker(engine="transformers", cache_bytes=1):
        pass
