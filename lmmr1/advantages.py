"""Advantage estimators: from the rewards of P groups of G samples to one number per token.

What differs from the papers: a group whose rewards are all equal gets exactly 0 (not rounding noise over 1e-4), so that
it can be skipped. Worked example, one group with rewards 1, 0, 0, 1:

>>> import torch
>>> group_mean(torch.tensor([[1.0, 0.0, 0.0, 1.0]])).tolist()
[[0.5, -0.5, -0.5, 0.5]]
"""

from __future__ import annotations

from collections.abc import Callable

import torch


def group_mean(rewards: torch.Tensor) -> torch.Tensor:
    """(P, G) -> (P, G): r - mean of the group. Dr. GRPO, arXiv 2503.20783, section 3.2."""
    return rewards - rewards.mean(1, keepdim=True)


def group_norm(rewards: torch.Tensor) -> torch.Tensor:
    """(P, G) -> (P, G): (r - mean) / (std + 1e-4), unbiased std. GRPO, arXiv 2402.03300, eq. 3; constants as TRL."""
    scaled = group_mean(rewards) / (rewards.std(1, keepdim=True) + 1e-4)
    return torch.where(zero_variance(rewards)[:, None], torch.zeros_like(scaled), scaled)


def rloo(rewards: torch.Tensor) -> torch.Tensor:
    """(P, G) -> (P, G): r - mean of the other G - 1 samples. RLOO, arXiv 2402.14740, equation 4."""
    g = rewards.size(1)
    return group_mean(rewards) * (g / (g - 1))


ADVANTAGES: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "group_norm": group_norm,
    "group_mean": group_mean,
    "rloo": rloo,
    "reinforce_baseline": group_mean,  # plus whitening over tokens, in per_token
}


def zero_variance(rewards: torch.Tensor) -> torch.Tensor:
    """(P, G) -> (P,) bool: groups whose rewards are all exactly equal."""
    return rewards.amax(1) == rewards.amin(1)


def per_token(
    name: str, rewards: torch.Tensor, mask: torch.Tensor, penalty: torch.Tensor | None = None
) -> torch.Tensor:
    """Advantages of every completion token.

    Args:
        name: a key of ADVANTAGES.
        rewards: (P, G).
        mask: (N, T) bool, true at completion tokens.
        penalty: (N, T) beta * k1 of each token for KL in the reward, else None.

    Returns:
        (N, T), 0 at padding. The penalty enters as undiscounted reward-to-go; `reinforce_baseline` clips the centred
        reward to +-10 and then whitens over all response tokens of the rollout with a variance floor of 1e-8, as the
        authors' scripts do (shared facts 2c; openrlhf experience_maker.py).
    """
    scores = ADVANTAGES[name](rewards)
    if name == "reinforce_baseline":
        scores = scores.clamp(-10, 10)
    tokens = scores.reshape(-1, 1) * mask
    if penalty is not None:
        tokens = tokens - (penalty * mask).flip(1).cumsum(1).flip(1) * mask
    if name == "reinforce_baseline":
        count = mask.sum()
        mean = tokens.sum() / count
        variance = (((tokens - mean) * mask) ** 2).sum() / count
        tokens = (tokens - mean) * variance.clamp(min=1e-8).rsqrt() * mask
    return tokens
