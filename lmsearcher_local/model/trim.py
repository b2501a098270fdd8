"""``lmsearcher-local trim``: a copy of a checkpoint whose vocabulary holds only what its prompts and codes can use.

Llama 3's tokenizer first cuts a text into pieces and then merges bytes inside each piece. The prompts' pieces are
few: the fixed words of the templates, single punctuation marks, and one to three digits. A merge inside a piece makes
a part of that piece, so with every token that is a part of some piece, and every merge among those tokens, each piece
is merged in the very same steps as before: the same tokens, under new numbers. Their rows of embedding and head are
copied byte by byte, and a ranking compares only tokens that are kept.
"""

import json
import os
import random
import re
import shutil
from collections.abc import Callable, Iterator
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from lmsearcher_local.errors import CheckpointError, LMSearcherError
from lmsearcher_local.system.checksums import write_checksums
from lmsearcher_local.system.folders import new_folder

if TYPE_CHECKING:
    from tokenizers import Tokenizer

    from lmsearcher_local.model.checkpoint import Checkpoint
    from lmsearcher_local.model.codecs.chat import Frame

VOCABULARY_ROWS = ("embed_tokens.weight", "lm_head.weight")  # tensors with one row a token
COPIED = (  # what goes along as it is; all else is rewritten, or belongs to the old vocabulary
    *("lmsearcher.json", "chat_template.jinja", "chat_template.json", "README.md"),
    *("LICENSE*", "NOTICE*", "USE_POLICY*"),
)
UNWRITTEN = (LookupError, TypeError, AttributeError, ValueError, RecursionError)  # where a file has another form
CHUNK = 16 << 20  # bytes copied at a time
CHECKED = 100  # random prompts that both tokenizers must split alike


@click.command()
@click.argument("checkpoint", type=click.Path(path_type=Path))
@click.argument("out", type=click.Path(path_type=Path))
def trim(checkpoint: Path, out: Path) -> None:
    """Write a copy of CHECKPOINT to the new folder OUT that ranks the same with less memory.

    Of the vocabulary only the tokens stay that prompts and codes can hold: about 1,300 of Llama 3's 128,256, which
    saves an 8B model 2 GB. The copy is not for chatting any more. Quantise afterwards, if at all.

    \b
    Then search with the copy:
      lmsearcher-local trim /models/lm-searcher-8b /models/lm-searcher-8b-trimmed
      lmsearcher-local search space.yaml --objective train:score --checkpoint /models/lm-searcher-8b-trimmed
    """
    from lmsearcher_local.model.checkpoint import load_checkpoint

    found = load_checkpoint(checkpoint)
    trimmed = trim_checkpoint(found, out, lambda name: click.echo(f"Writing {name} ...", err=True))
    click.echo(
        f"Kept {trimmed.vocabulary:,} of {found.vocabulary:,} tokens:"
        f" {found.weight_bytes / 1e6:,.1f} MB of weights became {trimmed.weight_bytes / 1e6:,.1f} MB.\n"
        f"{CHECKED} random prompts are split alike by both tokenizers. Use it with --checkpoint {out}"
    )


def trim_checkpoint(checkpoint: "Checkpoint", out: Path, writing: Callable[[str], object]) -> "Checkpoint":
    """Write the trimmed copy to ``out`` and describe it; a failure or an interrupt leaves nothing behind.

    Args:
        checkpoint: a text checkpoint that is not quantised.
        out: a folder that does not exist yet.
        writing: told the name of each weights file before it is written.

    Raises:
        CheckpointError: there is nothing to trim, the tokenizer is not of Llama 3's kind, or ``out`` exists or cannot
            be written.
    """
    from lmsearcher_local.model.checkpoint import load_checkpoint

    if out.exists() or out.is_symlink():
        raise CheckpointError(f"{out} exists already; name a folder that does not")
    kept = kept_tokens(checkpoint)
    ids = {old: new for new, old in enumerate(kept)}
    if len(kept) == checkpoint.vocabulary:
        raise CheckpointError(f"{checkpoint.path} holds only tokens that its prompts use; there is nothing to trim")
    try:
        with new_folder(out, CheckpointError) as partial:
            _write_small_files(checkpoint.path, partial, ids)
            for file in checkpoint.weights:
                writing(file.name)
                _write_weights(file, partial / file.name, kept)
            _write_index(checkpoint.path, partial)
            write_checksums(partial)
            _check_tokenizers(checkpoint, load_checkpoint(partial), ids)
    except LMSearcherError:
        raise
    except UNWRITTEN as error:
        raise _unwritten(checkpoint.path, error) from error
    return load_checkpoint(out)


