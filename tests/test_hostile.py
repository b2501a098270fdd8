"""Hostile weights: an answer is in the pool with its exact probability, or there is a typed error."""

from pathlib import Path

import pytest

from bench.hostile import CODECS, KINDS, ask, write_hostile, write_sane

ANSWERS = 16
NONE = ("all NaN", "all +inf", "all -inf", "1e38 in the attention", "NaN in the values")  # no pool can be ranked
ALL = ("sane", "constant", "one-hot", "1e38", "1e38 in the network", "zero norms")  # every pool can


@pytest.fixture(scope="module")
def sane(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a small checkpoint for each codec."""
    folder = tmp_path_factory.mktemp("hostile")
    write_sane(folder)
    return folder


@pytest.mark.parametrize("kind", KINDS)
def test_answers_are_exact_or_there_are_none(kind: str, sane: Path, tmp_path: Path) -> None:
    codec = CODECS[KINDS.index(kind) % 2]
    write_hostile(sane / codec, tmp_path / "checkpoint", kind)
    found = ask(tmp_path / "checkpoint", "transformers", ANSWERS)
    assert found["answers"] == ANSWERS
    assert found["checked"] >= 2
    assert ("in the pool" not in found) or kind not in NONE
    assert ("errors" not in found) or kind not in ALL


@pytest.mark.parametrize("kind", ["all NaN", "some NaN", "one-hot"])
def test_vllm_likewise(kind: str, sane: Path, tmp_path: Path) -> None:
    write_hostile(sane / "text", tmp_path / "checkpoint", kind)
    found = ask(tmp_path / "checkpoint", "vllm", ANSWERS)
    assert ("in the pool" in found) == (kind == "one-hot")
