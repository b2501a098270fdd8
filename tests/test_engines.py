"""Real vLLM and real transformers on real (small) checkpoints: they agree, and no answer leaves the pool."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from lmsearcher_local.checkpoint import BUNDLED, Checkpoint, load_checkpoint
from lmsearcher_local.engine.base import Question
from lmsearcher_local.engine.transformers import TransformersEngine
from lmsearcher_local.engine.vllm import VLLMEngine
from lmsearcher_local.errors import EngineError
from lmsearcher_local.history import History
from lmsearcher_local.load import load_ranker
from lmsearcher_local.ranking import Ranker, Task
from lmsearcher_local.space import SearchSpace

SPACE = SearchSpace([5] * 10)
TOLERANCE = {"float32": 1e-4, "bfloat16": 2e-2, "bundled": 1e-4}  # in probability


def tasks(count: int, longest: int, space: SearchSpace = SPACE, seed: int = 0) -> list[Task]:
    """Random histories of 0 to ``longest`` items, each with a random pool of ten."""
    rng = np.random.default_rng(seed)
    made = []
    for _ in range(count):
        trials = int(rng.integers(0, longest + 1))
        codes = space.sample(rng, trials + 10)
        made.append(Task(space, History(tuple(codes[10:]), tuple(rng.normal(size=trials))), codes[:10]))
    return made


@pytest.fixture(scope="module", params=["float32", "bfloat16", "bundled"])
def engines(
    request: pytest.FixtureRequest, llama_folder: Path, llama_bfloat16: Path
) -> Iterator[tuple[Ranker, Ranker, str]]:
    """The same checkpoint in vLLM and in transformers."""
    folder = {"float32": llama_folder, "bfloat16": llama_bfloat16, "bundled": BUNDLED}[request.param]
    with load_ranker(folder, "vllm") as vllm, load_ranker(folder, "transformers") as reference:
        yield vllm, reference, request.param


def test_engines_agree_on_the_distribution(engines: tuple[Ranker, Ranker, str]) -> None:
    vllm, reference, name = engines
    batch = tasks(32, 200)
    for ours, theirs in zip(vllm.rank(batch), reference.rank(batch), strict=True):
        np.testing.assert_allclose(np.exp(ours.log_probs), np.exp(theirs.log_probs), atol=TOLERANCE[name])
        assert np.exp(ours.log_probs).sum() == pytest.approx(1)


def test_one_call_answers_as_many_calls_do(engines: tuple[Ranker, Ranker, str]) -> None:
    vllm, reference, name = engines
    batch = tasks(6, 50, seed=1)
    for ranker in (vllm, reference):
        for task, together in zip(batch, ranker.rank(batch), strict=True):
            [alone] = ranker.rank([task])
            np.testing.assert_allclose(np.exp(alone.log_probs), np.exp(together.log_probs), atol=TOLERANCE[name])


def test_2000_answers_are_in_their_pools(engines: tuple[Ranker, Ranker, str]) -> None:
    vllm, reference, _ = engines
    rng = np.random.default_rng(2)
    for ranker in (vllm, reference):
        for start in range(0, 2000, 500):
            batch = tasks(500, 4, seed=start)
            for task, ranking in zip(batch, ranker.rank(batch), strict=True):
                assert ranking.greedy in task.pool
                assert ranking.sample(rng) in task.pool
                assert sorted(ranking.order()) == sorted(task.pool)


def test_posterior_is_that_of_constrained_sampling_token_by_token(engines: tuple[Ranker, Ranker, str]) -> None:
    _, reference, name = engines
    for task in tasks(3, 20, seed=3):
        prompt = reference.codec.prompt(*task)
        answers = reference.codec.answers(SPACE, task.pool)
        chances = []
        for answer in answers:
            chance = 1.0
            for depth, token in enumerate(answer):
                allowed = sorted({other[depth] for other in answers if other[:depth] == answer[:depth]})
                question = Question([*prompt, *answer[:depth]], allowed)
                weights = np.exp(reference.engine.log_probs([question])[0])
                chance *= weights[allowed.index(token)] / weights.sum()
            chances.append(chance)
        [ranking] = reference.rank([task])
        np.testing.assert_allclose(np.exp(ranking.log_probs), chances, atol=TOLERANCE[name])


@pytest.mark.parametrize("engines", ["float32", "bfloat16"], indirect=True)  # a grammar needs text
def test_greedy_is_vllms_grammar_answer_where_that_is_canonical(
    engines: tuple[Ranker, Ranker, str], capsys: pytest.CaptureFixture[str]
) -> None:
    vllm, _, name = engines
    assert isinstance(vllm.engine, VLLMEngine)
    canonical = []
    for space in (SearchSpace([5] * 3), SearchSpace([5] * 6)):
        batch = tasks(100, 20, space, seed=4)
        answers = vllm.engine.choose([vllm.codec.prompt(*task) for task in batch], [task.pool for task in batch])
        for task, ranking, (text, tokens) in zip(batch, vllm.rank(batch), answers, strict=True):
            assert text in task.pool
            [path] = vllm.codec.answers(space, [text])
            if tokens[: len(path)] == path:
                canonical.append(text == ranking.greedy)
    with capsys.disabled():
        print(f"\n[{name}] grammar answers tokenised canonically: {len(canonical)} of 200; equal: {sum(canonical)}")
    assert len(canonical) >= 20
    # bfloat16 rounds two near-equal logits to either side, depending on the batch
    assert sum(canonical) >= len(canonical) - (2 if name == "bfloat16" else 0)


def test_a_pool_of_one_asks_nothing_and_many_branches_are_split(llama_folder: Path) -> None:
    wide = SearchSpace([200])
    with load_ranker(llama_folder, "transformers") as ranker:
        pool = list(wide.enumerate())  # one node of 200 children: two questions of at most 128 tokens
        [one, many] = ranker.rank([Task(wide, History(), ["007"]), Task(wide, History(), pool)])
    assert one.greedy == "007"
    assert one.log_probs.tolist() == [0.0]
    assert np.exp(many.log_probs).sum() == pytest.approx(1)
    assert many.greedy == many.order()[0]


def test_a_model_that_does_not_load_is_explained(llama_folder: Path, tmp_path: Path) -> None:
    config = (llama_folder / "config.json").read_text()
    (tmp_path / "config.json").write_text(config.replace('"hidden_size": 64', '"hidden_size": 96'))
    (tmp_path / "model.safetensors").symlink_to(llama_folder / "model.safetensors")
    (tmp_path / "tokenizer.json").symlink_to(llama_folder / "tokenizer.json")
    checkpoint: Checkpoint = load_checkpoint(tmp_path)
    for engine in (VLLMEngine, TransformersEngine):
        with pytest.raises(EngineError, match="cannot load"):
            engine(checkpoint)
