"""A copy of a checkpoint whose vocabulary holds only what its prompts and codes can use.

Llama 3's tokenizer first cuts a text into pieces and then merges bytes inside each piece. The prompts' pieces are few:
the fixed words of the templates, single punctuation marks, and one to three digits. A merge inside a piece makes a part
of it. Kept are every token that is a part of some piece, and every merge among those. So each piece is merged in the
same steps as before: the same tokens, under new numbers. Their rows of embedding and head are copied byte by byte.
"""

import json
import os
import random
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import product
from pathlib import Path
from typing import Any

from safetensors import safe_open
from tokenizers import Tokenizer

from lmsearcher_local.candidates.history import History
from lmsearcher_local.errors import CheckpointError, LMSearcherError
from lmsearcher_local.model.checkpoint import OWN, Checkpoint, load_checkpoint
from lmsearcher_local.model.codecs.chat import MONTHS, Frame
from lmsearcher_local.model.codecs.text import TEMPLATES, TextCodec, published_frame
from lmsearcher_local.model.weights import VOCABULARY_ROWS, tensors
from lmsearcher_local.system.checksums import write_checksums
from lmsearcher_local.system.folders import new_folder, read_json

COPIED = (  # what goes along as it is; all else is rewritten, or belongs to the old vocabulary
    *("lmsearcher.json", "chat_template.jinja", "chat_template.json", "README.md"),
    *("LICENSE*", "NOTICE*", "USE_POLICY*"),
)
CONFIGURATIONS = ("config.json", "generation_config.json")
TOKENIZER_FILES = ("tokenizer_config.json", "special_tokens_map.json")  # beside tokenizer.json
UNWRITTEN = (LookupError, TypeError, AttributeError, ValueError, RecursionError)  # where a file has another form
CHUNK = 16 << 20  # bytes copied at a time
CHECKED = 100  # random prompts that both tokenizers must split alike


def trim_checkpoint(checkpoint: Checkpoint, out: Path, writing: Callable[[str], object]) -> Checkpoint:
    """Write the trimmed copy to ``out`` and describe it; a failure or an interrupt leaves nothing behind.

    ``writing`` is told the name of each weights file before it is written. A ``CheckpointError`` where there is nothing
    to trim, the tokenizer is not of Llama 3's kind, or ``out`` exists or cannot be written.
    """
    if out.exists() or out.is_symlink():
        raise CheckpointError(f"{out} exists already; name a folder that does not")
    kept = kept_tokens(checkpoint)
    ids = {old: new for new, old in enumerate(kept)}
    if len(kept) == checkpoint.vocabulary:
        raise CheckpointError(f"{checkpoint.path} holds only tokens that its prompts use; there is nothing to trim")
    with _written_like_llama(checkpoint.path), new_folder(out, CheckpointError) as partial:
        _write_small_files(checkpoint.path, partial, ids)
        for file in checkpoint.weights:
            writing(file.name)
            _write_weights(file, partial / file.name, kept)
        _write_index(checkpoint.path, partial)
        write_checksums(partial)
        _check_tokenizers(checkpoint, load_checkpoint(partial), ids)
    return load_checkpoint(out)


def kept_tokens(checkpoint: Checkpoint) -> list[int]:
    """Ids of the tokens that the checkpoint's prompts and codes can use, ascending; token *i* of the copy is entry *i*.

    A ``CheckpointError`` for another codec, quantised weights, or a tokenizer that is not of Llama 3's kind.
    """
    folder = checkpoint.path
    if checkpoint.profile.codec != "text":
        raise CheckpointError(f"the vocabulary of {folder} is already exactly its codec's; there is nothing to trim")
    if checkpoint.quantization:
        raise CheckpointError(
            f"{folder} is quantised ({checkpoint.quantization}); trim the checkpoint it was made from, then quantise"
        )
    with _written_like_llama(folder):
        checkpoint.codec()  # refuses a tokenizer that its template cannot be used with
        tokenizer = read_json(folder / "tokenizer.json")
        model = tokenizer.get("model", {})
        if model.get("type") != "BPE" or model.get("byte_fallback") or tokenizer.get("normalizer"):
            raise CheckpointError(f"the tokenizer of {folder} is not of Llama 3's kind (byte-level BPE, no normalizer)")
        frames, added = _frames(checkpoint), tokenizer["added_tokens"]
        pieces = _pieces(checkpoint.tokenizer(), folder, frames, [token["content"] for token in added])
        parts = {piece[i:j] for piece in pieces for i in range(len(piece)) for j in range(i + 1, len(piece) + 1)}
        kept = {model["vocab"][part] for part in parts if part in model["vocab"]}
        meant = _meant(folder, tokenizer)
        for token in added:
            text = token["content"]
            # Such tokens are found before a text is cut. What can occur in a prompt stays; "<" is in templates alone.
            written = any(text in part for frame in frames for part in frame)
            if token["id"] in meant or text in meant or "<" not in text or written:
                kept.add(token["id"])
        return sorted(kept)


