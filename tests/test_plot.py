"""The picture is drawn whatever the trials gave: outliers, failures, equal values, a single one."""

import struct
from pathlib import Path

import pytest

from lmsearcher_local.candidates.history import Direction
from lmsearcher_local.presets.drawing import save_figure
from lmsearcher_local.report.figures import draw_result
from lmsearcher_local.spaces.space import SearchSpace
from lmsearcher_local.study.results import Result, Trial

VALUES = {
    "outliers": [50.0, 60.0, 1.0, 61.0, 62.0, 63.0, 999.0],
    "failures": [None, 3.0, None, 4.0],
    "only failures": [None, None],
    "equal": [1.0] * 7,
    "one": [1.0],
    "huge": [1e300, -1e300, 0.0],
}


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("direction", ["maximize", "minimize"])
@pytest.mark.parametrize("name", VALUES)
def test_pictures(tmp_path: Path, name: str, direction: Direction) -> None:
    reasons = {None: "failed"}
    trials = tuple(
        Trial(i, "0", (("p0", 0),), () if value is None else (value,), reasons.get(value), given=False)
        for i, value in enumerate(VALUES[name], 1)
    )
    save_figure(
        draw_result(Result(SearchSpace([5]), direction, trials), name, "score", 70.0), tmp_path / "p.png", dpi=150
    )
    header = (tmp_path / "p.png").read_bytes()[:24]
    assert header.startswith(b"\x89PNG")
    assert struct.unpack(">II", header[16:]) == (1200, 675)
