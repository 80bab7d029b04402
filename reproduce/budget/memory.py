"""What one GPU has to hold: the known plans for weights, gradients and optimizer, and what given settings need.

Bytes throughout. B/p: bytes per parameter. A step's phases do not stand beside each other: the peak is the largest
phase's. The formulae are held against measured peaks (bench/memory.py, tests/test_memory.py).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from reproduce.budget.geometry import Geometry
from reproduce.budget.roofline import Work

RESERVE = 2e9
"""CUDA context, library workspaces and fragmentation: a guess."""
LOGITS = 2**27
"""Numbers in the logits that are held at once (lmmr1/loss.py, which would bring torch along)."""
LONG = 512
"""Completion tokens from which on attention holds no mask (lmmr1/suffix.py)."""
CACHED_IMAGES = 1024
"""Images whose features are kept while a vision tower is frozen (lmmr1/policy.py)."""
COMPACTED = 15 / 8
"""The sampler's cache beside the copy without its finished rows, which are an eighth of it (lmmr1/rollout.py)."""
BACK = 0.25
"""What a layer's backward pass holds at once, of what the layer keeps: measured."""
LOGITS_COPIES = {True: 5, False: 3}
"""fp32 copies of a chunk of logits at the peak, with and without a backward pass: measured."""
BLOCK_WIDTHS = 15
"""Values that a vision block keeps per patch, in its widths and beside its MLP's: measured in bf16 (13 in fp32)."""
GROWS_WITH = {"update": "tokens_per_micro_batch", "logprobs": "tokens_per_micro_batch", "rollout": "tokens_per_rollout"}
"""The setting of each phase; with vLLM the rollout's is its share."""
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
    """Parameters of the policy with gradient and moments."""
    states: float
    """Bytes at rest on one GPU: weights and fp32 moments, of the critic too."""
    copies: float
    """Bytes of copies that are computed with: of sharded weights the whole, of a small model's its fused ones."""
    gradients: float
    """Bytes that the policy's gradients take on one GPU, those of the fused copies too; the critic's as many."""
    reference: float
    """Bytes of a second model for the KL term."""
    trains_vision: bool
    frozen_towers: int
    """Networks that keep features of images, the vision tower being frozen."""
    adapters: bool
    critic: bool
    checkpointing: bool
    compute_bytes: int
    """Of an activation."""
    shards: int
    """GPUs that share weights and moments (FSDP2); 1: each holds all."""
    plan: str
    """The letter of the plan in `plans` that this comes nearest to; its gradients are fp32, 2 B/p more than there."""


def holding(g: Geometry, train: Mapping[str, Any], shards: int = 1, on_gpu: bool = True) -> Holding:
    """What this trainer holds under the settings `train` (fields of lmmr1.config.TrainConfig).

    In bf16 it keeps fp32 masters: 2 + 4 + 8 B/p at rest and fp32 gradients of 4 (lmmr1/precision.py). Sharded, fp32
    weights and moments are spread, and bf16 copies of the whole, with fp32 gradients, stand there for a step
    (lmmr1/processes.py). Adapters are fp32 on a frozen base.
    """
    lora, beta, critic = train.get("lora"), train["loss"]["beta"], train["advantage"] == "gae"
    bytes_ = 2 if (on_gpu if train.get("bf16") is None else train["bf16"]) else 4
    frozen_vision = bool(train.get("freeze_vision") or lora)
    trainable: float = g.text_parameters if frozen_vision else g.parameters
    if lora:
        trainable = g.adapter_parameters(int(lora["r"]))
        states, gradient, copied = 12 * trainable + bytes_ * g.parameters, 4, 0.0
    elif shards > 1:
        states = (8 * trainable + 4 * g.parameters) / shards
        gradient, copied = 4, float(bytes_ * g.parameters)
    else:
        masters = 4 if bytes_ == 2 else 0
        states, gradient, copied = (8 + masters) * trainable + bytes_ * g.parameters, 4, 0.0
    networks, fused = (2 if critic else 1), bytes_ * g.fused_copies
    return Holding(
        trainable=trainable,
        states=networks * states,
        copies=networks * copied + fused,
        gradients=gradient * trainable + fused,
        reference=float(bytes_ * g.parameters) if beta > 0 and not lora else 0.0,
        trains_vision=not frozen_vision,
        frozen_towers=(networks if frozen_vision else 0) + (1 if beta > 0 and not lora else 0),
        adapters=bool(lora),
        critic=critic,
        checkpointing=bool(train.get("gradient_checkpointing")),
        compute_bytes=bytes_,
        shards=shards,
        plan="F" if lora else "B" if frozen_vision else "A",
    )


