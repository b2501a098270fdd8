"""Initial weights: kernel regression, means and hints by hand, plus noise: training starts far above chance."""

import torch
from torch import Tensor

from lmsearcher_local.prompt.compact import ALIASES, BASE, BINS, HINT_LIMITS, LIMIT, SLOTS
from lmsearcher_local.training.model import CODES, CONTENT, FEATURES, FREE, HEADS, KIND_SIZE, KINDS, PHASES, Ranker

BUMPS, HINT_BUMPS = 17, 14  # features of a score and of a hint besides their value
VALUE, GUESS = FEATURES, FEATURES + BUMPS + 1  # where scores stand, where heads write what they expect
HINTS = GUESS + 14  # where hints stand: their values, then their bumps
HINT_SCALES = (2.0, 0.7)  # of a gap in normal scores, of one in the logarithm of the expected improvement
NOISE = 0.004


@torch.no_grad()
def set_start(model: Ranker) -> None:
    """Write the initial weights into a fresh model."""
    for i in range(len(model.blocks)):
        block = model.block(i)
        for weight in (block.v, block.o, block.down):
            weight.normal_(0, NOISE)
        for weight in (block.q, block.k):
            weight.normal_(0, 0.05)
    model.digit_vectors.copy_(8 * _digit_vectors())
    names = _apart(torch.ones(ALIASES, ALIASES), torch.eye(ALIASES))
    model.names.copy_(1.5 * names)
    grid = torch.linspace(-LIMIT, LIMIT, BINS)
    centres = torch.linspace(-2.6, 2.6, BUMPS)
    model.scores[:, 0] = 2 * grid
    model.scores[:, 1 : 1 + BUMPS] = 1.5 * torch.exp(-(((grid[:, None] - centres) / 0.45) ** 2))
    steps = torch.linspace(0, 1, BINS)
    bumps = 1.5 * torch.exp(-(((steps[:, None] - torch.linspace(0, 1, HINT_BUMPS)) * HINT_BUMPS / 1.3) ** 2))
    for i, (limit, scale) in enumerate(zip(HINT_LIMITS, HINT_SCALES, strict=True)):
        rows, first = slice(i * BINS, (i + 1) * BINS), HINTS - FEATURES
        model.hints[rows, first + i] = -scale * limit * steps**2
        first += len(HINT_LIMITS) + i * HINT_BUMPS
        model.hints[rows, first : first + HINT_BUMPS] = bumps

    # Layer 0: the mean of a code's digit vectors goes to CODE, hints are kept where they stand.
    block = model.block(0)
    block.gains["v_own"][0], block.gains["o_code"][0] = 1.0, 2.5
    told, hint = len(HINT_LIMITS) * (1 + HINT_BUMPS), (HEADS - 1) * CONTENT
    block.v[hint : hint + told, HINTS : HINTS + told] = torch.eye(told)
    block.o[HINTS : HINTS + told, hint : hint + told] = 0.3 * torch.eye(told)
    # Layer 1: digits ask for scores of codes with the same digit; codes for similar codes.
    block = model.block(1)
    for head, (own, code) in enumerate(((1.2, 0.0), (0.0, 0.6), (0.0, 0.9), (1.7, 0.0))):
        block.gains["q_own"][head], block.gains["q_code"][head] = own**2, code**2
        _carry(block.v, block.o, head, GUESS + head)
    # Layer 2: sum heads gather what the digits found, and the code again, to be weighed; kernel heads.
    block = model.block(2)
    for head in (0, 1):
        at = head * CONTENT
        block.v[at, GUESS] = block.v[at, GUESS + 3] = 1.0
        block.o[GUESS + 4 + head, at] = 1.0
    block.gains["v_own"][1], block.gains["o_code"][1] = 1.0, 0.3
    for head, strength in ((2, 0.5), (3, 0.9)):
        block.gains["q_code"][head] = strength**2
        _carry(block.v, block.o, head, GUESS + 4 + head)
    for index in (3, 4, 5):
        block = model.block(index)
        for head, strength in enumerate((0.4, 0.65, 0.9)):
            block.gains["q_code"][head] = strength**2
            _carry(block.v, block.o, head, GUESS + (7 if index == 3 else 10) + head)
            if index > 3:  # what the sum over digits did not explain
                block.v[head * CONTENT, GUESS + 4 : GUESS + 6] -= 1.5
        copy = (HEADS - 1) * CONTENT
        block.v[copy : copy + 16, GUESS : GUESS + 16] = torch.eye(16)
        block.o[GUESS : GUESS + 16, copy : copy + 16] = 0.3 * torch.eye(16)
    # Last layer: B weighs the aliases by their guesses; the head reads the name, or the guess as a score.
    block = model.block(6)
    weights = torch.tensor([0, 1.0, 0, 0, 2.0, 2.0, 0, 0.5, 0.3, 0.3, 0.3, 0.3, 0.3])
    guesses = slice(GUESS, GUESS + len(weights))
    for head, sharpness in enumerate((0.3, 0.6, 1.2, 2.5)):
        at = head * CONTENT + CODES
        block.q[at, FREE + PHASES + KINDS.index("B")] = 8.0 / KIND_SIZE
        block.k[at, guesses] = sharpness * weights
        block.k[at, HINTS : HINTS + len(HINT_LIMITS)] = sharpness * torch.tensor([6.0, 3.0])
        block.gains["v_own"][head], block.gains["o_own"][head] = 1.0, 1.0
    model.name_gain.fill_(1.0)
    model.score_head[:, guesses] = 0.15 * grid[:, None] * weights
    for kind in "XA":
        model.score_head[:, FREE + PHASES + KINDS.index(kind)] = -0.2 * grid**2


def _carry(v: Tensor, o: Tensor, head: int, to: int) -> None:
    """The head brings the value and its features; the value is written at ``to``."""
    at = head * CONTENT
    v[at : at + 1 + BUMPS, VALUE : VALUE + 1 + BUMPS] += torch.eye(1 + BUMPS)
    o[to, at] += 1.0


def _digit_vectors() -> Tensor:
    """Unit vectors per (slot, digit), nearly orthogonal where spaces use them most; neighbouring digits a bit alike."""
    slot = torch.arange(SLOTS).repeat_interleave(BASE).float()
    digit = torch.arange(BASE).repeat(SLOTS).float()
    use = torch.exp(-slot / 6) * torch.exp(-digit / 5) + 0.003
    same = slot[:, None] == slot
    target = torch.where(same, torch.exp(-(digit[:, None] - digit).abs() * 1.2), 0.0)
    return _apart((use[:, None] * use) * torch.where(same, 0.3, 1.0), target)


def _apart(weight: Tensor, target: Tensor) -> Tensor:
    """Unit vectors whose inner products are near ``target``, most where ``weight`` is high."""
    vectors = torch.randn(len(target), CODES).requires_grad_()
    with torch.enable_grad():
        optimiser = torch.optim.Adam([vectors], lr=0.03)
        for _ in range(150):
            unit = vectors / vectors.norm(dim=1, keepdim=True)
            loss = (weight * (unit @ unit.T - target) ** 2).sum() / weight.sum()
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
    return (vectors / vectors.norm(dim=1, keepdim=True)).detach()
