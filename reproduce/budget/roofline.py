"""The least time that one GRPO step can take on a GPU: floating-point work over its rate, bytes over its bandwidth.

Axis letters as in lmmr1/types.py: P prompts per step, G samples per prompt, N = P * G rows. Seconds, bytes and FLOP
throughout; the formulae and their worked examples are in docs/estimate.md.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace

import numpy as np

from reproduce.budget.geometry import Geometry


@dataclass(frozen=True, slots=True)
class Roof:
    """What a device can do at best."""

    flops: float
    """FLOP/s of dense bf16 matrix products."""
    bandwidth: float
    """Bytes/s of its memory."""


@dataclass(frozen=True, slots=True)
class Work:
    """One rollout batch of equal rows, on one device."""

    prompts: float
    generations: int
    prompt_tokens: int
    """Visual tokens included."""
    completion_tokens: int
    image_tokens: int = 0
    """Visual tokens of each prompt; 0 is a text prompt."""

    @property
    def rows(self) -> float:
        """N."""
        return self.prompts * self.generations


@dataclass(frozen=True, slots=True)
class Method:
    """How a trainer computes a step; the defaults are the textbook's, `COMPACT` is the least that is known."""

    shared_prefill: bool = False
    """A prompt and its images are computed once per group when sampling."""
    shared_decode: bool = False
    """A decode step reads a prompt's keys and values once per group."""
    shared_training: bool = False
    """A prompt is computed once per group when training."""
    cached_vision: bool = False
    """Training takes the features of a frozen vision tower from a cache."""
    logprob_passes: float = 2
    """Forward passes besides training: old log-probabilities, reference."""
    train_factor: float = 4
    """Forward passes that one forward and backward costs: 3, or 4 where activations are computed again."""
    dead_groups: float = 0
    """Share of groups without gradient that training skips."""
    sampling_factor: float = 1
    """Prompts sampled per prompt trained on."""


NAIVE = Method()
COMPACT = Method(shared_prefill=True, shared_decode=True, shared_training=True, cached_vision=True, logprob_passes=0)


@dataclass(frozen=True, slots=True)
class Phases:
    """Seconds (or FLOP) of the parts of a step."""

    prefill: float
    decode: float
    logprobs: float
    train: float
    optimizer: float = 0.0

    @property
    def total(self) -> float:
        """Their sum."""
        return sum(getattr(self, f.name) for f in fields(self))


def step_seconds(g: Geometry, roof: Roof, work: Work, method: Method) -> Phases:
    """The least seconds per phase of one step; the optimizer's part is `optimizer_seconds`."""
    flops = step_flops(g, work, method)
    sampled = replace(work, prompts=work.prompts * method.sampling_factor)
    return Phases(
        prefill=flops.prefill / roof.flops,
        decode=decode_seconds(g, roof, sampled, method.shared_decode),
        logprobs=flops.logprobs / roof.flops,
        train=flops.train / roof.flops,
    )


def step_flops(g: Geometry, work: Work, method: Method) -> Phases:
    """Floating-point operations per phase of one step."""
    sampled = replace(work, prompts=work.prompts * method.sampling_factor)
    one_pass = pass_flops(g, work, method.shared_training, _images(work, method.shared_training, method.cached_vision))
    # a pass for old or reference log-probabilities has no cached features of its own: it computes the images
    reading = pass_flops(g, work, method.shared_training, _images(work, method.shared_training, False))
    return Phases(
        prefill=prefill_flops(g, sampled, method.shared_prefill),
        decode=decode_flops(g, sampled),
        logprobs=method.logprob_passes * reading,
        train=method.train_factor * (1 - method.dead_groups) * one_pass,
    )


def _images(work: Work, shared: bool, cached: bool) -> float:
    return 0.0 if cached else work.prompts if shared else work.rows


def prefill_flops(g: Geometry, work: Work, shared: bool) -> float:
    """The prompts' forward pass when sampling: of every row, or once per group."""
    rows = work.prompts if shared else work.rows
    dense = 2 * g.layer_weights * rows * work.prompt_tokens + 2 * g.head_weights * rows
    attention = 2 * rows * work.prompt_tokens**2 * g.heads * g.head_dim * g.layers
    return dense + attention + vision_flops(g, rows, work.image_tokens)


def pass_flops(g: Geometry, work: Work, shared: bool, images: float) -> float:
    """One forward pass over prompts and completions, log-probabilities of the completions."""
    n, p, c = work.rows, work.prompt_tokens, work.completion_tokens
    width = g.heads * g.head_dim * g.layers
    if shared:
        tokens = work.prompts * p + n * c
        attention = 2 * work.prompts * p**2 * width + n * (4 * c * p + 2 * c**2) * width
    else:
        tokens, attention = n * (p + c), 2 * n * (p + c) ** 2 * width
    dense = 2 * g.layer_weights * tokens + 2 * g.head_weights * n * c
    return dense + attention + vision_flops(g, images, work.image_tokens)


def vision_flops(g: Geometry, images: float, image_tokens: int) -> float:
    """The vision tower's matrix products for `images` images; its attention (a few per cent) is left out."""
    return images * image_tokens * (2 * g.vision_weights * g.merged + 2 * g.merger_weights)


def decode_flops(g: Geometry, work: Work) -> float:
    """All decode steps of a batch."""
    p, c = work.prompt_tokens, work.completion_tokens
    context = c * p + c * (c - 1) / 2
    dense = 2 * (g.layer_weights + g.head_weights) * c
    return work.rows * (dense + 4 * context * g.heads * g.head_dim * g.layers)


def decode_seconds(g: Geometry, roof: Roof, work: Work, shared: bool) -> float:
    """All decode steps of a batch: each reads all weights and the keys and values of every row, or computes longer."""
    return float(decode_steps(g, roof, work, shared).sum())


def decode_steps(g: Geometry, roof: Roof, work: Work, shared: bool = False) -> np.ndarray:
    """(completion_tokens,) least seconds of each decode step."""
    i, n = np.arange(work.completion_tokens), work.rows
    weights = 2 * (g.layer_weights + g.head_weights)
    dense = max(weights / roof.bandwidth, weights * n / roof.flops)
    context = work.prompts * work.prompt_tokens + n * i if shared else n * (work.prompt_tokens + i)
    attention = 4 * n * (work.prompt_tokens + i) * g.heads * g.head_dim * g.layers / roof.flops
    return dense + np.maximum(context * g.kv_bytes() / roof.bandwidth, attention)


def optimizer_seconds(roof: Roof, trainable: float) -> float:
    """One AdamW step: 28 bytes per parameter are read and written (gradient, master, two moments, bf16 weight)."""
    return 28 * trainable / roof.bandwidth
