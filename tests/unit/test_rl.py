"""The maths of reinforcement learning against values worked out by hand."""

from __future__ import annotations

import math

import pytest
import torch
from memrecall_kv.errors import InputError
from memrecall_kv.train.gating import competition
from memrecall_kv.train.losses import weighted_cross_entropy, weighted_divergence
from memrecall_kv.train.rl import group_advantages, policy_loss, sequence_ratio, token_divergence, token_entropy

MASK = torch.tensor([[True, True], [True, False]])


def test_advantages_are_centred_in_each_group() -> None:
    rewards = torch.tensor([1.0, 0.0, 0.0, 1.0, 1.0, 1.0])
    expected = torch.tensor([2 / 3, -1 / 3, -1 / 3, 0.0, 0.0, 0.0])
    torch.testing.assert_close(group_advantages(rewards, group_size=3), expected)


@pytest.mark.parametrize(("count", "size"), [(5, 3), (4, 1)])
def test_groups_must_be_whole(count: int, size: int) -> None:
    with pytest.raises(InputError, match="group_size"):
        group_advantages(torch.zeros(count), group_size=size)


def test_the_ratio_is_a_geometric_mean_over_real_tokens() -> None:
    old = torch.tensor([[-1.0, -2.0], [-1.0, -9.0]])
    new = torch.tensor([[-0.5, -1.9], [-1.2, 50.0]])
    # exp((0.5 + 0.1) / 2) and exp(-0.2); padding counts for nothing
    torch.testing.assert_close(sequence_ratio(new, old, MASK), torch.tensor([math.exp(0.3), math.exp(-0.2)]))


def test_the_divergence_is_never_negative_and_zero_at_home() -> None:
    new, reference = torch.tensor([[-1.0, -2.0], [-1.0, 7.0]]), torch.tensor([[-1.5, -1.0], [-1.0, -80.0]])
    # k3 = exp(d) - d - 1 with d = -0.5 and 1
    first = ((math.exp(-0.5) + 0.5 - 1) + (math.e - 1 - 1)) / 2
    torch.testing.assert_close(token_divergence(new, reference, MASK), torch.tensor([first, 0.0]))


@pytest.mark.parametrize(
    ("gap", "advantage", "gained", "cut"),
    [
        (0.0, 1.0, 1.0, 0.0),
        (0.5, 1.0, 1.2, 1.0),  # moved far enough the right way: no more is earned
        (-0.5, 1.0, math.exp(-0.5), 0.0),  # moved the wrong way: the whole loss counts
        (-0.5, -1.0, -0.8, 1.0),
        (0.5, -1.0, -math.exp(0.5), 0.0),
    ],
)
def test_the_clipped_objective(gap: float, advantage: float, gained: float, cut: float) -> None:
    old = torch.tensor([[-2.0]])
    new = (old + gap).requires_grad_()
    mask = torch.ones(1, 1, dtype=torch.bool)
    found = policy_loss(new, old, new.detach(), mask, torch.tensor([advantage]), clip=0.2, kl_coef=0.0)
    assert float(found.loss.detach()) == pytest.approx(-gained, abs=1e-6)
    assert found.clip_share == cut
    found.loss.backward()
    assert (float(new.grad) == 0.0) == bool(cut)
    if not cut:
        assert float(new.grad) == pytest.approx(-advantage * math.exp(gap), abs=1e-5)


def test_the_divergence_is_a_term_of_the_loss() -> None:
    new, reference = torch.tensor([[-1.0]]), torch.tensor([[-2.0]])
    mask = torch.ones(1, 1, dtype=torch.bool)
    found = policy_loss(new, new, reference, mask, torch.tensor([0.0]), clip=0.2, kl_coef=0.5)
    assert float(found.loss) == pytest.approx(0.5 * (math.exp(-1) + 1 - 1), abs=1e-6)
    assert found.divergence == pytest.approx(math.exp(-1), abs=1e-6)


def test_entropy_of_a_uniform_choice() -> None:
    torch.testing.assert_close(token_entropy(torch.zeros(2, 8)), torch.full((2,), math.log(8)))


def test_weights_say_how_much_each_token_counts() -> None:
    logits = torch.log(torch.tensor([[0.5, 0.5], [0.9, 0.1]]))
    found = weighted_cross_entropy(logits, torch.tensor([0, 1]), torch.tensor([1.0, 0.5]))
    assert float(found) == pytest.approx(math.log(2) + 0.5 * math.log(10), abs=1e-6)
    assert float(weighted_divergence(logits, logits, torch.ones(2))) == pytest.approx(0.0, abs=1e-6)
    other = torch.log(torch.tensor([[0.25, 0.75], [0.9, 0.1]]))
    expected = 0.5 * math.log(0.5 / 0.25) + 0.5 * math.log(0.5 / 0.75)
    assert float(weighted_divergence(other, logits, torch.ones(2))) == pytest.approx(expected, abs=1e-6)


def test_relevant_blocks_compete_with_the_others_only() -> None:
    scores = torch.tensor([2.0, 2.0, 0.0])
    relevant = torch.tensor([True, True, False])
    # each of the two against the third: log(1 + exp(-2)); they do not push each other down
    assert float(competition(scores, relevant)) == pytest.approx(math.log(1 + math.exp(-2)), abs=1e-6)
    assert float(competition(scores, torch.ones(3, dtype=torch.bool))) == 0.0
