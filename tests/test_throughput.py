"""The throughput benchmark on the bundled checkpoint and real vLLM: what it counts, and what it refuses."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from lmsearcher_local.cli.main import main
from lmsearcher_local.errors import EngineError
from lmsearcher_local.model.engines.base import Engine, Question
from lmsearcher_local.model.load import load_ranker
from lmsearcher_local.model.ranker import Ranker, Task
from lmsearcher_local.search import throughput
from lmsearcher_local.search.throughput import fresh_tasks, pick, rank, vllm_engine


def test_bench_prints_and_writes_what_it_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(throughput, "SECONDS", 0.1)  # of a measurement; its figures are not looked at
    monkeypatch.setattr(throughput, "PAUSE", 0.0)
    out = tmp_path / "folder" / "rows.jsonl"
    cell = ["--batch", "2", "--history", "5", "--pool", "4", "--repeats", "2"]
    done = CliRunner().invoke(main, ["bench", *cell, "--out", str(out)])
    assert done.exit_code == 0, done.output
    assert "history   5, pool    4, batch   2: pick" in done.output
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    assert all(row["versions"]["python"] and row["device"] and row["processor"] for row in rows)
    by_method = {row["method"]: row for row in rows if "method" in row}
    rows_of_a_prompt = 5 + 4 + 1
    assert {method: row["tokens_per_pool"] for method, row in by_method.items()} == pytest.approx(
        dict.fromkeys(("pick", "ranking", "prefill"), rows_of_a_prompt),
        rel=0.1,  # what is close is asked again
    )
    assert by_method["prefill"]["time_of_prefill"] == pytest.approx(1)
    [search] = [row for row in rows if row["what"] == "search"]
    assert search["trials"] == 192
    assert 0 < search["computed_share"] <= 0.3  # one pick hangs on less than the noise and is asked again cold


def test_tokens_of_the_prefix_cache_are_not_counted_as_computed(bundled: Ranker) -> None:
    engine = vllm_engine(bundled)
    engine.forget()
    [task] = fresh_tasks(np.random.default_rng(0), 1, 50, 10)
    length = len(bundled.codec.prompt(*task))
    for computed in (length, length % 32, length):  # only full blocks of 32 tokens are kept
        before = engine.prompt_tokens, engine.computed_tokens
        bundled.rank([task])
        assert (engine.prompt_tokens - before[0], engine.computed_tokens - before[1]) == (length, computed)
        if computed != length:
            engine.forget()


@pytest.mark.parametrize("method", [pick, rank])
def test_answers_without_probability_are_no_answers(method: Callable[[Ranker, Sequence[Task]], int]) -> None:
    class Hopeful(Engine):
        max_length = 10_000

        def log_probs(self, questions: list[Question]) -> list[np.ndarray]:
            return [np.full(len(tokens), np.nan) for _, tokens in questions]

        def close(self) -> None: ...

    with load_ranker(engine="transformers") as ranker, pytest.raises(EngineError):
        method(Ranker(Hopeful(), ranker.codec), fresh_tasks(np.random.default_rng(0), 1, 5, 4))
