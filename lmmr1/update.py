"""Optimizer steps on one rollout batch. The normaliser is computed once, over all rows of a step.

Gradients therefore do not depend on which rows are computed together, nor on who computes them.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import fields
from pathlib import Path

import torch

from lmmr1.batch import group_rows, minibatches, take
from lmmr1.config import TrainConfig
from lmmr1.forward import Piece, logprobs_of, pieces, values_of
from lmmr1.loss import kl, policy_loss, token_weights, value_loss
from lmmr1.policy import Policy
from lmmr1.processes import ALONE, Processes, whole
from lmmr1.schedule import rates
from lmmr1.types import Batch, TrainingError


def update(
    policy: Policy,
    critic: Policy | None,
    optimizer: torch.optim.Optimizer,
    batch: Batch,
    cfg: TrainConfig,
    step: int,
    processes: Processes = ALONE,
) -> dict[str, float]:
    """`num_iterations` passes of `num_minibatches` optimizer steps. Returns metrics with TRL's names, mean over steps.

    `batch` is that of all processes, which come to the same metrics and weights.
    Raises TrainingError where loss or gradients are not finite; the weights are then those before the step.
    """
    rollout_tokens = float(batch.loss_mask.sum()) / cfg.num_minibatches
    stats = []
    for rate, part in zip(rates(cfg, step), minibatches(batch, cfg.num_minibatches) * cfg.num_iterations, strict=True):
        for group in optimizer.param_groups:
            group["lr"] = group["initial_lr"] * rate / cfg.learning_rate
        optimizer.zero_grad(set_to_none=True)
        metrics = accumulate_gradients(policy, part, cfg, rollout_tokens, processes)
        metrics["grad_norm"] = _settle(policy, cfg, processes)
        if critic is not None:
            metrics |= accumulate_value_gradients(critic, part, cfg, rollout_tokens, processes)
            metrics["critic/grad_norm"] = _settle(critic, cfg, processes)
        _require_finite(metrics, part)
        optimizer.step()
        for moved in (policy, critic):
            if moved is not None:
                moved.stepped()
        stats.append({**metrics, "learning_rate": rate})
    optimizer.zero_grad(set_to_none=True)
    return {k: sum(s[k] for s in stats) / len(stats) for k in stats[0]}


def accumulate_gradients(
    policy: Policy, batch: Batch, cfg: TrainConfig, rollout_tokens: float, processes: Processes = ALONE
) -> dict[str, float]:
    """Leave the gradient of the batch's loss at what is trained, piece after piece; dead groups are skipped.

    Where several processes share the batch, each leaves its prompts' part; the metrics are those of the whole.
    """
    batch, weights = _share(batch, cfg, rollout_tokens, processes)
    reference, in_loss = batch.ref_logprobs, batch.ref_logprobs is not None and not cfg.loss.kl_in_reward
    sums: Counter[str] = Counter()
    gap = 0.0
    processes.unshard(policy.model)
    for piece in pieces(policy, batch, cfg, grad=True, wanted=_live(batch, everything=in_loss)):
        logprobs, entropy = logprobs_of(policy, piece, cfg.sampling.temperature)
        sampled, advantage = piece.of(batch.sampler_logprobs), piece.of(batch.advantages)
        old = logprobs.detach() if batch.old_logprobs is None else piece.of(batch.old_logprobs)
        advantage = advantage * correction(old, sampled, cfg)
        target = None if reference is None else piece.of(reference)
        lengths = piece.lengths if cfg.loss.importance_sampling_level == "sequence" else None
        loss, clipped = policy_loss(logprobs, old, advantage, target, cfg.loss, lengths)
        objective = (loss * piece.of(weights)).sum()
        objective.backward()
        with torch.no_grad():
            divergence = kl(logprobs, target, "k3").sum() if target is not None else torch.zeros(())
            values = {"loss": objective, "entropy": entropy.sum(), "clipped": clipped.sum(), "kl": divergence}
            _add(sums, values, piece)
            gap = largest(gap, (logprobs - sampled).abs().max().item())
    return _metrics(*_together(sums, gap, processes))


def accumulate_value_gradients(
    critic: Policy, batch: Batch, cfg: TrainConfig, rollout_tokens: float, processes: Processes = ALONE
) -> dict[str, float]:
    """As `accumulate_gradients`, for the critic: towards the batch's returns, tokens averaged as the policy's are."""
    batch, weights = _share(batch, cfg, rollout_tokens, processes)
    assert batch.values is not None and batch.returns is not None
    sums: Counter[str] = Counter()
    processes.unshard(critic.model)
    for piece in pieces(critic, batch, cfg, grad=True, wanted=_live(batch, everything=True)):
        values = values_of(critic, piece)
        loss, clipped = value_loss(values, piece.of(batch.values), piece.of(batch.returns), cfg.critic.cliprange_value)
        objective = (loss * piece.of(weights)).sum()
        objective.backward()
        _add(sums, {"loss": objective.detach(), "clipped": clipped.sum(), "value": values.detach().sum()}, piece)
    sums, _ = _together(sums, 0.0, processes)
    tokens = max(sums["tokens"], 1)
    means = {"val/clipfrac_avg": sums["clipped"] / tokens, "val/mean": sums["value"] / tokens}
    return {"loss/value_avg": float(sums["loss"]), **means}


def correction(old: torch.Tensor, sampled: torch.Tensor, cfg: TrainConfig) -> torch.Tensor:
    """min(exp(learner - sampler), `importance_sampling_cap`) per token, for samples of another engine; else 1.

    TIS, Yao et al. 2025; as TRL does.
    """
    return torch.exp(old - sampled).clamp(max=cfg.loss.importance_sampling_cap)


def _share(batch: Batch, cfg: TrainConfig, rollout_tokens: float, processes: Processes) -> tuple[Batch, torch.Tensor]:
    """This process's prompts, and the weights of their tokens in the whole step's loss."""
    weights = token_weights(batch.loss_mask, cfg.loss, cfg.sampling.max_completion_length, rollout_tokens)
    mine = processes.share(range(len(batch.samples)))
    return take(batch, mine), weights[group_rows(mine, batch.num_generations)]


def _live(batch: Batch, everything: bool) -> torch.Tensor:
    """(N,) rows that are computed: those with a token in the loss, of groups that have an advantage at all.

    A group whose rewards are all equal has no gradient; the weights keep counting its tokens.
    """
    alive = batch.advantages.unflatten(0, (-1, batch.num_generations)).flatten(1).any(1)
    return batch.loss_mask.any(1) & (alive.repeat_interleave(batch.num_generations) | everything)


def _add(sums: Counter[str], values: Mapping[str, torch.Tensor], piece: Piece) -> None:
    sums.update({k: v.item() for k, v in values.items()})
    sums["tokens"] += piece.ids.numel()


def _settle(policy: Policy, cfg: TrainConfig, processes: Processes) -> float:
    """Sum the gradients over the processes and scale them down to `max_grad_norm`; returns what their norm was."""
    processes.reduce(policy)
    params = [p for p in policy.trained.values() if p.grad is not None]
    return float(whole(torch.nn.utils.clip_grad_norm_(params, cfg.max_grad_norm))) if params else 0.0


def _together(sums: Counter[str], gap: float, processes: Processes) -> tuple[Counter[str], float]:
    """Every process's sums over its tokens, added up, and the largest gap to the sampler."""
    parts = processes.collect((sums, gap))
    if len(parts) == 1:
        return parts[0]
    names: Iterator[str] = iter({name for part, _ in parts for name in part})
    total: Counter[str] = Counter()
    total.update({k: math.fsum(s[k] for s, _ in parts) for k in names})
    return total, largest(*(g for _, g in parts))


def _metrics(sums: Counter[str], gap: float) -> dict[str, float]:
    tokens = max(sums["tokens"], 1)
    return {
        "loss": float(sums["loss"]),
        "entropy": sums["entropy"] / tokens,
        "clip_ratio/region_mean": sums["clipped"] / tokens,
        "kl": sums["kl"] / tokens,
        "sampling/logp_difference": gap,
    }


def largest(*values: float) -> float:
    """The largest value; not a number where one is not."""
    return max(values, key=lambda value: (math.isnan(value), value))


def _require_finite(metrics: dict[str, float], batch: Batch) -> None:
    bad = [k for k, v in metrics.items() if not math.isfinite(v)]
    if bad:
        ids = ", ".join(s.id for s in batch.samples)
        raise TrainingError(f"{', '.join(bad)} not finite for samples {ids}; no optimizer step was taken")


def save_batch(path: Path, batch: Batch, error: Exception) -> None:
    """Keep the batch that broke a step, for replay: `torch.load(path, weights_only=True)` gives its tensors and ids."""
    tensors = {f.name: getattr(batch, f.name) for f in fields(batch) if f.name != "samples"}
    torch.save({**tensors, "sample_ids": [s.id for s in batch.samples], "error": str(error)}, path)
