"""Fine-tuning data for the 8B checkpoint: a LLaMA-Factory data set, streamed to disk, and the settings as published.

Upstream prompts have no user turn: one system message, then the answer. LLaMA-Factory's template ``llama3`` cannot say
that. It drops a sample without a user message, and an empty one still becomes a turn of its own. So a sample carries
the text of that template itself, and LLaMA-Factory is told ``template: empty``: it adds nothing. What is learned stays
the answer and ``<|eot_id|>``.

For another model the samples carry that model's own chat template in the same way, and its end of text.
"""

import fcntl
import json
import os
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from lmsearcher_local.errors import StudyError
from lmsearcher_local.model.checkpoint import OWN, Profile, load_checkpoint
from lmsearcher_local.model.codecs.chat import Frame, end_of_answer
from lmsearcher_local.model.codecs.text import message, published_frame
from lmsearcher_local.system.folders import unusable, write_atomically
from lmsearcher_local.training.trajectories import Task

NAME = "lmsearcher"
DATA = f"{NAME}.jsonl"
PARTIAL = f"{DATA}.partial"
SETTINGS = Path(__file__).parent / "llamafactory"  # files for it; FILE and MODEL stand in one of them


class Target(NamedTuple):
    """What is to be fine-tuned: its name or folder, what stands around a message, what ends an answer, and settings.

    ``template`` is what the ``lmsearcher.json`` of the fine-tuned checkpoint says.
    """

    model: str
    frame: Frame
    end: str
    template: str
    settings: str


MODEL = "meta-llama/Llama-3.1-8B  # or its folder"
LLAMA = Target(MODEL, published_frame("llama3", ""), "<|eot_id|>", "llama3", "llama3_full_sft.yaml")


def target_of(folder: Path) -> Target:
    """A model's folder as what is to be fine-tuned, under its own chat template, which may be refused."""
    checkpoint = load_checkpoint(folder)
    own = replace(checkpoint, profile=Profile(template=OWN))
    own.codec()  # refuses a tokenizer from which no answers can be read
    return Target(json.dumps(str(folder.absolute())), own.frame(), end_of_answer(folder), OWN, "full_sft.yaml")


def sample(task: Task, target: Target = LLAMA) -> dict[str, str]:
    """The prompt, as published and up to where the answer starts, and the response: the truly best candidate."""
    history, pool = task.question()
    prompt = target.frame.before + message(history, pool) + target.frame.after
    return {"prompt": prompt, "response": pool[int(task.truth.argmax())] + target.end}


def write_data_set(
    out: Path, tasks: Iterable[Task], show: Callable[[], None] = lambda: None, target: Target = LLAMA
) -> None:
    """Write data, ``dataset_info.json`` and settings into a new or empty folder, one task in memory at a time.

    Until everything is written the data file has another name and ``dataset_info.json`` is missing; what an interrupted
    build left is written over by the next. ``show`` is called after each line.

    Raises:
        StudyError: the folder cannot be made or written, holds something else, or another build is writing there.
    """
    try:
        out.mkdir(parents=True, exist_ok=True)
        if any(file.name != PARTIAL for file in out.iterdir()):
            raise StudyError(f"{out} is not empty; name a new folder with --out")
        with (out / PARTIAL).open("a", encoding="utf-8") as stream:
            try:
                fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise StudyError(f"another build is writing to {out}") from None
            stream.truncate(0)
            for task in tasks:
                stream.write(json.dumps(sample(task, target)) + "\n")
                show()
            stream.flush()
            os.fsync(stream.fileno())
            (out / PARTIAL).rename(out / DATA)
            settings = (SETTINGS / "full_sft.yaml").read_text(encoding="utf-8")
            settings = settings.replace("FILE", target.settings).replace("MODEL", target.model)
            write_atomically(out / target.settings, settings)
            write_atomically(out / "lmsearcher.json", json.dumps({"template": target.template}) + "\n")
            for name in ("ds_z2_config.json", "dataset_info.json"):  # the last one names the data set
                write_atomically(out / name, (SETTINGS / name).read_text(encoding="utf-8"))
    except OSError as error:
        raise StudyError(f"cannot write to {out}: {unusable(out, error)}") from error
