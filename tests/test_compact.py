"""The bundled checkpoint's codec: token ids of prompts, the score scale, what does not fit."""

import numpy as np
import pytest

from lmsearcher_local.errors import PromptError
from lmsearcher_local.history import History
from lmsearcher_local.prompt.compact import (
    BASE,
    BINS,
    BOS,
    FIRST_ALIAS,
    FIRST_DIGIT,
    FIRST_HINT,
    FIRST_SCORE,
    PICK,
    VOCABULARY,
    CompactCodec,
    digit_ids,
    hint_bins,
    scale_length,
    score_bins,
    shown,
)
from lmsearcher_local.space import SearchSpace
from lmsearcher_local.surrogate import Surrogate

CODEC = CompactCodec()


def read(ids: list[int], length: int, trials: int) -> tuple[list[tuple[int, ...]], list[int], np.ndarray]:
    """Digits and final tokens of each trial and candidate of a prompt, and the bins of the candidates' hints."""
    assert ids[0] == BOS
    assert ids[-1] == PICK
    cut = 1 + trials * (length + 1)
    history = np.array(ids[1:cut]).reshape(-1, length + 1)
    pool = np.array(ids[cut:-1]).reshape(-1, length + 3)
    digits = np.concatenate([history[:, :length], pool[:, :length]]) - FIRST_DIGIT
    assert (digits // BASE == np.arange(length)[::-1]).all()
    hints = pool[:, length:-1] - FIRST_HINT - [0, BINS]
    assert ((hints >= 0) & (hints < BINS)).all()
    return [tuple(row) for row in (digits % BASE).tolist()], [*history[:, -1].tolist(), *pool[:, -1].tolist()], hints


def test_a_prompt_can_be_read_back() -> None:
    space, rng = SearchSpace([5, 2, 16, 3]), np.random.default_rng(0)
    codes = space.sample(rng, 30)
    history = History(tuple(codes[:20]), tuple(range(20)))
    ids = CODEC.prompt(space, history, codes[20:])
    rows, last, hints = read(ids, 4, 20)
    assert rows == [space.indices(code) for code in codes]
    assert last[20:] == [answer[0] for answer in CODEC.answers(space, codes[20:])]
    scores = np.array(last[:20])
    assert ((scores >= FIRST_SCORE) & (scores < FIRST_ALIAS)).all()
    assert (np.diff(scores) >= 0).all()
    assert max(ids) < VOCABULARY
    assert (hints == hint_bins(space, history, codes[20:])).all()


def test_hints_are_the_surrogates_order_and_nothing_without_a_history() -> None:
    space, rng = (
        SearchSpace({"a": [1, 2, 3, 4, 5], "b": ["x", "y", "z"], "c": [0.1, 0.2, 0.4]}),
        np.random.default_rng(0),
    )
    codes = space.sample(rng, 30)
    history, pool = History(tuple(codes[:20]), tuple(float(code[0]) - int(code[2]) for code in codes[:20])), codes[20:]
    hints = hint_bins(space, history, pool)
    surrogate = Surrogate(space, history)
    for hint, values in zip(
        hints.T, (surrogate.posterior(pool)[0], surrogate.appraise(pool).improvements), strict=True
    ):
        assert hint.min() == 0
        assert (np.diff(hint[np.argsort(-values, kind="stable")]) >= 0).all()
    assert (hint_bins(space, History(), pool) == 0).all()
    assert hint_bins(space, history, []).shape == (0, 2)
    # A pool's hints are those of each candidate, whatever its place, and the history's unit does not matter.
    order = rng.permutation(10)
    assert (hint_bins(space, history, [pool[i] for i in order]) == hints[order]).all()
    assert (hint_bins(space, History(history.codes, tuple(1e6 * v for v in history.scores)), pool) == hints).all()


def test_wide_positions_take_base_16_digits() -> None:
    [ids] = digit_ids([300, 17], np.array([[0x1AB - 200, 16]])).tolist()
    assert [(i - FIRST_DIGIT) % BASE for i in ids] == [0, 14, 3, 1, 0]
    assert [(i - FIRST_DIGIT) // BASE for i in ids] == [4, 3, 2, 1, 0]


def test_spaces_and_pools_that_do_not_fit() -> None:
    long = SearchSpace([2] * 65)
    with pytest.raises(PromptError, match="65 code tokens"):
        CODEC.prompt(long, History(), ["0" * 65])
    space = SearchSpace([200])
    with pytest.raises(PromptError, match="129 candidates"):
        CODEC.prompt(space, History(), [space.code([i]) for i in range(129)])


def test_the_largest_space_fits() -> None:
    space = SearchSpace([2] * 64)
    assert len(CODEC.prompt(space, History(), ["0" * 64])) == 69


@pytest.mark.parametrize("scores", [[1.0], [2.0] * 9, [0.0, 1e308, -1e308], [1e-320, 0.0, 5.0, 5.0]])
def test_odd_scores_keep_their_order(scores: list[float]) -> None:
    for fitted in range(1, len(scores) + 1):
        bins = score_bins(scores, fitted)
        order = np.argsort(scores, kind="stable")
        assert (np.diff(bins[order]) >= 0).all()
        assert ((bins >= 0) & (bins < 64)).all()


def test_the_scale_does_not_depend_on_units() -> None:
    scores = np.random.default_rng(1).standard_normal(40)
    assert (score_bins(scores, 40) == score_bins(np.exp(3 * scores), 40)).all()


def test_prompts_grow_at_their_end_between_refits() -> None:
    space, rng = SearchSpace([5] * 6), np.random.default_rng(2)
    codes = space.sample(rng, 32)
    scores = tuple(float(v) for v in rng.standard_normal(32))
    prompts = {n: CODEC.prompt(space, History(tuple(codes[:n]), scores[:n]), []) for n in range(33)}
    for n in range(8, 32):
        same = prompts[n + 1][: len(prompts[n]) - 1] == prompts[n][:-1]
        assert same == (scale_length(n) == scale_length(n + 1)) or n + 1 in (12, 16, 24, 32)


def test_over_the_cap_the_best_and_the_latest_are_shown() -> None:
    scores = [float(-abs(i - 50)) for i in range(300)]
    kept = shown(scores)
    assert len(kept) == 200
    assert kept == sorted(kept)
    assert {50, 299, 250} <= set(kept)


def test_history_and_pool_apart_are_as_long_as_together() -> None:
    space = SearchSpace([5] * 4)
    codes = space.sample(np.random.default_rng(3), 12)
    history, pool = History(tuple(codes[:9]), tuple(range(9))), codes[9:]
    parts = ((history, []), (History(), pool), (History(), []), (history, pool))
    with_history, with_pool, bare, whole = (len(CODEC.prompt(space, *part)) for part in parts)
    assert with_history + with_pool - bare == whole
