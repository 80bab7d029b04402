"""Optimizer steps on one rollout batch. Groups are the micro-batches; the normaliser is computed once, over all rows.

Memory therefore grows with one group, not with the batch, and gradients do not depend on how rows are grouped.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from lmmr1.batch import group_rows, minibatches, take
from lmmr1.config import TrainConfig
from lmmr1.loss import kl, policy_loss, token_logprobs, token_weights
from lmmr1.policy import Policy, Prefix
from lmmr1.processes import ALONE, Processes, whole
from lmmr1.suffix import TextWeights, group_hidden, rope_tables
from lmmr1.types import Batch, TrainingError

Loss = Callable[..., tuple[torch.Tensor, torch.Tensor]]
"""`loss.policy_loss` or something with its signature: per-token loss and clip mask."""


def update(
    policy: Policy,
    reference: Policy | None,
    optimizer: torch.optim.Optimizer,
    batch: Batch,
    cfg: TrainConfig,
    loss_fn: Loss,
    processes: Processes = ALONE,
) -> dict[str, float]:
    """`num_iterations` passes of `num_minibatches` optimizer steps. Returns metrics with TRL's names, mean over steps.

    `batch` is that of all processes, which come to the same metrics and weights.
    Raises TrainingError where loss or gradients are not finite; the weights are then those before the step.
    """
    rollout_tokens = float(batch.completion_mask.sum()) / cfg.num_minibatches
    stats = []
    for _ in range(cfg.num_iterations):
        for part in minibatches(batch, cfg.num_minibatches):
            optimizer.zero_grad(set_to_none=True)
            metrics = accumulate_gradients(policy, reference, part, cfg, rollout_tokens, loss_fn, processes)
            processes.reduce(policy.model)
            metrics["grad_norm"] = _clip(policy, cfg.max_grad_norm)
            _require_finite(metrics, part)
            optimizer.step()
            policy.stepped()
            stats.append(metrics)
    optimizer.zero_grad(set_to_none=True)
    return {k: sum(s[k] for s in stats) / len(stats) for k in stats[0]}


def accumulate_gradients(
    policy: Policy,
    reference: Policy | None,
    batch: Batch,
    cfg: TrainConfig,
    rollout_tokens: float,
    loss_fn: Loss = policy_loss,
    processes: Processes = ALONE,
) -> dict[str, float]:
    """Leave the gradient of the batch's loss in `.grad`, one group after another; dead groups are skipped.

    Where several processes share the batch, each leaves its groups' part; the metrics are those of the whole.
    """
    weights = token_weights(batch.completion_mask, cfg.loss, cfg.sampling.max_completion_length, rollout_tokens)
    if processes.size > 1:
        mine = processes.share(range(len(batch.samples)))
        batch, weights = take(batch, mine), weights[group_rows(mine, batch.num_generations)]
    processes.unshard(policy.model)
    forward = GroupForward(policy, batch, cfg, grad=True)
    teacher = None
    if reference is not None and not cfg.loss.kl_in_reward:
        teacher = GroupForward(reference, batch, cfg, grad=False)
    sums: Counter[str] = Counter(loss=0.0, entropy=0.0, clipped=0.0, kl=0.0, tokens=0.0)
    gap = 0.0
    for index in range(len(batch.samples)):
        rows = slice(index * batch.num_generations, (index + 1) * batch.num_generations)
        if teacher is None and not bool(batch.advantages[rows].any()):
            continue  # all rewards equal: no gradient; the weights keep counting its tokens
        logprobs, entropy, mask = forward.logprobs(index)
        tensors = (batch.old_logprobs, batch.advantages, weights)
        old, advantage, weight = (t[rows, : mask.size(1)].to(policy.device)[mask] for t in tensors)
        target = teacher.logprobs(index)[0] if teacher else None
        loss, clipped = loss_fn(logprobs, old, advantage, target, cfg.loss)
        objective = (loss * weight).sum()
        objective.backward()
        with torch.no_grad():
            divergence = kl(logprobs, target, "k3").sum() if target is not None else torch.zeros(())
            values = {"loss": objective, "entropy": entropy.sum(), "clipped": clipped.sum(), "kl": divergence}
            sums.update({k: v.item() for k, v in values.items()} | {"tokens": logprobs.numel()})
            gap = largest(gap, (logprobs - old).abs().max().item())
    forward.backward()
    return _metrics(processes.collect((sums, gap)))


def _clip(policy: Policy, max_grad_norm: float) -> float:
    """Scale the gradients down to the norm; returns what it was."""
    params = [p for p in policy.model.parameters() if p.grad is not None]
    return float(whole(torch.nn.utils.clip_grad_norm_(params, max_grad_norm))) if params else 0.0


def _metrics(parts: Sequence[tuple[Counter[str], float]]) -> dict[str, float]:
    """From every process's sums over its tokens and its largest gap to the sampler."""
    sums = {k: math.fsum(s[k] for s, _ in parts) if len(parts) > 1 else v for k, v in parts[0][0].items()}
    tokens = max(sums["tokens"], 1)
    return {
        "loss": sums["loss"],
        "entropy": sums["entropy"] / tokens,
        "clip_ratio/region_mean": sums["clipped"] / tokens,
        "kl": sums["kl"] / tokens,
        "sampling/logp_difference": largest(*(gap for _, gap in parts)),
    }


