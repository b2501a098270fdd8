"""The bundled checkpoint's codec: the rows of a prompt, what changes them, what does not fit."""

from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from lmsearcher_local.candidates.history import History
from lmsearcher_local.candidates.pools import Pool
from lmsearcher_local.candidates.surrogate import REFITS, Surrogate
from lmsearcher_local.errors import CheckpointError, PromptError
from lmsearcher_local.model.checkpoint import TABLE
from lmsearcher_local.model.codecs.compact import (
    BASE,
    LIMIT,
    CompactCodec,
    code_rows,
    expand,
    features_of,
    lay_out,
    load_codec,
    table_shapes,
)
from lmsearcher_local.spaces.space import SearchSpace

WIDTH = 32


def random_table(width: int = WIDTH) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    return {name: rng.standard_normal(shape).astype(np.float32) for name, shape in table_shapes(width).items()}


CODEC = CompactCodec(random_table())
SPACE = SearchSpace({"rank": [4, 8, 16, 32], "alpha": [4, 8, 16, 32], "act": ["relu", "gelu", "silu"], "n": [1, 2, 3]})


def question(n: int, m: int, scale: float = 1.0) -> tuple[History, Pool]:
    codes = SPACE.sample(np.random.default_rng(1), 60)
    scores = [scale * (int(code[0]) - (int(code[1]) - 1.5) ** 2 + int(code[2]) / 7) for code in codes]
    history = History(tuple(codes[:n]), tuple(scores[:n]))
    return history, Pool(tuple(codes[60 - m :]), Surrogate(SPACE, history))


def rows(n: int, m: int, scale: float = 1.0) -> np.ndarray:
    return CODEC.prompt(SPACE, *question(n, m, scale))


def test_a_row_for_each_trial_and_candidate_and_one_that_asks() -> None:
    prompt = rows(30, 7)
    assert prompt.shape == (38, WIDTH)
    assert prompt.dtype == np.float32
    assert np.isfinite(prompt).all()
    assert (prompt[-1] == CODEC.table["pick"]).all()
    assert CODEC.answers(SPACE, ["0000"] * 7) == [[k] for k in range(7)]
    assert len(rows(0, 7)) == 8
    assert len(rows(5, 0)) == 6


def test_equal_questions_give_equal_rows_in_any_unit() -> None:
    assert (rows(30, 7) == rows(30, 7)).all()
    assert np.allclose(rows(30, 7), rows(30, 7, scale=1e6), atol=1e-4)


def test_a_candidate_is_shown_alike_in_any_pool() -> None:
    """Only the alias says where it stands."""
    history, pool = question(30, 7)
    turned = Pool(pool.codes[::-1], pool.surrogate)
    bare = [CODEC.prompt(SPACE, history, shown)[30:-1] - CODEC.table["aliases"][:7] for shown in (pool, turned)]
    assert np.allclose(bare[0], bare[1][::-1], atol=1e-5)
    alone = CODEC.score_prompts(pool)
    assert [len(prompt) for prompt in alone] == [31] * 7
    assert np.allclose([prompt[-1] - CODEC.table["aliases"][0] for prompt in alone], bare[0], atol=1e-5)


def test_rows_of_earlier_trials_change_at_refits_only() -> None:
    prompts = {n: rows(n, 0)[:-1] for n in range(1, 50)}
    for n in range(5, 49):
        same = bool((prompts[n + 1][:n] == prompts[n]).all())
        assert same == (n + 1 not in REFITS), n


def test_codes_are_as_much_alike_as_they_share_options() -> None:
    """What stands in the same place is one vector; of positions that offer the same options some of it is shared."""
    vectors = code_rows(CODEC.table, features_of(SPACE, ["0000", "0001", "1111", "2200"]))
    assert vectors.shape == (4, WIDTH)
    layout = lay_out(SPACE)
    assert layout.sets.tolist() == [0, 0, -1, -1]
    assert (layout.steps > 0).tolist() == [True, True, False, True]
    table = CODEC.table | {"options": np.zeros_like(CODEC.table["options"])}
    swapped = code_rows(table, features_of(SearchSpace({"a": ["x", "y"], "b": ["x", "y"]}), ["01", "10", "11"]))
    assert np.allclose(swapped[0], swapped[1])
    assert not np.allclose(swapped[0], swapped[2])


def test_wide_positions_take_base_16_digits() -> None:
    space = SearchSpace([300, 17])
    features = features_of(space, [space.code([0x1AB - 200, 16])])
    assert (features.options % BASE).tolist() == [[0, 14, 3, 1, 0]]
    assert (features.options // BASE).tolist() == [[0, 1, 2, 3, 4]]
    assert (features.places != 0).tolist() == [[True, False, False, True, False]]


def test_numbers_enter_as_they_are() -> None:
    values = np.array([-9.0, -1.0, 0.001, 0.002, 9.0])
    features = expand(values)
    assert (features[:, 0] == 1).all()
    assert features[:, 1].tolist() == pytest.approx([-1, -1 / LIMIT, 0.001 / LIMIT, 0.002 / LIMIT, 1])
    assert (features[:, 2:].max(1) > 0.88).all()  # a bump is near, wherever a number is


def test_what_does_not_fit() -> None:
    with pytest.raises(PromptError, match="65 code digits"):
        CODEC.longest_prompt(SearchSpace([2] * 65), 10)
    assert CODEC.longest_prompt(SearchSpace([2] * 64), 10) == 212
    space = SearchSpace([200])
    codes = tuple(space.code([i]) for i in range(129))
    with pytest.raises(PromptError, match="129 candidates"):
        CODEC.prompt(space, History(), Pool(codes, Surrogate(space, History())))


@pytest.mark.parametrize("scores", [[1.0], [2.0] * 9, [0.0, 1e308, -1e308], [1e-320, 0.0, 5.0, 5.0]])
def test_odd_scores_give_finite_rows(scores: list[float]) -> None:
    codes = SPACE.sample(np.random.default_rng(2), 20)
    history = History(tuple(codes[: len(scores)]), tuple(scores))
    prompt = CODEC.prompt(SPACE, history, Pool(tuple(codes[10:]), Surrogate(SPACE, history)))
    assert np.isfinite(prompt).all()


def test_folders_whose_table_is_not_there_or_another_ones(tmp_path: Path) -> None:
    file = tmp_path / TABLE
    with pytest.raises(CheckpointError, match="train it anew"):
        load_codec(file, WIDTH)
    file.parent.mkdir()
    file.write_bytes(b"no table")
    with pytest.raises(CheckpointError, match="damaged"):
        load_codec(file, WIDTH)
    save_file(random_table(), file)
    assert (load_codec(file, WIDTH).table["pick"] == CODEC.table["pick"]).all()
    with pytest.raises(CheckpointError, match="width 64"):
        load_codec(file, 64)
    save_file(random_table() | {"pick": np.full((1, WIDTH), np.nan, np.float32)}, file)
    with pytest.raises(CheckpointError, match="finite"):
        load_codec(file, WIDTH)
