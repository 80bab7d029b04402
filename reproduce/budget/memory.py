"""What one GPU has to hold: the known plans for weights, gradients and optimizer, and what given settings need.

Bytes throughout. B/p: bytes per parameter.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from reproduce.budget.geometry import Geometry
from reproduce.budget.roofline import Work

RESERVE = 2e9
"""CUDA context, library workspaces and fragmentation: a guess."""
LOGITS_CHUNK = 4096
"""Tokens whose logits are held at once (lmmr1/loss.py)."""
LORA_RANK = 32
"""Of plan F where the settings name none."""
Fits = Literal["yes", "tight", "no"]


@dataclass(frozen=True, slots=True)
class StatePlan:
    """A way to hold weights, gradients and optimizer state."""

    letter: str
    title: str
    device: float
    """Bytes on the GPU."""
    host: float = 0.0
    """Bytes in the machine's memory."""


def plans(g: Geometry, lora_rank: int = LORA_RANK) -> list[StatePlan]:
    """The plans A to F of docs/estimate.md for a model."""
    every, text, vision = g.parameters, g.text_parameters, g.vision_parameters
    return [
        StatePlan("A", "all weights: bf16 weights and gradients, fp32 master and moments (16 B/p)", 16 * every),
        StatePlan("B", "vision tower frozen (16 B/p of the language model, 2 of the rest)", 16 * text + 2 * vision),
        StatePlan("C", "all weights: 8-bit Adam, fp32 master (10 B/p)", 10 * every),
        StatePlan("D", "all weights: bf16 weights and moments with Kahan summation (10 B/p)", 10 * every),
        StatePlan("E", "all weights: master and moments in the machine's memory (4 + 12 B/p)", 4 * every, 12 * every),
        StatePlan("F", f"LoRA of rank {lora_rank} on a bf16 model", 2 * every + 16 * g.adapter_parameters(lora_rank)),
    ]


@dataclass(frozen=True, slots=True)
class Holding:
    """How a trainer holds a model, as its settings say."""

    trainable: float
    """Parameters with gradient and moments."""
    frozen: float
    weight_bytes: int
    """Of a trainable weight and of its gradient, which is also the master copy."""
    frozen_bytes: int
    reference: float
    """Bytes of a second model for the KL term."""
    checkpointing: bool
    shards: int
    """GPUs that share weights, gradients and moments (FSDP, ZeRO-3); 1: each holds all."""
    plan: str
    """The letter of the plan in `plans` that this is an instance of."""

    @property
    def compute_bytes(self) -> int:
        """Of an activation: with adapters, what the frozen model has."""
        return self.frozen_bytes if self.plan == "F" else self.weight_bytes

    @property
    def copied(self) -> int:
        """Bytes of a fused copy, with its gradient where the copied weight is trained."""
        return self.frozen_bytes if self.plan == "F" else 2 * self.weight_bytes

    @property
    def whole(self) -> float:
        """Bytes of whole weights and gradients, which sharded ones become while a step computes."""
        return 2 * self.weight_bytes * self.trainable if self.shards > 1 else 0.0

    @property
    def states(self) -> float:
        """Bytes of weights, gradients and two fp32 moments on one GPU."""
        trained = self.trainable * (2 * self.weight_bytes + 8)
        return (trained + self.frozen * self.frozen_bytes) / self.shards


def holding(g: Geometry, train: Mapping[str, Any], shards: int = 1) -> Holding:
    """What this trainer holds under the settings `train` (fields of lmmr1.config.TrainConfig).

    It trains in fp32 (lmmr1/policy.py: load_policy): 4 + 4 + 8 B/p, as many as bf16 with a master copy.
    """
    lora, frozen_vision = train.get("lora"), bool(train.get("freeze_vision"))
    beta = train["loss"]["beta"]
    if lora:
        adapters = g.adapter_parameters(int(lora["r"]))
        return Holding(adapters, g.parameters, 4, 2, 0.0, bool(train.get("gradient_checkpointing")), 1, "F")
    trainable = g.text_parameters if frozen_vision else g.parameters
    return Holding(
        trainable=trainable,
        frozen=g.parameters - trainable,
        weight_bytes=4,
        frozen_bytes=4,
        reference=(2 * g.parameters / shards) if beta > 0 else 0.0,
        checkpointing=bool(train.get("gradient_checkpointing")),
        shards=shards,
        plan="B" if frozen_vision else "A",
    )


@dataclass(frozen=True, slots=True)
class Demand:
    """Bytes on one GPU at the peak, in parts; rollout and update do not stand there together."""

    states: float
    reference: float
    copies: float
    """Fused copies of projections with their gradients (lmmr1/suffix.py), and what sharding makes whole for a step."""
    prompts: float
    """Activations of the prompts, kept from sampling to training."""
    rollout: float
    """Keys and values; with vLLM its weights too."""
    update: float
    """Activations of one group and a chunk of logits."""
    reserve: float = RESERVE

    @property
    def total(self) -> float:
        """The peak."""
        always = self.states + self.reference + self.copies + self.reserve
        return always + max(self.prompts + self.rollout, self.prompts + self.update)


def demand(g: Geometry, held: Holding, work: Work, train: Mapping[str, Any]) -> Demand:
    """The peak of one step of `work` (of one GPU); its completion length is what is held in full."""
    bytes_ = held.compute_bytes
    tokens = work.generations * work.completion_tokens
    vllm = train["engine"] == "vllm"
    logits = 3 * 4 * min(LOGITS_CHUNK, tokens) * g.vocab
    kept = work.prompts / (train["num_minibatches"] if vllm else 1)
    return Demand(
        states=held.states,
        reference=held.reference,
        copies=held.copied * g.fused_copies + held.whole,
        prompts=kept * work.prompt_tokens * _per_token(g, held),
        rollout=2 * g.parameters + work.generations * _row(g, work, 2) if vllm else work.rows * _row(g, work, bytes_),
        update=tokens * _per_token(g, held) + _one_layer(g, held, tokens) + logits,
    )


def _row(g: Geometry, work: Work, value_bytes: int) -> float:
    """Keys and values of one row."""
    return (work.prompt_tokens + work.completion_tokens) * g.kv_bytes(value_bytes)


def _per_token(g: Geometry, held: Holding) -> float:
    """Activations that wait for the backward pass, per token: all of them, or one hidden state per layer."""
    per_layer = g.hidden if held.checkpointing else layer_values(g)
    return g.layers * per_layer * held.compute_bytes


def _one_layer(g: Geometry, held: Holding, tokens: float) -> float:
    """The layer that checkpointing computes again."""
    return layer_values(g) * tokens * held.compute_bytes if held.checkpointing else 0.0


def layer_values(g: Geometry) -> int:
    """Values that autograd keeps per token and layer: norms and their inputs, projections before and after rotation,
    attention's in- and output, gate, up and their product. Held against saved tensors in tests/test_estimate.py.
    """
    rotated = (g.heads + g.kv_heads) * g.head_dim
    return 4 * g.hidden + 2 * rotated + g.kv_heads * g.head_dim + 3 * g.heads * g.head_dim + 4 * g.intermediate


def verdict(need: float, need_at_limits: float, have: float) -> Fits:
    """`yes` where even answers of the full length fit, `tight` where those of the mean length do, else `no`."""
    return "yes" if need_at_limits <= have else "tight" if need <= have else "no"