def largest(*values: float) -> float:
    """The largest value; not a number where one is not."""
    return max(values, key=lambda value: (math.isnan(value), value))


@torch.no_grad()
def batch_logprobs(policy: Policy, batch: Batch, cfg: TrainConfig, processes: Processes = ALONE) -> torch.Tensor:
    """(N, T) the policy's own log-probabilities, 0 at padding: every process computes those of its groups."""
    processes.unshard(policy.model)
    mine = processes.share(range(len(batch.samples)))
    forward, groups = GroupForward(policy, take(batch, mine), cfg, grad=False), []
    for index in range(len(mine)):
        logprobs, _, mask = forward.logprobs(index)
        groups.append(torch.zeros(mask.shape).masked_scatter_(mask.cpu(), logprobs.float().cpu()))
    out, g = torch.zeros_like(batch.old_logprobs), batch.num_generations
    for index, group in enumerate(processes.gather(groups)):
        out[index * g : (index + 1) * g, : group.size(1)] = group
    return out


def importance_corrected(policy: Policy, batch: Batch, cfg: TrainConfig, processes: Processes = ALONE) -> Batch:
    """For samples of another engine: the learner's own log-probabilities become the old ones, and the advantages are
    multiplied by min(exp(learner - sampler), `importance_sampling_cap`), per token. TIS, Yao et al. 2025; as TRL does.
    """
    old = batch_logprobs(policy, batch, cfg, processes)
    ratio = torch.exp(old - batch.old_logprobs).clamp(max=cfg.loss.importance_sampling_cap)
    return replace(batch, old_logprobs=old, advantages=batch.advantages * ratio)


class GroupForward:
    """Log-probabilities of one group's completions at a time, the prompts of all groups being computed together."""

    def __init__(self, policy: Policy, batch: Batch, cfg: TrainConfig, grad: bool) -> None:
        self.policy, self.batch, self.temperature, self.grad = policy, batch, cfg.sampling.temperature, grad
        self.prefix: Prefix = policy.prefix(batch.samples, cfg.sampling.max_prompt_length, grad=grad)
        self.recompute = grad and cfg.gradient_checkpointing
        with policy.computing():
            self.weights = TextWeights.of(policy.model, grad=grad)
        self.cos, self.sin = rope_tables(policy.model, self.prefix.next_position, batch.completion_ids.size(1))

    def logprobs(self, index: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Log-probabilities (n,) and entropies (n,) of the group's real tokens, row by row, and their mask (G, T)."""
        g, device = self.batch.num_generations, self.policy.device
        rows = slice(index * g, (index + 1) * g)
        lengths = self.batch.completion_mask[rows].sum(1)
        ids = self.batch.completion_ids[rows, : int(lengths.max())].to(device)
        mask = self.batch.completion_mask[rows, : ids.size(1)].to(device)
        with torch.set_grad_enabled(self.grad):
            tables = self.cos[index : index + 1], self.sin[index : index + 1]
            arguments = (self.weights, self.prefix, index, ids, lengths.to(device), *tables)
            hidden = group_hidden(*arguments, recompute=self.recompute)
            logprobs, entropy = token_logprobs(hidden[mask], self.policy.head, ids[mask], self.temperature)
        return logprobs, entropy, mask

    def backward(self) -> None:
        """Push what the groups' backward passes left at the leaves through fused weights, prompts and vision tower."""
        self.weights.backward()
        self.prefix.backward()


def reference_penalty(reference: Policy, batch: Batch, cfg: TrainConfig, processes: Processes = ALONE) -> torch.Tensor:
    """(N, T) beta * k1 towards the reference, with the sampler's log-probabilities: KL inside the reward (facts 2c)."""
    return cfg.loss.beta * (batch.old_logprobs - batch_logprobs(reference, batch, cfg, processes))


def _require_finite(metrics: dict[str, float], batch: Batch) -> None:
    bad = [k for k, v in metrics.items() if not math.isfinite(v)]
    if bad:
        ids = ", ".join(s.id for s in batch.samples)
        raise TrainingError(f"{', '.join(bad)} not finite for samples {ids}; no optimizer step was taken")


def save_batch(path: Path, batch: Batch, error: Exception) -> None:
    """Keep the batch that broke a step, for replay: `torch.load(path, weights_only=True)` gives its tensors and ids."""
    content: dict[str, Any] = {
        name: getattr(batch, name) for name in ("completion_ids", "completion_mask", "old_logprobs", "advantages")
    }
    torch.save({**content, "sample_ids": [s.id for s in batch.samples], "error": str(error)}, path)
