"""Real vLLM and real transformers on real (small) checkpoints: they agree, and no answer leaves the pool."""

import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from huggingface_hub import constants
from hypothesis import given
from hypothesis import strategies as st
from scripted import AliasCodec
from transformers import (
    AutoModelForCausalLM,
    CohereConfig,
    FalconConfig,
    Gemma2Config,
    GraniteConfig,
    MistralConfig,
    PhiConfig,
)

from bench.grammar import choose
from bench.kernels import PlainEngine
from lmsearcher_local.candidates.history import History
from lmsearcher_local.errors import EngineError
from lmsearcher_local.model.checkpoint import BUNDLED, Checkpoint, load_checkpoint
from lmsearcher_local.model.engines.base import Question, with_path
from lmsearcher_local.model.engines.prefixes import WORTH, Shared, shared_beginnings
from lmsearcher_local.model.engines.transformers import TransformersEngine
from lmsearcher_local.model.engines.vllm import VLLMEngine
from lmsearcher_local.model.load import load_ranker
from lmsearcher_local.model.ranker import Ranker, Task
from lmsearcher_local.model.trie import log_softmax
from lmsearcher_local.spaces.space import SearchSpace

SPACE = SearchSpace([5] * 10)
TOLERANCE = {"float32": 1e-4, "bfloat16": 2e-2, "bundled": 1e-4}  # in probability


def tasks(count: int, longest: int, space: SearchSpace = SPACE, seed: int = 0) -> list[Task]:
    """Random histories of 0 to ``longest`` items, each with a random pool of ten."""
    rng = np.random.default_rng(seed)
    made = []
    for _ in range(count):
        trials = int(rng.integers(0, longest + 1))
        codes = space.sample(rng, trials + 10)
        made.append(Task.of(space, History(tuple(codes[10:]), tuple(rng.normal(size=trials))), codes[:10]))
    return made


@pytest.fixture(scope="module", params=["float32", "bfloat16", "bundled"])
def engines(
    request: pytest.FixtureRequest, llama_folder: Path, llama_bfloat16: Path
) -> Iterator[tuple[Ranker, Ranker, str]]:
    """The same checkpoint in vLLM and in transformers."""
    folder = {"float32": llama_folder, "bfloat16": llama_bfloat16, "bundled": BUNDLED}[request.param]
    with load_ranker(folder, "vllm") as vllm, load_ranker(folder, "transformers") as reference:
        yield vllm, reference, request.param


# Before the others, because vLLM holds one checkpoint at a time.
def test_transformers_engine_leaves_the_process_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    monkeypatch.setenv("TOKENIZERS_PARALLELISM", "maybe")
    before, state = dict(os.environ), torch.get_rng_state()
    with load_ranker(engine="transformers") as ranker:
        assert dict(os.environ) == before
        assert torch.equal(torch.get_rng_state(), state)
        assert not constants.HF_HUB_OFFLINE
        if not torch.cuda.is_available():
            assert not ranker.engine.can_sleep
            with pytest.raises(EngineError, match="cannot sleep"):
                ranker.engine.sleep()
            ranker.engine.can_sleep = True  # the steps are those of a card; only the memory stays
        [task] = tasks(1, 20)
        first = ranker.pick([task])
        ranker.sleep()
        assert ranker.engine.is_asleep
        assert ranker.pick([task]) == first
        assert not ranker.engine.is_asleep


def test_a_cache_for_an_engine_without_one_is_refused() -> None:
    with pytest.raises(ValueError, match="keeps none"), load_ranker(engine="transformers", cache_bytes=1 << 30):
        pass


def test_a_model_that_does_not_load_is_explained(llama_folder: Path, tmp_path: Path) -> None:
    config = (llama_folder / "config.json").read_text()
    (tmp_path / "config.json").write_text(config.replace('"hidden_size": 64', '"hidden_size": 96'))
    (tmp_path / "model.safetensors").symlink_to(llama_folder / "model.safetensors")
    (tmp_path / "tokenizer.json").symlink_to(llama_folder / "tokenizer.json")
    checkpoint: Checkpoint = load_checkpoint(tmp_path)
    for engine in (VLLMEngine, TransformersEngine):
        with pytest.raises(EngineError, match="cannot load"):
            engine(checkpoint)


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
    for start, ranker in enumerate((vllm, reference)):
        batch = tasks(500, 4, seed=start)  # two answers to each pool: the likeliest, and one that is drawn
        sampled = ranker.pick(batch, [rng] * len(batch), 1.0)
        for task, ranking, pick in zip(batch, ranker.rank(batch), sampled, strict=True):
            assert ranking.greedy in task.pool.codes
            assert pick.code in task.pool.codes
            assert sorted(ranking.order()) == sorted(task.pool.codes)


