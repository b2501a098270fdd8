"""A model's own chat template: rendered as transformers renders it, in a sandbox, or refused in a sentence."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner
from jinja2 import TemplateError
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from lmsearcher_local.candidates.history import History
from lmsearcher_local.cli.main import main
from lmsearcher_local.errors import CheckpointError
from lmsearcher_local.model.checkpoint import load_checkpoint
from lmsearcher_local.model.codecs.chat import Frame, end_of_answer, own_frame
from lmsearcher_local.model.codecs.text import TextCodec, message
from lmsearcher_local.model.ranker import Task
from lmsearcher_local.model.trim import trim_checkpoint
from lmsearcher_local.spaces.space import SearchSpace

DATE = "26 Jul 2024"
CHATML = (
    "{% for message in messages %}{% if loop.first and message['role'] != 'system' %}"
    "{{ '<|im_start|>system\nYou are a helpful assistant<|im_end|>\n' }}{% endif %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
GEMMA = (
    "{{ bos_token }}{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}"
    "{% endif %}{% for message in messages %}{{ '<start_of_turn>' + message['role'] + '\n'"
    " + message['content'] | trim + '<end_of_turn>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{'<start_of_turn>model\n'}}{% endif %}"
)
FOLDED = (  # a system message goes into the user's turn that follows it, and is lost without one
    "{%- if messages[0]['role'] == 'system' -%}{%- set first = messages[0]['content'] + '\n\n' -%}"
    "{%- set rest = messages[1:] -%}{%- else -%}{%- set first = '' -%}{%- set rest = messages -%}{%- endif -%}"
    "{%- for message in rest -%}[INST] {{ first if loop.first }}{{ message['content'] }}[/INST]{%- endfor -%}"
)
DATED = (
    "{% set day = date_string if date_string is defined else strftime_now('%d %b %Y') %}"
    "Today {{ strftime_now('%Y-%m-%d') }}, {{ day }}\n"
    "{% for message in messages %}{{ message | tojson | length > 2 and message['content'] }}{% break %}{% endfor %}"
    "\n{% generation %}answer: {% endgeneration %}"
)


def folder_with(folder: Path, template: object, **others: object) -> Path:
    content = {"chat_template": template, "bos_token": "<bos>", "eos_token": {"content": "<eos>"}, **others}
    (folder / "tokenizer_config.json").write_text(json.dumps(content))
    return folder


@pytest.mark.parametrize(
    ("template", "frame"),
    [
        (CHATML, ("<|im_start|>system\n", "<|im_end|>\n<|im_start|>assistant\n")),
        (GEMMA, ("<bos><start_of_turn>user\n", "<end_of_turn>\n<start_of_turn>model\n")),
        (FOLDED, ("[INST] ", "[/INST]")),
        (DATED, ("Today 2024-07-26, 26 Jul 2024\n", "answer: ")),
        ([{"name": "tool_use", "template": "no"}, {"name": "default", "template": FOLDED}], ("[INST] ", "[/INST]")),
    ],
)
def test_the_message_is_the_system_message_or_else_the_users(
    template: object, frame: tuple[str, str], tmp_path: Path
) -> None:
    assert own_frame(folder_with(tmp_path, template), DATE) == Frame(*frame)
    assert end_of_answer(tmp_path) == "<eos>"
    (tmp_path / "chat_template.jinja").write_text("{{ messages[0].content }} ->")  # goes before the other file
    assert own_frame(tmp_path, DATE) == ("", " ->")


@pytest.mark.parametrize("template", [CHATML, DATED.replace("date_string if date_string is defined else ", "")])
def test_rendered_as_by_transformers(template: str, tmp_path: Path) -> None:
    from datetime import date

    from transformers.utils.chat_template_utils import render_jinja_template

    frame = own_frame(folder_with(tmp_path, template), date.today().strftime("%d %b %Y"))
    text = message(History(("01", "02"), (1.0, 2.0)), ["11", "12"])
    [[theirs], _] = render_jinja_template(
        [[{"role": "system", "content": text}]], chat_template=template, add_generation_prompt=True
    )
    assert frame.before + text + frame.after == theirs


@pytest.mark.parametrize(
    ("template", "reason"),
    [
        ("{{ messages[0].content[1:] }}!", "does not show the message as it is"),
        ("hello", "does not show the message as it is"),
        ("{% if %}", "cannot be used"),
        ("{{ raise_exception('no\nway') }}", "no way"),
        ("{{ messages.append(1) }}", "unsafe"),
        ("{{ ''.__class__.__mro__ }}{{ cycler.__init__.__globals__.os.system('true') }}", "unsafe|undefined"),
        ("{% for i in range(10 ** 9) %}{% endfor %}", "Range too big"),
        ("{{ messages[0].content if '7654321' in messages[0].content else 'x' }}!", "does not show the message"),
        (None, "has no chat template"),
        (3, "has no chat template"),
    ],
)
def test_a_template_that_cannot_be_used_is_refused_in_a_sentence(template: object, reason: str, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=reason) as caught:
        own_frame(folder_with(tmp_path, template), DATE)
    assert "\n" not in str(caught.value)
    assert not issubclass(caught.type, TemplateError)


def tokenizer_of(folder: Path, individual: bool = True) -> Tokenizer:
    """Byte-level BPE without merges but of two digits, and ChatML's marks."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {letter: i for i, letter in enumerate([*letters, "12", "01"])}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[("1", "2"), ("0", "1")]))
    cut = [pre_tokenizers.Digits(individual_digits=individual), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(cut)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(["<|im_start|>", "<|im_end|>", "<never>"])
    tokenizer.save(str(folder / "tokenizer.json"))
    return tokenizer


@pytest.mark.parametrize("individual", [True, False])
def test_answers_are_read_from_tokenizers_that_split_digits_otherwise(individual: bool, tmp_path: Path) -> None:
    tokenizer = tokenizer_of(tmp_path, individual)
    codec = TextCodec(tokenizer, own_frame(folder_with(tmp_path, CHATML), DATE), 4)
    space = SearchSpace([3] * 4)
    [answer] = codec.answers(space, ["0121"])
    assert [tokenizer.decode([token]) for token in answer] == (["0", "1", "2", "1"] if individual else ["0", "12", "1"])
    prompt = codec.prompt(*Task.of(space, History(), ["0121"]))
    assert prompt[0] == tokenizer.token_to_id("<|im_start|>")
    assert tokenizer.encode(codec.render(History(), ["0121"]) + "0121").ids == prompt + answer


def test_an_answer_that_melts_into_the_template_is_refused(tmp_path: Path) -> None:
    tokenizer = tokenizer_of(tmp_path, individual=False)
    frame = own_frame(folder_with(tmp_path, "{{ messages[0].content }} Answer 1"), DATE)
    with pytest.raises(CheckpointError, match="splits the code"):
        TextCodec(tokenizer, frame, 4)


@pytest.fixture
def chatml(tmp_path: Path) -> Path:
    """A random Llama with a tokenizer and a template of another family."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    folder = tmp_path / "chatml"
    torch.manual_seed(0)
    size = tokenizer_of(folder_with(_made(folder), CHATML)).get_vocab_size()
    small = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    special = {"bos_token_id": None, "eos_token_id": None}
    LlamaForCausalLM(LlamaConfig(vocab_size=size, max_position_embeddings=4096, **small, **special)).save_pretrained(
        folder
    )
    (folder / "lmsearcher.json").write_text('{"template": "own"}')
    return folder


def _made(folder: Path) -> Path:
    folder.mkdir()
    return folder


def test_a_checkpoint_under_its_own_template_is_trimmed_and_known_by_its_template(chatml: Path, tmp_path: Path) -> None:
    from lmsearcher_local.model.load import load_ranker
    from lmsearcher_local.model.ranker import Task

    space = SearchSpace([3] * 4)
    task = Task.of(space, History(("0000", "0121"), (0.5, 1.0)), ["0001", "0101", "1212", "2220"])
    before = load_checkpoint(chatml)
    trimmed = trim_checkpoint(before, tmp_path / "trimmed", lambda name: None)
    assert trimmed.vocabulary < before.vocabulary / 4
    rankings = []
    for folder in (chatml, tmp_path / "trimmed"):
        with load_ranker(folder, "transformers") as ranker:
            rankings += ranker.rank([task])
    assert rankings[0].order() == rankings[1].order()
    folder_with(chatml, CHATML.replace("assistant\n", "helper\n"))
    assert load_checkpoint(chatml).identity != before.identity


def test_data_is_built_for_a_models_own_template(chatml: Path, tmp_path: Path) -> None:
    (chatml / "lmsearcher.json").unlink()  # a model that is yet to be fine-tuned has none
    out = tmp_path / "data"
    done = CliRunner().invoke(main, ["data", "build", "--out", str(out), "--samples", "3", "--model", str(chatml)])
    assert done.exit_code == 0, done.output
    assert "train full_sft.yaml" in done.output
    assert json.dumps(str(chatml)) in (out / "full_sft.yaml").read_text()
    (chatml / "lmsearcher.json").write_bytes((out / "lmsearcher.json").read_bytes())
    codec = load_checkpoint(chatml).codec()
    assert isinstance(codec, TextCodec)
    for line in (out / "lmsearcher.jsonl").read_text().splitlines():
        sample = json.loads(line)
        assert sample["prompt"].startswith(codec.frame.before)
        assert sample["prompt"].endswith(codec.frame.after)
        assert sample["response"].endswith("<eos>")
    missing = CliRunner().invoke(main, ["data", "build", "--out", str(out / "b"), "--model", str(tmp_path / "none")])
    assert missing.exit_code
    assert "does not exist" in missing.output
