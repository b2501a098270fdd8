"""Whoever has never seen the project adds a part in one file of theirs and one line in a registry of ours."""

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import click
import numpy as np
import pytest
from scripted import ScriptedEngine, scripted_ranker

from bench import llama
from lmsearcher_local.candidates.policies import POLICIES
from lmsearcher_local.candidates.pools import Pool
from lmsearcher_local.cli.search import search
from lmsearcher_local.errors import CheckpointError, ObjectiveError
from lmsearcher_local.model.checkpoint import Checkpoint, load_checkpoint
from lmsearcher_local.model.codecs.registry import CODECS, CodecKind
from lmsearcher_local.model.engines.registry import ENGINES
from lmsearcher_local.model.load import load_ranker
from lmsearcher_local.model.ranker import Ranker, Task
from lmsearcher_local.presets.tables import TABLES, Table, table
from lmsearcher_local.search.searcher import Searcher
from lmsearcher_local.spaces.space import SearchSpace
from lmsearcher_local.study.objectives.table import TableObjective
from lmsearcher_local.study.run import run

SPACE = SearchSpace({"rank": [4, 8, 16], "alpha": [8, 16, 32]})
TOYS = '''
"""A codec, an engine, a policy and a table, each a few lines."""

import numpy as np

from lmsearcher_local.model.engines.base import Engine
from lmsearcher_local.candidates.pools import Pool
from lmsearcher_local.spaces.space import SearchSpace
from lmsearcher_local.presets.tables import Table


class Codec:
    """A prompt is the digits of what was tried; an answer is the place in the pool."""

    max_pool, group = 16, 16

    def prompt(self, space, history, pool):
        return [int(digit) for code in history.codes for digit in code] or [0]

    def answers(self, space, codes):
        return [[place] for place in range(len(codes))]

    def longest_prompt(self, space, pool_size):
        return 200 * space.code_length + 1


class LastFirst(Engine):
    """Likes the last token that is named."""

    max_length = 4096

    def log_probs(self, questions):
        return [np.log(np.arange(1.0, 1 + len(question.tokens))) for question in questions]

    def close(self):
        pass


def descending(surrogate, rng, size, exclude):
    """The unseen codes of the highest digits."""
    fresh = [code for code in surrogate.space.enumerate() if code not in exclude]
    return Pool(tuple(fresh[-size:]), surrogate)


def toy_table():
    space = SearchSpace({"rank": [4, 8, 16], "alpha": [8, 16, 32]})
    return Table("toy", space, "digits", "maximize", space.enumerate(), lambda code: float(code))
'''
REGISTERED = """
import sys
import toys
from lmsearcher_local.model.engines.registry import ENGINES
from lmsearcher_local.candidates.policies import POLICIES
from lmsearcher_local.model.codecs.registry import CODECS, CodecKind
from lmsearcher_local.presets.tables import TABLES
CODECS["toy"] = CodecKind(lambda checkpoint: toys.Codec())
ENGINES["toy"] = lambda checkpoint, longest, cache_bytes: toys.LastFirst()
POLICIES["toy"] = "toys:descending"
TABLES["toy"] = toys.toy_table
from lmsearcher_local.cli.main import main
main(sys.argv[1:])
"""


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small checkpoint that asks for the codec ``toy``."""
    folder = tmp_path_factory.mktemp("toy")
    llama.write_compact(folder)
    (folder / "lmsearcher.json").write_text(json.dumps({"codec": "toy"}))
    return folder


class Digits:
    """A codec."""

    max_pool, group = 16, 16

    def prompt(self, space: SearchSpace, history: object, pool: Pool) -> list[int]:
        return [int(digit) for code in pool.codes for digit in code]

    def answers(self, space: SearchSpace, codes: Sequence[str]) -> list[list[int]]:
        return [[place] for place in range(len(codes))]

    def longest_prompt(self, space: SearchSpace, pool_size: int) -> int:
        return pool_size * space.code_length + 1


def test_a_codec(monkeypatch: pytest.MonkeyPatch, checkpoint: Path) -> None:
    with pytest.raises(CheckpointError, match="codec is one of text, compact, not 'toy'"):
        load_checkpoint(checkpoint)
    monkeypatch.setitem(CODECS, "toy", CodecKind(lambda checkpoint: Digits()))
    with load_ranker(checkpoint, "transformers", space=SPACE) as ranker:  # whose prompts are token ids now
        [ranking] = ranker.rank([Task.of(SPACE, Searcher(SPACE, ranker).history, ["00", "11", "22"])])
    assert np.exp(ranking.log_probs).sum() == pytest.approx(1)


def test_an_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[str, int | None]] = []

    def load(checkpoint: Checkpoint, longest: int | None, cache_bytes: int | None) -> ScriptedEngine:
        asked.append((checkpoint.profile.codec, longest))
        return ScriptedEngine()

    with pytest.raises(ValueError, match="engine is one of vllm, transformers, not 'toy'"), load_ranker(engine="toy"):
        pass
    monkeypatch.setitem(ENGINES, "toy", load)
    with load_ranker(engine="toy", space=SPACE) as ranker:
        [code] = Searcher(SPACE, ranker).ask()
    assert code in SPACE
    assert asked == [("compact", 212)]


def first(surrogate: object, rng: np.random.Generator, size: int, exclude: object) -> Pool:
    """A policy: the first codes of the space that were not tried."""
    codes = [code for code in SPACE.enumerate() if code not in exclude]  # type: ignore[operator]
    return Pool(tuple(codes[:1]), surrogate)  # type: ignore[arg-type]


def test_a_policy(monkeypatch: pytest.MonkeyPatch) -> None:
    ranker: Ranker = scripted_ranker()
    with pytest.raises(ValueError, match="policy is one of surrogate, local, paper, not 'toy'"):
        Searcher(SPACE, ranker, policy="toy")
    monkeypatch.setitem(POLICIES, "toy", f"{__name__}:first")
    searcher = Searcher(SPACE, ranker, policy="toy")
    for code in ("21", "10", "02", "20", "12"):  # past the random ones at the start
        searcher.tell(code, 0.0)
    assert searcher.ask(2) == ["00", "01"]


def test_a_table(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with pytest.raises(ObjectiveError, match="no table 'toy'; allowed: nasbench201-cifar10,"):
        table("toy")
    toy = Table("toy", SPACE, "digits", "minimize", SPACE.enumerate(), float)
    monkeypatch.setitem(TABLES, "toy", lambda: toy)
    goal = TableObjective(table("toy"))
    result = run(goal, SPACE, scripted_ranker(), out=tmp_path, trials=9, direction="minimize")
    assert result.best == toy.optimum == ("00", 0.0)
    table.cache_clear()


def test_the_command_line_reads_its_choices_from_the_registries() -> None:
    choices = {option.name: option.type for option in search.params}
    for name, registry in (("engine", ENGINES), ("policy", POLICIES)):
        found = choices[name]
        assert isinstance(found, click.Choice)
        assert list(found.choices) == list(registry)


def test_the_command_line_uses_what_was_added(tmp_path: Path, checkpoint: Path) -> None:
    (tmp_path / "toys.py").write_text(TOYS)
    (tmp_path / "main.py").write_text(REGISTERED)
    options = ["--table", "toy", "--engine", "toy", "--policy", "toy", "--checkpoint", str(checkpoint)]
    found = subprocess.run(
        [sys.executable, "main.py", "search", *options, "--trials", "7", "--out", "out"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert found.returncode == 0, found.stderr
    assert "The table's optimum: 22 (22)\nFound: rank 1 of 9" in found.stdout
