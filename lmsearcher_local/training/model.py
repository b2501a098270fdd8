"""The small ranker as it is trained: a plain Llama, and the table that makes its rows."""

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lmsearcher_local.candidates.history import HISTORY_CAP
from lmsearcher_local.model.codecs.compact import ALIASES, CODE, SCORES, CodeFeatures, code_rows, table_shapes
from lmsearcher_local.training.trajectories import Batch

WIDTH, HIDDEN, LAYERS, HEADS = 128, 384, 6, 4
EARLY = 4  # layers after which scores are asked for, too
NAMES = 32  # dimensions in which aliases begin
CONTEXT = HISTORY_CAP + ALIASES + 8


class Ranker(nn.Module):
    """``llama`` is a ``LlamaForCausalLM``, ``table`` the codec's table as parameters."""

    def __init__(self, seed: int = 0) -> None:
        from transformers import LlamaConfig, LlamaForCausalLM

        super().__init__()
        torch.manual_seed(seed)
        self.llama = LlamaForCausalLM(
            LlamaConfig(
                vocab_size=ALIASES + SCORES,
                hidden_size=WIDTH,
                intermediate_size=HIDDEN,
                num_hidden_layers=LAYERS,
                num_attention_heads=HEADS,
                max_position_embeddings=CONTEXT,
                bos_token_id=None,
                eos_token_id=None,
                use_cache=False,
            )
        )
        size = {"options": 1.0, "order": 1.0, "shared": 1.0, "code": CODE**-0.5}
        table = {name: size.get(name, 0.2) * torch.randn(shape) for name, shape in table_shapes(WIDTH).items()}
        # Aliases begin in a small subspace: to copy one from a row is what an answer has to learn first.
        table["aliases"] = torch.randn(ALIASES, NAMES) @ torch.randn(NAMES, WIDTH) * NAMES**-0.5
        self.table = nn.ParameterDict({name: nn.Parameter(values) for name, values in table.items()})

    def forward(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Logits of each pool's pick ``[B, k, ALIASES]`` and of each candidate's score ``[2, B, k, m, SCORES]``.

        The first of the two scores is read after ``EARLY`` layers: what a pick is made of must be known before the last
        layers, which compare the candidates. It is asked for in training only.
        """
        device = self.table["pick"].device
        codes = CodeFeatures(*(torch.from_numpy(part).to(device) for part in batch.codes))
        trials, candidates = (torch.from_numpy(part).to(device) for part in (batch.trials, batch.candidates))
        size, k, m = batch.truth.shape
        n = trials.shape[1]
        table = {name: _LookUp(values) for name, values in self.table.items()} | {"code": self.table["code"]}
        known, new = code_rows(table, codes).split([n, k * m], 1)
        known = known + trials @ self.table["trial"]
        new = (new + candidates @ self.table["candidate"]).unflatten(1, (k, m))
        pools = torch.cat([new + self.table["aliases"][:m], self.table["pick"].expand(size, k, 1, -1)], 2)
        mask, places = _behind_one_history(n, k, m + 1)
        output = self.llama.model(
            inputs_embeds=torch.cat([known, pools.flatten(1, 2)], 1),
            attention_mask=mask.to(device).expand(size, 1, -1, -1),
            position_ids=places.to(device)[None],
            output_hidden_states=True,
        )
        early = self.llama.model.norm(output.hidden_states[EARLY])
        states = torch.stack([early, output.last_hidden_state])[:, :, n:].unflatten(2, (k, m + 1))
        head = self.head()
        return states[1, :, :, -1] @ head[:ALIASES].T, states[:, :, :, :-1] @ head[ALIASES:].T

    def head(self) -> Tensor:
        """The output rows: those of aliases are their vectors, so that a pick is copied from a row."""
        return torch.cat([self.table["aliases"] * WIDTH**-0.5, self.llama.lm_head.weight[ALIASES:]])


class _LookUp:
    """A table whose rows are taken by the quicker of torch's two ways."""

    def __init__(self, values: Tensor) -> None:
        self._values = values

    def __getitem__(self, ids: Tensor) -> Tensor:
        return F.embedding(ids, self._values)


def _behind_one_history(n: int, k: int, length: int) -> tuple[Tensor, Tensor]:
    """Who sees whom, bool ``[rows, rows]``, and the rows' places: each of ``k`` pools as if it were the only one."""
    owner = torch.from_numpy(np.append(np.full(n, -1), np.repeat(np.arange(k), length)))
    sees = ((owner[:, None] == owner) | (owner == -1)).tril()
    return sees, torch.cat([torch.arange(n), (n + torch.arange(length)).repeat(k)])
