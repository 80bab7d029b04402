"""The critic of `advantage: gae`: a copy of the stage's starting model whose head says one number per token.

It is trained beside the policy with an optimizer group of its own (Table A7's critic learning rate) and thrown away at
the end of the stage. As in the authors' framework, its head is fresh and it sees what the policy sees.
"""

from __future__ import annotations

import torch

from lmmr1.config import TrainConfig
from lmmr1.policy import Policy, load_policy
from lmmr1.types import Manifest


def load_critic(cfg: TrainConfig, parent: Manifest) -> Policy:
    """The starting model with a value head (1, H), drawn from `seed` with deviation 1 / (H + 1)."""
    critic = load_policy(parent.weights, parent.revision, True, cfg.min_pixels, cfg.max_pixels, torch.float32)
    width = critic.model.config.get_text_config().hidden_size
    generator = torch.Generator().manual_seed(cfg.seed)
    weight = torch.randn(1, width, generator=generator) / (width + 1)
    head = torch.nn.Linear(width, 1, bias=False)
    head.weight = torch.nn.Parameter(weight.to(critic.device))
    critic.model.value_head = head
    critic.model.lm_head.requires_grad_(critic.model.config.tie_word_embeddings)  # untied, nothing computes it
    return critic
