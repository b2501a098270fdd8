"""The kernel in Triton."""

from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

TOKENS, COLUMNS = 4, 1024  # of the head, in one step of a program: many small programs, few steps each


def restricted_head(hidden: Tensor, weight: Tensor, questions: Sequence[Sequence[int]]) -> Tensor:
    """See the package's function of this name."""
    lengths = [len(ids) for ids in questions]
    starts = torch.tensor([0, *lengths]).cumsum(0).to(hidden.device)
    tokens = torch.tensor([token for ids in questions for token in ids], dtype=torch.int64, device=hidden.device)
    answers = torch.empty(len(tokens), device=hidden.device)
    if len(tokens):
        grid = (len(questions), triton.cdiv(max(lengths), TOKENS))
        columns = min(COLUMNS, triton.next_power_of_2(hidden.shape[1]))
        _logits[grid](
            hidden,
            weight,
            tokens,
            starts,
            answers,
            hidden.shape[1],
            *hidden.stride(),
            *weight.stride(),
            TOKENS,
            columns,
        )
        _log_softmax[(len(questions),)](answers, starts, 128)
    return answers


@triton.jit
def _logits(
    hidden, weight, tokens, starts, logits, size, hidden_row, hidden_column, weight_row, weight_column,
    TOKENS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """The products of one question's hidden state with a few of its head rows."""
    question = tl.program_id(0).to(tl.int64)
    place = tl.load(starts + question) + tl.program_id(1) * TOKENS + tl.arange(0, TOKENS)
    inside = place < tl.load(starts + question + 1)
    rows = tl.load(tokens + place, mask=inside, other=0)
    products = tl.zeros([TOKENS, COLUMNS], tl.float32)
    for start in range(0, size, COLUMNS):
        column = start + tl.arange(0, COLUMNS)
        state = tl.load(hidden + question * hidden_row + column * hidden_column, mask=column < size, other=0)
        at = rows[:, None] * weight_row + column[None, :] * weight_column
        head = tl.load(weight + at, mask=inside[:, None] & (column < size)[None, :], other=0)
        products += head.to(tl.float32) * state.to(tl.float32)[None, :]
    tl.store(logits + place, tl.sum(products, 1), mask=inside)


@triton.jit
def _log_softmax(logits, starts, BLOCK: tl.constexpr):
    """Log-softmax of one question's logits, in place."""
    question = tl.program_id(0)
    first = tl.load(starts + question)
    end = tl.load(starts + question + 1)
    top = tl.full([], float("-inf"), tl.float32)
    total = tl.full([], 0.0, tl.float32)
    for start in range(first, end, BLOCK):
        place = start + tl.arange(0, BLOCK)
        values = tl.load(logits + place, mask=place < end, other=float("-inf"))
        higher = tl.maximum(top, tl.max(values, 0))
        total = total * tl.exp(top - higher) + tl.sum(tl.exp(values - higher), 0)
        top = higher
    for start in range(first, end, BLOCK):
        place = start + tl.arange(0, BLOCK)
        values = tl.load(logits + place, mask=place < end, other=0.0)
        tl.store(logits + place, values - top - tl.log(total), mask=place < end)
