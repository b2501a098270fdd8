"""Writes the trained model as a plain Llama checkpoint: the fixed attention rules become weights.

A gate is one dimension of a head: the query carries a large number, keys that it must not see carry a negative flag,
all others exactly zero. "Own code" is a matter of phase: every token's embedding holds its distance to the end of its
trial as angles of the fast rotary frequencies, so that rotary position turns all tokens of one trial to the same
angles; a head that compares them, less a constant, gives zero inside the trial and a large negative number outside.
The slow frequencies, which hold the content, do not turn noticeably over any prompt that fits.
"""

import json
from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from lmsearcher_local.checksums import write_checksums
from lmsearcher_local.prompt.compact import (
    BASE,
    BINS,
    BOS,
    FIRST_ALIAS,
    FIRST_DIGIT,
    FIRST_HINT,
    FIRST_SCORE,
    HINT_LIMITS,
    PICK,
    SLOTS,
    VOCABULARY,
)
from lmsearcher_local.training.model import (
    CONTENT,
    EPS,
    FREE,
    HEAD_DIM,
    HEADS,
    HIDDEN,
    KIND_SIZE,
    KINDS,
    LAYERS,
    PHASE_SIZE,
    PHASES,
    WIDTH,
    Ranker,
)

THETA = 10**31.3  # of the range float32 can hold: fast frequencies turn apart within 14,000 tokens, slow ones stand
CONTEXT = 13_000
PAIRS = PHASES // 2
GATES, CONSTANT = (PAIRS + 1, PAIRS + 2), PAIRS + 3  # dimensions of a head
CONTENT_AT = [*range(PAIRS + 4, HEAD_DIM // 2), *range(HEAD_DIM // 2 + PAIRS + 4, HEAD_DIM)]
LARGEST_RMS = (0.7, *[5.0] * (LAYERS - 1))  # of the residual stream before each layer; gates hold up to it
DECISIVE, OUTSIDE = 15.0, 6.0  # nats by which a forbidden key, the nearest phase of another trial, lose at least
SMALLEST_GAP = 0.115  # of 1 - cos, summed over the frequencies, between different trials within the context

KERNEL = (("SDXYABH", "SY"),)
GATHER = (("XYA", "DX"), ("SDBH", "S"))
HINT = (("A", "H"), ("SDXYBH", "S"))
COPY = (("Y", "X"), ("SDXABH", "S"))
PICKS = (("SDXYAH", "SY"), ("B", "A"))
Rule = Sequence[tuple[str, str]]  # (kinds of query, kinds of key they may see)


def rules(layer: int, head: int) -> Rule:
    """Who sees whom in a head."""
    if layer == 0 and head == HEADS - 1:
        return HINT
    if layer == 0 or (layer == 2 and head < HEADS // 2):
        return GATHER
    if 3 <= layer <= 5 and head == HEADS - 1:
        return COPY
    return PICKS if layer == LAYERS - 1 else KERNEL


@torch.no_grad()
def export(model: Ranker, folder: Path) -> Path:
    """Write ``config.json``, ``model.safetensors``, ``lmsearcher.json`` and checksums into ``folder``."""
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {"model.embed_tokens.weight": embedding_table(model), "model.norm.weight": torch.ones(WIDTH)}
    head = torch.zeros(VOCABULARY, WIDTH)
    head[FIRST_SCORE:FIRST_DIGIT] = model.head()
    tensors["lm_head.weight"] = head.bfloat16()
    for index in range(LAYERS):
        matrices, prefix = model.block(index).weights(), f"model.layers.{index}."
        q, k = (_widened(matrices[name].view(HEADS, CONTENT, WIDTH)) for name in ("q", "k"))
        for number in range(HEADS):
            _write_rules(q[number], k[number], rules(index, number), LARGEST_RMS[index])
        v = _widened(matrices["v"].view(HEADS, CONTENT, WIDTH))
        o = torch.zeros(HEADS, HEAD_DIM, WIDTH)
        o[:, CONTENT_AT, :FREE] = matrices["o"].view(FREE, HEADS, CONTENT).permute(1, 2, 0)
        if index == 0:
            q[:, CONTENT_AT] = 0.0  # a plain mean over the code
        for name, value in (("q", q), ("k", k), ("v", v)):
            tensors[f"{prefix}self_attn.{name}_proj.weight"] = value.flatten(0, 1)
        tensors[f"{prefix}self_attn.o_proj.weight"] = o.flatten(0, 1).T
        down = torch.zeros(WIDTH, HIDDEN)
        down[:FREE] = matrices["down"]
        for name, value in (("gate", matrices["gate"]), ("up", matrices["up"]), ("down", down)):
            tensors[f"{prefix}mlp.{name}_proj.weight"] = value
        for name in ("input_layernorm", "post_attention_layernorm"):
            tensors[f"{prefix}{name}.weight"] = torch.ones(WIDTH)
    # Angles need all their digits; everything else is stored in half the space.
    stored = {
        name: (value if "embed" in name else value.bfloat16()).contiguous().clone() for name, value in tensors.items()
    }
    save_file(stored, folder / "model.safetensors", metadata={"format": "pt"})
    config = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": WIDTH,
        "intermediate_size": HIDDEN,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": HEADS,
        "num_key_value_heads": HEADS,
        "head_dim": HEAD_DIM,
        "hidden_act": "silu",
        "rms_norm_eps": EPS,
        "rope_parameters": {"rope_theta": THETA, "rope_type": "default"},
        "max_position_embeddings": CONTEXT,
        "vocab_size": VOCABULARY,
        "tie_word_embeddings": False,
        "attention_bias": False,
        "mlp_bias": False,
        "bos_token_id": BOS,
        "eos_token_id": None,
        "pad_token_id": None,
        "dtype": "float32",
    }
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    (folder / "lmsearcher.json").write_text(json.dumps({"codec": "compact"}) + "\n")
    write_checksums(folder)
    return folder


def embedding_table(model: Ranker) -> Tensor:
    """The residual stream of every token id before layer 0."""
    table = torch.zeros(VOCABULARY, WIDTH)
    table[BOS], table[PICK] = model.embeddings("S")[0], model.embeddings("B")[0]
    table[FIRST_DIGIT:FIRST_HINT] = model.embeddings("D")
    table[FIRST_DIGIT : FIRST_DIGIT + BASE] = model.embeddings("X")[:BASE]
    # The end of a trial is its score, of a candidate its first hint; the alias stands behind the hints.
    last = torch.arange(len(HINT_LIMITS))
    slots, hints = torch.arange(1, SLOTS + 1).repeat_interleave(BASE), -last.repeat_interleave(BINS)
    table[FIRST_DIGIT:FIRST_HINT, FREE : FREE + PHASES] = _phases(slots)
    for kind, first, count, to_end in (
        ("Y", FIRST_SCORE, FIRST_ALIAS, torch.zeros(1)),
        ("A", FIRST_ALIAS, FIRST_DIGIT, -torch.ones(1) * len(HINT_LIMITS)),
        ("H", FIRST_HINT, VOCABULARY, hints),
    ):
        table[first:count] = model.embeddings(kind)
        table[first:count, FREE : FREE + PHASES] = _phases(to_end)
    return table


def _phases(to_end: Tensor) -> Tensor:
    """Angles of tokens that stand ``to_end`` places before the end of their trial: cosines, then sines."""
    frequencies = THETA ** (-torch.arange(PAIRS, dtype=torch.float64) * 2 / HEAD_DIM)
    angles = to_end[:, None].double() * frequencies
    return PHASE_SIZE * torch.cat([angles.cos(), angles.sin()], 1).float()


def _widened(matrix: Tensor) -> Tensor:
    wide = torch.zeros(HEADS, HEAD_DIM, WIDTH)
    wide[:, CONTENT_AT] = matrix
    return wide


def _write_rules(q: Tensor, k: Tensor, rule: Rule, largest_rms: float) -> None:
    """Add gates, and for rules about the own trial the comparison of phases, to one head's matrices."""
    kind = {name: FREE + PHASES + i for i, name in enumerate(KINDS)}
    scale = HEAD_DIM**0.5 * largest_rms**2
    for gate, (asking, seen) in zip(GATES, rule, strict=False):
        for name in asking:
            q[gate, kind[name]] = DECISIVE * scale / KIND_SIZE**2
        for name in KINDS:
            if name not in seen:
                k[gate, kind[name]] = -1.0
    if rule in (GATHER, HINT, COPY):
        phase = OUTSIDE * scale / (SMALLEST_GAP * PHASE_SIZE**2)  # larger costs float32 digits
        dims = [*range(PAIRS), *range(HEAD_DIM // 2, HEAD_DIM // 2 + PAIRS)]
        q[dims, range(FREE, FREE + PHASES)] = phase
        k[dims, range(FREE, FREE + PHASES)] = 1.0
        for name in "DXYAH":
            q[CONSTANT, kind[name]] = phase
            k[CONSTANT, kind[name]] = -PAIRS * PHASE_SIZE**2 / KIND_SIZE**2
