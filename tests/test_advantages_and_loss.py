"""Contract: estimators, weights, KL and the clipped loss equal slow per-token Python, whatever the shape."""

import math
from fractions import Fraction

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from lmmr1.advantages import ADVANTAGES, group_mean, group_norm, per_token, rloo
from lmmr1.config import LossConfig
from lmmr1.loss import kl, policy_loss, token_weights

rewards_lists = st.integers(2, 6).flatmap(
    lambda g: st.lists(st.lists(st.sampled_from([0.0, 0.5, 1.0, 1.5]), min_size=g, max_size=g), min_size=1, max_size=5)
)


@given(rewards_lists)
def test_group_estimators_equal_slow_python(rewards):
    for row, mean, norm, loo in zip(
        rewards,
        group_mean(torch.tensor(rewards)).tolist(),
        group_norm(torch.tensor(rewards)).tolist(),
        rloo(torch.tensor(rewards)).tolist(),
        strict=True,
    ):
        g, average = len(row), sum(row) / len(row)
        std = math.sqrt(sum((r - average) ** 2 for r in row) / (g - 1))
        for i, r in enumerate(row):
            assert mean[i] == pytest.approx(r - average, abs=1e-6)
            assert norm[i] == pytest.approx((r - average) / (std + 1e-4), abs=1e-4)
            assert loo[i] == pytest.approx(r - sum(x for k, x in enumerate(row) if k != i) / (g - 1), abs=1e-5)


@given(rewards_lists, st.randoms(use_true_random=False))
def test_group_estimators_are_centred_and_equivariant(rewards, rng):
    tensor = torch.tensor(rewards)
    order = list(range(tensor.size(1)))
    rng.shuffle(order)
    for name, estimator in ADVANTAGES.items():
        out = estimator(tensor)
        assert torch.allclose(out.sum(1), torch.zeros(len(rewards)), atol=1e-4), name
        assert torch.allclose(estimator(tensor[:, order]), out[:, order], atol=1e-5), name


@pytest.mark.parametrize("value", [0.1, 1 / 3, 1e6])
def test_equal_rewards_give_exactly_zero(value):
    for name, estimator in ADVANTAGES.items():
        assert not estimator(torch.full((2, 7), value)).any(), name


def slow_reinforce_baseline(rewards, lengths, penalty):
    """Facts 2c, step by step, on Python floats: centre, clip, reward-to-go with the penalty, whiten over all tokens."""
    rows = []
    for p, group in enumerate(rewards):
        for g, r in enumerate(group):
            row = p * len(group) + g
            centred = max(-10.0, min(10.0, r - sum(group) / len(group)))
            rows.append([centred - sum(penalty[row][t : lengths[row]]) for t in range(lengths[row])])
    flat = [x for row in rows for x in row]
    mean = sum(flat) / len(flat)
    variance = sum((x - mean) ** 2 for x in flat) / len(flat)
    return [[(x - mean) / math.sqrt(max(variance, 1e-8)) for x in row] for row in rows]


@settings(deadline=None)
@given(rewards_lists, st.randoms(use_true_random=False))
def test_reinforce_baseline_equals_slow_python(rewards, rng):
    n = len(rewards) * len(rewards[0])
    lengths = [rng.randint(1, 5) for _ in range(n)]
    penalty = [[rng.uniform(-0.2, 0.2) for _ in range(5)] for _ in range(n)]
    mask = torch.arange(5) < torch.tensor(lengths)[:, None]
    out = per_token("reinforce_baseline", torch.tensor(rewards), mask, torch.tensor(penalty))
    for row, expected in enumerate(slow_reinforce_baseline(rewards, lengths, penalty)):
        assert out[row, : lengths[row]].tolist() == pytest.approx(expected, abs=2e-3, rel=1e-3)
        assert not out[row, lengths[row] :].any()


