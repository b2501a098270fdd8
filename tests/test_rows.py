"""Prefixes of rows in real vLLM and transformers: they agree, share what is alike, refuse what no model reads."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from broken_steps import failing, limited
from transformers import LlamaForCausalLM

from lmsearcher_local.errors import EngineError
from lmsearcher_local.model.checkpoint import load_checkpoint
from lmsearcher_local.model.engines.base import Engine, Question, prefix_key, with_path
from lmsearcher_local.model.engines.transformers import TransformersEngine
from lmsearcher_local.model.engines.vllm import VLLMEngine
from lmsearcher_local.model.trie import log_softmax
from lmsearcher_local.shipping.bundle import _copy_checkpoint
from lmsearcher_local.system.checksums import differences, read_checksums

WIDTH, TOKENS = 128, range(10)


def rows(count: int, seed: int = 0) -> np.ndarray:
    """Random rows, float32 ``[count, WIDTH]``."""
    return np.random.default_rng(seed).normal(size=(count, WIDTH)).astype(np.float32)


def pools(count: int, trials: int = 200, seed: int = 0) -> list[Question]:
    """Questions about pools of their own, eleven rows each, behind the same trials."""
    history = rows(trials, seed)
    return [Question(np.concatenate([history, rows(11, (seed, i))]), TOKENS) for i in range(1, count + 1)]


def normal(answers: list[np.ndarray]) -> np.ndarray:
    """Log-probabilities among the tokens asked about: ``[questions, tokens]``."""
    return np.array([log_softmax(answer) for answer in answers])


@pytest.fixture(scope="module")
def vllm(rows_folder: Path) -> Iterator[VLLMEngine]:
    engine = VLLMEngine(load_checkpoint(rows_folder), 300)
    yield engine
    engine.close()


@pytest.fixture(scope="module")
def reference(rows_folder: Path) -> Iterator[TransformersEngine]:
    engine = TransformersEngine(load_checkpoint(rows_folder))
    yield engine
    engine.close()


def test_engines_agree_with_each_other_and_with_the_model_itself(
    vllm: VLLMEngine, reference: TransformersEngine, rows_folder: Path
) -> None:
    questions = [*pools(8), *pools(4, 20, seed=1), *pools(1, 0, seed=2), Question(rows(1, 3), TOKENS)]
    model = LlamaForCausalLM.from_pretrained(rows_folder)
    with torch.inference_mode():
        logits = [model(inputs_embeds=torch.from_numpy(prefix)[None]).logits[0, -1].numpy() for prefix, _ in questions]
    expected = normal([values[TOKENS] for values in logits])
    assert np.ptp(expected, axis=1).min() > 0.1
    for engine in (vllm, reference):
        np.testing.assert_allclose(normal(engine.log_probs(questions)), expected, atol=1e-4)
        np.testing.assert_allclose(normal(engine.log_probs_cold(questions)), expected, atol=1e-4)


def test_rows_in_the_cache_change_no_answer_and_are_counted(vllm: VLLMEngine) -> None:
    first, second = pools(2)
    vllm.forget()
    cold = normal(vllm.log_probs_cold([first, second]))
    asked, computed = vllm.prompt_tokens, vllm.computed_tokens
    [warm] = normal(vllm.log_probs([second]))
    assert vllm.prompt_tokens - asked == 211
    assert vllm.computed_tokens - computed == 211 - 200 // vllm.plan.block * vllm.plan.block
    assert np.abs(warm - cold[1]).max() <= vllm.noise


def test_prompts_that_differ_in_one_row_share_only_what_stands_before_it(
    vllm: VLLMEngine, reference: TransformersEngine
) -> None:
    [question] = pools(1)
    vllm.forget()
    vllm.log_probs([question])
    for place in (0, 3, 100, 150):
        changed = question.prefix.copy()
        changed[place] += 1.0  # a whole row; then one value in its last bit
        nearly = question.prefix.copy()
        nearly[place, 5] = np.nextafter(nearly[place, 5], np.float32(9))
        for prefix in (changed, nearly):
            computed = vllm.computed_tokens
            [answer] = normal(vllm.log_probs([Question(prefix, TOKENS)]))
            assert vllm.computed_tokens - computed == 211 - place // vllm.plan.block * vllm.plan.block
            np.testing.assert_allclose(answer, normal(reference.log_probs([Question(prefix, TOKENS)]))[0], atol=1e-4)


def test_the_transformers_engine_computes_shared_rows_once(
    reference: TransformersEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    questions = [*pools(16), *pools(3, 50, seed=4)]
    expected = normal(reference.log_probs_cold(questions))
    computed = []
    forward = reference.model.model.forward

    def counted(**options: torch.Tensor) -> object:
        computed.append(options["inputs_embeds"].shape[0] * options["inputs_embeds"].shape[1])
        return forward(**options)

    monkeypatch.setattr(reference.model.model, "forward", counted)
    answers = normal(reference.log_probs([*questions, questions[0]]))
    np.testing.assert_allclose(answers[:-1], expected, atol=1e-5)
    assert answers[-1].tolist() == answers[0].tolist()
    assert sum(computed) <= 200 + 16 * 12 + 3 * 62


@pytest.mark.parametrize(
    ("prefix", "words"),
    [
        (rows(5)[:, :-1], "128 columns, not float32 of shape 5 x 127"),
        (rows(5).astype(np.float64), "float32 of 128 columns, not float64"),
        (rows(5)[None], "not float32 of shape 1 x 5 x 128"),
        (np.arange(5), "not int64 of shape 5"),
        (np.where(np.arange(5)[:, None] == 3, np.float32("nan"), rows(5)), "row 3 of a prompt"),
        (np.where(np.arange(5)[:, None] == 0, np.float32("-inf"), rows(5)), "row 0 of a prompt"),
        (rows(0), "a prompt has 0 rows"),
        (rows(9000), "a prompt has 9,000 rows"),
        ([192], "a token id that is none"),
    ],
)
def test_what_no_model_reads_is_refused_and_the_engine_goes_on(
    prefix: np.ndarray, words: str, vllm: VLLMEngine, reference: TransformersEngine
) -> None:
    [good] = pools(1, 20)
    engines: tuple[Engine, ...] = (vllm, reference)
    for engine in engines:
        expected = engine.log_probs_cold([good])[0]
        alone = [Question(prefix, TOKENS)]
        for ask in (engine.log_probs, engine.log_probs_cold):
            with pytest.raises(EngineError, match=words):
                ask(alone)
        if isinstance(prefix, np.ndarray):
            with pytest.raises(EngineError, match=words):
                engine.log_probs([good, *alone])
        assert engine.log_probs_cold([good])[0].tolist() == expected.tolist()


def test_prefixes_of_two_kinds_in_one_call_are_refused(vllm: VLLMEngine, reference: TransformersEngine) -> None:
    mixed = [Question(rows(5), TOKENS), Question([1, 2, 3], TOKENS)]
    for engine in (vllm, reference):
        with pytest.raises(EngineError, match="not both"):
            engine.log_probs(mixed)
        [answer] = engine.log_probs([Question([1, 2, 3], TOKENS)])
        assert np.isfinite(answer).all()
    with pytest.raises(EngineError, match="not both"):
        vllm.generate([prefix for prefix, _ in mixed], [])


def test_after_a_failure_inside_a_step_rows_are_answered_right(
    vllm: VLLMEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    questions = pools(3, 60)
    with limited():
        expected = normal(vllm.log_probs_cold(questions))
        vllm.forget()
        failing(vllm, "execute_model", RuntimeError("out of something"), False, monkeypatch)
        with pytest.raises(EngineError, match="out of something"):
            vllm.log_probs(questions)
        computed = vllm.computed_tokens
        answers = normal([vllm.log_probs([question])[0] for question in questions])
    np.testing.assert_allclose(answers, expected, atol=vllm.noise)
    assert vllm.computed_tokens - computed == 71 + 2 * (71 - 32)


def test_a_checkpoint_of_text_reads_no_rows(llama_folder: Path) -> None:
    engine = TransformersEngine(load_checkpoint(llama_folder))
    with pytest.raises(EngineError, match="reads token ids"):
        engine.log_probs([Question(rows(5)[:, :64], TOKENS)])
    engine.close()


def test_a_codec_s_table_counts_in_identity_and_memory(rows_folder: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(rows_folder, tmp_path / "copy")
    whole, file = load_checkpoint(copy), copy / "codec" / "rows.safetensors"
    assert whole.identity == load_checkpoint(rows_folder).identity
    assert whole.weights == (copy / "model.safetensors",)
    assert whole.weight_bytes == (copy / "model.safetensors").stat().st_size + file.stat().st_size
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    assert load_checkpoint(copy).identity != whole.identity


def test_a_bundle_s_copy_holds_the_table_and_its_checksum(rows_folder: Path, tmp_path: Path) -> None:
    _copy_checkpoint(rows_folder, tmp_path / "copy")
    assert "codec/rows.safetensors" in read_checksums(tmp_path / "copy")
    assert differences(tmp_path / "copy") == []
    (tmp_path / "copy" / "codec" / "rows.safetensors").unlink()
    assert differences(tmp_path / "copy") == ["codec/rows.safetensors: missing"]


def test_prefixes_of_equal_content_are_equal() -> None:
    assert prefix_key(rows(5)) == prefix_key(rows(5).copy()) != prefix_key(rows(5, 1))
    assert prefix_key(rows(6)[::2]) == prefix_key(np.ascontiguousarray(rows(6)[::2]))
    assert prefix_key([1, 2]) == prefix_key((1, 2)) != prefix_key([1])
    assert with_path([1, 2], [3]) == [1, 2, 3]
    assert with_path(rows(5), ()).shape == (5, WIDTH)  # type: ignore[union-attr]
    with pytest.raises(EngineError, match="an answer is one token"):
        with_path(rows(5), [3])
