"""Joint reinforcement learning of compressor and reasoner: the maths, as pure functions of tensors.

Source: GSPO, Group Sequence Policy Optimization, arXiv:2507.18071, as LycheeMemory (arXiv:2602.08382) uses it.
Deviations:

1. Advantages are not divided by the group's standard deviation: with a reward of zero or one it would blow up
   groups in which almost all rollouts agree (Dr. GRPO, arXiv:2503.20783).
2. LycheeMemory's equation and its algorithm put the divergence in different places; here it is a term of the
   loss, per token, so that its gradient is exact.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from memrecall_kv.errors import InputError


@dataclass(frozen=True, eq=False)
class PolicyLoss:
    """A policy-gradient loss and what to watch of it.

    Attributes:
        loss: With gradient. `[]`.
        clip_share: Share of the sequences whose ratio was cut, in [0, 1].
        divergence: Mean KL to the reference per token, nats.
    """

    loss: Tensor
    clip_share: float
    divergence: float


def group_advantages(rewards: Tensor, *, group_size: int) -> Tensor:
    """Centre each rollout's reward on the mean of its group.

    Args:
        rewards: One scalar per rollout, grouped by prompt.
        group_size: Rollouts per prompt, G >= 2.

    Returns:
        Advantages in the order of `rewards`; all zero in a group whose rewards agree.

    Shapes:
        rewards: `[B*G]` float32; return: `[B*G]` float32.

    Raises:
        InputError: If the number of rewards is no multiple of `group_size`.

    Source:
        arXiv:2402.03300 (GRPO), without its division by the standard deviation.
    """
    if group_size < 2 or rewards.numel() % group_size:
        raise InputError(
            f"Expected a multiple of group_size >= 2, got {rewards.numel()} rewards in groups of {group_size}.",
            "Give every prompt the same number of rollouts.",
        )
    groups = rewards.view(-1, group_size)
    return (groups - groups.mean(dim=1, keepdim=True)).flatten()


def sequence_ratio(new: Tensor, old: Tensor, mask: Tensor) -> Tensor:
    """Return how much likelier a rollout is now than when it was drawn, per token (a geometric mean).

    Shapes:
        new, old: log-probabilities of the drawn tokens `[N, T]`; mask: real tokens `[N, T]` bool; return: `[N]`.
    """
    lengths = mask.sum(dim=1).clamp_min(1)
    return (((new - old) * mask).sum(dim=1) / lengths).exp()


def token_divergence(new: Tensor, reference: Tensor, mask: Tensor) -> Tensor:
    """Return an unbiased, never negative estimate of KL(policy || reference), the mean per real token of a row.

    Shapes:
        new, reference: log-probabilities of the drawn tokens `[N, T]`; mask: `[N, T]` bool; return: `[N]`.

    Source:
        The estimator "k3" of http://joschu.net/blog/kl-approx.html, as in arXiv:2402.03300.
    """
    gap = torch.where(mask, reference - new, torch.zeros_like(new))
    return (gap.exp() - gap - 1).sum(dim=1) / mask.sum(dim=1).clamp_min(1)


def policy_loss(
    new: Tensor,
    old: Tensor,
    reference: Tensor,
    mask: Tensor,
    advantages: Tensor,
    *,
    clip: float,
    kl_coef: float,
) -> PolicyLoss:
    """Return the clipped sequence-level objective, negated, plus the divergence from the reference.

    Args:
        new: Log-probabilities of the drawn tokens under the policy, with gradient. `[N, T]`.
        old: The same when they were drawn. `[N, T]`.
        reference: The same under the frozen reference. `[N, T]`.
        mask: Real tokens. `[N, T]` bool.
        advantages: One per row; every step of a trajectory carries the trajectory's. `[N]`.
        clip: Half-width of the interval around 1 in which the ratio earns.
        kl_coef: Weight of the divergence.
    """
    ratio = sequence_ratio(new, old, mask)
    bounded = ratio.clamp(1 - clip, 1 + clip)
    gained = torch.minimum(ratio * advantages, bounded * advantages)
    divergence = token_divergence(new, reference, mask)
    # a row is cut where the bound is what counts: it has moved far enough the way its advantage wants
    cut = (bounded * advantages < ratio * advantages) & (advantages != 0)
    return PolicyLoss(
        loss=(kl_coef * divergence - gained).mean(),
        clip_share=float(cut.float().mean()),
        divergence=float(divergence.detach().mean()),
    )


def token_entropy(logits: Tensor) -> Tensor:
    """Return the entropy of each next-token distribution, nats, `[..., V] -> [...]`."""
    log = torch.log_softmax(logits.float(), dim=-1)
    return -(log.exp() * log).sum(dim=-1)
