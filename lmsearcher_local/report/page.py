"""``lmsearcher-local report``: a search on one page, made from its storage alone."""

import base64
import io
import statistics
import warnings
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    import optuna
    from matplotlib.figure import Figure

    from lmsearcher_local.presets.tables import Table
    from lmsearcher_local.search.calibration import Choice
    from lmsearcher_local.study.results import Result, Trial

BEST = 10  # architectures listed
PAGE = "report.html"
BELIEFS = 12  # trials at which it is said how far earlier searches were believed
FEW = 10  # evaluations that importance needs: its best tenth is then one trial


@click.command()
@click.argument("study", metavar="STUDY")
def report(study: str) -> None:
    """Write one HTML page about a search; it opens anywhere, without a network.

    STUDY is the output folder of a search, where the page is written as report.html. A search in another storage is
    STORAGE_URL#STUDY_NAME; its page is written in this folder.

    \b
      lmsearcher-local report runs/nasbench201-cifar100-seed0
    """
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    text = page_of(study)
    out = Path(study if Path(study).is_dir() else ".") / PAGE
    try:
        out.write_text(text, encoding="utf-8")
    except OSError as error:
        raise click.ClickException(f"cannot write {out}: {error.strerror}") from error
    click.echo(f"Report: {out}")


def page_of(source: str) -> str:
    """The page about a study as the command names it; ``StudyError`` where no search of this package wrote it."""
    from lmsearcher_local.errors import LMSearcherError, StudyError
    from lmsearcher_local.records.storage import hide_password, load_study

    study, place = load_study(source), Path(source)
    try:
        return page(study, place.resolve().name if place.exists() else study.study_name)
    except LMSearcherError as error:  # all else is a fault of ours, and not the study's
        raise StudyError(f"{hide_password(source)}: {error}") from error


def page(study: "optuna.Study", name: str) -> str:
    """The page, as HTML without any reference to another file."""
    from jinja2 import Environment, StrictUndefined

    from lmsearcher_local.study.timing import in_units
    from lmsearcher_local.system.plain import amount

    template = files(__package__).joinpath(PAGE).read_text(encoding="utf-8")
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters |= {"number": _number, "size": amount, "time": in_units}
    return environment.from_string(template).render(name=name, **facts(study)) + "\n"


def facts(study: "optuna.Study") -> dict[str, Any]:
    """Everything that the page says."""
    from lmsearcher_local.candidates.surrogate import USELESS
    from lmsearcher_local.presets.registry import preset_of
    from lmsearcher_local.report.figures import draw_borders, draw_calibration, draw_importance, draw_result
    from lmsearcher_local.search.calibration import LEVELS, against_pools, against_trials, coverage
    from lmsearcher_local.study.savings import savings
    from lmsearcher_local.study.schema import plan_of, read_result, runs_of

    plan, runs = plan_of(study), runs_of(study)
    result = read_result(study)
    several = len(result.goals) > 1
    measured = None if several else _table(plan["objective"])
    table = None if result.limits else measured  # which knows no limits
    known = preset_of(result.space)
    scores = result.merits if several else model_scores(result)
    picked = choices(study, result)
    everything = {code: result.sign * value for code, value in table.values.items()} if table else scores
    bins, points = against_pools(picked, everything), against_trials(picked, scores)
    shares = importance(result)
    label = measured.metric if measured else ", ".join(map(str, result.goals)) if several else "value"
    optimum = table.optimum[1] if table else None
    held = {trial.code: trial.values[0] for trial in result.holding}
    return {
        "plan": plan,
        "result": result,
        "label": label,
        "known": known,
        "table": table,
        "counts": Counter(map(_kind, result.trials)),
        "savings": savings(result) if plan.get("pruner") else None,
        "rows": best_rows(result),
        "limits": limit_rows(result),
        "borders": _embed(draw_borders(result, label)) if result.limits and result.nearest else None,
        "curve": _embed(draw_result(result, "", label, optimum)) if result.trials else None,
        "drawing": _embed(known.draw(result.best_trial.configuration)) if known and result.best_trial else None,
        "importance": shares,
        "bars": _embed(draw_importance(shares)) if shares else None,
        "picked": len(picked),
        "bins": bins,
        "points": points,
        "levels": LEVELS,
        "coverage": coverage(picked, held, result.sign),
        "relation": relation(points),
        "calibration": _embed(draw_calibration(bins, points, table is not None)) if bins or points else None,
        "pools": pools(picked, everything, result) if picked else None,
        "earlier": plan.get("earlier") or [],
        "beliefs": beliefs(picked, result),
        "before": 1 - USELESS,
        "runs": runs,
        "times": times(study),
    }


def _kind(trial: "Trial") -> str:
    if trial.given or trial.pruned:
        return "given" if trial.given else "pruned"
    return "failed" if trial.value is None else "broken" if trial.breaks else "told"


def model_scores(result: "Result") -> dict[str, float]:
    """The scores of codes as the model was shown them, higher better: what breaks a limit lies below all that hold."""
    from lmsearcher_local.candidates.limits import rank_scores

    scores = rank_scores(result.scores(result.valued)[:, 0], result.violations)
    return dict(zip((trial.code for trial in result.valued), scores.tolist(), strict=True))


def limit_rows(result: "Result") -> list[dict[str, Any]]:
    """For each limit how many trials break it, and what was measured of the best."""
    broken = (result.violations > 0).sum(0).tolist()
    measured = dict(result.best_trial.measured) if result.best_trial else {}
    return [
        {"limit": str(limit), "broken": count, "best": measured.get(limit.name)}
        for limit, count in zip(result.limits, broken, strict=True)
    ]