@contextmanager
def _written_like_llama(folder: Path) -> Iterator[None]:
    """A block that reads the folder's files; what it raises where they have another form becomes a sentence."""
    try:
        yield
    except LMSearcherError:
        raise
    except UNWRITTEN as error:
        reason = f"{type(error).__name__}: {error}"
        raise CheckpointError(
            f"the tokenizer or a configuration of {folder} is not written like Llama 3's ({reason})"
        ) from error


def _frames(checkpoint: Checkpoint) -> list[Frame]:
    """What may stand around the message: of the published templates all, on any day, since a profile may be changed."""
    if checkpoint.profile.template == OWN:
        return [checkpoint.frame()]
    return [published_frame(template, f"26 {month} 2024") for template, month in product(TEMPLATES, MONTHS)]


def _pieces(tokenizer: Tokenizer, folder: Path, frames: list[Frame], added: list[str]) -> set[str]:
    """Every piece into which a prompt or a code can be cut before its bytes are merged, in byte-level letters."""
    cutter = tokenizer.pre_tokenizer
    digits = {"".join(run) for length in (1, 2, 3) for run in product("0123456789", repeat=length)}
    # Each mark that a message can hold, between every two kinds of neighbours it can have.
    message = "0123456789|1.0,345|0.92318,678|1e-05,678|0.0,012;345;"
    special = "|".join(map(re.escape, sorted(added, key=len, reverse=True))) or "$^"
    pieces: set[str] = set()
    for before, after in frames:
        for text in re.split(special, before + message + after):
            pieces.update([piece for piece, _ in cutter.pre_tokenize_str(text)] if cutter else [text])
    if any(set(piece) & set("0123456789") and piece not in digits for piece in pieces):
        raise CheckpointError(f"the tokenizer of {folder} does not cut digits into groups of three or fewer")
    return pieces | digits


def _meant(folder: Path, tokenizer: dict[str, Any]) -> set[int | str]:
    """Ids and texts of the tokens that a file gives a meaning: end of text, padding and the like."""
    found: set[int | str] = {str((tokenizer.get("padding") or {}).get("pad_token"))}
    for template in _token_templates(tokenizer):
        found.update(template["special_tokens"])
    for content in _read_files(folder, CONFIGURATIONS).values():
        for value in (content[key] for key in content if key.endswith("_token_id")):
            found.update(value if isinstance(value, list) else [value])
    for content in _read_files(folder, TOKENIZER_FILES).values():
        for value in (content[key] for key in content if key.endswith("_token")):
            found.add(str(value["content"] if isinstance(value, dict) else value))
    return found


def _read_files(folder: Path, names: tuple[str, ...]) -> dict[str, dict[str, Any]]:
    """Those of the JSON files that are there."""
    return {name: read_json(folder / name) for name in names if (folder / name).exists()}


