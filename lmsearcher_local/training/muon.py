"""Muon (Jordan et al. 2024) in float32: PyTorch's own computes in bfloat16, which many processors only emulate."""

from collections import defaultdict
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

COEFFICIENTS, ROUNDS = (3.4445, -4.7750, 2.0315), 5  # of the Newton-Schulz iteration, as published


class Muon(torch.optim.Optimizer):
    """Momentum whose update of each matrix is made orthogonal; matrices of equal shape are computed together."""

    def __init__(self, matrices: Iterable[Tensor], lr: float, momentum: float) -> None:
        super().__init__(matrices, {"lr": lr, "momentum": momentum})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """One step along the gradients."""
        for group in self.param_groups:
            updates = defaultdict(list)
            for matrix in (matrix for matrix in group["params"] if matrix.grad is not None):
                mean = self.state[matrix].setdefault("mean", torch.zeros_like(matrix))
                mean.lerp_(matrix.grad, 1 - group["momentum"])
                updates[matrix.shape].append((matrix, matrix.grad.lerp(mean, group["momentum"])))
            for (rows, columns), found in updates.items():
                rate = group["lr"] * max(1, rows / columns) ** 0.5
                for (matrix, _), update in zip(found, _orthogonal(torch.stack([u for _, u in found])), strict=True):
                    matrix.sub_(update, alpha=rate)


def _orthogonal(x: Tensor) -> Tensor:
    """About ``U V^T`` of each matrix ``U S V^T`` of ``[n, rows, columns]``."""
    if x.shape[1] > x.shape[2]:
        return _orthogonal(x.mT).mT
    a, b, c = COEFFICIENTS
    x = x / x.norm(dim=(1, 2), keepdim=True).clamp(min=1e-7)
    for _ in range(ROUNDS):
        gram = x @ x.mT
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x
