"""The learning rate, for both trainers."""

from __future__ import annotations

import math

from lmmr1.config import TrainConfig


def learning_rate(cfg: TrainConfig, step: float) -> float:
    """Linear warm-up, then constant or cosine to a tenth. A function of the step alone, so resuming needs no state.

    `step` counts rollout batches, from 1; between two of them it is a fraction (`lr_per_optimizer_step`).
    """
    warm = min(1.0, step / cfg.warmup_steps) if cfg.warmup_steps else 1.0
    if cfg.lr_scheduler_type == "constant":
        return cfg.learning_rate * warm
    done = step / cfg.max_steps
    return cfg.learning_rate * warm * (0.1 + 0.9 * 0.5 * (1 + math.cos(math.pi * done)))


def rates(cfg: TrainConfig, step: int) -> list[float]:
    """The learning rate of every optimizer step on rollout batch `step`, which counts from 1."""
    count = cfg.optimizer_steps
    return [learning_rate(cfg, step - 1 + (k + 1) / count if cfg.lr_per_optimizer_step else step) for k in range(count)]
