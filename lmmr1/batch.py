"""From scored groups to tensors, and their parts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields, replace
from typing import Any

import torch

from lmmr1.advantages import zero_variance
from lmmr1.types import Batch, Rollout, Sample, ScoredGroup


def rewards_of(groups: Sequence[ScoredGroup]) -> torch.Tensor:
    """(P, G) total rewards."""
    return torch.tensor([[r.total for r in group.rewards] for group in groups])


def informative(groups: Sequence[ScoredGroup], count: int) -> list[ScoredGroup]:
    """`count` of the groups, in order: those whose rewards differ first, others only where these do not suffice."""
    dead = zero_variance(rewards_of(groups)).tolist()
    order = sorted(range(len(groups)), key=lambda i: dead[i])[:count]
    return [groups[i] for i in sorted(order)]


def collate(groups: Sequence[ScoredGroup], pad_id: int, mask_truncated: bool = False) -> Batch:
    """The completions as right-padded tensors; advantages are 0 until they are known.

    With `mask_truncated`, completions that hit the limit leave the loss (DAPO, 2503.14476).
    """
    rows: list[Rollout] = [r for group in groups for r in group.rollouts]
    width = max(len(r.token_ids) for r in rows)
    ids = torch.tensor([[*r.token_ids, *[pad_id] * (width - len(r.token_ids))] for r in rows])
    mask = torch.arange(width) < torch.tensor([len(r.token_ids) for r in rows])[:, None]
    logprobs = torch.tensor([[*r.logprobs, *[0.0] * (width - len(r.logprobs))] for r in rows])
    counts = torch.tensor([r.finish == "stop" or not mask_truncated for r in rows])
    samples = tuple(g.sample for g in groups)
    return Batch(
        samples, ids, mask, mask & counts[:, None], logprobs, torch.zeros_like(logprobs), len(groups[0].rollouts)
    )


def take(batch: Batch, groups: Sequence[int]) -> Batch:
    """The batch's groups with these numbers, in this order."""
    rows = group_rows(groups, batch.num_generations)
    return _part(batch, tuple(batch.samples[i] for i in groups), rows)


def _part(batch: Batch, samples: tuple[Sample, ...], rows: list[int] | slice) -> Batch:
    values = {f.name: getattr(batch, f.name) for f in fields(batch)}
    parts: dict[str, Any] = {name: t[rows] for name, t in values.items() if isinstance(t, torch.Tensor)}
    return replace(batch, samples=samples, **parts)


def group_rows(groups: Sequence[int], num_generations: int) -> list[int]:
    """The rows of these groups."""
    return [i * num_generations + k for i in groups for k in range(num_generations)]


def minibatches(batch: Batch, count: int) -> list[Batch]:
    """Split by prompts into `count` batches of whole groups, in order."""
    p, g = len(batch.samples) // count, batch.num_generations
    return [_part(batch, batch.samples[i * p : (i + 1) * p], slice(i * p * g, (i + 1) * p * g)) for i in range(count)]
