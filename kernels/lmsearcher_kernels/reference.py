"""The kernels in plain torch: what a machine without a GPU runs, and what the Triton kernels are held against."""

from collections.abc import Sequence

import torch
from torch import Tensor

PAIRS = 1 << 19  # distances made at a time: what stays in a core's cache


def restricted_head(hidden: Tensor, weight: Tensor, questions: Sequence[Sequence[int]]) -> Tensor:
    """See the package's function of this name."""
    answers = [torch.empty(0, device=hidden.device)]
    for row, ids in zip(hidden.float(), questions, strict=True):
        rows = weight[torch.tensor(ids, dtype=torch.long, device=weight.device)]
        answers.append((rows.float() @ row).log_softmax(0))
    return torch.cat(answers)


def hamming_topk(candidates: Tensor, codes: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """See the package's function of this name."""
    n, length = codes.shape
    small = (length + 1) * n < 2**31
    index = torch.arange(n, dtype=torch.int32 if small else torch.int64, device=codes.device)
    columns = codes.T.contiguous()
    parts = []
    for part in candidates.split(max(1, PAIRS // n)):
        apart = torch.zeros(len(part), n, dtype=torch.uint8 if length < 256 else torch.int32, device=codes.device)
        for mine, theirs in zip(part.T.contiguous(), columns, strict=True):
            apart += mine[:, None] != theirs
        keys = (
            apart.to(index.dtype).mul_(n).add_(index)
        )  # all different, so that equal distances cannot be a matter of luck
        parts.append(keys.topk(k, largest=False, sorted=True).values)
    nearest = torch.cat(parts).long()
    return nearest // n, nearest % n