def kept_tokens(checkpoint: "Checkpoint") -> list[int]:
    """Ids of the tokens that the checkpoint's prompts and codes can use, ascending; token *i* of the copy is entry *i*.

    Raises:
        CheckpointError: the checkpoint has another codec, is quantised, or its tokenizer is not of Llama 3's kind.
    """
    try:
        return _kept_tokens(checkpoint)
    except CheckpointError:
        raise
    except UNWRITTEN as error:
        raise _unwritten(checkpoint.path, error) from error


def _unwritten(folder: Path, error: BaseException) -> CheckpointError:
    return CheckpointError(
        f"the tokenizer or a configuration of {folder} is not written like Llama 3's ({type(error).__name__}: {error})"
    )


def _kept_tokens(checkpoint: "Checkpoint") -> list[int]:
    from lmsearcher_local.model.checkpoint import read_json

    folder = checkpoint.path
    if checkpoint.profile.codec != "text":
        raise CheckpointError(f"the vocabulary of {folder} is already exactly its codec's; there is nothing to trim")
    if checkpoint.quantization:
        raise CheckpointError(
            f"{folder} is quantised ({checkpoint.quantization}); trim the checkpoint it was made from, then quantise"
        )
    checkpoint.codec()  # refuses a tokenizer that its template cannot be used with
    tokenizer = checkpoint.tokenizer()
    content = read_json(folder / "tokenizer.json")
    vocabulary = _vocabulary(content, folder)
    frames = _frames(checkpoint)
    parts = {
        piece[i:j]
        for piece in _pieces(tokenizer, folder, frames, [token["content"] for token in content["added_tokens"]])
        for i in range(len(piece))
        for j in range(i + 1, len(piece) + 1)
    }
    kept = {vocabulary[part] for part in parts if part in vocabulary}
    named = _named_ids(folder) | _named_tokens(folder, content)
    for token in content["added_tokens"]:
        text = token["content"]
        # Such tokens are found before a text is cut. One that can occur in a prompt stays; "<" is in templates alone.
        written = any(text in part for frame in frames for part in frame)
        if token["id"] in named or text in named or "<" not in text or written:
            kept.add(token["id"])
    return sorted(kept)


def _vocabulary(tokenizer: dict[str, Any], folder: Path) -> dict[str, int]:
    model = tokenizer.get("model", {})
    if model.get("type") != "BPE" or model.get("byte_fallback") or tokenizer.get("normalizer"):
        raise CheckpointError(f"the tokenizer of {folder} is not of Llama 3's kind (byte-level BPE, no normalizer)")
    vocabulary: dict[str, int] = model["vocab"]
    return vocabulary


def _frames(checkpoint: "Checkpoint") -> "list[Frame]":
    """What may stand around the message: of the published templates all, on any day, since a profile may be changed."""
    from lmsearcher_local.model.checkpoint import OWN
    from lmsearcher_local.model.codecs.chat import MONTHS
    from lmsearcher_local.model.codecs.text import TEMPLATES, published_frame

    if checkpoint.profile.template == OWN:
        return [checkpoint.frame()]
    return [published_frame(template, f"26 {month} 2024") for template, month in product(TEMPLATES, MONTHS)]


def _pieces(tokenizer: "Tokenizer", folder: Path, frames: "list[Frame]", added: list[str]) -> set[str]:
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


def _named_ids(folder: Path) -> set[int | str]:
    """Ids that the configuration gives a meaning: end of text, padding and the like."""
    ids: set[int | str] = set()
    for content in _configurations(folder).values():
        for value in (content[key] for key in content if key.endswith("_token_id")):
            ids.update(value if isinstance(value, list) else [value])
    return ids


def _named_tokens(folder: Path, tokenizer: dict[str, Any]) -> set[int | str]:
    """Texts of tokens that the tokenizer's files give a meaning."""
    texts: set[int | str] = {str((tokenizer.get("padding") or {}).get("pad_token"))}
    for template in _token_templates(tokenizer):
        texts.update(template["special_tokens"])
    for content in _tokenizer_files(folder).values():
        for value in (content[key] for key in content if key.endswith("_token")):
            texts.add(str(value["content"] if isinstance(value, dict) else value))
    return texts


def _configurations(folder: Path) -> dict[str, dict[str, Any]]:
    from lmsearcher_local.model.checkpoint import read_json

    return {name: read_json(folder / name) for name in ("config.json", "generation_config.json") if _has(folder, name)}


