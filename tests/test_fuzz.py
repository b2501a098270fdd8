"""Any bytes, to every reader of files: it reads them, or refuses them in one sentence that names the file."""

import json
import math
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bench.fuzz import Reader, contents, prepare, readers, verdict
from lmsearcher_local.errors import LMSearcherError
from lmsearcher_local.system.checksums import SUMS, differences

READERS = readers()
FEW, MANY = 8, 100  # files each, where one takes half a second, and elsewhere


def configspace(*kinds: dict[str, Any]) -> bytes:
    return json.dumps({"hyperparameters": kinds}).encode()


def changed(content: dict[str, Any], **entries: Any) -> bytes:
    return json.dumps({**content, **entries}).encode()


@pytest.mark.parametrize("name", READERS)
def test_any_bytes_are_read_or_refused_in_a_sentence(name: str, tmp_path: Path) -> None:
    reader: Reader = READERS[name]
    prepare(reader, tmp_path)
    for content in reader.valid:
        assert verdict(reader, content, tmp_path) == "read"
    found = set()

    @settings(
        max_examples=FEW if reader.slow else MANY,
        derandomize=True,
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(st.data())
    def spoil(data: st.DataObject) -> None:
        found.add(verdict(reader, data.draw(contents(reader)), tmp_path))

    spoil()
    assert "refused" in found


TOKENIZER = json.loads(READERS["checkpoint, tokenizer.json"].valid[0])
CONFIG = json.loads(READERS["checkpoint, config.json"].valid[0])
RANGE = {"name": "n", "type": "uniform_int", "lower": 0, "upper": 4}
INFINITE = configspace({**RANGE, "upper": "?"}).replace(b'"?"', b"1e999")
FOUND: tuple[tuple[str, bytes, str], ...] = (  # what the readers once stumbled over
    ("space, YAML", b"[2000000000]", "at most 100,000 options"),
    ("space, YAML", b"- " * 5 + b"0x" + b"f" * 5000, "whole number of at least 1"),
    ("space, YAML", b"[" + b"2, " * 1001 + b"2]", "at most 1,000 digits"),
    ("space, YAML", b"a: !!int ''", "not valid YAML: string index out of range"),
    ("space, YAML", b"a: !!bool x", "not valid YAML"),
    ("space, YAML", b"a: &a [1]\nb: {<<: [*a, *a]}", "merge keys"),
    (
        "space, YAML",
        b"- [&b0 [1, 2]" + b"".join(b", &b%d [*b%d, *b%d]" % (i, i - 1, i - 1) for i in range(1, 28)) + b"]",
        "position 0: an option count is a whole number",
    ),
    ("space, YAML", b"#" * (1 << 18) + b"\n", "longer than"),
    ("space, YAML", b"[" * 1000, "it is nested too deeply"),
    ("space, JSON", b'{"a": [' + b"9" * 400 + b"]}", "a: an option is text, a number"),
    ("space, JSON", b'{"a": ["\\ud800"]}', "a: an option is text, a number"),
    ("space, JSON", b'{"\\ud800": [1]}', "a parameter name is text"),
    ("space, JSON", b'{"a\\nb": 1}', "a b: options are a list"),
    ("space, ConfigSpace", configspace({**RANGE, "upper": 4.5}), "n: the type uniform_int is not written like this"),
    ("space, ConfigSpace", INFINITE, "n: the type uniform_int is not written like"),
    ("space, ConfigSpace", configspace({**RANGE, "upper": 10**400}), "n: the type uniform_int is not written like"),
    ("space, ConfigSpace", configspace({"name": "n", "type": "ordinal", "sequence": "sml"}), "options are a list"),
    ("space, ConfigSpace", configspace(RANGE, RANGE), "a name of its own"),
    ("history, JSON", b'[{"code": "0000", "value": 1, "value": 2}]', "is not valid JSON: the key 'value' stands twice"),
    ("history, JSON", b'[{"code": "0000", "value": ' + b"9" * 400 + b"}]", "item 1: the value is 999"),
    ("history, CSV", b"a" * 140_000 + b",1", "is no CSV: field larger than field limit"),
    ("pool", b"a" * 140_000, "is no CSV: field larger than field limit"),
    ("history, journal", READERS["history, journal"].valid[0].replace(b'"values":[', b'"values":[1.0,'), "cannot open"),
    (
        "study, journal",
        READERS["study, journal"].valid[0].replace(b'"pool_size"', b'"pool"'),
        "where pool_size is stored",
    ),
    ("training, log", b'{"stop": 1}\n', "is not a log of this trainer"),
    ("training, log", b"\xff\n", "is not a log of this trainer"),
    ("training, state", b"", "is not a state of this trainer"),
    ("checkpoint, config.json", changed(CONFIG, architectures=5), "no causal language model: architectures is 5"),
    ("checkpoint, config.json", changed(CONFIG, vocab_size=math.inf), "lacks a usable"),
    ("checkpoint, config.json", changed(CONFIG, max_position_embeddings=-1), "sizes that no model has"),
    ("checkpoint, lmsearcher.json", b'{"codec": "text", "codec": "compact"}', "the key 'codec' stands twice"),
    ("checkpoint, lmsearcher.json", b'{"score_digits": 4.0}', "score_digits is one of 1, 2, 3, 4, 5, 6, 7, 8, not 4.0"),
    ("trim, generation_config.json", b'{"eos_token_id": {}}', "is not written like Llama 3's"),
    ("trim, tokenizer_config.json", b'{"pad_token": {}}', "is not written like Llama 3's"),
)


def test_a_checksum_of_a_name_that_no_file_can_have(tmp_path: Path) -> None:
    (tmp_path / SUMS).write_text("0" * 64 + "  " + "a" * 5000 + "\n")
    assert differences(tmp_path) == ["a" * 5000 + ": missing"]


BY_LIBRARIES = ("journal", "tokenizer.json", "model.safetensors", "state", "log")  # nobody's editor touches them


@pytest.mark.parametrize("name", [name for name in READERS if not name.endswith(BY_LIBRARIES)])
def test_a_byte_order_mark_is_read(name: str, tmp_path: Path) -> None:
    reader = READERS[name]
    prepare(reader, tmp_path)
    for content in reader.valid:
        assert verdict(reader, b"\xef\xbb\xbf" + content, tmp_path) == "read"


@pytest.mark.parametrize(("name", "content", "words"), FOUND)
def test_what_was_found_is_refused(name: str, content: bytes, words: str, tmp_path: Path) -> None:
    reader = READERS[name]
    prepare(reader, tmp_path)
    assert verdict(reader, content, tmp_path) == "refused"
    with pytest.raises(LMSearcherError, match=re.escape(words)):
        reader.read(tmp_path / reader.file)


def test_a_tokenizer_that_cuts_or_pads_texts_does_so_no_more(tmp_path: Path) -> None:
    reader = READERS["checkpoint, tokenizer.json"]
    prepare(reader, tmp_path)
    truncation = {"max_length": 3, "strategy": "LongestFirst", "stride": 0, "direction": "Right"}
    padding = {"strategy": {"Fixed": 99}, "direction": "Right", "pad_to_multiple_of": None, "pad_id": 0}
    padding |= {"pad_type_id": 0, "pad_token": "!"}
    (tmp_path / reader.file).write_bytes(reader.valid[0])
    whole = reader.read(tmp_path / reader.file)
    (tmp_path / reader.file).write_bytes(changed(TOKENIZER, truncation=truncation, padding=padding))
    assert reader.read(tmp_path / reader.file) == whole


@pytest.mark.parametrize(
    ("name", "place", "error"),
    [
        ("training, state", "torch.load", MemoryError("no room")),  # "remove it" would cost hours of training
        ("checkpoint, tokenizer.json", "lmsearcher_local.model.codecs.text.TextCodec", TypeError("ours")),
        ("study, journal", "lmsearcher_local.report.page.best_rows", KeyError("ours")),
    ],
)
def test_a_fault_of_ours_is_not_the_file_s(
    name: str, place: str, error: Exception, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*arguments: object, **options: object) -> None:
        raise error

    reader = READERS[name]
    prepare(reader, tmp_path)
    (tmp_path / reader.file).write_bytes(reader.valid[0])
    monkeypatch.setattr(place, fail)
    with pytest.raises(type(error), match=str(error)):
        reader.read(tmp_path / reader.file)
