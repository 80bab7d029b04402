"""Everything that a profile costs, put together: per stage and per evaluation, and in all."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from evals.protocols import ProtocolSettings, find_protocol
from lmmr1.config import read_mapping
from reports.rules import rules
from reproduce.budget import measured
from reproduce.budget.detectable import Detectable, detectable
from reproduce.budget.disk import Disk, disk
from reproduce.budget.facts import Gpu, Lengths, find_gpu, workload
from reproduce.budget.geometry import MICRO, Geometry, geometry_of
from reproduce.budget.hours import HOUR, NOTHING, Hours, evaluation, training_step
from reproduce.budget.memory import Demand, Fits, Holding, StatePlan, demand, holding, plans, verdict
from reproduce.budget.roofline import COMPACT, NAIVE, Work, step_seconds
from reproduce.plan import ROOT, Plan

WORKED = (
    Work(32, 16, 512, 512, 256),
    Work(32, 8, 512, 512, 256),
    Work(8, 16, 512, 512, 256),
    Work(32, 16, 512, 1024, 256),
    Work(32, 16, 1024, 512, 768),
    Work(32, 16, 512, 128, 256),
)
"""Steps whose floors are known from an independent calculation (docs/estimate.md), to check this one with."""
IMAGE_PIXELS = 28**2
"""Of an image per visual token: two by two patches of 14 pixels."""
JUDGE_CALLS = {"mathverse": 2}
"""Questions to the judge about one answer, by data set (evals/judging.py); one elsewhere."""


@dataclass(frozen=True, slots=True)
class Request:
    """What the command line says; None: what profile and data say."""

    gpu: str | None = None
    gpus: int | None = None
    prompt_tokens: int | None = None
    image_tokens: int | None = None
    completion_tokens: int | None = None
    protocol: str | None = None
    """Of the evaluations; None: the profile's."""

    def lengths(self, found: Lengths, limit: int) -> Lengths:
        """`found` with what was given instead, completions cut at the limit."""
        given = {"prompt": self.prompt_tokens, "image": self.image_tokens, "completion": self.completion_tokens}
        changes: dict[str, Any] = {k: v for k, v in given.items() if v is not None}
        if changes:
            changes["origin"] = f"given ({', '.join(changes)}); the rest: {found.origin}"
        new = found.model_copy(update=changes)
        return new.model_copy(update={"completion": min(new.completion, limit), "image": min(new.image, new.prompt)})


@dataclass(frozen=True, slots=True)
class Stage:
    """One trained arm; tokens and hours are of all its runs."""

    arm: str
    stage: str
    runs: int
    steps: int
    rows: int
    """Completions sampled for one step, over all GPUs."""
    lengths: Lengths
    sampled_tokens: float
    trained_tokens: float
    """Prompts once per group, completions; every pass counts."""
    step_seconds: Hours
    hours: Hours
    """Wall time on `gpus` devices."""
    gpus: int
    memory: Demand
    """At mean lengths."""
    memory_at_limits: float
    plan: str
    fits: Fits


@dataclass(frozen=True, slots=True)
class Evaluation:
    """One benchmark; hours are of one device, tokens and calls of all runs."""

    benchmark: str
    runs: int
    """Of all arms, as often as each is asked: once per protocol and prompt style."""
    items: int
    lengths: Lengths
    tokens: float
    hours: Hours
    judge_calls: int
    """At most, with readable replies."""
    detectable: Detectable
    memory: float
    fits: Fits


@dataclass(frozen=True, slots=True)
class WorkedStep:
    """Floors of a known step on the device of the estimate, in seconds."""

    work: Work
    naive: float
    compact: float


@dataclass(frozen=True, slots=True)
class Estimate:
    """All of it."""

    plan: Plan
    gpu_name: str
    gpu: Gpu
    gpus: int
    geometry: Geometry
    stages: list[Stage]
    evaluations: list[Evaluation]
    state_plans: list[StatePlan]
    disk: Disk
    wall: Hours
    """Hours of the whole workflow on this machine."""
    measured: str | None
    """Where the hours of a profile on the CPU are from; None: the roofline and published utilisation."""
    worked: list[WorkedStep]

    @property
    def device_hours(self) -> Hours:
        """GPU-hours in all (on the CPU: hours of one process)."""
        total = NOTHING
        for part in [s.hours.times(s.gpus) for s in self.stages] + [e.hours for e in self.evaluations]:
            total = total.plus(part)
        return total

    @property
    def misfits(self) -> list[Stage | Evaluation]:
        """What cannot run on the device."""
        return [part for part in [*self.stages, *self.evaluations] if part.fits == "no"]


