"""What learns in a stage: policy and critic, what they are held against, their optimizer; and their batches."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch

from lmmr1.advantages import gae, per_token
from lmmr1.batch import collate, rewards_of
from lmmr1.config import TrainConfig
from lmmr1.critic import load_critic
from lmmr1.forward import batch_logprobs, batch_values
from lmmr1.lora import add_adapters
from lmmr1.policy import Policy, load_policy, recompute_layers
from lmmr1.precision import computes_in, keep_masters, restore
from lmmr1.processes import ALONE, Processes
from lmmr1.store import Store
from lmmr1.types import Batch, Manifest, ScoredGroup, StepStats, TrainingError, UserError
from lmmr1.update import save_batch, update


@dataclass(frozen=True)
class Learner:
    """One stage's networks and their optimizer."""

    cfg: TrainConfig
    policy: Policy
    reference: Policy | None
    """The frozen start, only at beta > 0."""
    critic: Policy | None
    """Only with `advantage: gae`."""
    optimizer: torch.optim.Optimizer
    processes: Processes = ALONE

    @property
    def trained(self) -> dict[str, torch.Tensor]:
        """What the optimizer moves, by name; the critic's begin with `critic.`."""
        critic = self.critic.trained if self.critic else {}
        return {**self.policy.trained, **{f"critic.{name}": param for name, param in critic.items()}}

    def loaded(self) -> None:
        """Tell the networks that what they train was replaced."""
        for network in (self.policy, self.critic):
            if network is not None:
                network.stepped()

    def batch(self, groups: list[ScoredGroup], exact: bool) -> Batch:
        """Tensors and advantages of one rollout batch.

        `exact` says that the sampler's log-probabilities are the learner's. Where they are not, the learner's own are
        computed before anything is made of them: a KL penalty must not hold the sampler's rounding. Raises
        TrainingError where a reward is not finite.
        """
        cfg, rewards = self.cfg, rewards_of(groups)
        if not bool(torch.isfinite(rewards).all()):
            raise TrainingError(f"rewards not finite for samples {', '.join(g.sample.id for g in groups)}")
        batch = collate(groups, self.policy.pad_id, cfg.loss.mask_truncated_completions)
        if exact:
            batch = replace(batch, old_logprobs=batch.sampler_logprobs)
        elif cfg.optimizer_steps > 1 or cfg.loss.kl_in_reward:
            batch = replace(batch, old_logprobs=batch_logprobs(self.policy, batch, cfg, self.processes))
        penalty = None
        if self.reference is not None:
            batch = replace(batch, ref_logprobs=batch_logprobs(self.reference, batch, cfg, self.processes))
            penalty = kl_penalty(batch, cfg)
        if self.critic is None:
            return replace(batch, advantages=per_token(cfg.advantage, rewards, batch.loss_mask, penalty))
        values = batch_values(self.critic, batch, cfg, self.processes)
        advantages, returns = gae(rewards, batch.loss_mask, values, penalty, cfg.critic)
        return replace(batch, values=values, advantages=advantages, returns=returns)

    def learn(self, batch: Batch, step: int, store: Store) -> StepStats:
        """The optimizer steps of one rollout batch; a batch that breaks one is saved for replay."""
        try:
            metrics = update(self.policy, self.critic, self.optimizer, batch, self.cfg, step, self.processes)
            return StepStats(step, metrics)
        except TrainingError as e:
            file = store.folder / f"failed-step-{step}.pt"
            if self.processes.main:
                save_batch(file, batch, e)
            raise TrainingError(f"step {step}: {e}; the batch is saved in {file}") from e

    def finished(self) -> Policy:
        """The policy as it is saved: with what the optimizer moved, in fp32."""
        if self.policy.masters or self.policy.untrained:
            restore(self.policy)
        return self.policy


def kl_penalty(batch: Batch, cfg: TrainConfig) -> torch.Tensor | None:
    """(N, T) beta * k1 towards the reference, what KL inside the reward takes off it (facts 2c); else None."""
    if not cfg.loss.kl_in_reward:
        return None
    assert batch.old_logprobs is not None and batch.ref_logprobs is not None
    return cfg.loss.beta * (batch.old_logprobs - batch.ref_logprobs)


def build(cfg: TrainConfig, parent: Manifest, processes: Processes = ALONE) -> Learner:
    """The stage's networks, from the parent's weights. Raises UserError for what cannot be trained together."""
    dtype, pixels = computes_in(cfg), (cfg.min_pixels, cfg.max_pixels)
    if cfg.lora and processes.sharded:
        raise UserError("lora: adapters are too small to shard; launch with config/accelerate/ddp.yaml")
    policy = load_policy(parent.weights, parent.revision, True, *pixels, dtype=torch.float32)
    critic = load_critic(cfg, parent) if cfg.advantage == "gae" else None
    for network in (policy, critic):
        if network is None:
            continue
        if cfg.freeze_vision:
            network.model.model.visual.requires_grad_(False)
        if cfg.lora:
            network.model.requires_grad_(False)
            if dtype != torch.float32:  # the base alone: adapters are fp32
                keep_masters(network)
            network.peft = add_adapters(network.model, cfg.lora)
        if cfg.gradient_checkpointing:
            recompute_layers(network.model)
        processes.shard(network.model, dtype)
        if dtype != torch.float32 and not cfg.lora and not processes.sharded:
            keep_masters(network)
    reference = None
    if cfg.loss.beta > 0:
        frozen = (parent.weights, parent.revision, False, *pixels)
        reference = policy.reference() if cfg.lora else load_policy(*frozen, dtype=dtype)
    groups = [{"params": list(policy.trained.values()), "lr": cfg.learning_rate, "initial_lr": cfg.learning_rate}]
    if critic is not None:
        rate = cfg.critic.learning_rate
        groups.append({"params": list(critic.trained.values()), "lr": rate, "initial_lr": rate})
    betas = (cfg.adam_beta1, cfg.adam_beta2)
    optimizer = torch.optim.AdamW(groups, betas=betas, weight_decay=cfg.weight_decay, fused=True)
    return Learner(cfg, policy, reference, critic, optimizer, processes)
