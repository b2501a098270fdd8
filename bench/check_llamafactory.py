"""Loads a built data set through LLaMA-Factory's own settings parser, loader and template, and compares tokens.

In an environment of its own (PyPI's ``llamafactory``; it pins older versions than this project), from this folder's
parent, with a folder that holds a Llama 3 tokenizer:

    python -m bench.check_llamafactory TOKENIZER
"""

import argparse
import json
import tempfile
from itertools import islice
from pathlib import Path
from typing import Any

import yaml
from llamafactory.data import get_dataset, get_template_and_fix_tokenizer
from llamafactory.extras.constants import IGNORE_INDEX
from llamafactory.hparams import get_train_args
from llamafactory.model import load_tokenizer
from tokenizers import Tokenizer

from lmsearcher_local.candidates.history import History
from lmsearcher_local.model.codecs.text import TextCodec, message, published_frame
from lmsearcher_local.model.ranker import Task as Asked
from lmsearcher_local.spaces.space import SearchSpace
from lmsearcher_local.training.data import NAME, write_data_set
from lmsearcher_local.training.subspaces import draw_pruned_tasks
from lmsearcher_local.training.trajectories import Task

SAMPLES = 200
MACHINE = ("deepspeed", "bf16", "preprocessing_num_workers")  # settings that ask for the machine that trains


def main() -> None:
    """Compare every sample; an AssertionError names the first that differs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tokenizer", type=Path, help="folder with tokenizer.json and tokenizer_config.json")
    tokenizer = parser.parse_args().tokenizer
    tasks = list(draw_pruned_tasks([], 0, SAMPLES))
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder) / "data"
        write_data_set(data, tasks)
        loaded = load(data, tokenizer)
        natural = as_llama3(Path(folder) / "natural", data, tokenizer, tasks[0])
    assert len(loaded) == SAMPLES, f"{SAMPLES - len(loaded)} samples were dropped"
    codec = TextCodec(Tokenizer.from_file(str(tokenizer / "tokenizer.json")), published_frame("llama3", ""), 4)
    [end] = codec.answers(SearchSpace([2]), ["<|eot_id|>"])
    for i, (row, task) in enumerate(zip(loaded, tasks, strict=True)):
        space, history, pool = question(task)
        prompt = codec.prompt(*Asked.of(space, history, pool))
        [answer] = codec.answers(space, [pool[task.truth.argmax()]])
        assert row["input_ids"] == prompt + answer + end, f"sample {i}: tokens differ"
        assert row["labels"] == [IGNORE_INDEX] * len(prompt) + answer + end, f"sample {i}: labels differ"
    longest = max(len(row["input_ids"]) for row in loaded)
    print(f"{SAMPLES} samples: tokens and labels are the text codec's, the longest has {longest} tokens")
    print("A system message without a user turn, under LLaMA-Factory's own llama3 template:")
    for name, text in natural.items():
        print(f"  {name}: {text}")


def load(data: Path, tokenizer: Path, **changes: Any) -> list[dict[str, list[int]]]:
    """The training samples as LLaMA-Factory hands them to its trainer."""
    settings = yaml.safe_load((data / "llama3_full_sft.yaml").read_text())
    settings |= {"model_name_or_path": str(tokenizer), "dataset_dir": str(data), "output_dir": str(data / "out")}
    settings = {key: value for key, value in settings.items() if key not in MACHINE} | changes
    model, data_settings, training, _, _ = get_train_args(settings)
    loaded = load_tokenizer(model)
    template = get_template_and_fix_tokenizer(loaded["tokenizer"], data_settings)
    module = get_dataset(template, model, data_settings, training, stage=settings["stage"], **loaded)
    return list(module["train_dataset"])


def as_llama3(folder: Path, data: Path, tokenizer: Path, task: Task) -> dict[str, str]:
    """What LLaMA-Factory makes of one sample written the obvious way, by what stands for the user."""
    _, history, pool = question(task)
    system, answer = {"from": "system", "value": message(history, pool)}, {"from": "gpt", "value": pool[0]}
    folder.mkdir()
    (folder / "llama3_full_sft.yaml").write_text((data / "llama3_full_sft.yaml").read_text())
    (folder / "dataset_info.json").write_text(json.dumps({NAME: {"file_name": "a.json", "formatting": "sharegpt"}}))
    read, found = Tokenizer.from_file(str(tokenizer / "tokenizer.json")), {}
    for name, user in {"no user message": [], "an empty user message": [{"from": "human", "value": ""}]}.items():
        # A whole sample beside it: LLaMA-Factory refuses a data set that holds nothing usable.
        whole = [{"from": "human", "value": "-"}, {"from": "gpt", "value": "-"}]
        rows = [{"conversations": [system, *user, answer]}, {"conversations": [system, *whole]}]
        (folder / "a.json").write_text(json.dumps(rows))
        kept = load(folder, tokenizer, template="llama3", overwrite_cache=True)
        texts = [read.decode(row["input_ids"], skip_special_tokens=False) for row in islice(kept, len(kept) - 1)]
        found[name] = repr("…" + texts[0][-150:]) if texts else "the sample is dropped"
    return found


def question(task: Task) -> tuple[SearchSpace, History, list[str]]:
    """A task as the codec takes it."""
    return task.space, *task.question()


if __name__ == "__main__":
    main()