def estimate(plan: Plan, request: Request, device: Gpu | None = None) -> Estimate:
    """The estimate for `plan`, on `device` or on the one that the request names.

    Raises UserError on an unknown device or a bad config.json; needs no network.
    """
    micro = plan.profile.world == "micro"
    name = request.gpu or (device.title if device else "cpu" if micro else "h100")
    gpu = device or find_gpu(name)
    g = MICRO if micro else geometry_of(plan.profile.base_model)
    count = request.gpus or (1 if name == "cpu" else _gpus_of(plan))
    taken = measured.jobs(plan) if micro and name == "cpu" else None
    stages = [_stage(plan, arm, g, gpu, count, request, taken) for arm in plan.trained]
    evaluations = [_evaluation(plan, b, g, gpu, request, _protocols(plan, b, request), taken) for b in plan.benchmarks]
    answers = float(sum(e.items * e.runs for e in evaluations))
    per_answer = sum(e.tokens for e in evaluations) / max(answers, 1)
    train = plan.train_config(plan.trained[0], plan.seeds[0]) if plan.trained else {}
    held, lora = holding(g, train) if train else None, train.get("lora")
    wall = _wall(plan, stages, evaluations, count, taken)
    return Estimate(
        plan, name, gpu, count, g, stages, evaluations, plans(g, int(lora["r"])) if lora else plans(g),
        disk(plan, g, held, answers, per_answer), wall, taken.origin if taken else None,
        [WorkedStep(w, *(step_seconds(g, gpu.roof, w, m).total for m in (NAIVE, COMPACT))) for w in WORKED],
    )  # fmt: skip


def _gpus_of(plan: Plan) -> int:
    return max(plan.profile.resources.train.gpus, 1)


def _stage(
    plan: Plan, arm: str, g: Geometry, gpu: Gpu, count: int, request: Request, taken: measured.Jobs | None
) -> Stage:
    train, runs = plan.train_config(arm, plan.seeds[0]), len(plan.seeds_of(arm))
    limit = train["sampling"]["max_completion_length"]
    lengths = request.lengths(_stage_lengths(plan, arm), limit)
    work = work_of(train, lengths, count)
    drawn = train["num_prompts"] * train["dynamic_sampling_factor"]
    held = holding(g, train, shards_of(plan, count), gpu.memory is not None)
    seconds = training_step(g, gpu, work, train, held)
    hours = seconds.times(train["max_steps"] * runs / HOUR)
    if taken:
        hours, seconds = Hours.measured(taken.train[arm] * runs / HOUR), _per_step(taken.train[arm], train)
    need, most = needs(g, held, work, train, gpu.memory_bytes)
    rows = drawn * train["num_generations"]
    trained = train["num_prompts"] * (lengths.prompt + train["num_generations"] * lengths.completion)
    return Stage(
        arm=arm, stage=str(plan.arms[arm].stage), runs=runs, steps=train["max_steps"], rows=rows, lengths=lengths,
        sampled_tokens=float(runs * train["max_steps"] * rows * lengths.completion),
        trained_tokens=float(runs * train["max_steps"] * trained * train["num_iterations"]),
        step_seconds=seconds, hours=hours, gpus=count, memory=need, memory_at_limits=most.total, plan=held.plan,
        fits=verdict(need.total, most.total, gpu.memory_bytes),
    )  # fmt: skip


def _per_step(job: float, train: Mapping[str, Any]) -> Hours:
    return Hours.measured(max(job - workload().cpu.train["start"], 0.0) / train["max_steps"])


def work_of(train: Mapping[str, Any], lengths: Lengths, count: int) -> Work:
    """One GPU's share of a step: whole groups, spread over `count` GPUs."""
    prompts = train["num_prompts"] / count
    return Work(prompts, train["num_generations"], lengths.prompt, lengths.completion, lengths.image)


