"""Losses as pure functions of tensors."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, kl_div


def weighted_cross_entropy(logits: Tensor, targets: Tensor, weights: Tensor) -> Tensor:
    """Return the sum of the targets' cross-entropies, nats, each times its weight.

    Shapes:
        logits: `[N, V]`; targets: `[N]` int64; weights: `[N]` float32; return: `[]` float32.
    """
    return (cross_entropy(logits.float(), targets, reduction="none") * weights).sum()


def weighted_divergence(logits: Tensor, teacher: Tensor, weights: Tensor) -> Tensor:
    """Return the sum over tokens of KL(teacher || student), nats, each times its weight, at temperature 1.

    Shapes:
        logits, teacher: `[N, V]`; weights: `[N]`; return: `[]` float32. No gradient reaches the teacher.
    """
    student = torch.log_softmax(logits.float(), dim=-1)
    target = torch.log_softmax(teacher.detach().float(), dim=-1)
    return (kl_div(student, target, reduction="none", log_target=True).sum(dim=-1) * weights).sum()
