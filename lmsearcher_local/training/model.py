"""The small ranker as it is trained: a Llama whose attention patterns are known, so that only what counts is computed.

Kinds of token: S (bos), D (digit), X (the last digit of a code), Y (score), A (alias), B (pick), H (hint). Who may look
at whom is fixed per head (see ``export.py``, which writes the same rules into the weights of a plain Llama):

- gather heads (layer 0, all but one): X, Y, A take the mean over the digits of their own code;
- hint head (layer 0, one): A takes the mean of its own hints;
- kernel heads: everything looks at S and at the scores Y before it: kernel regression, per digit and per code;
- sum heads (layer 2, half): X, Y, A look at the digits of their own code, which know their marginal means by then;
- copy head (layers 3 to 5, one): Y looks at its own X, which is what was predicted before the score was seen;
- pick heads (last layer, query B): B looks at the aliases A.

Digits are not needed after layer 2, so most of the depth runs on two tokens per trial whatever the code's length.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lmsearcher_local.prompt.compact import ALIASES, BASE, BINS, HINT_LIMITS, SLOTS

HEADS, CONTENT, HEAD_DIM = 4, 64, 80  # content dimensions per head; the rest is for the fixed rules
LAYERS, WIDTH, HIDDEN = 7, 192, 256
KINDS = "SDXYABH"
PHASES = 8
FREE = WIDTH - PHASES - len(KINDS)  # residual dimensions that layers write to; then phases, then kinds
PHASE_SIZE, KIND_SIZE = 1.5, 2.0
CODES = 56  # dimensions of a digit's vector
OWN, CODE, FEATURES = 0, CODES, 2 * CODES  # a token's own vector, its code's, and what is known about values
EPS = 1e-6
GAINS = ("q_own", "q_code", "v_own", "o_own", "o_code")


@dataclass(frozen=True, slots=True)
class Output:
    """``history`` and ``pool``: logits over score bins at X and A; ``pick``: logits over all aliases at B."""

    history: Tensor
    pool: Tensor
    pick: Tensor


class Block(nn.Module):
    """One Llama layer's matrices, heads side by side, content dimensions only.

    Vectors of digits and aliases are only compared and carried, with a gain per head; what is learned freely reads
    and writes features. So nothing learned depends on which digit stands where: it holds for slots never trained.
    """

    reads: Tensor
    scoring: Tensor
    writes: Tensor
    own: Tensor
    code: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.q = nn.Parameter(torch.zeros(HEADS * CONTENT, WIDTH))
        self.k = nn.Parameter(torch.zeros(HEADS * CONTENT, WIDTH))
        self.v = nn.Parameter(torch.zeros(HEADS * CONTENT, WIDTH))
        self.o = nn.Parameter(torch.zeros(FREE, HEADS * CONTENT))
        self.gate = nn.Parameter(torch.randn(HIDDEN, WIDTH) * WIDTH**-0.5)
        self.up = nn.Parameter(torch.randn(HIDDEN, WIDTH) * WIDTH**-0.5)
        self.down = nn.Parameter(torch.zeros(FREE, HIDDEN))
        self.gains = nn.ParameterDict({name: nn.Parameter(torch.zeros(HEADS)) for name in GAINS})
        reads = torch.zeros(WIDTH)
        reads[FEATURES:FREE] = reads[FREE + PHASES :] = 1.0
        scores = (torch.arange(HEADS * CONTENT) % CONTENT >= CODES).float()
        self.register_buffer("reads", reads, persistent=False)
        self.register_buffer("scoring", scores[:, None] * reads, persistent=False)
        self.register_buffer("writes", (torch.arange(FREE) >= FEATURES).float()[:, None], persistent=False)
        row, at = torch.arange(HEADS * CONTENT), torch.arange(HEADS * CONTENT) % CONTENT
        for name, start in (("own", OWN), ("code", CODE)):
            carry = torch.zeros(HEADS * CONTENT, WIDTH)
            carry[row[at < CODES], start + at[at < CODES]] = 1.0
            self.register_buffer(name, carry, persistent=False)

    def weights(self) -> dict[str, Tensor]:
        """The matrices as a plain Llama has them (less the fixed rules)."""
        own, code = self.own, self.code
        gain = {name: value.repeat_interleave(CONTENT)[:, None] for name, value in self.gains.items()}
        return {
            "q": self.q * self.scoring + gain["q_own"] * own + gain["q_code"] * code,
            "k": self.k * self.scoring + code,
            "v": self.v * self.reads + gain["v_own"] * own,
            "o": self.o * self.writes + (gain["o_own"] * own + gain["o_code"] * code)[:, :FREE].T,
            "gate": self.gate * self.reads,
            "up": self.up * self.reads,
            "down": self.down * self.writes,
        }


class Ranker(nn.Module):
    """The model; ``forward`` takes the arrays of a ``trajectories.Batch`` as tensors."""

    digit_vectors: Tensor
    names: Tensor

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.register_buffer("digit_vectors", torch.zeros(SLOTS * BASE, CODES))
        self.register_buffer("names", torch.zeros(ALIASES, CODES))
        self.scores = nn.Parameter(torch.zeros(BINS, FREE - FEATURES))
        self.hints = nn.Parameter(torch.zeros(len(HINT_LIMITS) * BINS, FREE - FEATURES))
        self.special = nn.Parameter(torch.randn(2, FREE - FEATURES) * 0.3)  # S, B
        self.blocks = nn.ModuleList(Block() for _ in range(LAYERS))
        self.score_head = nn.Parameter(torch.zeros(BINS, WIDTH))
        self.name_gain = nn.Parameter(torch.ones(()))

    def embeddings(self, kind: str) -> Tensor:
        """The residual stream of each token of a kind before layer 0."""
        if kind in "DX":
            return _stream(F.pad(self.digit_vectors, (0, FREE - CODES)), kind)
        if kind == "A":
            return _stream(F.pad(self.names, (0, FREE - CODES)), kind)
        features = {"Y": self.scores, "H": self.hints, "S": self.special[:1], "B": self.special[1:]}[kind]
        return _stream(F.pad(features, (FEATURES, 0)), kind)

    def head(self) -> Tensor:
        """Output rows of score bins, then of aliases."""
        return torch.cat(
            [self.score_head * self.block(0).reads, F.pad(self.name_gain * self.names, (0, WIDTH - CODES))]
        )

    def forward(self, digits: Tensor, bins: Tensor, hints: Tensor, aliases: Tensor) -> Output:
        batch, trials, length = digits.shape
        pool = aliases.shape[1]
        n = trials - pool
        early, final_digit = digits[..., :-1], digits[..., -1]
        # Layer 0: a token's own id decides everything but the gathered codes and hints.
        block = self.block(0).weights()
        gather, hint = slice(0, (HEADS - 1) * CONTENT), slice((HEADS - 1) * CONTENT, None)
        plain, last = self.embeddings("D"), self.embeddings("X")
        s, b = self.embeddings("S"), self.embeddings("B")
        sink = self._values(block, s)
        code = F.embedding(early, self._values(block, plain, gather)).sum(-2)
        code = (code + F.embedding(final_digit, self._values(block, last, gather))) / length
        told = self._values(block, self.embeddings("H"), hint)
        told = F.embedding(hints + BINS * torch.arange(len(HINT_LIMITS)), told).mean(-2)
        told = torch.cat([sink[:, hint].expand(batch, n, CONTENT), told], 1)
        code, sink = _write(torch.cat([code, told], -1), block["o"]), _write(sink, block["o"])
        table = self._mlp(block, plain + sink)
        x = self._mlp(block, F.embedding(final_digit, last) + code)
        y = self._mlp(block, F.embedding(bins[:, :n], self.embeddings("Y")) + code[:, :n])
        a = self._mlp(block, F.embedding(aliases, self.embeddings("A")) + code[:, n:])
        s = self._mlp(block, s + sink).expand(batch, 1, WIDTH)
        b = self._mlp(block, b + sink).expand(batch, 1, WIDTH)

        trial = torch.arange(trials)
        known = torch.cat([torch.full((1,), -1), torch.arange(n)])  # keys S, Y_0, Y_1, …
        before = known < trial[:, None]
        mask_y = known <= torch.arange(n)[:, None]
        # Layer 1: kernel heads everywhere; digits learn their marginal means.
        block = self.block(1).weights()
        mask = torch.cat([before.repeat_interleave(length - 1, 0), before, mask_y, before[n:], before[-1:]])
        early = early.flatten(1)
        rest = torch.cat([x, y, a, b], 1)
        q = torch.cat([F.embedding(early, self._project(block["q"], table)), self._project(block["q"], rest)], 1)
        rest = torch.cat([F.embedding(early, table), rest], 1)
        rest = self._mlp(block, rest + _write(self._attend(block, q, torch.cat([s, y], 1), mask), block["o"]))
        s = self._alone(block, s)
        d, x, y, a, b = rest.split([early.shape[1], trials, n, pool, 1], 1)
        # Layer 2: half of the heads sum over the own code, half are kernel heads.
        block = self.block(2).weights()
        own = torch.cat([d.reshape(batch, trials, length - 1, WIDTH), x[:, :, None]], 2)
        rest = torch.cat([x[:, :n], y, a, b], 1)
        mask = torch.cat([before[:n], mask_y, before[n:], before[-1:]])
        half = HEADS // 2 * CONTENT
        q = self._project(block["q"], rest)
        kernel = self._attend(block, q, torch.cat([s, y], 1), mask, slice(half, None))
        summed = self._own(block, q[..., :half], own, s, n, pool, half)
        rest = self._mlp(block, rest + _write(torch.cat([summed, kernel], -1), block["o"]))
        s = self._alone(block, s)
        # Layers 3 to 5: kernel heads and one copy head.
        cut = (HEADS - 1) * CONTENT
        for index in (3, 4, 5):
            block = self.block(index).weights()
            x, y, a, b = rest.split([n, n, pool, 1], 1)
            kernel = self._attend(block, self._project(block["q"], rest), torch.cat([s, y], 1), mask, slice(0, cut))
            nothing = self._values(block, s, slice(cut, None))
            copied = torch.cat(
                [
                    nothing.expand(batch, n, CONTENT),
                    self._values(block, x, slice(cut, None)),
                    nothing.expand(batch, pool + 1, CONTENT),
                ],
                1,
            )
            rest = self._mlp(block, rest + _write(torch.cat([kernel, copied], -1), block["o"]))
            s = self._alone(block, s)
        # Last layer: X and A ask the scores once more, B asks the aliases.
        block = self.block(6).weights()
        x, y, a, b = rest.split([n, n, pool, 1], 1)
        asking = torch.cat([x, a], 1)
        keys = torch.cat([s, y], 1)
        asking = asking + _write(self._attend(block, self._project(block["q"], asking), keys, before), block["o"])
        every = torch.ones(1, pool, dtype=torch.bool)
        b = b + _write(self._attend(block, self._project(block["q"], b), a, every), block["o"])
        final = _norm(self._mlp(block, torch.cat([asking, b], 1)))
        head = self.head()
        scores = final[:, :-1] @ head[:BINS].T
        return Output(scores[:, :n], scores[:, n:], final[:, -1] @ head[BINS:].T)

    def block(self, index: int) -> Block:
        block = self.blocks[index]
        assert isinstance(block, Block)
        return block

    def _project(self, weight: Tensor, stream: Tensor) -> Tensor:
        return F.linear(_norm(stream), weight)

    def _values(self, block: dict[str, Tensor], stream: Tensor, part: slice = slice(None)) -> Tensor:
        return self._project(block["v"][part], stream)

    def _mlp(self, block: dict[str, Tensor], stream: Tensor) -> Tensor:
        h = _norm(stream)
        h = F.silu(F.linear(h, block["gate"])) * F.linear(h, block["up"])
        return stream + _write(h, block["down"])

    def _alone(self, block: dict[str, Tensor], s: Tensor) -> Tensor:
        one = s[:1]
        return self._mlp(block, one + _write(self._values(block, one), block["o"])).expand(s.shape)

    def _attend(
        self, block: dict[str, Tensor], q: Tensor, keys: Tensor, mask: Tensor, part: slice = slice(None)
    ) -> Tensor:
        h = _norm(keys)
        k, v = (F.linear(h, w[part]) for w in (block["k"], block["v"]))
        out = F.scaled_dot_product_attention(
            _heads(q[..., part]), _heads(k), _heads(v), attn_mask=mask, scale=HEAD_DIM**-0.5
        )
        return out.transpose(1, 2).flatten(2)

    def _own(self, block: dict[str, Tensor], q: Tensor, own: Tensor, s: Tensor, n: int, pool: int, half: int) -> Tensor:
        """X, Y and A look at the digits of their own code; B, which has none, at S."""
        h = _norm(own)
        k, v = (F.linear(h, w[:half]) for w in (block["k"], block["v"]))
        batch, trials, length = k.shape[:3]
        shape = (batch, trials, length, HEADS // 2, CONTENT)
        k, v = k.view(shape), v.view(shape)
        q = q.view(batch, -1, HEADS // 2, CONTENT)
        parts = []
        for at, trial in (
            (slice(0, n), slice(0, n)),
            (slice(n, 2 * n), slice(0, n)),
            (slice(2 * n, -1), slice(n, None)),
        ):
            weight = torch.einsum("bthc,btlhc->bthl", q[:, at], k[:, trial]) * HEAD_DIM**-0.5
            parts.append(torch.einsum("bthl,btlhc->bthc", weight.softmax(-1), v[:, trial]).flatten(2))
        return torch.cat([*parts, self._values(block, s, slice(0, half))], 1)


def _stream(content: Tensor, kind: str) -> Tensor:
    """Content with the fixed part of the residual stream behind it (phases by their size; their angle is not read)."""
    fixed = torch.zeros(PHASES + len(KINDS))
    if kind not in "SB":
        fixed[:PHASES:2] = PHASE_SIZE
    fixed[PHASES + KINDS.index(kind)] = KIND_SIZE
    return torch.cat([content, fixed.expand(*content.shape[:-1], -1)], -1)


def _write(values: Tensor, weight: Tensor) -> Tensor:
    """What a layer adds to the stream: nothing to the fixed part."""
    return F.pad(F.linear(values, weight), (0, WIDTH - FREE))


def _norm(stream: Tensor) -> Tensor:
    return F.rms_norm(stream, (WIDTH,), eps=EPS)


def _heads(x: Tensor) -> Tensor:
    return x.unflatten(-1, (-1, CONTENT)).transpose(1, 2)
