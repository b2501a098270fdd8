"""Find, check and describe a checkpoint: a local Hugging Face folder with safetensors weights.

Nothing is downloaded, unpickled or run: hub names, pickled weights and remote code are refused.
"""

import re
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from lmsearcher_local.errors import CheckpointError, brief
from lmsearcher_local.model.adapter import Adapter, add_adapter, is_adapter
from lmsearcher_local.model.codecs.base import Codec
from lmsearcher_local.model.codecs.chat import FILES, MONTHS, Frame, own_frame
from lmsearcher_local.model.codecs.registry import CODECS, TABLE
from lmsearcher_local.model.codecs.text import TEMPLATES, published_frame
from lmsearcher_local.model.quantization import quantise, refuse_gguf
from lmsearcher_local.model.weights import check_whole, fingerprint
from lmsearcher_local.system.folders import absence, read_json

BUNDLED = Path(__file__).parents[1] / "checkpoints" / "small"
DTYPE_BYTES = {"float32": 4, "float16": 2, "bfloat16": 2}
CONTEXT_CAP = 20480  # tokens; the published training cut off there, and a longer context only costs memory
OWN = "own"  # the chat template that the folder brings
SMALL = ("config.json", "lmsearcher.json", "tokenizer.json", TABLE)  # files that count beside the weights