def test_posterior_is_that_of_constrained_sampling_token_by_token(engines: tuple[Ranker, Ranker, str]) -> None:
    _, reference, name = engines
    for task in tasks(3, 20, seed=3):
        prompt = reference.codec.prompt(*task)
        answers = reference.codec.answers(SPACE, task.pool.codes)
        chances = []
        for answer in answers:
            chance = 1.0
            for depth, token in enumerate(answer):
                allowed = sorted({other[depth] for other in answers if other[:depth] == answer[:depth]})
                question = Question(with_path(prompt, answer[:depth]), allowed)
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
        answers = choose(vllm.engine, [vllm.codec.prompt(*task) for task in batch], [task.pool.codes for task in batch])
        for task, ranking, (text, tokens) in zip(batch, vllm.rank(batch), answers, strict=True):
            assert text in task.pool.codes
            [path] = vllm.codec.answers(space, [text])
            if tokens[: len(path)] == path:
                canonical.append(text == ranking.greedy)
    with capsys.disabled():
        print(f"\n[{name}] grammar answers tokenised canonically: {len(canonical)} of 200; equal: {sum(canonical)}")
    assert len(canonical) >= 20
    # bfloat16 rounds two near-equal logits to either side, depending on the batch
    assert sum(canonical) >= len(canonical) - (2 if name == "bfloat16" else 0)