def _token_templates(tokenizer: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The processors that put tokens, such as the begin of text, around every text."""
    processor = tokenizer.get("post_processor") or {}
    for step in (processor, *processor.get("processors", ())):
        if step.get("type") == "TemplateProcessing":
            yield step


def _write_small_files(folder: Path, out: Path, ids: dict[int, int]) -> None:
    """Everything but the weights, in the new numbers."""
    for file in (file for pattern in COPIED for file in folder.glob(pattern) if file.is_file()):
        shutil.copyfile(file, out / file.name)
    for name, content in _read_files(folder, CONFIGURATIONS).items():
        for key in content:
            if key.endswith("_token_id"):  # an id without a token is no id
                value = content[key]
                content[key] = [ids[i] for i in value if i in ids] if isinstance(value, list) else ids.get(value)
        _write_json(out / name, {**content, "vocab_size": len(ids)} if "vocab_size" in content else content)
    tokenizer = read_json(folder / "tokenizer.json")
    model = tokenizer["model"]
    model["vocab"] = {token: ids[old] for token, old in model["vocab"].items() if old in ids}
    pairs = ((merge, merge.split(" ") if isinstance(merge, str) else merge) for merge in model["merges"])
    model["merges"] = [merge for merge, (a, b) in pairs if {a, b, a + b} <= model["vocab"].keys()]
    added = [token for token in tokenizer["added_tokens"] if token["id"] in ids]
    tokenizer["added_tokens"] = [{**token, "id": ids[token["id"]]} for token in added]
    for template in _token_templates(tokenizer):
        for token in template["special_tokens"].values():
            token["ids"] = [ids[old] for old in token["ids"]]
    if tokenizer.get("padding"):
        tokenizer["padding"]["pad_id"] = ids.get(tokenizer["padding"]["pad_id"], 0)
    _write_json(out / "tokenizer.json", tokenizer)
    texts = {token["content"] for token in added}
    for name, content in _read_files(folder, TOKENIZER_FILES).items():
        if "added_tokens_decoder" in content:
            decoder = content["added_tokens_decoder"].items()
            content["added_tokens_decoder"] = {str(ids[int(old)]): token for old, token in decoder if int(old) in ids}
        for key in ("additional_special_tokens", "extra_special_tokens"):  # transformers would add what is named here
            if isinstance(content.get(key), list):
                content[key] = [t for t in content[key] if (t["content"] if isinstance(t, dict) else t) in texts]
        _write_json(out / name, content)


def _write_weights(source: Path, target: Path, kept: list[int]) -> None:
    """Copy a safetensors file byte by byte, of the vocabulary's tensors only the rows kept."""
    with safe_open(source, framework="numpy") as file:
        header: dict[str, Any] = {"__metadata__": metadata} if (metadata := file.metadata()) else {}
    spans: list[tuple[int, int]] = []  # what is copied: from which byte of the source, and how many
    end = 0
    for name, tensor in tensors(source).items():
        shape, own = tensor.shape, _spans(tensor.start, tensor.size, CHUNK)
        if name.endswith(VOCABULARY_ROWS):
            if shape[0] <= kept[-1]:
                raise CheckpointError(f"{source}: {name} has {shape[0]} rows, too few for its tokenizer")
            rows = _spans(tensor.start, tensor.size, tensor.size // shape[0])
            shape, own = (len(kept), *shape[1:]), [rows[i] for i in kept]
        start, end = end, end + sum(size for _, size in own)
        header[name] = {"dtype": tensor.dtype, "shape": shape, "data_offsets": (start, end)}
        spans += own
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # tensors start at a multiple of eight bytes
    with source.open("rb") as reader, target.open("wb") as writer:
        writer.write(len(text).to_bytes(8, "little") + text)
        for start, size in spans:
            reader.seek(start)
            writer.write(reader.read(size))
        writer.flush()
        os.fsync(writer.fileno())


def _spans(start: int, size: int, step: int) -> list[tuple[int, int]]:
    """First bytes and sizes of the pieces of at most ``step`` bytes that so many bytes from ``start`` on make."""
    return [(start + i, min(step, size - i)) for i in range(0, size, step)]


def _write_index(folder: Path, out: Path) -> None:
    """The list of shards, where there is one."""
    for name, content in _read_files(folder, ("model.safetensors.index.json",)).items():
        files = [out / shard for shard in sorted(set(content["weight_map"].values()))]
        size = sum(tensor.size for file in files for tensor in tensors(file).values())
        _write_json(out / name, {**content, "metadata": {**content.get("metadata", {}), "total_size": size}})


def _write_json(file: Path, content: dict[str, Any]) -> None:
    file.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _check_tokenizers(old: Checkpoint, new: Checkpoint, ids: dict[int, int]) -> None:
    """Split random prompts with both tokenizers: what the module's first lines argue, seen to hold in this folder."""
    before, after = old.tokenizer(), new.tokenizer()
    for text in random_prompts(random.Random(0), CHECKED, new):
        expected = [ids.get(i) for i in before.encode(text, add_special_tokens=False).ids]
        if after.encode(text, add_special_tokens=False).ids != expected:
            raise CheckpointError(f"the tokenizer of {old.path} is not of Llama 3's kind; trimmed, it splits otherwise")


def random_prompts(rng: random.Random, count: int, checkpoint: Checkpoint) -> Iterator[str]:
    """Whole prompts as the text codec writes them, of any frame, date, number of score digits and code length."""
    tokenizer = checkpoint.tokenizer()
    for _ in range(count):
        date = f"{rng.randint(1, 31):02} {rng.choice(MONTHS)} {rng.randint(1900, 2100)}"
        own = checkpoint.profile.template == OWN
        frame = checkpoint.frame() if own else published_frame(rng.choice([*TEMPLATES]), date)
        codec = TextCodec(tokenizer, frame, rng.randint(1, 8))
        length = rng.randint(1, 64)
        codes = list({"".join(rng.choices("0123456789", k=length)) for _ in range(rng.randint(1, 60))})
        seen, pool = codes[: len(codes) // 2], codes[len(codes) // 2 :]
        scores = [rng.choice([rng.random(), 10.0 ** -rng.randint(1, 8), 1.0]) for _ in seen]
        yield codec.render(History(tuple(seen), tuple(scores)), pool)