def shards_of(plan: Plan, count: int) -> int:
    """GPUs that share weights, gradients and moments: all where the profile's accelerate file says so, else one."""
    file = getattr(plan.profile, "accelerate", None)
    kind = read_mapping(ROOT / file).get("distributed_type", "") if file else ""
    return count if str(kind).upper() in ("FSDP", "DEEPSPEED") else 1


def needs(g: Geometry, held: Holding, work: Work, train: Mapping[str, Any], have: float) -> tuple[Demand, Demand]:
    """What a GPU of `have` bytes holds at mean lengths, and where prompts, images and answers reach their limits."""
    limits, cap = train["sampling"], train["max_pixels"]
    image = max(work.image_tokens, cap // IMAGE_PIXELS) if work.image_tokens and cap else work.image_tokens
    longest = replace(
        work, prompt_tokens=limits["max_prompt_length"], completion_tokens=limits["max_completion_length"],
        image_tokens=min(image, limits["max_prompt_length"]),
    )  # fmt: skip
    return demand(g, held, work, train, have), demand(g, held, longest, train, have)


def _stage_lengths(plan: Plan, arm: str) -> Lengths:
    known, stage = workload().stages, str(plan.arms[arm].stage)
    if plan.profile.world == "micro":
        return known["micro"]
    data = plan.data_sets.get(stage)
    return known.get(Path(data.file).name if data else stage, known["default"])


def _protocols(plan: Plan, benchmark: str, request: Request) -> list[ProtocolSettings]:
    """The protocol of every time that a run is asked about a benchmark."""
    if request.protocol:
        return [find_protocol(request.protocol)]
    rounds = plan.evaluations
    return [find_protocol(r.protocol) for r in (rounds.main, *rounds.further) if benchmark in rounds.asked(r)]


def _evaluation(
    plan: Plan,
    name: str,
    g: Geometry,
    gpu: Gpu,
    request: Request,
    protocols: list[ProtocolSettings],
    taken: measured.Jobs | None,
) -> Evaluation:
    benchmark, batch_size = plan.benchmarks[name], plan.profile.eval.batch_size
    once, items = sum(len(plan.seeds_of(a)) for a in plan.arms), measured.items_of(plan, name)
    runs, known = once * len(protocols), workload().benchmarks
    limit = max(p.half(benchmark).max_new_tokens or benchmark.max_new_tokens for p in protocols)
    lengths = request.lengths(known.get(benchmark.dataset, known["default"]), limit)
    work = Work(items, 1, lengths.prompt, lengths.completion, lengths.image)
    hours = evaluation(g, gpu, work, batch_size).times(runs / HOUR)
    if taken:
        spent = sum(taken.evaluate.values()) / HOUR * items / sum(measured.items_of(plan, b) for b in plan.benchmarks)
        hours = Hours.measured(spent)
    judged = sum(p.judged(benchmark) for p in protocols)
    calls = JUDGE_CALLS.get(benchmark.dataset, 1) * items * once * judged
    need, most = (_answering(g, lengths.prompt, c, min(batch_size, items)) for c in (lengths.completion, limit))
    return Evaluation(
        benchmark=name, runs=runs, items=items, lengths=lengths, tokens=float(runs * items * lengths.completion),
        hours=hours, judge_calls=calls, detectable=detectable(benchmark, items, len(plan.seeds), rules()), memory=most,
        fits=verdict(need, most, gpu.memory_bytes),
    )  # fmt: skip


def _answering(g: Geometry, prompt: int, completion: int, rows: int) -> float:
    """Bytes of bf16 weights, their fused copies, and keys and values of a batch."""
    return 2 * (g.parameters + g.fused_copies) + rows * (prompt + completion) * g.kv_bytes()


def _wall(
    plan: Plan, stages: list[Stage], evaluations: list[Evaluation], count: int, taken: measured.Jobs | None
) -> Hours:
    """Stages one after another on all GPUs, then the evaluations, one GPU each. On the CPU: two cores."""
    if taken:
        return Hours.measured(taken.wall(plan, cores=2) / HOUR)
    total = NOTHING
    for hours in [s.hours for s in stages] + [e.hours.times(1 / count) for e in evaluations]:
        total = total.plus(hours)
    return total