@dataclass(frozen=True, slots=True)
class Demand:
    """Bytes on one GPU at the peak, in parts; `rollout`, `logprobs` and `update` do not stand there together."""

    states: float
    reference: float
    copies: float
    """What is computed with beside the weights at rest, and kept features of images."""
    gradients: float
    """Of all that is trained, while it is updated."""
    prompts: float
    """Activations of the prompts that are computed at once, while their completions are trained on."""
    rollout: float
    """Keys and values, next to the prompts' activations where sampler and learner share them; with vLLM its share."""
    logprobs: float
    """A pass without gradient: old or reference log-probabilities, values."""
    update: float
    """Activations of the completions that are computed at once, what goes back through them, a chunk of logits."""
    resting: float = 0.0
    """Of vLLM while the learner works."""
    card: float = 0.0
    """Bytes of the smallest card of which vLLM's share holds its weights and one row; 0 where this one will do."""
    reserve: float = RESERVE

    @property
    def phases(self) -> dict[str, float]:
        """Peaks by phase."""
        always = self.states + self.reference + self.copies + self.reserve
        learning = always + self.resting
        return {
            "rollout": always + self.rollout,
            "logprobs": learning + self.logprobs,
            "update": learning + self.gradients + self.prompts + self.update,
        }

    @property
    def total(self) -> float:
        """The peak, or what the card must have for vLLM to start."""
        return max(*self.phases.values(), self.card)

    @property
    def decides(self) -> str:
        """The phase that decides; `vllm` where its share does."""
        found = self.phases | {"vllm": self.card}
        return max(found, key=found.__getitem__)

    def advice(self, train: Mapping[str, Any]) -> str:
        """Which setting changes the phase that decides, and what it is."""
        share = f"vllm.gpu_memory_utilization ({train['vllm']['gpu_memory_utilization']:g})"
        if self.decides == "vllm":
            return f"raise {share}"
        if self.decides == "rollout" and train["engine"] == "vllm":
            return f"lower {share}"
        key = GROWS_WITH[self.decides]
        return f"lower {key} ({train[key]})"


