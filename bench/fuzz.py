"""Every reader of files, files to spoil for it, and what must hold of any bytes: read, or refused in one sentence.

``tests/test_fuzz.py`` asks hypothesis for a few hundred files per reader; ``bench/reliability.py`` asks for many, and
lets atheris, which sees what code a file reaches, look for more.
"""

import copy
import hashlib
import io
import json
import random
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import numpy as np
import optuna
import torch
from hypothesis import strategies as st
from ruamel.yaml import YAML
from safetensors.numpy import save
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers

from bench.rankers import Undecided
from lmsearcher_local.candidates.history import History
from lmsearcher_local.errors import LMSearcherError
from lmsearcher_local.model.checkpoint import load_checkpoint
from lmsearcher_local.model.ranker import Ranker, Task
from lmsearcher_local.model.trim import trim_checkpoint
from lmsearcher_local.records.sources import read_history
from lmsearcher_local.records.storage import JOURNAL
from lmsearcher_local.report.page import page_of
from lmsearcher_local.spaces.files import RESULTS, TABLE, read_pool
from lmsearcher_local.spaces.space import Configuration, SearchSpace
from lmsearcher_local.study.run import run
from lmsearcher_local.system.checksums import SUMS, differences
from lmsearcher_local.training.train import cut_log, read_state

SLOWEST = 10.0  # seconds that any file may take; they are all small, and the machine may be busy
LONGEST = 2000  # characters of a sentence
SPACE = SearchSpace({"rank": [4, 8, 16], "lr": [0.1, 0.001], "on": [True, False], "name": ["a", "b, c", None]})
CODES = ("0000", "1101", "2012")
WEIGHTS = ("model.safetensors", "model.safetensors.index.json")

# What readers stumble over: other types, numbers out of every range, text that no file can hold, nesting.
DEEP: list[Any] = []
for _ in range(900):
    DEEP = [DEEP]
EDGES: tuple[Any, ...] = (
    *(None, True, False, 0, -1, 1, 2, 10, 10**6, 2**31, 2**63, 10**400, -(10**400), 1.5, 2.0, -0.0, 1e308),
    *(float("inf"), float("nan"), "", "0", "1", "a", "\n", "\0", "\ud800", [], {}, [[]], [None], {"": None}),
)
LARGE: tuple[Any, ...] = ("x" * 140_000, "9" * 5000, [0] * 3000, DEEP)
WORDS: tuple[bytes, ...] = (
    *(b"NaN", b"-Infinity", b"1e999", b"-1", b"0", b"null", b'"', b"'", b",", b":", b"{", b"}", b"[", b"]", b"\n"),
    *(b"\r", b"\x00", b"\xff", b"\xed\xa0\x80", b"\\ud800", b"9" * 5000, b"[" * 2000, b"0x" + b"f" * 5000),
    *(b"&a ", b"*a", b"<<: ", b"!!int ", b"!!binary ", b"!!timestamp ", b"? ", b"2001-99-99", b"\xef\xbb\xbf"),
    *(b"\xe2\x80\xa8", b"a" * 140_000),
)


class Reader(NamedTuple):
    """What reads a file: the file's name, valid contents, the files around it, and the reading, given its path."""

    file: str
    valid: Sequence[bytes]
    read: Callable[[Path], object]
    around: Mapping[str, bytes] = {}
    slow: bool = False


def verdict(reader: Reader, content: bytes, folder: Path) -> str:
    """Whether such a file is ``read`` or ``refused``, which is asserted to be quick and in a sentence of ours."""
    path = folder / reader.file
    path.write_bytes(content)
    started = time.perf_counter()
    try:
        reader.read(path)
        found = "read"
    except LMSearcherError as error:
        text = str(error)
        assert str(folder) in text, f"the error does not name the file: {text!r}"
        assert text.isprintable() or "\n" not in text, f"the error has several lines: {text!r}"
        assert len(text) <= LONGEST, f"the error has {len(text)} characters: {text[:200]!r}"
        found = "refused"
    took = time.perf_counter() - started
    assert took < SLOWEST, f"{took:.1f} s"
    return found


def prepare(reader: Reader, folder: Path) -> None:
    """Write the files around the one to read."""
    for name, content in reader.around.items():
        (folder / name).write_bytes(content)


@st.composite
def contents(draw: st.DrawFn, reader: Reader) -> bytes:
    """Any bytes, or a valid file that was spoiled in one to four places."""
    if draw(st.integers(0, 9)) == 0:
        return draw(st.binary(max_size=400))
    rng = random.Random(draw(st.integers(0, 2**64)))
    return spoil(rng.choice(reader.valid), rng)


def spoil(content: bytes, rng: random.Random) -> bytes:
    """The file with one to four changes, of its bytes or of the values that it holds."""
    for _ in range(rng.randint(1, 4)):
        content = _other_value(content, rng) if rng.random() < 0.6 else _other_bytes(content, rng)
    return content


