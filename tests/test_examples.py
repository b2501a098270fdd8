"""The objectives of the examples: their values are finite, repeat, and depend on the configuration."""

import math
from pathlib import Path

import pytest

from lmsearcher_local.spaces.space import SearchSpace
from lmsearcher_local.study.objectives.function import FunctionObjective

EXAMPLE = Path(__file__).parent.parent / "examples" / "lora_digits"


def test_lora_ranks_matter_and_repeat(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(EXAMPLE))
    space = SearchSpace.load(EXAMPLE / "space.yaml")
    goal = FunctionObjective("objective:cost")
    nothing, one = "0" * 16, "0" * 13 + "200"
    without = goal(nothing, space.decode(nothing))
    assert without > math.log(10)  # the base model is worse than a guess on rotated digits
    trained = goal(one, space.decode(one))
    assert trained < without
    assert goal(one, space.decode(one)) == trained
    goal.close()
