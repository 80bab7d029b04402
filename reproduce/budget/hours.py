"""Hours of training stages and evaluations: the least that the roofline allows, and a range from published utilisation.

`Hours.bound` is a bound; `fast`, `likely` and `slow` are expectations: the necessary work of each phase at the largest
published MFU, at that of the run nearest to ours and at the smallest, never below the bound, and with this suite's own
decode loop never below its launch overhead.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import astuple, dataclass, fields, replace
from typing import Any

from reproduce.budget.facts import Gpu, mfu_levels, workload
from reproduce.budget.geometry import Geometry
from reproduce.budget.memory import Holding
from reproduce.budget.roofline import (
    Method,
    Phases,
    Work,
    decode_flops,
    decode_seconds,
    optimizer_seconds,
    prefill_flops,
    step_flops,
    step_seconds,
)

HOUR = 3600.0


@dataclass(frozen=True, slots=True)
class Hours:
    """From the least to the slow end of what is expected; hours, or seconds where a name says so."""

    bound: float
    """nan where no bound is known: of a model that fits into a CPU's cache."""
    fast: float
    likely: float
    slow: float

    @classmethod
    def measured(cls, value: float) -> Hours:
        """What was taken by the clock has no range."""
        return cls(math.nan, value, value, value)

    def times(self, factor: float) -> Hours:
        """All of them, multiplied."""
        return Hours(*(value * factor for value in astuple(self)))

    def plus(self, other: Hours) -> Hours:
        """Their sum, part by part."""
        return Hours(*(a + b for a, b in zip(astuple(self), astuple(other), strict=True)))


NOTHING = Hours(0.0, 0.0, 0.0, 0.0)


def method_of(train: Mapping[str, Any]) -> Method:
    """How this trainer computes a step under the settings `train` (lmmr1/update.py, lmmr1/rollout.py)."""
    vllm = train["engine"] == "vllm"
    return Method(
        shared_prefill=True,
        shared_training=True,
        cached_vision=bool(train["freeze_vision"]),
        logprob_passes=(1 if vllm else 0) + (1 if train["loss"]["beta"] > 0 else 0),
        train_factor=(4 if train.get("gradient_checkpointing") else 3) * train["num_iterations"],
        sampling_factor=train["dynamic_sampling_factor"],
    )


def training_step(g: Geometry, gpu: Gpu, work: Work, train: Mapping[str, Any], held: Holding) -> Hours:
    """Seconds of one step of `work` (one GPU's share of the batch)."""
    method, latency = method_of(train), _latency(train["engine"])
    update = optimizer_seconds(gpu.roof, held.trainable / held.shards)
    updates = update * train["num_minibatches"] * train["num_iterations"]
    bound = replace(step_seconds(g, gpu.roof, work, method), optimizer=updates)
    # MFU counts necessary work: a recomputed forward pass is not part of it
    needed = step_flops(g, work, replace(method, train_factor=3 * train["num_iterations"]))
    expected = (
        _expected(bound, needed, gpu.bf16 * 1e12 * mfu, seconds * work.completion_tokens)
        for mfu, seconds in zip(mfu_levels(), latency, strict=True)
    )
    return Hours(bound.total, *expected)


def _expected(bound: Phases, flops: Phases, rate: float, decode_floor: float) -> float:
    phases = {f.name: max(getattr(bound, f.name), getattr(flops, f.name) / rate) for f in fields(Phases)}
    return Phases(**phases | {"decode": max(phases["decode"], decode_floor)}).total


def _latency(engine: str) -> tuple[float, float, float]:
    """Least seconds of a decode step, fast to slow: launching kernels; a compiled engine has none to speak of."""
    low, high = (0.0, 0.0) if engine == "vllm" else workload().eager_decode_step.seconds
    return low, (low + high) / 2, high


def evaluation(g: Geometry, gpu: Gpu, work: Work, batch_size: int) -> Hours:
    """Seconds that one GPU needs for `work.prompts` problems, one answer each, `batch_size` at a time."""
    batches = -(-work.prompts // batch_size)
    batch = replace(work, prompts=work.prompts / batches)
    prefill, decode = prefill_flops(g, work, shared=True), decode_flops(g, work)
    steps = batches * decode_seconds(g, gpu.roof, batch, shared=False)
    bound = prefill / gpu.roof.flops + steps
    expected = (
        max(prefill / gpu.roof.flops, prefill / (gpu.bf16 * 1e12 * mfu))
        + max(steps, decode / (gpu.bf16 * 1e12 * mfu), batches * work.completion_tokens * seconds)
        for mfu, seconds in zip(mfu_levels(), _latency("hf"), strict=True)
    )
    return Hours(bound, *expected)
