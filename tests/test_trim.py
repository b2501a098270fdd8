"""Trimmed checkpoints: fewer tokens, the same splits, the same rankings; and what cannot be trimmed."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, processors
from transformers import AutoModelForCausalLM, AutoTokenizer

from bench.grammar import choose
from lmsearcher_local.candidates.history import History
from lmsearcher_local.cli.main import main
from lmsearcher_local.model.checkpoint import BUNDLED, MONTHS, load_checkpoint
from lmsearcher_local.model.codecs.text import TEMPLATES, TextCodec, published_frame
from lmsearcher_local.model.engines.vllm import VLLMEngine
from lmsearcher_local.model.load import load_ranker
from lmsearcher_local.model.ranker import Ranking, Task
from lmsearcher_local.model.trim import kept_tokens
from lmsearcher_local.spaces.space import SearchSpace


def run(*arguments: object) -> Any:
    return CliRunner().invoke(main, ["trim", *map(str, arguments)])


@pytest.fixture(scope="module")
def trimmed(llama_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("trimmed") / "out"
    result = run(llama_folder, out)
    assert result.exit_code == 0, result.output
    assert "Kept 1,314 of 128,256 tokens: 66.0 MB of weights became 1.0 MB" in result.stdout
    return out


@pytest.fixture(scope="module")
def tokenizers(llama_folder: Path, trimmed: Path) -> tuple[Tokenizer, Tokenizer, dict[int, int]]:
    """Both tokenizers, and the new id of each old one."""
    before, after = (Tokenizer.from_file(str(folder / "tokenizer.json")) for folder in (llama_folder, trimmed))
    vocabulary = before.get_vocab()
    return before, after, {vocabulary[token]: new for token, new in after.get_vocab().items()}


@pytest.fixture
def variant(llama_folder: Path, tmp_path: Path) -> Path:
    """A checkpoint folder to change."""
    folder = tmp_path / "checkpoint"
    folder.mkdir()
    for name in ("config.json", "generation_config.json", "tokenizer_config.json"):
        shutil.copy(llama_folder / name, folder)
    for name in ("tokenizer.json", "model.safetensors"):
        (folder / name).symlink_to(llama_folder / name)
    return folder


def change(file: Path, **entries: Any) -> None:
    file.write_text(json.dumps({**json.loads(file.read_text()), **entries}))


@settings(deadline=None, max_examples=150)
@given(st.data())
def test_every_prompt_is_split_alike(
    tokenizers: tuple[Tokenizer, Tokenizer, dict[int, int]], data: st.DataObject
) -> None:
    before, after, ids = tokenizers
    template, digits = data.draw(st.sampled_from(sorted(TEMPLATES))), data.draw(st.integers(1, 8))
    date = (
        f"{data.draw(st.integers(1, 31)):02} {data.draw(st.sampled_from(MONTHS))} {data.draw(st.integers(1000, 9999))}"
    )
    length = data.draw(st.integers(1, 70))
    code = st.text("0123456789", min_size=length, max_size=length)
    seen, pool = (data.draw(st.lists(code, max_size=20, unique=True)) for _ in range(2))
    scores = data.draw(st.lists(st.floats(allow_nan=False, allow_infinity=False), min_size=20, max_size=20))
    history = History(tuple(seen), tuple(scores[: len(seen)]))
    old, new = (TextCodec(tokenizer, published_frame(template, date), digits) for tokenizer in (before, after))
    space = SearchSpace([10] * length)
    assert new.prompt(*Task.of(space, history, pool)) == [ids[i] for i in old.prompt(*Task.of(space, history, pool))]
    assert new.answers(space, pool) == [[ids[i] for i in path] for path in old.answers(space, pool)]


def test_the_splits_are_of_the_kept_alphabet_only(tokenizers: tuple[Tokenizer, Tokenizer, dict[int, int]]) -> None:
    before, after, _ = tokenizers
    assert before.encode("hello 012").tokens != after.encode("hello 012").tokens  # so the test above can fail


def test_transformers_loads_it_with_the_ids_and_rows_renamed(llama_folder: Path, trimmed: Path) -> None:
    old, new = AutoTokenizer.from_pretrained(llama_folder), AutoTokenizer.from_pretrained(trimmed)
    assert len(new) == 1314
    text = TEMPLATES["llama3.1"].format(date="26 Jul 2024", message="304241|0.9231,304242|1e-05,999;")
    tokens = old.convert_ids_to_tokens(old(text)["input_ids"])
    assert new.convert_ids_to_tokens(new(text)["input_ids"]) == tokens
    assert new.decode(new(text)["input_ids"]) == text
    models = [AutoModelForCausalLM.from_pretrained(folder) for folder in (llama_folder, trimmed)]
    kept = kept_tokens(load_checkpoint(llama_folder))
    (before, after) = ({name: tensor for name, tensor in model.state_dict().items()} for model in models)
    assert before.keys() == after.keys()
    for name, tensor in after.items():
        rows = before[name][kept] if "embed_tokens" in name or "lm_head" in name else before[name]
        assert torch.equal(rows, tensor)
    for model, folder in zip(models, (llama_folder, trimmed), strict=True):
        names = Tokenizer.from_file(str(folder / "tokenizer.json"))
        assert names.id_to_token(model.config.bos_token_id) == "<|begin_of_text|>"
        for configuration in (model.config, model.generation_config):
            assert [names.id_to_token(i) for i in configuration.eos_token_id] == [
                "<|end_of_text|>",
                "<|reserved_special_token_8|>",
                "<|eot_id|>",
            ]


@pytest.mark.parametrize("engine", ["transformers", "vllm"])
def test_rankings_are_the_very_same(engine: str, llama_folder: Path, trimmed: Path) -> None:
    rng = np.random.default_rng(0)
    batch = []
    for space in (SearchSpace([5] * 6), SearchSpace([3] * 32), SearchSpace([12, 150, 7])):
        for trials in (0, 3, 200):
            codes = space.sample(rng, trials + 10)
            history = History(tuple(codes[10:]), tuple(rng.normal(size=trials)))
            batch.append(Task.of(space, history, codes[:10]))
    answers: list[tuple[list[Ranking], list[str]]] = []
    for folder in (llama_folder, trimmed):
        with load_ranker(folder, engine) as ranker:
            grammar = []
            if isinstance(ranker.engine, VLLMEngine):
                prompts = [ranker.codec.prompt(*task) for task in batch]
                grammar = [text for text, _ in choose(ranker.engine, prompts, [task.pool.codes for task in batch])]
            answers.append((ranker.rank(batch), grammar))
    (before, chosen_before), (after, chosen_after) = answers
    for old, new in zip(before, after, strict=True):
        np.testing.assert_allclose(np.exp(new.log_probs), np.exp(old.log_probs), atol=1e-6)
        assert new.order() == old.order()
        assert new.greedy == old.greedy
        assert np.exp(old.log_probs).max() > 0.2  # not the uniform distribution, which any model would share
    assert chosen_after == chosen_before


def test_shards_ties_and_token_templates_go_along(variant: Path, tmp_path: Path) -> None:
    content = load_file(variant / "model.safetensors")
    (variant / "model.safetensors").unlink()
    del content["lm_head.weight"]
    names = sorted(content)
    shards = {"model-00001-of-00002.safetensors": names[::2], "model-00002-of-00002.safetensors": names[1::2]}
    for file, inside in shards.items():
        save_file({name: content[name].to(torch.bfloat16) for name in inside}, variant / file, {"format": "pt"})
    weight_map = {name: file for file, inside in shards.items() for name in inside}
    index = {"metadata": {"total_size": 1}, "weight_map": weight_map}
    (variant / "model.safetensors.index.json").write_text(json.dumps(index))
    save_file({"unused": torch.zeros(1)}, variant / "consolidated.safetensors")
    change(variant / "config.json", tie_word_embeddings=True, dtype="bfloat16", pad_token_id=128004)
    change(
        variant / "tokenizer_config.json",
        eos_token="<|eot_id|>",
        additional_special_tokens=["<|eot_id|>", "<|reserved_special_token_100|>"],
        added_tokens_decoder={
            str(i): {"content": text, "special": True}
            for i, text in (
                (128000, "<|begin_of_text|>"),
                (128009, "<|eot_id|>"),
                (128100, "<|reserved_special_token_100|>"),
            )
        },
    )
    tokenizer = Tokenizer.from_file(str(variant / "tokenizer.json"))
    tokenizer.post_processor = processors.Sequence(
        [processors.TemplateProcessing("<|begin_of_text|> $A", special_tokens=[("<|begin_of_text|>", 128000)])]
    )
    (variant / "tokenizer.json").unlink()
    tokenizer.save(str(variant / "tokenizer.json"))
    (variant / "lmsearcher.json").write_text('{"template": "llama3", "date": "01 Sep 2025", "score_digits": 6}')
    special = {"pad_token": {"content": "<|reserved_special_token_4|>"}, "eos_token": "<|eot_id|>"}
    (variant / "special_tokens_map.json").write_text(json.dumps(special))
    (variant / "LICENSE.txt").write_text("as agreed")
    (variant / "tokenizer.model").write_text("of the old vocabulary")

    out = tmp_path / "out"
    assert run(variant, out).exit_code == 0
    assert sorted(file.name for file in out.iterdir()) == sorted(
        [
            "SHA256SUMS",
            *(f.name for f in variant.iterdir() if f.name not in ("tokenizer.model", "consolidated.safetensors")),
        ]
    )
    assert load_checkpoint(out).profile == load_checkpoint(variant).profile
    written = {name: tensor for file in shards for name, tensor in load_file(out / file).items()}
    kept = kept_tokens(load_checkpoint(variant))
    for name, tensor in written.items():
        rows = content[name].to(torch.bfloat16)
        assert torch.equal(tensor, rows[kept] if name == "model.embed_tokens.weight" else rows)
    listed = json.loads((out / "model.safetensors.index.json").read_text())
    assert listed["weight_map"] == weight_map
    assert listed["metadata"]["total_size"] == sum(tensor.nbytes for tensor in written.values())
    loaded = AutoTokenizer.from_pretrained(out)
    assert len(loaded) == len(kept) == json.loads((out / "config.json").read_text())["vocab_size"]
    pad = json.loads((out / "config.json").read_text())["pad_token_id"]
    assert loaded.convert_ids_to_tokens(pad) == "<|reserved_special_token_4|>"
    assert loaded.convert_ids_to_tokens(loaded("012;")["input_ids"]) == ["<|begin_of_text|>", "012", ";"]
    model = AutoModelForCausalLM.from_pretrained(out)
    assert model.lm_head.weight is model.model.embed_tokens.weight
    again = run(out, tmp_path / "again")
    assert again.exit_code == 2
    assert "nothing to trim" in again.stderr


def test_what_cannot_be_trimmed_is_said_in_one_sentence(variant: Path, tmp_path: Path) -> None:
    def refused(checkpoint: Path, out: Path, words: str) -> None:
        before = sorted(tmp_path.rglob("*"))
        result = run(checkpoint, out)
        assert result.exit_code == 2, result.output
        [line] = result.stderr.splitlines()
        assert line.startswith("Error: ")
        assert words in line
        assert sorted(tmp_path.rglob("*")) == before

    out = tmp_path / "out"
    refused(BUNDLED, out, "already exactly its codec's")
    refused(tmp_path / "nowhere", out, "does not exist")
    refused(variant, variant, "exists already")
    refused(variant, tmp_path / "no" / "out", "cannot write")
    change(variant / "config.json", quantization_config={"quant_method": "awq", "bits": 4})
    refused(variant, out, "is quantised (awq)")
    change(variant / "config.json", quantization_config=None)
    tokenizer = json.loads((variant / "tokenizer.json").read_text())
    (variant / "tokenizer.json").unlink()
    digits = tokenizer["pre_tokenizer"]["pretokenizers"][0]["pattern"]
    digits["Regex"] = digits["Regex"].replace("{1,3}", "{1,4}")
    (variant / "tokenizer.json").write_text(json.dumps(tokenizer))
    refused(variant, out, "groups of three")
    (variant / "tokenizer.json").write_text(json.dumps({**tokenizer, "normalizer": {"type": "NFC"}}))
    refused(variant, out, "not of Llama 3's kind")


def test_a_failure_on_the_way_leaves_nothing(variant: Path, tmp_path: Path) -> None:
    content = load_file(variant / "model.safetensors")
    (variant / "model.safetensors").unlink()
    save_file({**content, "lm_head.weight": content["lm_head.weight"][:1000].clone()}, variant / "model.safetensors")
    result = run(variant, tmp_path / "out")
    assert result.exit_code == 2
    assert "lm_head.weight has 1000 rows" in result.stderr
    assert list(tmp_path.iterdir()) == [variant]
