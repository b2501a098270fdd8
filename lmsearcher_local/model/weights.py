"""Safetensors files: refused where damaged, where each tensor lies, and a fingerprint of what a model is made of."""

import hashlib
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from safetensors import SafetensorError, safe_open

from lmsearcher_local.errors import CheckpointError
from lmsearcher_local.system.documents import parse_json

VOCABULARY_ROWS = ("embed_tokens.weight", "lm_head.weight")  # tensors with one row a token
FINGERPRINT_BYTES = 1 << 20  # read from each end of a weights file: 16 GB are not hashed at each start


class Tensor(NamedTuple):
    """Where a safetensors file holds a tensor: ``size`` bytes from byte ``start`` of the file on."""

    dtype: str
    shape: tuple[int, ...]
    start: int
    size: int


def check_whole(file: Path) -> None:
    """Refuse, with a ``CheckpointError``, a safetensors file that is damaged or incomplete."""
    try:
        with safe_open(file, framework="numpy"):
            pass
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{file} is damaged or incomplete: {error}") from error


def tensors(file: Path) -> dict[str, Tensor]:
    """The tensors of a checked safetensors file, in the order of their bytes; only its header is read.

    The format: eight bytes of length (little endian), that many of JSON, then the tensors
    (https://github.com/huggingface/safetensors).
    """
    with file.open("rb") as stream:
        length = int.from_bytes(stream.read(8), "little")
        header = parse_json(stream.read(length).decode())
    header.pop("__metadata__", None)
    found = {}
    for name, entry in sorted(header.items(), key=lambda item: item[1]["data_offsets"]):
        start, end = entry["data_offsets"]
        found[name] = Tensor(entry["dtype"], tuple(entry["shape"]), 8 + length + start, end - start)
    return found


def fingerprint(files: Iterable[Path]) -> str:
    """Of names, sizes, and the first and last bytes of those files that exist."""
    digest = hashlib.sha256()
    for file in files:
        if not file.exists():
            continue
        with file.open("rb") as stream:
            digest.update(f"{file.name}:{file.stat().st_size}:".encode())
            digest.update(stream.read(FINGERPRINT_BYTES))
            stream.seek(max(stream.tell(), file.stat().st_size - FINGERPRINT_BYTES))
            digest.update(stream.read())
    return digest.hexdigest()[:16]
