"""The learning rate, for both trainers."""

from __future__ import annotations

import math

from lmmr1.config import TrainConfig


def learning_rate(cfg: TrainConfig, step: int) -> float:
    """Linear warm-up, then constant or cosine to a tenth. A function of the step alone, so resuming needs no state."""
    warm = min(1.0, step / cfg.warmup_steps) if cfg.warmup_steps else 1.0
    if cfg.lr_scheduler_type == "constant":
        return cfg.learning_rate * warm
    done = step / cfg.max_steps
    return cfg.learning_rate * warm * (0.1 + 0.9 * 0.5 * (1 + math.cos(math.pi * done)))
