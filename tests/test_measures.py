"""Goals and limits: written, read, refused, and held against what was measured."""

import pytest

from lmsearcher_local.candidates.measures import Goal, Limit, goals_of, judge, limits_of, parse_goal, parse_limit
from lmsearcher_local.errors import MeasureError

LATENCY, ACCURACY = Limit("latency", 500.0, upper=True), Limit("val acc", 0.9, upper=False)


@pytest.mark.parametrize(
    ("text", "limit"),
    [
        ("latency <= 500", LATENCY),
        ("latency<=5e2", LATENCY),
        ("latency <= 0.0131829182306", Limit("latency", 0.0131829182306, upper=True)),
        (" val acc >= .9 ", ACCURACY),
        ("loss <= -0.25", Limit("loss", -0.25, upper=True)),
    ],
)
def test_a_limit_is_read_and_written(text: str, limit: Limit) -> None:
    assert parse_limit(text) == limit
    assert parse_limit(str(limit)) == limit


@pytest.mark.parametrize(("text", "goal"), [("accuracy:max", "maximize"), ("a:b : min", "minimize")])
def test_a_goal_is_read_and_written(text: str, goal: str) -> None:
    assert parse_goal(text).direction == goal
    assert parse_goal(str(parse_goal(text))) == parse_goal(text)


@pytest.mark.parametrize(
    "text", ["", "latency", "latency < 500", "<= 500", "latency <=", "latency <= fast", "latency <= nan", "l >= inf"]
)
def test_what_is_no_limit_is_one_sentence(text: str) -> None:
    with pytest.raises(MeasureError, match="a limit is written NAME <= NUMBER or NAME >= NUMBER, not "):
        parse_limit(text)


@pytest.mark.parametrize("text", ["", "accuracy", "accuracy:", ":max", "accuracy:maximize", "accuracy:up"])
def test_what_is_no_goal_is_one_sentence(text: str) -> None:
    with pytest.raises(MeasureError, match="a goal is written NAME:max or NAME:min, not "):
        parse_goal(text)


def test_goals_and_limits_are_named_once() -> None:
    assert limits_of(["latency <= 500", "latency >= 1", ACCURACY])[2] is ACCURACY
    with pytest.raises(MeasureError, match="two limits say what latency may be at most"):
        limits_of(["latency <= 500", "latency <= 400"])
    with pytest.raises(MeasureError, match="two goals are called accuracy"):
        goals_of(["accuracy:max", Goal("accuracy", "minimize")])


def test_what_was_measured_is_held_against_goals_and_limits() -> None:
    measured = {"val acc": 0.8, "latency": 700.0, "size": 3.0}
    goals = goals_of(["size:min", "val acc:max"])
    assert judge(measured, goals, [LATENCY, ACCURACY]) == ((3.0, 0.8), (200.0, pytest.approx(0.1)))
    assert judge({"loss": 1.0, "latency": 500.0}, (), [LATENCY]) == ((1.0,), (0.0,))
    assert judge(1.5, (), ()) == ((1.5,), ())


@pytest.mark.parametrize(
    ("measured", "goals", "message"),
    [
        (0.5, [], "one number was measured, 0.5; a mapping is needed that names latency"),
        ({"latency": 5.0}, [], "no value beside the limits: name what is searched for, such as --goal latency:max"),
        ({"latency": 5.0, "a": 1.0, "b": 2.0}, [], "2 values beside the limits, a, b: .* such as --goal a:max"),
        ({"speed": 5.0}, [], "no latency was measured; there is speed"),
        ({"latency": 5.0}, ["accuracy:max"], "no accuracy was measured; there is latency"),
    ],
)
def test_what_lacks_a_value_is_one_sentence(measured: float | dict[str, float], goals: list[str], message: str) -> None:
    with pytest.raises(MeasureError, match=message):
        judge(measured, goals_of(goals), [LATENCY])
