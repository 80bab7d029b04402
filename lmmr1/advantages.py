"""Advantage estimators: from the rewards of P groups of G samples to one number per token.

What differs from the papers: a group whose rewards are all equal gets exactly 0 (not rounding noise), so that it can be
skipped. Worked example, one group with rewards 1, 0, 0, 1:

>>> import torch
>>> group_mean(torch.tensor([[1.0, 0.0, 0.0, 1.0]])).tolist()
[[0.5, -0.5, -0.5, 0.5]]
"""

from __future__ import annotations

from collections.abc import Callable

import torch

from lmmr1.config import CriticConfig


def group_mean(rewards: torch.Tensor) -> torch.Tensor:
    """(P, G) -> (P, G): r - mean of the group. Dr. GRPO, arXiv 2503.20783, section 3.2."""
    centred = rewards - rewards.mean(1, keepdim=True)
    return torch.where(zero_variance(rewards)[:, None], torch.zeros_like(centred), centred)


def group_norm(rewards: torch.Tensor) -> torch.Tensor:
    """(P, G) -> (P, G): (r - mean) / (std + 1e-4), unbiased std. GRPO, arXiv 2402.03300, eq. 3; constants as TRL."""
    return group_mean(rewards) / (rewards.std(1, keepdim=True) + 1e-4)


def rloo(rewards: torch.Tensor) -> torch.Tensor:
    """(P, G) -> (P, G): r - mean of the other G - 1 samples. RLOO, arXiv 2402.14740, equation 4."""
    g = rewards.size(1)
    return group_mean(rewards) * (g / (g - 1))


ADVANTAGES: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "group_norm": group_norm,
    "group_mean": group_mean,
    "rloo": rloo,
    "reinforce_baseline": group_mean,  # clipped and whitened over tokens, in per_token
}
"""Of a group's rewards alone; `gae`, which has a critic, is none of these."""

REWARD_CLIP = 10.0
"""The authors' scripts bound a completion's score by it (shared facts 2b)."""


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
        mask: (N, T) bool, true at the tokens of the loss.
        penalty: (N, T) beta * k1 of each token for KL in the reward, else None.

    Returns:
        (N, T), 0 where `mask` is not. The penalty enters as undiscounted reward-to-go; `reinforce_baseline` clips the
        centred reward and then whitens, as the authors' scripts do (shared facts 2c; openrlhf experience_maker.py).
    """
    scores = ADVANTAGES[name](rewards)
    if name == "reinforce_baseline":
        scores = scores.clamp(-REWARD_CLIP, REWARD_CLIP)
    tokens = scores.reshape(-1, 1) * mask
    if penalty is not None:
        tokens = tokens - (penalty * mask).flip(1).cumsum(1).flip(1) * mask
    return whitened(tokens, mask) if name == "reinforce_baseline" else tokens


def gae(
    rewards: torch.Tensor, mask: torch.Tensor, values: torch.Tensor, penalty: torch.Tensor | None, cfg: CriticConfig
) -> tuple[torch.Tensor, torch.Tensor]:
    """Generalized advantage estimation, arXiv 1506.02438, eq. 16, on a completion's tokens; whitened.

    Args:
        rewards: (P, G), clipped and paid at the last token.
        mask: (N, T) bool, true at the tokens of the loss.
        values: (N, T) what the critic expects before each token.
        penalty: (N, T) taken off every token's reward, or None.

    Returns:
        (N, T) advantages, whitened, and (N, T) returns, which are not: advantages before that plus values.
    """
    reward = torch.zeros_like(values) if penalty is None else -penalty * mask
    last = (mask.sum(1, keepdim=True) - 1).clamp(min=0)
    paid = rewards.reshape(-1, 1).clamp(-REWARD_CLIP, REWARD_CLIP).to(reward.dtype)
    reward = reward.scatter_add(1, last, paid) * mask
    values, ahead, after = values * mask, torch.zeros_like(values[:, 0]), torch.zeros_like(values[:, 0])
    columns = []
    for t in reversed(range(mask.size(1))):
        delta = reward[:, t] + cfg.gamma * after - values[:, t]
        ahead = delta + cfg.gamma * cfg.lam * ahead
        after = values[:, t]
        columns.append(ahead)
    advantages = torch.stack(columns[::-1], 1) * mask
    return whitened(advantages, mask), advantages + values


def whitened(tokens: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """(N, T) to mean 0 and variance 1 over all tokens of the rollout's loss, with a variance floor of 1e-8."""
    count = mask.sum().clamp(min=1)
    mean = tokens.sum() / count
    variance = (((tokens - mean) * mask) ** 2).sum() / count
    return (tokens - mean) * variance.clamp(min=1e-8).rsqrt() * mask
