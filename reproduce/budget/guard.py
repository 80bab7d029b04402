"""Refuse to start what cannot fit: on the GPUs that are here, or on those that the profile names."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator, Mapping
from typing import Any

from lmmr1.types import UserError
from reproduce.budget.estimate import Estimate, Evaluation, Request, Stage, estimate, holding, needs, shards_of, work_of
from reproduce.budget.facts import Gpu
from reproduce.budget.memory import GROWS_WITH
from reproduce.plan import Plan
from reproduce.profiles import merge

CHANGES: tuple[tuple[str, dict[str, Any]], ...] = (
    ("gradient_checkpointing: true", {"gradient_checkpointing": True}),
    ("freeze_vision: true", {"freeze_vision": True}),
    ("lora: {r: 64}", {"lora": {"r": 64, "alpha": 128}}),
)
"""What makes a stage smaller, after what its phase grows with: what changes the result least comes first."""
SMALLEST = 1024
"""Tokens below which a budget is not lowered: a device has nothing to do then."""
SHARES = (0.4, 0.3, 0.2)
"""vLLM's, of a card."""


def local_gpus() -> list[Gpu]:
    """The NVIDIA GPUs of this machine with their memory, from nvidia-smi; none where it is missing or fails."""
    if not (tool := shutil.which("nvidia-smi")):
        return []
    command = [tool, "--query-gpu=name,memory.total", "--format=csv,noheader,nounits"]
    try:
        lines = subprocess.run(command, capture_output=True, text=True, timeout=30, check=True).stdout.splitlines()
        return [_local(*line.rsplit(",", 1)) for line in lines if line.strip()]
    except (OSError, subprocess.SubprocessError, ValueError, TypeError):
        return []


def _local(name: str, mebibytes: str) -> Gpu:
    # rates are not asked for here: only what fits
    values = {"bf16": 1.0, "bandwidth": 1.0, "source": "measured", "reached": (1.0, 1.0), "reached_source": "measured"}
    return Gpu(title=name.strip(), memory=float(mebibytes) * 2**20 / 1e9, **values)


def require_fit(plan: Plan) -> None:
    """Check `plan` against this machine's GPUs; where there are none, nothing is checked (that is `doctor`'s matter).

    Raises UserError where some stage or evaluation does not fit even with answers of the mean length.
    """
    found = local_gpus()
    if not found:
        return
    smallest = min(found, key=lambda gpu: gpu.memory_bytes)
    require(estimate(plan, Request(gpus=len(found)), smallest))


def require(found: Estimate) -> None:
    """Raise UserError where a part of the estimate does not fit; it names the part, need, have and the fix."""
    for part in found.misfits:
        have = found.gpu.memory_bytes / 1e9
        raise UserError(
            f"profile {found.plan.profile.profile} on {found.gpus} x {found.gpu.title}: {_what(part)} of one GPU's "
            f"{have:.0f}; {_fix(part, found)}, or start it all the same with --config force=true (lmmr1 train: --force)"
        )


def _what(part: Stage | Evaluation) -> str:
    if isinstance(part, Evaluation):
        return f"evaluation {part.benchmark} needs {part.memory / 1e9:.0f} GB"
    d = part.memory
    if d.decides == "vllm":
        return f"stage {part.stage} of arm {part.arm} needs {d.card / 1e9:.0f} GB for vLLM to start in its share"
    parts = {"states": d.states, "reference": d.reference, "copies": d.copies}
    parts |= {"gradients": d.gradients, "prompts": d.prompts} if d.decides == "update" else {}
    parts |= {d.decides: getattr(d, d.decides), "vLLM at rest": d.resting if d.decides != "rollout" else 0}
    listed = ", ".join(f"{k} {v / 1e9:.0f}" for k, v in parts.items() if v > 5e8)
    return (
        f"stage {part.stage} of arm {part.arm} (memory plan {part.plan}) needs {d.total / 1e9:.0f} GB in its "
        f"{d.decides} phase ({listed})"
    )


def _fix(part: Stage | Evaluation, found: Estimate) -> str:
    if isinstance(part, Evaluation):
        return f"lower eval.batch_size ({found.plan.profile.eval.batch_size})"
    train = found.plan.train_config(part.arm, found.plan.seeds[0])
    if part.memory.decides == "vllm":
        return part.memory.advice(train)
    names: list[str] = []
    for names, changed in _smaller(train, part.memory.decides):
        if _need(changed, part, found) <= found.gpu.memory_bytes:
            return f"it fits with {', '.join(names)} under `train`"
    tried = f" even with {', '.join(names)}" if names else ""
    return f"it does not fit{tried}: take more or larger GPUs"


def _smaller(train: Mapping[str, Any], phase: str) -> Iterator[tuple[list[str], dict[str, Any]]]:
    """What the phase grows with made less and less; each other change alone; then more and more of them together."""
    together, names = dict(train), list[str]()
    for name, change in _budgets(train, phase):
        together, names = merge(dict(train), change), [name]
        yield names, together
    usable = [(name, change) for name, change in CHANGES if _changes(train, change)]
    for name, change in usable:
        yield [name], merge(dict(train), change)
    for name, change in usable:
        together, names = merge(together, change), [*names, name]
        yield list(names), together


def _budgets(train: Mapping[str, Any], phase: str) -> Iterator[tuple[str, dict[str, Any]]]:
    if phase == "rollout" and train["engine"] == "vllm":
        for share in SHARES:
            if share < train["vllm"]["gpu_memory_utilization"]:
                yield f"vllm: {{gpu_memory_utilization: {share}}}", {"vllm": {"gpu_memory_utilization": share}}
        return
    key = GROWS_WITH[phase]
    tokens = train[key] // 2
    while tokens >= SMALLEST:
        yield f"{key}: {tokens}", {key: tokens}
        tokens //= 2


def _changes(train: Mapping[str, Any], change: Mapping[str, Any]) -> bool:
    """Whether these settings have not been changed so, and can be."""
    return not any(train[key] for key in change) and not ("lora" in change and train["advantage"] == "gae")


def _need(train: Mapping[str, Any], part: Stage, found: Estimate) -> float:
    g, gpu = found.geometry, found.gpu
    held = holding(g, train, shards_of(found.plan, found.gpus), gpu.memory is not None)
    return needs(g, held, work_of(train, part.lengths, found.gpus), train, gpu.memory_bytes)[0].total