@pytest.mark.parametrize("folder", ["llama", "bundled"])
def test_shared_prefixes_change_no_answer(folder: str, llama_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoint = load_checkpoint(llama_folder if folder == "llama" else BUNDLED)
    rng = np.random.default_rng(5)
    codes = SPACE.sample(rng, 400)
    history = History(tuple(codes[:60]), tuple(rng.normal(size=60)))
    wide = SearchSpace([200])
    many = list(wide.enumerate())[:150] if folder == "llama" else list(wide.enumerate())[:100]
    batch = [
        *(Task.of(SPACE, history, codes[i : i + 10]) for i in range(60, 160, 10)),
        Task.of(SPACE, history, codes[160:260]),  # its own prompt is worth sharing among its branches
        *tasks(6, 40, seed=6),  # histories of their own
        Task.of(wide, History(), many),
        Task.of(SPACE, history, codes[60:70]),  # asked twice
    ]
    engine = TransformersEngine(checkpoint)
    computed = []
    forward = engine.model.model.forward

    def counted(**options: torch.Tensor) -> object:
        given = options["input_ids"] if folder == "llama" else options["inputs_embeds"][..., 0]
        computed.append(given.numel())
        return forward(**options)

    monkeypatch.setattr(engine.model.model, "forward", counted)
    shared = Ranker(engine, checkpoint.codec()).rank(batch)
    tokens = sum(computed)
    computed.clear()
    plain = Ranker(PlainEngine(engine), checkpoint.codec()).rank(batch)
    for ours, theirs in zip(shared, plain, strict=True):
        np.testing.assert_allclose(np.exp(ours.log_probs), np.exp(theirs.log_probs), atol=1e-5)
        assert ours.greedy == theirs.greedy
    assert shared[-1].log_probs.tolist() == shared[0].log_probs.tolist()
    assert tokens < sum(computed) * (0.5 if folder == "llama" else 0.7)  # rows are few: less is shared
    engine.close()


@given(st.sets(st.lists(st.integers(0, 2), min_size=1, max_size=12).map(tuple), min_size=1, max_size=30), st.booleans())
def test_every_prefix_stands_behind_a_beginning_of_its_own(prefixes: set[tuple[int, ...]], long: bool) -> None:
    # Runs of one token, so that some of them are worth a forward pass.
    arrays = [np.repeat(prefix, WORTH + 1 if long else 20) for prefix in sorted(prefixes)]
    found = []
    pending: list[tuple[Shared, int]] = [(shared_beginnings(arrays), 0)]
    while pending:
        node, known = pending.pop()
        below, walk = list(node.ends), list(node.children)
        while walk:
            below += walk[-1].ends
            walk += walk.pop().children
        for i in below:
            assert arrays[i][: node.length].tolist() == arrays[node.first][: node.length].tolist()
            assert len(arrays[i]) > node.length
        assert node.length == 0 or (node.length - known) * (len(below) - 1) >= WORTH
        found += node.ends
        pending += [(child, node.length) for child in node.children]
    assert sorted(found) == list(range(len(arrays)))


def test_beginnings_are_shared_where_that_saves_enough() -> None:
    rng = np.random.default_rng(8)
    header, history, other, pool = ([*map(int, rng.integers(9, size=size))] for size in (25, 1000, 1000, 400))
    pools = [[*header, *history, 9 + i, *pool] for i in range(3)]
    # One pool behind a history of its own; three behind the same, the last of which is asked about at four nodes.
    prefixes = sorted([[*header, *other, *pool], *pools, *([*pools[2], token] for token in range(3))])
    root = shared_beginnings(list(map(np.array, prefixes)))
    assert root.length == 0  # the header is too small a part to be worth it
    assert len(root.ends) == 1
    [behind_history] = root.children
    assert (behind_history.length, len(behind_history.ends)) == (len(header) + len(history), 2)
    [behind_pool] = behind_history.children
    assert (behind_pool.length, len(behind_pool.ends)) == (len(pools[2]) - 1, 4)


MODELS = {  # what each does between its last hidden state and its logits, or to attention
    "window": (MistralConfig, {"sliding_window": 64}, True),
    "bias": (PhiConfig, {}, False),
    "cap": (Gemma2Config, {"head_dim": 16, "final_logit_softcapping": 0.5, "attn_logit_softcapping": 0.01}, False),
    "scaled": (GraniteConfig, {"logits_scaling": 8.0, "embedding_multiplier": 12.0}, False),
    "multiplied": (CohereConfig, {"logit_scale": 4.0}, False),
    "slopes": (FalconConfig, {"alibi": True, "new_decoder_architecture": False}, True),
}


@pytest.mark.parametrize(
    ("kind", "dtype"),
    [*((kind, torch.float32) for kind in MODELS), ("cap", torch.bfloat16), ("scaled", torch.bfloat16)],
)
def test_every_kind_of_model_answers_as_transformers_itself(kind: str, dtype: torch.dtype, tmp_path: Path) -> None:
    small = {"vocab_size": AliasCodec.VOCABULARY, "hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 2}
    special = {"bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 0}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 2, "max_position_embeddings": 8192}
    configuration, own, plain = MODELS[kind]
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(configuration(**small, **heads, **special, **own))
    for name, values in model.named_parameters():
        if "norm" not in name:
            values.data.normal_(std=0.3)
    model.to(dtype).save_pretrained(tmp_path)
    (tmp_path / "lmsearcher.json").write_text('{"codec": "compact"}')
    engine = TransformersEngine(load_checkpoint(tmp_path))
    assert engine._plain == plain
    assert engine._shares == (kind not in ("window", "cap", "slopes"))
    rng = np.random.default_rng(7)
    codes = SPACE.sample(rng, 60)
    history = History(tuple(codes[:30]), tuple(rng.normal(size=30)))
    prompts = [AliasCodec().prompt(*Task.of(SPACE, history, codes[i : i + 10])) for i in range(30, 60, 10)]
    questions = [Question(prompt, range(AliasCodec.ALIAS, AliasCodec.ALIAS + 10)) for prompt in prompts]
    answers = engine.log_probs([*questions, questions[0]])
    attention = "eager" if kind == "cap" else None  # the only one that knows Gemma's cap on scores
    reference = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=dtype, attn_implementation=attention)
    for question, ours, cold in zip(questions, answers, engine.log_probs_cold(questions), strict=False):
        with torch.inference_mode():
            logits = reference(torch.tensor([question.prefix])).logits[0, -1].float()
        expected = np.exp(log_softmax(logits.numpy()[question.tokens]))
        assert np.ptp(expected) > 0.02
        for values in (ours, cold):
            np.testing.assert_allclose(np.exp(values), expected, atol=1e-5 if dtype == torch.float32 else 2e-2)
    assert answers[0].tolist() == answers[-1].tolist()
    engine.close()


def test_a_pool_of_one_asks_nothing_and_many_branches_are_split(llama_folder: Path) -> None:
    wide = SearchSpace([200])
    with load_ranker(llama_folder, "transformers") as ranker:
        pool = list(wide.enumerate())  # one node of 200 children: two questions of at most 128 tokens
        [one, many] = ranker.rank([Task.of(wide, History(), ["007"]), Task.of(wide, History(), pool)])
    assert one.greedy == "007"
    assert one.log_probs.tolist() == [0.0]
    assert np.exp(many.log_probs).sum() == pytest.approx(1)
    assert many.greedy == many.order()[0]