def demand(g: Geometry, held: Holding, work: Work, train: Mapping[str, Any], have: float = 0.0) -> Demand:
    """The peak of one step of `work` (of one GPU) on a card of `have` bytes; rows all have its completion length."""
    c, budget, limits = held.compute_bytes, train["tokens_per_micro_batch"], train["sampling"]
    at_once = max(1, budget // limits["max_prompt_length"])
    prompts = min(math.ceil(work.prompts / train["num_minibatches"]), at_once)
    rows = min(work.generations, max(1, budget // work.completion_tokens))
    piece = Piece(g, c, rows, work.prompt_tokens, work.completion_tokens)
    asked = Prompts(g, c, prompts, work.prompt_tokens, work.image_tokens, held.trains_vision)
    gradients, update = _updating(g, held, piece, asked)
    through = [_passing(g, c, part.tokens, part.inside) for part in (asked, piece)]
    kept, vllm = asked.kept(held.checkpointing), train["engine"] == "vllm"
    longest = limits["max_prompt_length"] + limits["max_completion_length"]
    share = train["vllm"]["gpu_memory_utilization"] if vllm else 1.0
    card = (2 * g.parameters + longest * g.kv_bytes() + RESERVE) / share if vllm else 0.0
    shared = work.prompts <= at_once and train["num_minibatches"] == train["dynamic_sampling_factor"] == 1
    return Demand(
        states=held.states,
        reference=held.reference,
        copies=held.copies + held.frozen_towers * CACHED_IMAGES * work.image_tokens * g.hidden * c,
        gradients=gradients,
        prompts=kept,
        rollout=share * have if vllm else _sampling(g, c, work, train) + (kept if shared else 0.0),
        logprobs=asked.cache + piece.ends + max(*through, piece.logits(grad=False)),
        update=update,
        resting=share * have if vllm and train["vllm"]["sleep_level"] == 0 else 0.0,
        card=card if card > have else 0.0,
    )


def _updating(g: Geometry, held: Holding, piece: Piece, asked: Prompts) -> tuple[float, float]:
    """Gradients, and what stands beside them and the prompts' activations: of the policy or, later, of the critic."""
    waiting, back = piece.kept(held.checkpointing) + piece.ends, piece.going_back(held.checkpointing)
    head = 0 if held.adapters else 2 * held.compute_bytes * g.head_weights  # a sum in the making, and what is added
    policy, critic = waiting + max(piece.logits(grad=True) + head, back), waiting + back
    policy, critic = (max(update, asked.going_back(held.checkpointing)) for update in (policy, critic))
    settled = 4 * held.trainable / held.shards if held.critic else 0.0  # the policy's, which wait for the optimizer
    return max((held.gradients, policy), (held.gradients + settled, critic), key=sum)


def _sampling(g: Geometry, c: int, work: Work, train: Mapping[str, Any]) -> float:
    """The built-in sampler: prompts' keys and values and their copies for every row, with room for the greatest length
    of answers, and a step's logits, of which three are fp32.
    """
    limits, rows = train["sampling"], work.generations
    longest = limits["max_prompt_length"] + limits["max_completion_length"]
    prompts = min(
        work.prompts * train["dynamic_sampling_factor"], max(1, train["tokens_per_rollout"] // rows // longest)
    )
    cache = COMPACTED * rows * (work.prompt_tokens + limits["max_completion_length"]) + work.prompt_tokens
    return prompts * (cache * g.kv_bytes(c) + rows * (c + 3 * 4) * g.vocab)


def _passing(g: Geometry, c: int, tokens: float, inside: float) -> float:
    """What a layer holds at once without gradient: its attention, then its MLP."""
    mlp = tokens * c * (4 * g.intermediate + 2 * g.hidden)
    return max(inside - mlp, mlp)


@dataclass(frozen=True, slots=True)
class Piece:
    """R rows of n tokens after one prompt of T, in lmmr1/suffix.py's layers."""

    g: Geometry
    c: int
    rows: int
    prompt: int
    n: int

    @property
    def tokens(self) -> int:
        """Of the completions."""
        return self.rows * self.n

    @property
    def inside(self) -> float:
        """What a layer keeps for its backward pass."""
        g, all_, wide = self.g, self.prompt + self.n, self.g.heads * self.g.head_dim
        if self.n < LONG:
            mask = g.heads // g.kv_heads * self.n * all_
            attention = self.rows * (2 * g.kv_heads * g.head_dim * all_ + 2 * wide * self.n) + mask
        else:  # queries padded to a square, keys and values repeated for every query head, what comes out
            attention = self.rows * 4 * wide * all_
        return self.c * (self.tokens * layer_values(g) + attention)

    def kept(self, checkpointing: bool) -> float:
        """What waits for the backward pass: all, or every layer's input."""
        inputs = self.tokens * self.g.hidden * self.c
        return self.g.layers * (inputs if checkpointing else self.inside)

    def going_back(self, checkpointing: bool) -> float:
        """What one layer's backward pass adds, its inside computed again or not."""
        return BACK * self.inside + (self.inside if checkpointing else 0)

    @property
    def ends(self) -> float:
        """Embeddings, rotations, final norm and what the head reads."""
        return self.tokens * self.c * (5 * self.g.hidden + 2 * self.g.head_dim)

    def logits(self, grad: bool) -> float:
        """A chunk of logits with what is made of it."""
        return LOGITS_COPIES[grad] * 4 * min(max(LOGITS, self.g.vocab), self.tokens * self.g.vocab)


@dataclass(frozen=True, slots=True)
class Prompts:
    """P prompts of T tokens in the Hugging Face model's layers, and their images with `pixels`."""

    g: Geometry
    c: int
    count: int
    length: int
    image: int
    pixels: bool

    @property
    def tokens(self) -> int:
        """Of the prompts."""
        return self.count * self.length

    @property
    def inside(self) -> float:
        """What a text layer keeps, or a vision block where that is more."""
        each = layer_values(self.g) + (0 if self.c == 4 else 2 * self.g.hidden)  # its norms are computed in fp32
        mask = self.length**2 if self.count > 1 else 0  # where they are padded
        return max(self.c * self.count * (self.length * each + mask), self._block)

    @property
    def _block(self) -> float:
        g, patches = self.g, self.count * self.image * self.g.merged
        return self.pixels * self.c * patches * (BLOCK_WIDTHS * g.vision_hidden + 4 * g.vision_intermediate)

    @property
    def cache(self) -> float:
        """Keys and values of all layers."""
        return self.tokens * self.g.kv_bytes(self.c)

    def kept(self, checkpointing: bool) -> float:
        """What waits for the backward pass, and the gradients that completions leave at keys and values."""
        g, tokens = self.g, self.tokens
        text = g.layers * (tokens * g.hidden * self.c if checkpointing else self.inside) + 2 * self.cache
        patches = self.pixels * self.count * self.image * g.merged
        block = patches * g.vision_hidden * self.c if checkpointing else self._block
        return text + g.vision_depth * block + tokens * self.c * (4 * g.hidden + 2 * g.head_dim)

    def going_back(self, checkpointing: bool) -> float:
        """As a piece's."""
        return BACK * self.inside + (self.inside if checkpointing else 0)


def layer_values(g: Geometry) -> int:
    """Values that autograd keeps per token and layer beside attention's: norms and their inputs, projections before and
    after rotation, attention's output as it is projected, gate, up and their product.
    """
    rotated = (g.heads + g.kv_heads) * g.head_dim
    return 4 * g.hidden + 2 * rotated + g.kv_heads * g.head_dim + g.heads * g.head_dim + 4 * g.intermediate


def verdict(need: float, need_at_limits: float, have: float) -> Fits:
    """`yes` where even answers of the full length fit, `tight` where those of the mean length do, else `no`."""
    return "yes" if need_at_limits <= have else "tight" if need <= have else "no"