def _tokenizer_files(folder: Path) -> dict[str, dict[str, Any]]:
    from lmsearcher_local.model.checkpoint import read_json

    names = ("tokenizer_config.json", "special_tokens_map.json")
    return {name: read_json(folder / name) for name in names if _has(folder, name)}


def _has(folder: Path, name: str) -> bool:
    return (folder / name).exists()


def _token_templates(tokenizer: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The processors that put tokens, such as the begin of text, around every text."""
    processor = tokenizer.get("post_processor") or {}
    for step in (processor, *processor.get("processors", ())):
        if step.get("type") == "TemplateProcessing":
            yield step


def _write_small_files(folder: Path, out: Path, ids: dict[int, int]) -> None:
    """Everything but the weights, in the new numbers."""
    from lmsearcher_local.model.checkpoint import read_json

    for file in (file for pattern in COPIED for file in folder.glob(pattern) if file.is_file()):
        shutil.copyfile(file, out / file.name)
    for name, content in _configurations(folder).items():
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
    for name, content in _tokenizer_files(folder).items():
        if "added_tokens_decoder" in content:
            decoder = content["added_tokens_decoder"].items()
            content["added_tokens_decoder"] = {str(ids[int(old)]): token for old, token in decoder if int(old) in ids}
        for key in ("additional_special_tokens", "extra_special_tokens"):  # transformers would add what is named here
            if isinstance(content.get(key), list):
                content[key] = [t for t in content[key] if (t["content"] if isinstance(t, dict) else t) in texts]
        _write_json(out / name, content)


def _write_weights(source: Path, target: Path, kept: list[int]) -> None:
    """Copy a safetensors file byte by byte, of the vocabulary's tensors only the rows kept."""
    from lmsearcher_local.model.checkpoint import tensors

    held, metadata = tensors(source)
    header: dict[str, Any] = {"__metadata__": metadata} if metadata else {}
    end = 0
    for name, tensor in held.items():
        start, shape, size = end, tensor.shape, tensor.size
        if name.endswith(VOCABULARY_ROWS):
            if shape[0] <= kept[-1]:
                raise CheckpointError(f"{source}: {name} has {shape[0]} rows, too few for its tokenizer")
            size = size // shape[0] * len(kept)
            shape = (len(kept), *shape[1:])
        end = start + size
        header[name] = {"dtype": tensor.dtype, "shape": shape, "data_offsets": (start, end)}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # tensors start at a multiple of eight bytes
    with source.open("rb") as reader, target.open("wb") as writer:
        writer.write(len(text).to_bytes(8, "little") + text)
        for name, tensor in held.items():
            if name.endswith(VOCABULARY_ROWS):
                width = tensor.size // tensor.shape[0]
                spans = [(i * width, width) for i in kept]
            else:
                spans = [(i, min(CHUNK, tensor.size - i)) for i in range(0, tensor.size, CHUNK)]
            for start, size in spans:
                reader.seek(tensor.start + start)
                writer.write(reader.read(size))
        writer.flush()
        os.fsync(writer.fileno())


def _write_index(folder: Path, out: Path) -> None:
    """The list of shards, where there is one."""
    from lmsearcher_local.model.checkpoint import read_json, tensors

    index = "model.safetensors.index.json"
    if not _has(folder, index):
        return
    content = read_json(folder / index)
    files = [out / name for name in sorted(set(content["weight_map"].values()))]
    size = sum(tensor.size for file in files for tensor in tensors(file)[0].values())
    _write_json(out / index, {**content, "metadata": {**content.get("metadata", {}), "total_size": size}})


def _write_json(file: Path, content: dict[str, Any]) -> None:
    file.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _check_tokenizers(old: "Checkpoint", new: "Checkpoint", ids: dict[int, int]) -> None:
    """Split random prompts with both tokenizers: what the module's first lines argue, seen to hold in this folder."""
    before, after = old.tokenizer(), new.tokenizer()
    for text in random_prompts(random.Random(0), CHECKED, new):
        expected = [ids.get(i) for i in before.encode(text, add_special_tokens=False).ids]
        if after.encode(text, add_special_tokens=False).ids != expected:
            raise CheckpointError(f"the tokenizer of {old.path} is not of Llama 3's kind; trimmed, it splits otherwise")


def random_prompts(rng: random.Random, count: int, checkpoint: "Checkpoint") -> Iterator[str]:
    """Whole prompts as the text codec writes them, of any frame, date, number of score digits and code length."""
    from lmsearcher_local.candidates.history import History
    from lmsearcher_local.model.checkpoint import OWN
    from lmsearcher_local.model.codecs.chat import MONTHS
    from lmsearcher_local.model.codecs.text import TEMPLATES, TextCodec, published_frame

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
