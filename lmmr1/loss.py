"""The clipped policy-gradient loss on a flat list of completion tokens. Masks: 1 counts in the loss."""

from __future__ import annotations

import torch
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from lmmr1.config import LossConfig

LOGITS = 2**27
"""Numbers in the logits that are held at once: 0.5 GB in fp32, and its gradient as much again."""


def token_logprobs(
    hidden: torch.Tensor, head: torch.Tensor, targets: torch.Tensor, temperature: float, logits: int = LOGITS
) -> tuple[torch.Tensor, torch.Tensor]:
    """Log-probabilities of given tokens, in fp32 and in chunks, so that memory never grows with tokens x vocabulary.

    Args:
        hidden: (n, H) final hidden states that predict the targets.
        head: (V, H) output embedding.
        targets: (n,) token ids.
        temperature: logits are divided by it, as the sampler does.
        logits: numbers in one chunk's; with more than one chunk the backward pass computes each chunk's again.

    Returns:
        (n,) log-probabilities with gradient and (n,) entropies without, both in nats.
    """
    chunk = max(1, logits // head.size(0))
    if hidden.size(0) <= chunk:
        return _chunk_logprobs(hidden, head, targets, temperature)
    parts = [
        checkpoint(_chunk_logprobs, h, head, t, temperature, use_reentrant=False)
        for h, t in zip(hidden.split(chunk), targets.split(chunk), strict=True)
    ]
    return torch.cat([p[0] for p in parts]), torch.cat([p[1] for p in parts])


def _chunk_logprobs(
    hidden: torch.Tensor, head: torch.Tensor, targets: torch.Tensor, temperature: float
) -> tuple[torch.Tensor, torch.Tensor]:
    logits = F.linear(hidden, head).float() / temperature
    normaliser = logits.logsumexp(-1)
    with torch.no_grad():
        entropy = normaliser - (torch.softmax(logits, -1) * logits).sum(-1)
    return logits.gather(1, targets[:, None])[:, 0] - normaliser, entropy


def kl(logprobs: torch.Tensor, reference: torch.Tensor, estimator: str) -> torch.Tensor:
    """(n,) per-token estimate of KL(policy, reference): k1 = log p/q; k3 = q/p - 1 - log q/p >= 0 (Schulman 2020)."""
    gap = reference - logprobs
    return -gap if estimator == "k1" else torch.exp(gap) - gap - 1


def policy_loss(
    logprobs: torch.Tensor,
    old: torch.Tensor,
    advantages: torch.Tensor,
    reference: torch.Tensor | None,
    cfg: LossConfig,
    lengths: torch.Tensor | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Per-token loss, -min(ratio A, clip(ratio, 1 - epsilon, 1 + epsilon_high) A) + beta KL. PPO, 1707.06347, eq. 7.

    `cispo`: -min(ratio, epsilon_high) A log p, the ratio without gradient (2506.13585, eq. 4; one-sided, as TRL).
    All arguments are (n,), row by row; `lengths` says how many tokens each row has, for ratios of whole completions.
    Returns the loss (n,) and, as bool (n,), where the clip was active.
    """
    ratio = torch.exp(logprobs - old if lengths is None else row_means(logprobs - old, lengths))
    high = cfg.epsilon if cfg.epsilon_high is None else cfg.epsilon_high
    if cfg.loss_type == "cispo":
        loss = -ratio.clamp(max=high).detach() * advantages * logprobs
        clipped = (ratio > high) & (advantages > 0)
    else:
        low, high = 1 - cfg.epsilon, 1 + high
        loss = -torch.min(ratio * advantages, ratio.clamp(low, high) * advantages)
        clipped = ((ratio < low) & (advantages < 0)) | ((ratio > high) & (advantages > 0))
    if reference is not None and cfg.beta and not cfg.kl_in_reward:
        loss = loss + cfg.beta * kl(logprobs, reference, cfg.kl_estimator)
    return loss, clipped.detach()


def row_means(tokens: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
    """(n,) every token's value replaced by the mean of its row; `lengths` (R,) sum to n."""
    row = torch.repeat_interleave(torch.arange(lengths.numel(), device=tokens.device), lengths)
    sums = torch.zeros(lengths.numel(), dtype=tokens.dtype, device=tokens.device).index_add(0, row, tokens)
    return (sums / lengths.clamp(min=1))[row]


def value_loss(
    values: torch.Tensor, old: torch.Tensor, returns: torch.Tensor, cliprange_value: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Per-token loss of the critic, 0.5 max((v - R)^2, (v clipped around the old value - R)^2), as TRL and OpenRLHF.

    All arguments are (n,). Returns the loss (n,) and, as bool (n,), where the clip was active.
    """
    near = values.clamp(old - cliprange_value, old + cliprange_value)  # exactly `values` where nothing is clipped
    free, held = (values - returns) ** 2, (near - returns) ** 2
    return 0.5 * torch.max(free, held), (held > free).detach()


def token_weights(
    mask: torch.Tensor, cfg: LossConfig, max_completion_length: int, rollout_tokens: float
) -> torch.Tensor:
    """Weights such that loss = sum(weights * per-token loss): how tokens are averaged, whatever the micro-batch.

    Args:
        mask: (n, T) bool, tokens of the loss, over all rows of one optimizer step.
        rollout_tokens: tokens of the loss of the whole rollout batch divided by its optimizer steps per pass.

    Returns:
        (n, T) fp32. `grpo` and `seq_mean` (the release of 12 March 2025): mean over tokens per sequence, then over
        sequences; `bnpo`: mean over this step's tokens; `dapo`, `cispo`: over the rollout's tokens; `dr_grpo`: / (n max
        length).
    """
    rows, weights = mask.size(0), mask.float()
    if cfg.loss_type in ("grpo", "seq_mean"):
        return weights / mask.sum(1, keepdim=True).clamp(min=1) / rows
    if cfg.loss_type == "dr_grpo":
        return weights / (rows * max_completion_length)
    total = float(mask.sum()) if cfg.loss_type == "bnpo" else rollout_tokens
    return weights / max(total, 1.0)