@dataclass(frozen=True, slots=True)
class Profile:
    """How a checkpoint is prompted: the content of its ``lmsearcher.json``; without one, the published protocol.

    ``template``, ``date`` and ``score_digits`` belong to the text codec; the template ``own`` is the folder's.
    """

    codec: str = "text"
    template: str = "llama3.1"
    date: str = "26 Jul 2024"  # the chat template's own fallback
    score_digits: int = 4

    def __post_init__(self) -> None:
        for name, value, allowed in (
            ("codec", self.codec, tuple(CODECS)),
            ("template", self.template, (*TEMPLATES, OWN)),
            ("score_digits", self.score_digits, tuple(range(1, 9))),
        ):
            if value not in allowed or type(value) is not type(allowed[0]):  # 4.0 equals 4
                raise CheckpointError(f"{name} is one of {', '.join(map(str, allowed))}, not {brief(value)}")
        written = rf"[0-9]{{2}} ({'|'.join(MONTHS)}) [0-9]{{4}}"
        if not isinstance(self.date, str) or not re.fullmatch(written, self.date):
            raise CheckpointError(f"date is written like '26 Jul 2024', not {brief(self.date)}")


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A checked checkpoint folder.

    ``weights`` are its safetensors files. ``quantization`` is the method that the folder names (``fp8``, ``awq``, …).
    ``context`` is the longest prompt, in tokens or rows. ``weight_bytes`` (a codec's table counts) and ``token_bytes``
    (keys and values of one token) are memory in bytes, ``hidden`` and ``intermediate`` the widths of a layer.
    ``identity`` is a fingerprint of all that decides its answers. ``adapter`` is what is added to the weights,
    ``at_load`` how vLLM quantises them (``fp8``), each or ``None``.
    """

    path: Path
    profile: Profile
    weights: tuple[Path, ...]
    quantization: str | None
    context: int
    vocabulary: int
    dtype: str
    weight_bytes: int
    token_bytes: int
    hidden: int
    intermediate: int
    identity: str
    adapter: Adapter | None = None
    at_load: str | None = None

    def codec(self) -> Codec:
        """The codec that this checkpoint was trained for; a ``CheckpointError`` where its files do not fit it."""
        return CODECS[self.profile.codec].load(self)

    @property
    def reads_rows(self) -> bool:
        """Whether its prompts are rows of numbers instead of token ids."""
        return CODECS[self.profile.codec].rows

    def frame(self) -> Frame:
        """What stands around the message of a text checkpoint's prompt; the folder's own template may be refused."""
        template, date = self.profile.template, self.profile.date
        return own_frame(self.path, date) if template == OWN else published_frame(template, date)

    def tokenizer(self) -> Tokenizer:
        """The tokenizer of a text checkpoint; a ``CheckpointError`` where it is missing or another model's."""
        file = self.path / "tokenizer.json"
        try:
            tokenizer: Tokenizer = Tokenizer.from_file(str(file))
            tokenizer.no_truncation()  # which a file may ask for: a prompt is shown whole or not at all,
            tokenizer.no_padding()  # and an answer has no other tokens than its own
        except Exception as error:  # the library raises bare Exception
            raise CheckpointError(f"cannot read {file}: {error}") from error
        tokens = tokenizer.get_vocab_size()
        if tokens > self.vocabulary:
            raise CheckpointError(f"{file} does not belong to this model: {tokens} tokens against {self.vocabulary}")
        return tokenizer


def load_checkpoint(
    path: str | Path | None = None, *, base: str | Path | None = None, quantization: str | None = None
) -> Checkpoint:
    """Check a checkpoint folder and describe it; ``None`` is the bundled small one. The weights are not loaded.

    Args:
        base: the folder that the LoRA adapter in ``path`` was trained on.
        quantization: how vLLM shall quantise a folder of 16 bits while it loads: ``"fp8"``.

    Raises:
        CheckpointError: the folder is missing, incomplete, unsafe or unfit.
    """
    folder = BUNDLED if path is None else Path(path)
    for named in (folder, Path(base or folder)):
        _check_folder(named)
    # vLLM may load it once more, when an objective in this process has changed the working folder.
    folder, base = folder.absolute(), base and Path(base).absolute()
    if is_adapter(folder) and base is None:
        raise CheckpointError(
            f"{folder} is a LoRA adapter, no whole checkpoint; name the folder that it was trained on with --base,"
            " or merge the two"
        )
    if base is not None and not is_adapter(folder):
        raise CheckpointError(f"a base is for a LoRA adapter, and {folder} is none: it has no adapter_config.json")
    # A profile beside an adapter goes before its base's.
    found = _describe(folder) if base is None else add_adapter(_describe(Path(base), _read_profile(folder)), folder)
    return found if quantization is None else quantise(found, quantization)


def _check_folder(folder: Path) -> None:
    refuse_gguf(folder)
    if not folder.is_dir():
        if re.fullmatch(r"[\w.-]+/[\w.-]+", str(folder)) and not folder.parent.is_dir():
            raise CheckpointError(
                f"{folder} is no folder here, and nothing is downloaded; if it is a hub name, run"
                f" `hf download {folder} --local-dir DIR` on a machine with a network and pass the folder"
            )
        raise CheckpointError(f"the checkpoint folder {folder} {absence(folder)}")


def _describe(folder: Path, profile: Profile | None = None) -> Checkpoint:
    config = read_json(folder / "config.json")
    if "auto_map" in config:
        raise CheckpointError(f"{folder} asks for remote code (auto_map in config.json), which is never run")
    architectures = config.get("architectures")
    if not isinstance(architectures, list) or not any(str(name).endswith("ForCausalLM") for name in architectures):
        raise CheckpointError(f"{folder} is no causal language model: architectures is {brief(architectures)}")
    weights = _find_weights(folder)
    try:
        dtype = str(config.get("dtype") or config.get("torch_dtype") or "auto")
        heads = int(config["num_attention_heads"])
        head_size = int(config.get("head_dim") or config["hidden_size"] // heads)
        keys = int(config.get("num_key_value_heads") or heads) * head_size
        hidden = int(config.get("hidden_size") or heads * head_size)
        sizes = {
            "token_bytes": 2 * int(config["num_hidden_layers"]) * keys * DTYPE_BYTES.get(dtype, 2),
            "context": min(int(config["max_position_embeddings"]), CONTEXT_CAP),
            "vocabulary": int(config["vocab_size"]),
            "hidden": hidden,
            "intermediate": int(config.get("intermediate_size") or 4 * hidden),
        }
    except (KeyError, TypeError, ValueError, ArithmeticError) as error:
        raise CheckpointError(f"{folder / 'config.json'} lacks a usable {error}") from error
    if min(sizes.values()) < 1 or max(sizes.values()) > 1 << 40:
        raise CheckpointError(f"{folder / 'config.json'} has sizes that no model has")
    profile = profile or _read_profile(folder) or Profile()
    names = SMALL + (FILES if profile.template == OWN else ())
    identity = fingerprint([*(folder / name for name in names), *weights])
    size = sum(file.stat().st_size for file in [*weights, *folder.glob(TABLE)])
    known: dict[str, Any] = {"quantization": _method(config), "dtype": dtype, "weight_bytes": size, **sizes}
    return Checkpoint(folder, profile, tuple(weights), identity=identity, **known)


def _find_weights(folder: Path) -> list[Path]:
    weights = sorted(folder.glob("*.safetensors"))
    index = folder / "model.safetensors.index.json"
    if index.exists():
        shards = read_json(index).get("weight_map")
        if not isinstance(shards, dict):
            raise CheckpointError(f"{index} has no weight_map")
        missing = sorted({str(shard) for shard in shards.values()} - {file.name for file in weights})
        if missing:
            raise CheckpointError(f"{folder} lacks {missing[0]}, which {index.name} names; copy the whole folder")
        weights = [file for file in weights if file.name in shards.values()]  # the index names all that is loaded
    if not weights:
        pickled = [file.name for pattern in ("*.bin", "*.pt", "*.pth") for file in folder.glob(pattern)]
        if pickled:
            raise CheckpointError(
                f"{folder} holds pickled weights ({pickled[0]}), which can run code; convert them to safetensors"
            )
        raise CheckpointError(f"{folder} holds no .safetensors weights")
    for file in weights:
        check_whole(file)
    return weights


def _method(config: dict[str, Any]) -> str | None:
    """The quantisation method that a configuration names."""
    settings = config.get("quantization_config") or config.get("compression_config")
    if not isinstance(settings, dict):
        return None
    if settings.get("load_in_4bit") or settings.get("load_in_8bit"):  # older folders name no method
        return "bitsandbytes"
    return str(settings.get("quant_method") or "a method without a name")


def _read_profile(folder: Path) -> Profile | None:
    file = folder / "lmsearcher.json"
    if not file.exists():
        return None
    content = read_json(file)
    known = [field.name for field in fields(Profile)]
    unknown = sorted(set(content) - set(known))
    if unknown:
        raise CheckpointError(f"{file} has an unknown entry {brief(unknown[0])}; allowed: {', '.join(known)}")
    try:
        return Profile(**content)
    except CheckpointError as error:
        raise CheckpointError(f"{file}: {error}") from error
