"""The kernels in Triton."""

from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

TOKENS, COLUMNS = 4, 1024  # of the head, in one step of a program: many small programs, few steps each
PAIRS = 2048  # distances that one program holds at a time


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


def hamming_topk(candidates: Tensor, codes: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """See the package's function of this name."""
    (m, length), n = candidates.shape, len(codes)
    distances, indices = torch.empty(2, m, k, dtype=torch.int64, device=candidates.device)
    slots = triton.next_power_of_2(k)
    mine = max(1, min(32, PAIRS // slots))
    if m:
        # One position of many codes lies together, so that neighbouring threads read neighbouring bytes.
        columns = candidates.T.contiguous(), codes.T.contiguous()
        _nearest[(triton.cdiv(m, mine),)](*columns, distances, indices, m, n, length, k, slots, mine, PAIRS // 32)
    return distances, indices


@triton.jit
def _nearest(
    candidates, codes, distances, indices, m, n, length, k,
    SLOTS: tl.constexpr, MINE: tl.constexpr, THEIRS: tl.constexpr,
):  # fmt: skip
    """The nearest codes of a few candidates, in one pass over all codes.

    A key is ``distance * n + index``: keys are all different and their order is the order of the answer.
    """
    mine = tl.program_id(0) * MINE + tl.arange(0, MINE)
    slot = tl.arange(0, SLOTS)[None, :]
    beyond = (length + 1) * tl.cast(n, tl.int64)  # above every key
    # Slots still free hold keys above all others, each its own; those past k hold one that is never the worst.
    best = tl.where(slot < k, beyond + slot, -1) + tl.zeros([MINE, 1], tl.int64)
    for start in range(0, n, THEIRS):
        theirs = start + tl.arange(0, THEIRS)
        apart = tl.zeros([MINE, THEIRS], tl.int64)
        for place in range(length):
            ours = tl.load(candidates + tl.cast(place, tl.int64) * m + mine, mask=mine < m, other=0)
            other = tl.load(codes + tl.cast(place, tl.int64) * n + theirs, mask=theirs < n, other=0)
            apart += (ours[:, None] != other[None, :]).to(tl.int64)
        keys = tl.where(theirs[None, :] < n, apart * n + theirs[None, :], beyond + SLOTS)
        nearest = tl.min(keys, 1)
        worst = tl.max(best, 1)
        while tl.max((nearest < worst).to(tl.int32), 0) > 0:  # seldom, once the first codes are through
            better = (nearest < worst)[:, None] & (best == worst[:, None])
            best = tl.where(better, nearest[:, None], best)
            keys = tl.where(keys == nearest[:, None], beyond + SLOTS, keys)
            nearest = tl.min(keys, 1)
            worst = tl.max(best, 1)
    best = tl.where(slot < k, best, beyond + SLOTS)
    for place in range(k):
        nearest = tl.min(best, 1)
        at = tl.cast(mine, tl.int64) * k + place
        tl.store(distances + at, nearest // n, mask=mine < m)
        tl.store(indices + at, nearest % n, mask=mine < m)
        best = tl.where(best == nearest[:, None], beyond + SLOTS, best)
