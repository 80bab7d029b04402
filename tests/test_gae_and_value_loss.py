"""Contract: the advantages of `gae` equal their definition and the critic's loss TRL's, on random numbers in fp64.

TRL gave its PPO trainer up with release 1.13, so its formulas are written out here (trl/experimental/ppo/ppo_trainer.py
of 1.12): the same recursion with no value after the last token, returns before whitening, and of the squared errors of a
value and of the clipped value half the larger one, averaged over tokens. It whitens with an unbiased variance; the
authors' framework and we do not.
"""

import math

import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st

from lmmr1.advantages import gae
from lmmr1.config import CriticConfig, LossConfig
from lmmr1.loss import token_weights, value_loss

numbers = st.floats(-3, 3, allow_subnormal=False)


@st.composite
def batches(draw):
    """Rewards of P groups of G, lengths in the loss (0: cut off), and what a critic and a reference say."""
    p, g, width = draw(st.integers(1, 3)), draw(st.integers(1, 3)), draw(st.integers(1, 6))
    table = lambda what, rows, columns: [[draw(what) for _ in range(columns)] for _ in range(rows)]
    rewards = table(st.sampled_from([-20.0, -1.0, 0.0, 0.5, 1.5, 30.0]), p, g)
    lengths = [draw(st.integers(0, width)) for _ in range(p * g)]
    values = table(numbers, p * g, width)
    penalty = draw(st.none() | st.just(table(st.floats(-0.5, 0.5, allow_subnormal=False), p * g, width)))
    return rewards, lengths, values, penalty


def advantages_of(reward, length, values, penalty, gamma, lam):
    """Sum over l of (gamma lam)^l delta_(t + l), delta_t = r_t + gamma v_(t + 1) - v_t (1506.02438, eq. 10 and 16)."""
    paid = lambda t: -(penalty[t] if penalty else 0) + (max(-10, min(10, reward)) if t == length - 1 else 0)
    value = lambda t: values[t] if t < length else 0
    delta = lambda t: paid(t) + gamma * value(t + 1) - value(t)
    return [sum((gamma * lam) ** l * delta(t + l) for l in range(length - t)) for t in range(length)]


@given(batches(), st.floats(0, 1), st.floats(0, 1))
def test_gae_equals_its_definition(batch, gamma, lam):
    rewards, lengths, values, penalty = batch
    width, flat = len(values[0]), [r for group in rewards for r in group]
    tensor = lambda rows: torch.tensor(rows, dtype=torch.float64)
    mask, cfg = torch.arange(width) < torch.tensor(lengths)[:, None], CriticConfig(gamma=gamma, lam=lam)
    taken = None if penalty is None else tensor(penalty)
    advantages, returns = gae(tensor(rewards), mask, tensor(values), taken, cfg)

    rows = [
        advantages_of(r, n, values[i], penalty and penalty[i], gamma, lam)
        for i, (r, n) in enumerate(zip(flat, lengths, strict=True))
    ]
    tokens = [a for row in rows for a in row] or [0.0]
    mean = sum(tokens) / len(tokens)
    variance = sum((a - mean) ** 2 for a in tokens) / len(tokens)
    for i, (row, n) in enumerate(zip(rows, lengths, strict=True)):
        whitened = [(a - mean) / math.sqrt(max(variance, 1e-8)) for a in row]
        assert advantages[i, :n].tolist() == pytest.approx(whitened, rel=1e-7, abs=1e-7)
        assert returns[i, :n].tolist() == pytest.approx([a + v for a, v in zip(row, values[i], strict=False)], abs=1e-9)
        assert not advantages[i, n:].any() and not returns[i, n:].any()


@given(batches())
def test_undiscounted_gae_is_return_minus_value(batch):
    """The paper's setting, gamma = lambda = 1: returns are the reward and what is still taken off it."""
    rewards, lengths, values, penalty = batch
    mask = torch.arange(len(values[0])) < torch.tensor(lengths)[:, None]
    tensors = [None if x is None else torch.tensor(x, dtype=torch.float64) for x in (rewards, values, penalty)]
    returns = gae(tensors[0], mask, tensors[1], tensors[2], CriticConfig())[1]
    for i, n in enumerate(lengths):
        reward = max(-10, min(10, rewards[i // len(rewards[0])][i % len(rewards[0])]))
        ahead = [reward - (sum(penalty[i][t:n]) if penalty else 0) for t in range(n)]
        assert returns[i, :n].tolist() == pytest.approx(ahead, abs=1e-9)


tokens = st.lists(st.tuples(numbers, numbers, numbers, st.booleans()), min_size=1, max_size=12)


@given(tokens, st.floats(0.01, 2))
@example([(0.004, 1.0, 0.0, False)], 1.0)  # old + (value - old) is not the value: not clipped all the same
def test_value_loss_equals_trls(rows, cliprange_value):
    """Loss, gradient and share of clipped tokens, averaged over the tokens that count."""
    value, old, returns = (torch.tensor(x, dtype=torch.float64) for x in list(zip(*rows, strict=True))[:3])
    mask, value = torch.tensor([[row[3] for row in rows]]), value.requires_grad_()
    count = max(1, int(mask.sum()))
    free = torch.square(value - returns)
    held = torch.square(torch.clamp(value, old - cliprange_value, old + cliprange_value) - returns)
    expected = 0.5 * (torch.max(free, held) * mask[0]).sum() / count
    (slope,) = torch.autograd.grad(expected, value)

    loss, clipped = value_loss(value, old, returns, cliprange_value)
    weights = token_weights(mask, LossConfig(loss_type="bnpo"), 1, 0.0)[0].double()
    mine = (loss * weights).sum()
    assert mine.item() == pytest.approx(expected.item(), rel=1e-6, abs=1e-9)  # the weights are fp32
    assert torch.allclose(torch.autograd.grad(mine, value)[0], slope, rtol=1e-6, atol=1e-9)
    assert torch.equal(clipped, held > free)