@given(
    st.lists(st.tuples(*[st.floats(-3, 0)] * 3, st.floats(-2, 2)), min_size=1, max_size=8),
    st.floats(0.05, 0.5),
    st.floats(0, 0.5),
)
@example([(-0.5, 0.0, 0.0, -5e-324)], 0.25, 0.0)
def test_policy_loss_equals_slow_python(rows, epsilon, beta):
    logprobs, old, ref, advantages = (torch.tensor(x, dtype=torch.float64) for x in zip(*rows, strict=True))
    cfg = LossConfig(epsilon=epsilon, epsilon_high=epsilon * 1.5, beta=beta)
    loss, clipped = policy_loss(logprobs, old, advantages, ref, cfg)
    for i, (lp, o, q, a) in enumerate(rows):
        ratio = math.exp(lp - o)
        bounded = min(max(ratio, 1 - epsilon), 1 + epsilon * 1.5)
        k3 = math.exp(q - lp) - (q - lp) - 1
        assert loss[i].item() == pytest.approx(-min(ratio * a, bounded * a) + beta * k3, rel=1e-9, abs=1e-9)
        exact = [Fraction(factor) * Fraction(a) for factor in (bounded, ratio)]  # floats underflow at tiny advantages
        assert bool(clipped[i]) == (exact[0] < exact[1])


@pytest.mark.parametrize("beta", [0.0, 0.3])
@pytest.mark.parametrize("estimator", ["k1", "k3"])
def test_gradient_equals_finite_differences(beta, estimator):
    """Central differences in float64, at ratios inside and outside the clip range, advantages of both signs."""
    generator = torch.Generator().manual_seed(0)
    old, ref, advantages = (torch.randn(40, generator=generator, dtype=torch.float64) for _ in range(3))
    logprobs = (old + torch.randn(40, generator=generator, dtype=torch.float64) * 0.5).requires_grad_()
    cfg = LossConfig(epsilon=0.2, epsilon_high=0.3, beta=beta, kl_estimator=estimator)
    weights = torch.rand(40, generator=generator, dtype=torch.float64)
    total = lambda x: (policy_loss(x, old, advantages, ref, cfg)[0] * weights).sum()
    total(logprobs).backward()
    step = 1e-6
    for i in range(40):
        ahead, behind = logprobs.detach().clone(), logprobs.detach().clone()
        ahead[i] += step
        behind[i] -= step
        slope = (total(ahead) - total(behind)) / (2 * step)
        assert logprobs.grad[i].item() == pytest.approx(slope.item(), rel=1e-5, abs=1e-8)
    clipped = policy_loss(logprobs.detach(), old, advantages, None, cfg)[1]
    assert 0 < int(clipped.sum()) < 40 and (beta or not logprobs.grad[clipped].any())


def test_kl_estimators():
    """k1 = log p - log q is the plain difference; k3 is never negative and 0 only where p = q."""
    p, q = torch.tensor([-1.0, -2.0, -0.5]), torch.tensor([-1.0, -1.0, -1.5])
    assert kl(p, q, "k1").tolist() == [0.0, -1.0, 1.0]
    assert kl(p, q, "k3").tolist() == pytest.approx([0.0, math.e - 2, math.exp(-1)], abs=1e-6)


def test_clip_is_asymmetric_where_asked():
    cfg = LossConfig(epsilon=0.2, epsilon_high=0.4)
    loss, clipped = policy_loss(torch.tensor([0.3]), torch.zeros(1), torch.ones(1), None, cfg)
    assert loss.item() == pytest.approx(-math.exp(0.3)) and not clipped.item()  # e^0.3 = 1.35 is inside 1.4
    loss, clipped = policy_loss(torch.tensor([0.4]), torch.zeros(1), torch.ones(1), None, cfg)
    assert loss.item() == pytest.approx(-1.4) and clipped.item()


@pytest.mark.parametrize(
    ("loss_type", "expected"),
    [
        ("grpo", [[1 / 2, 0, 0], [1 / 6, 1 / 6, 1 / 6]]),  # mean over tokens of a row, then over 2 rows
        ("seq_mean", [[1 / 2, 0, 0], [1 / 6, 1 / 6, 1 / 6]]),
        ("bnpo", [[1 / 4, 0, 0], [1 / 4, 1 / 4, 1 / 4]]),  # over the 4 tokens here
        ("dapo", [[1 / 10, 0, 0], [1 / 10, 1 / 10, 1 / 10]]),  # over the 10 tokens of the rollout
        ("dr_grpo", [[1 / 16, 0, 0], [1 / 16, 1 / 16, 1 / 16]]),  # 2 rows of at most 8 tokens
    ],
)
def test_token_weights(loss_type, expected):
    mask = torch.tensor([[True, False, False], [True, True, True]])
    weights = token_weights(mask, LossConfig(loss_type=loss_type), max_completion_length=8, rollout_tokens=10)
    assert torch.allclose(weights, torch.tensor(expected))
