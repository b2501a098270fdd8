"""The published text protocol, byte for byte, under the real Llama 3 tokenizer."""

import copy
import json
from pathlib import Path

import pytest
from llama_models.llama3.tokenizer import Tokenizer as Reference
from tokenizers import Tokenizer, models, pre_tokenizers

from lmsearcher_local.candidates.history import History
from lmsearcher_local.errors import CheckpointError
from lmsearcher_local.model.codecs.text import TextCodec, message, published_frame
from lmsearcher_local.model.ranker import Task
from lmsearcher_local.spaces.space import SearchSpace

SPACE = SearchSpace([5] * 6)
HISTORY = History(("012334", "444444", "000000"), (91.5, 20.0, 93.0))


@pytest.fixture(scope="module")
def tokenizer(llama_folder: Path) -> Tokenizer:
    return Tokenizer.from_file(str(llama_folder / "tokenizer.json"))


def test_message_is_the_published_one() -> None:
    assert message(HISTORY, ["123401", "111111"]) == "000000|1.0,012334|0.9795,444444|0.0,123401;111111;"


def test_equal_scores_survive_and_minimisation_is_negation() -> None:
    assert message(History(("00", "01"), (7.0, 7.0)), ["10"]) == "00|1.0,01|1.0,10;"
    assert message(History(("00", "01"), (-3.0, -1.0)), ["10"]) == "01|1.0,00|0.0,10;"
    assert message(History(), ["10"]) == "10;"
    assert message(History(("0", "1", "2"), (-1e308, 1e308, 0.0)), []) == "1|1.0,2|0.5,0|0.0,"


def test_at_most_200_items_are_shown_the_best_ones() -> None:
    codes = list(SearchSpace([250]).enumerate())
    text = message(History(tuple(codes), tuple(map(float, range(250)))), [])
    items = text.removesuffix(",").split(",")
    assert len(items) == 200
    assert items[0] == "249|1.0"
    assert items[-1] == "050|0.0"


def test_rendered_as_the_chat_template_with_a_pinned_date(tokenizer: Tokenizer) -> None:
    codec = TextCodec(tokenizer, published_frame("llama3.1", "26 Jul 2024"), 4)
    assert codec.render(HISTORY, ["123401"]) == (
        "<|begin_of_text|><|start_header_id|>system<|end_header_id|>\n\n"
        "Cutting Knowledge Date: December 2023\nToday Date: 26 Jul 2024\n\n"
        "000000|1.0,012334|0.9795,444444|0.0,123401;<|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>\n\n"
    )
    undated = TextCodec(tokenizer, published_frame("llama3", "26 Jul 2024"), 2)
    assert undated.render(HISTORY, ["1"]) == (
        "<|begin_of_text|><|start_header_id|>system<|end_header_id|>\n\n"
        "000000|1.0,012334|0.98,444444|0.0,1;<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n"
    )


def test_tokens_are_those_of_metas_own_tokenizer(tokenizer: Tokenizer) -> None:
    codec = TextCodec(tokenizer, published_frame("llama3.1", "26 Jul 2024"), 4)
    reference = Reference.get_instance()
    text = codec.render(HISTORY, ["123401", "3042413401"])
    expected = reference.encode(text, bos=False, eos=False, allowed_special="all")
    assert codec.prompt(*Task.of(SPACE, HISTORY, ["123401", "3042413401"])) == expected
    [answer] = codec.answers(SPACE, ["3042413401"])
    assert [tokenizer.decode([token]) for token in answer] == ["304", "241", "340", "1"]
    assert answer == reference.encode("3042413401", bos=False, eos=False)


def test_a_tokenizer_that_trie_and_prompt_cannot_share_is_refused(tokenizer: Tokenizer, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="begin_of_text"):
        TextCodec(Tokenizer(models.WordLevel({"0": 0}, unk_token="0")), published_frame("llama3", "26 Jul 2024"), 4)
    content = json.loads(tokenizer.to_str())
    merging = copy.deepcopy(content)  # digits stick to the line break in front of them
    merging["pre_tokenizer"] = json.loads(
        '{"type":"ByteLevel","add_prefix_space":true,"trim_offsets":true,"use_regex":false}'
    )
    with pytest.raises(CheckpointError, match="splits the code"):
        TextCodec(Tokenizer.from_str(json.dumps(merging)), published_frame("llama3", "26 Jul 2024"), 4)
    lossy = Tokenizer(models.WordLevel({"?": 0, "assistant": 1}, unk_token="?"))
    lossy.pre_tokenizer = pre_tokenizers.Whitespace()
    lossy.add_special_tokens(["<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"])
    with pytest.raises(CheckpointError, match="splits the code"):
        TextCodec(lossy, published_frame("llama3", "26 Jul 2024"), 4)


def test_history_and_pool_apart_are_as_long_as_together(tokenizer: Tokenizer) -> None:
    codec, codes = TextCodec(tokenizer, published_frame("llama3.1", "26 Jul 2024"), 4), list(SPACE.enumerate())
    for n in (1, 7, 40):
        history, pool = History(tuple(codes[:n]), tuple(i / 9 for i in range(n))), codes[n : n + 5]
        parts = ((history, []), (History(), pool), (History(), []), (history, pool))
        with_history, with_pool, bare, whole = (len(codec.prompt(*Task.of(SPACE, *part))) for part in parts)
        assert with_history + with_pool - bare == whole
