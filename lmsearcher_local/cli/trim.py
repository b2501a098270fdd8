"""``lmsearcher-local trim``."""

from pathlib import Path

import click


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
    from lmsearcher_local.model.trim import CHECKED, trim_checkpoint

    found = load_checkpoint(checkpoint)
    trimmed = trim_checkpoint(found, out, lambda name: click.echo(f"Writing {name} ...", err=True))
    click.echo(
        f"Kept {trimmed.vocabulary:,} of {found.vocabulary:,} tokens:"
        f" {found.weight_bytes / 1e6:,.1f} MB of weights became {trimmed.weight_bytes / 1e6:,.1f} MB.\n"
        f"{CHECKED} random prompts are split alike by both tokenizers. Use it with --checkpoint {out}"
    )