def best_rows(result: "Result") -> list[dict[str, Any]]:
    """The best trials, best first, or those of the front: number, code, values and the architecture in words."""
    from lmsearcher_local.presets.registry import preset_of

    known = preset_of(result.space)
    best = result.front or sorted(result.holding, key=lambda trial: -result.sign * trial.values[0])[:BEST]
    columns = [align(column) for column in zip(*(trial.values for trial in best), strict=True)]
    rows = []
    for trial, values in zip(best, zip(*columns, strict=True), strict=True):
        options = trial.configuration
        words = known.summary(options) if known else ", ".join(f"{name} = {option}" for name, option in options.items())
        rows.append({"number": trial.number, "code": trial.code, "value": " / ".join(values), "words": words})
    return rows


def align(values: Sequence[float]) -> list[str]:
    """Numbers of six digits, with as many decimals as the longest of them, so that a column of them lines up."""
    texts = [*map(_number, values)]
    decimals = max((len(text.partition(".")[2]) for text in texts), default=0)
    return texts if any("e" in text for text in texts) else [f"{value:.{decimals}f}" for value in values]


def importance(result: "Result") -> dict[str, float]:
    """What share of reaching the best tenth of the trials each parameter has (PED-ANOVA), largest first.

    Nothing where there are too few trials, or where all parameters matter as little. Those that are not active in all
    trials are left out.
    """
    import optuna

    from lmsearcher_local.spaces.distributions import trial_of

    if len(result.holding) < FEW:
        return {}
    study = optuna.create_study(direction="maximize")  # in memory: the search's trials alone
    study.add_trials([trial_of(result.space, t.configuration, value=result.merits[t.code]) for t in result.holding])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # that all are equal, which is then not shown
        shares: dict[str, float] = optuna.importance.get_param_importances(study)
    return shares if len(set(shares.values())) > 1 else {}


def choices(study: "optuna.Study", result: "Result") -> "list[Choice]":
    """The picks of which the storage says out of what pool they were taken, and with what probability."""
    from lmsearcher_local.search.groups import KILLED
    from lmsearcher_local.study.schema import choice_of

    ended = [t for t in study.get_trials(deepcopy=False) if t.state.is_finished() and KILLED not in t.user_attrs]
    return [choice for trial in ended if (choice := choice_of(trial, result.space))]


def beliefs(picked: "Sequence[Choice]", result: "Result") -> list[dict[str, Any]]:
    """How far earlier searches were believed at up to ``BELIEFS`` of the picks, evenly spread."""
    numbers = {trial.code: trial.number for trial in result.trials}
    rows = [
        {"number": numbers[choice.code], "trust": choice.belief[0], "agreements": choice.belief[1]}
        for choice in picked
        if choice.belief and choice.code in numbers
    ]
    places = {round(i * (len(rows) - 1) / (BELIEFS - 1)) for i in range(BELIEFS)} if rows else set()
    return [rows[place] for place in sorted(places)]


def relation(points: Sequence[tuple[float, float]]) -> float | None:
    """Spearman's correlation of confidence and place; nothing where one of them does not vary."""
    from scipy.stats import spearmanr

    varied = len(points) >= FEW and all(len(set(side)) > 1 for side in zip(*points, strict=True))
    return float(spearmanr(*zip(*points, strict=True)).statistic) if varied else None


def pools(picked: "Sequence[Choice]", scores: Mapping[str, float], result: "Result") -> dict[str, Any]:
    """What the model was shown, and what became of it."""
    sizes = [len(choice.pool) for choice in picked]
    offered = Counter(code for choice in picked for code in choice.pool)
    evaluated = {trial.code for trial in result.trials if not trial.given}
    return {
        "number": len(picked),
        "mean": statistics.fmean(sizes),
        "smallest": min(sizes),
        "largest": max(sizes),
        "distinct": len(offered),
        "again": sum(times > 1 for times in offered.values()),
        "evaluated": len(evaluated & offered.keys()),
        "probability": statistics.fmean(choice.probability for choice in picked),
        "guess": statistics.fmean(1 / size for size in sizes),
        "known": statistics.fmean(sum(code in scores for code in choice.pool) for choice in picked),
    }


def times(study: "optuna.Study") -> dict[str, Any] | None:
    """When the trials ran, and how long one took; those of a warm start took no time."""
    from lmsearcher_local.study.results import WARM

    ran = [
        (trial.datetime_start, trial.datetime_complete)
        for trial in study.get_trials(deepcopy=False)
        if trial.datetime_start and trial.datetime_complete and WARM not in trial.user_attrs
    ]
    if not ran:
        return None
    return {
        "first": _utc(min(start for start, _ in ran)),
        "last": _utc(max(end for _, end in ran)),
        "median": statistics.median((end - start).total_seconds() for start, end in ran),
    }


def _table(objective: str) -> "Table | None":
    """The benchmark table that was searched, where it is one and installed here."""
    from lmsearcher_local.errors import ObjectiveError
    from lmsearcher_local.presets.tables import table

    with suppress(ObjectiveError):
        return table(objective.removeprefix("table ")) if objective.startswith("table ") else None
    return None


def _embed(figure: "Figure") -> str:
    """A picture as the address of an image that is in the page itself, the same for the same study."""
    from matplotlib import rc_context

    from lmsearcher_local.presets.drawing import save_figure

    stream = io.StringIO()
    with rc_context({"svg.hashsalt": "lmsearcher-local"}):
        save_figure(figure, stream, format="svg", metadata={"Date": None})
    return "data:image/svg+xml;base64," + base64.b64encode(stream.getvalue().encode()).decode()


def _utc(moment: datetime) -> str:
    """Optuna's times are of this machine's zone and do not say so."""
    return moment.astimezone(UTC).strftime("%Y-%m-%d %H:%M")


def _number(value: float) -> str:
    return f"{value:.6g}"
