"""The token trie against brute force: every constrained decoding path, enumerated."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lmsearcher_local.errors import EngineError, PromptError
from lmsearcher_local.model.trie import TokenTrie, log_softmax

LOGITS = np.random.default_rng(0).normal(size=(997, 7)) * 2
POOLS = st.lists(st.tuples(*[st.integers(0, 6)] * 4), min_size=1, max_size=25, unique=True)


def logits_after(path: tuple[int, ...]) -> np.ndarray:
    """A fixed random model over seven tokens."""
    return LOGITS[hash(path) % len(LOGITS)]


def brute_force(answers: list[tuple[int, ...]], temperature: float) -> np.ndarray:
    """Walk each answer token by token and renormalise over what the pool allows there."""
    total = np.ones(len(answers))
    for i, answer in enumerate(answers):
        for depth, token in enumerate(answer):
            allowed = sorted({other[depth] for other in answers if other[:depth] == answer[:depth]})
            weights = np.exp(logits_after(answer[:depth])[allowed] / temperature)
            total[i] *= weights[allowed.index(token)] / weights.sum()
    return total


def asked(trie: TokenTrie) -> list[np.ndarray]:
    return [logits_after(branch.path)[list(branch.tokens)] for branch in trie.branches]


@given(POOLS, st.sampled_from([0.3, 1.0, 2.0]))
def test_the_distribution_is_that_of_constrained_sampling(pool: list[tuple[int, ...]], temperature: float) -> None:
    trie = TokenTrie(pool)
    found = np.exp(trie.log_probs(asked(trie), temperature))
    np.testing.assert_allclose(found, brute_force(pool, temperature), atol=1e-12)
    assert found.sum() == pytest.approx(1)


@given(POOLS)
def test_greedy_takes_the_likeliest_token_at_each_step(pool: list[tuple[int, ...]]) -> None:
    left = list(pool)
    for depth in range(4):
        best = max({answer[depth] for answer in left}, key=lambda token: logits_after(left[0][:depth])[token])
        left = [answer for answer in left if answer[depth] == best]
    trie = TokenTrie(pool)
    assert pool[trie.greedy(asked(trie))] == left[0]


def test_only_branching_nodes_are_asked() -> None:
    trie = TokenTrie([(1, 2, 3, 4), (1, 2, 5, 4), (1, 2, 5, 6)])
    assert [(branch.path, branch.tokens) for branch in trie.branches] == [((1, 2), (3, 5)), ((1, 2, 5), (4, 6))]
    assert TokenTrie([(1, 2, 3)]).branches == []


@pytest.mark.parametrize("answers", [[], [(1, 2), (1, 2)], [(1,), (1, 2)]])
def test_candidates_that_cannot_be_told_apart_are_refused(answers: list[tuple[int, ...]]) -> None:
    with pytest.raises(PromptError):
        TokenTrie(answers)


@pytest.mark.parametrize("values", [[np.nan, 0.0], [np.inf, 0.0], [-np.inf, -np.inf]])
def test_answers_that_are_no_probabilities_are_refused(values: list[float]) -> None:
    with pytest.raises(EngineError):
        log_softmax(np.array(values))


def test_a_forbidden_token_has_no_probability() -> None:
    np.testing.assert_allclose(np.exp(log_softmax(np.array([0.0, -np.inf, 0.0]))), [0.5, 0, 0.5])
