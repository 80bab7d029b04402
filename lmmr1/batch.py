"""From scored groups to tensors."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from lmmr1.advantages import zero_variance
from lmmr1.types import Batch, Rollout, ScoredGroup


def rewards_of(groups: Sequence[ScoredGroup]) -> torch.Tensor:
    """(P, G) total rewards."""
    return torch.tensor([[r.total for r in group.rewards] for group in groups])


def informative(groups: Sequence[ScoredGroup], count: int) -> list[ScoredGroup]:
    """`count` of the groups, in order: those whose rewards differ first, others only where these do not suffice."""
    dead = zero_variance(rewards_of(groups)).tolist()
    order = sorted(range(len(groups)), key=lambda i: dead[i])[:count]
    return [groups[i] for i in sorted(order)]


def completions(groups: Sequence[ScoredGroup], pad_id: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Right-padded completion ids (N, T), their mask (N, T) and the sampler's log-probabilities (N, T)."""
    rows: list[Rollout] = [r for group in groups for r in group.rollouts]
    width = max(len(r.token_ids) for r in rows)
    ids = torch.tensor([[*r.token_ids, *[pad_id] * (width - len(r.token_ids))] for r in rows])
    mask = torch.arange(width) < torch.tensor([len(r.token_ids) for r in rows])[:, None]
    logprobs = torch.tensor([[*r.logprobs, *[0.0] * (width - len(r.logprobs))] for r in rows])
    return ids, mask, logprobs


def collate(
    groups: Sequence[ScoredGroup], advantages: torch.Tensor, pad_id: int, mask_truncated: bool = False
) -> Batch:
    """Build the batch. With `mask_truncated`, completions that hit the limit leave the loss (DAPO, 2503.14476)."""
    ids, mask, logprobs = completions(groups, pad_id)
    if mask_truncated:
        finished = torch.tensor([r.finish == "stop" for group in groups for r in group.rollouts])
        advantages = advantages * finished[:, None]
    return Batch(tuple(g.sample for g in groups), ids, mask, logprobs, advantages, len(groups[0].rollouts))


def take(batch: Batch, groups: Sequence[int]) -> Batch:
    """The batch's groups with these numbers, in this order."""
    rows = group_rows(groups, batch.num_generations)
    tensors = (t[rows] for t in (batch.completion_ids, batch.completion_mask, batch.old_logprobs, batch.advantages))
    return Batch(tuple(batch.samples[i] for i in groups), *tensors, batch.num_generations)


def group_rows(groups: Sequence[int], num_generations: int) -> list[int]:
    """The rows of these groups."""
    return [i * num_generations + k for i in groups for k in range(num_generations)]


def minibatches(batch: Batch, count: int) -> list[Batch]:
    """Split by prompts into `count` batches of whole groups, in order."""
    p, g = len(batch.samples) // count, batch.num_generations
    parts = []
    for i in range(count):
        rows = slice(i * p * g, (i + 1) * p * g)
        tensors = (t[rows] for t in (batch.completion_ids, batch.completion_mask, batch.old_logprobs, batch.advantages))
        parts.append(Batch(batch.samples[i * p : (i + 1) * p], *tensors, g))
    return parts