def _other_bytes(content: bytes, rng: random.Random) -> bytes:
    start = rng.randint(0, len(content))
    end = min(len(content), start + rng.choice((0, 1, 2, 8, 64, 1000)))
    match rng.randrange(4):
        case 0:
            new = b""
        case 1:
            new = rng.randbytes(rng.choice((1, 2, 8)))
        case 2:
            new = rng.choice(WORDS)
        case _:
            new = content[start:end] * 2
    return content[:start] + new + content[end:]


def _other_value(content: bytes, rng: random.Random) -> bytes:
    """One value, key or entry of it changed: of JSON, of a line of JSON, of a safetensors header, of YAML."""
    lines = content.splitlines(keepends=True)
    at = rng.randrange(len(lines)) if lines else 0
    length = 8 + int.from_bytes(content[:8], "little")
    for head, text, tail in (
        (b"", content, b""),
        (b"".join(lines[:at]), lines[at] if lines else b"", b"\n" + b"".join(lines[at + 1 :])),
        (content[:8], content[8:length], content[length:]),
    ):
        try:
            new = json.dumps(_change(json.loads(text), rng)).encode()
        except (ValueError, RecursionError):
            continue
        return (len(new).to_bytes(8, "little") if head and head == content[:8] else head) + new + tail
    try:
        return _yaml(_change(YAML(typ="safe", pure=True).load(content), rng))
    except Exception:  # the library raises many kinds
        return _other_bytes(content, rng)


def _change(tree: Any, rng: random.Random) -> Any:
    places = [(tree, key) for key in _keys(tree)]
    for node, key in places:  # grows on the way
        places += [(node[key], inner) for inner in _keys(node[key])]
    if not places:
        return _edge(rng)
    node, key = rng.choice(places)
    other, inner = rng.choice(places)
    match rng.randrange(5):
        case 0 | 1:
            node[key] = _edge(rng)
        case 2:
            del node[key]
        case 3:
            node[key] = _copy(other[inner])
        case _:
            if isinstance(node, dict):
                node[rng.choice([edge for edge in EDGES if isinstance(edge, str)])] = _copy(node[key])
            else:
                node.append(_edge(rng))
    return tree


def _edge(rng: random.Random) -> Any:
    return rng.choice(LARGE) if rng.random() < 0.03 else copy.deepcopy(rng.choice(EDGES))


def _copy(value: Any) -> Any:
    try:
        return copy.deepcopy(value)
    except RecursionError:
        return None


def _keys(node: Any) -> list[Any]:
    return list(node) if isinstance(node, dict) else list(range(len(node))) if isinstance(node, list) else []


def readers() -> dict[str, Reader]:
    """Every reader of files in the package, by name."""
    search = _search()
    upstream = {f"Trial{i}": {"cell": code, "prediction": i / 2} for i, code in enumerate(CODES)}
    listed = [{**SPACE.decode(code), "value": i / 2} for i, code in enumerate(CODES)]
    lines = [f"{code},{i / 2}" for i, code in enumerate(CODES)]
    columns = 'name,rank,lr,on,value\r\na,4,0.1,True,1.5\r\n"b, c",8,1e-3,true,-2e-300\r\n,16,.1,false,3\r\n'
    folder = _checkpoint()
    found = {
        "space, YAML": Reader("s.yaml", (_yaml(SPACE.describe()), b"[5, 5, 12]"), SearchSpace.load),
        "space, JSON": Reader("s.json", (_json(SPACE.describe()), b"[5, 5, 12]"), SearchSpace.load),
        "space, ConfigSpace": Reader("s.json", (_json(CONFIGSPACE),), SearchSpace.load),
        "history, JSON": Reader("h.json", (_json(upstream), _json(listed)), _history),
        "history, CSV": Reader("h", ("\n".join(lines).encode(), columns.encode(), search[TABLE]), _history),
        "history, folder": Reader(RESULTS, (search[RESULTS],), lambda path: _history(path.parent)),
        "history, journal": Reader("log", (search[JOURNAL],), _history),
        "pool": Reader("p", ("\n".join(CODES).encode(), columns.encode()), lambda path: read_pool(path, SPACE)),
        "study, journal": Reader(JOURNAL, (search[JOURNAL],), lambda path: page_of(str(path.parent)), slow=True),
        "training, state": Reader("state.pt", (_state(),), _resume),
        "checksums": Reader(SUMS, (b"".join(SUMMED),), lambda path: differences(path.parent), {"a": b"a", "b c": b""}),
        "training, log": Reader("log.jsonl", (_log(),), lambda path: cut_log(path, 2)),
    }
    for kind, read, names in (
        ("checkpoint", _ask, ("config.json", "lmsearcher.json", "tokenizer.json", *WEIGHTS)),
        ("trim", _trim, ("generation_config.json", "tokenizer_config.json", "tokenizer.json")),
    ):
        for name in names:
            around = {other: content for other, content in folder.items() if other != name}
            found[f"{kind}, {name}"] = Reader(name, (folder[name],), read, around, kind == "trim")
    return found


SUMMED = [
    hashlib.sha256(content).hexdigest().encode() + b"  " + name for name, content in ((b"a\n", b"a"), (b"b c\n", b""))
]
CONFIGSPACE = {
    "name": "cells",
    "hyperparameters": [
        {"name": "op", "type": "categorical", "choices": ["conv", "pool"], "default": "conv", "weights": None},
        {"name": "size", "type": "ordinal", "sequence": ["s", "m", "l"], "default": "s"},
        {"name": "depth", "type": "uniform_int", "log": False, "lower": 2, "upper": 5, "default": 3, "q": None},
        {"name": "drop", "type": "uniform_float", "log": False, "lower": 0.1, "upper": 0.5, "default": 0.1, "q": 0.1},
        {"name": "seed", "type": "constant", "value": 7},
    ],
    "conditions": [],
    "forbiddens": [],
}


def _yaml(content: object) -> bytes:
    stream = io.BytesIO()
    YAML(typ="safe", pure=True).dump(content, stream)
    return stream.getvalue()


def _json(content: object) -> bytes:
    return json.dumps(content).encode()


def _history(path: Path) -> object:
    return read_history(path, SPACE)


def _ask(file: Path) -> object:
    """Load the checkpoint's folder, and make the first prompt: what is wrong with a tokenizer may show only then."""
    codec = load_checkpoint(file.parent).codec()
    return codec.prompt(*Task.of(SPACE, History(CODES[:2], (1.0, 2.0)), CODES[2:])), codec.answers(SPACE, CODES)


def _trim(file: Path) -> object:
    out = file.parent / "trimmed"
    try:
        return trim_checkpoint(load_checkpoint(file.parent), out, lambda _: None)
    finally:
        shutil.rmtree(out, ignore_errors=True)


def _search() -> dict[str, bytes]:
    """The files of a short search in which a trial failed."""

    def score(configuration: Configuration) -> float:
        if configuration["rank"] == 8 and configuration["on"]:
            raise ValueError("line 1,\nline 2")
        return float(SPACE.encode(configuration)) / 7

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    with TemporaryDirectory() as out:
        run(score, SPACE, Ranker(Undecided(), load_checkpoint().codec()), out=out, trials=12)
        return {name: (Path(out) / name).read_bytes() for name in (JOURNAL, RESULTS, TABLE)}


def _checkpoint() -> dict[str, bytes]:
    """The files of a text checkpoint: a byte-level tokenizer that cuts as Llama 3's does, and hardly any weights."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE({letter: i for i, letter in enumerate(letters)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(r"\p{N}{1,3}|[^\r\n\p{N}]+|\s+"), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(
        ["<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>", "<|pad|>"]
    )
    vocabulary = tokenizer.get_vocab_size()
    config = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "head_dim": 32,
        "max_position_embeddings": 4096,
        "vocab_size": vocabulary,
        "bos_token_id": vocabulary - 5,
        "eos_token_id": [vocabulary - 2],
        "dtype": "float32",
    }
    weights = {f"{name}.weight": np.ones((vocabulary, 2), np.float16) for name in ("model.embed_tokens", "lm_head")}
    return {
        "config.json": _json(config),
        "generation_config.json": _json({"eos_token_id": [vocabulary - 2], "temperature": 0.6}),
        "tokenizer_config.json": _json({"bos_token": "<|begin_of_text|>", "pad_token": {"content": "<|pad|>"}}),
        "lmsearcher.json": _json({"codec": "text", "template": "llama3", "date": "26 Jul 2024", "score_digits": 4}),
        "model.safetensors": save(weights, {"format": "pt"}),
        "model.safetensors.index.json": _json({"weight_map": dict.fromkeys(weights, "model.safetensors")}),
        "tokenizer.json": tokenizer.to_str().encode(),
    }


def _run() -> tuple[tuple[torch.nn.Module, torch.nn.Module], list[torch.optim.Optimizer]]:
    """What the trainer takes up, but small."""
    models = torch.nn.Linear(2, 3), torch.nn.Linear(2, 3)
    return models, [torch.optim.AdamW(models[0].parameters())]


def _state() -> bytes:
    (model, averaged), optimisers = _run()
    model(torch.ones(2)).sum().backward()
    optimisers[0].step()
    state = {"model": model.state_dict(), "averaged": averaged.state_dict(), "step": 3, "seconds": 1.5, "seed": 0}
    stream = io.BytesIO()
    torch.save(state | {"optimisers": [optimiser.state_dict() for optimiser in optimisers]}, stream)
    return stream.getvalue()


def _resume(path: Path) -> object:
    return read_state(path, 0, "cpu", *_run())


def _log() -> bytes:
    rows = [{"step": step, "seconds": step / 2, "answer": 1.0, "history": 2.0} for step in (1, 2, 3)]
    return "".join(json.dumps(row) + "\n" for row in rows).encode()
