"""An estimate for people (rich tables that fit a screen) and for programs (JSON, schema 1; docs/estimate.md)."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import asdict
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from reproduce.budget.estimate import Estimate, Evaluation, Stage
from reproduce.budget.facts import mfu_levels, published, workload
from reproduce.budget.geometry import Geometry
from reproduce.budget.hours import Hours

SCHEMA = 1
"""Raised when a key changes its meaning or goes; new keys may come at any time."""
FITS = {"yes": "[green]yes[/]", "tight": "[yellow]tight[/]", "no": "[red]no[/]"}


def as_json(e: Estimate) -> dict[str, Any]:
    """The estimate as plain values: hours, GB (1e9 bytes), tokens, points. nan is null."""
    return _plain(
        {
            "schema": SCHEMA,
            "profile": e.plan.profile.profile,
            "name": e.plan.name,
            "gpu": {"name": e.gpu_name, "count": e.gpus, **e.gpu.model_dump(mode="json")},
            "model": _model(e.geometry),
            "totals": _totals(e),
            "stages": [_stage(s, e) for s in e.stages],
            "evaluations": [_evaluation(v) for v in e.evaluations],
            "memory_plans": [
                {"plan": p.letter, "title": p.title, "gpu_gb": p.device / 1e9, "host_gb": p.host / 1e9}
                for p in e.state_plans
            ],
            "disk_gb": {
                **{k: v / 1e9 for k, v in asdict(e.disk).items() if k != "unknown"},
                "total": e.disk.total / 1e9,
                "unknown": list(e.disk.unknown),
            },
            "worked_steps": [
                {**asdict(w.work), "naive_seconds": w.naive, "compact_seconds": w.compact} for w in e.worked
            ],
            "sources": {
                "measured": e.measured,
                "mfu": dict(zip(("fast", "likely", "slow"), mfu_levels(), strict=True)),
                "published": [u.model_dump(mode="json") for u in published()],
                "eager_decode_step": workload().eager_decode_step.model_dump(mode="json"),
            },
        }
    )


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    if isinstance(value, float):
        return None if math.isnan(value) else float(f"{value:.6g}")
    return value


def _model(g: Geometry) -> dict[str, Any]:
    counts = {
        "parameters": g.parameters,
        "text_parameters": g.text_parameters,
        "vision_parameters": g.vision_parameters,
    }
    return {"name": g.name, **counts, "kv_bytes_per_token": g.kv_bytes()}


def _totals(e: Estimate) -> dict[str, Any]:
    return {
        "wall_hours": asdict(e.wall),
        "gpu_hours": asdict(e.device_hours),
        "sampled_tokens": sum(s.sampled_tokens for s in e.stages) + sum(v.tokens for v in e.evaluations),
        "trained_tokens": sum(s.trained_tokens for s in e.stages),
        "disk_gb": e.disk.total / 1e9,
        "judge_calls": sum(v.judge_calls for v in e.evaluations),
        "fits": "no" if e.misfits else "yes",
    }


def _stage(s: Stage, e: Estimate) -> dict[str, Any]:
    memory = {k: v / 1e9 for k, v in asdict(s.memory).items()}
    memory |= {"total": s.memory.total / 1e9, "total_at_limits": s.memory_at_limits / 1e9}
    memory |= {"decides": s.memory.decides}
    return {
        "arm": s.arm,
        "stage": s.stage,
        "runs": s.runs,
        "steps": s.steps,
        "rows_per_step": s.rows,
        "lengths": s.lengths.model_dump(),
        "sampled_tokens": s.sampled_tokens,
        "trained_tokens": s.trained_tokens,
        "step_seconds": asdict(s.step_seconds),
        "wall_hours": asdict(s.hours),
        "gpu_hours": asdict(s.hours.times(s.gpus)),
        "memory_plan": s.plan,
        "memory_gb": {**memory, "have": e.gpu.memory_bytes / 1e9},
        "fits": s.fits,
    }


def _evaluation(v: Evaluation) -> dict[str, Any]:
    return {
        "benchmark": v.benchmark,
        "runs": v.runs,
        "items": v.items,
        "lengths": v.lengths.model_dump(),
        "tokens": v.tokens,
        "gpu_hours": asdict(v.hours),
        "judge_calls": v.judge_calls,
        "memory_gb": v.memory / 1e9,
        "fits": v.fits,
        "detectable": asdict(v.detectable),
    }


def show(e: Estimate, console: Console) -> None:
    """Tables: stages, evaluations, plans, totals; then what is a bound and what is a guess."""
    device = f"{e.gpus} x {e.gpu.title}" if e.gpu_name != "cpu" else "two cores of a CPU"
    console.print(f"[bold]{escape(e.plan.name)}[/] on {device}: {escape(_size(e.geometry))}", highlight=False)
    if e.stages:
        console.print(_stage_table(e))
    console.print(_evaluation_table(e))
    for line in _total_lines(e):
        console.print(line, highlight=False)


def _size(g: Geometry) -> str:
    size = f"{g.parameters / 1e9:.2f} B" if g.parameters > 1e8 else f"{g.parameters / 1e6:.2f} M"
    return f"{g.name}, {size} parameters"


def _stage_table(e: Estimate) -> Table:
    table = _table("train", "runs", "s/step", *_time_heads(e), "GB plan", "fits")
    for s in e.stages:
        gb = f"{s.memory.total / 1e9:.0f} {s.plan}" if s.memory.total > 3e9 else "< 3"
        hours = s.hours.times(1 if e.measured else s.gpus)
        table.add_row(s.arm, f"{s.runs}x{s.steps}", _short(s.step_seconds.likely), *_times(hours), gb, FITS[s.fits])
    return table


def _evaluation_table(e: Estimate) -> Table:
    table = _table("evaluate", "runs", "tokens", *_time_heads(e), "judge", "finds", "fits")
    for v in e.evaluations:
        points = v.detectable.points_one_seed
        finds = "nothing" if math.isnan(points) else f"{points:.1f}"
        runs, tokens = f"{v.runs}x{v.items}", f"{_short(v.tokens / 1e6)}M"
        calls = f"{v.judge_calls / 1000:.0f}k" if v.judge_calls >= 1000 else f"{v.judge_calls}"
        table.add_row(v.benchmark, runs, tokens, *_times(v.hours), calls, finds, FITS[v.fits])
    return table


def _table(*heads: str) -> Table:
    table = Table(box=None, padding=(0, 1), collapse_padding=True)
    for head in heads:
        table.add_column(head, no_wrap=True)
    return table


def _time_heads(e: Estimate) -> list[str]:
    return ["minutes"] if e.measured else ["GPU-h >", "likely", "range"]


def _times(h: Hours) -> list[str]:
    if math.isnan(h.bound):
        return [_short(60 * h.likely)]
    return [_short(h.bound), _short(h.likely), f"{_short(h.fast)}-{_short(h.slow)}"]


def _short(value: float) -> str:
    return f"{value:.0f}" if value >= 10 else f"{value:.1f}" if value >= 1 else f"{value:.2g}"


def _total_lines(e: Estimate) -> Iterable[str]:
    h, wall = e.device_hours, e.wall
    if e.measured:
        yield f"in all {60 * wall.likely:.0f} minutes on two cores ({escape(e.measured)})"
    else:
        yield (
            f"in all {_short(h.likely)} GPU-hours ({_short(h.fast)} to {_short(h.slow)}, at least {_short(h.bound)}); "
            f"{_short(wall.likely)} hours by the clock"
        )
        yield _plans_line(e)
        yield from _memory_lines(e)
    unknown = f" and {', '.join(e.disk.unknown)} (size not known)" if e.disk.unknown else ""
    yield f"disk {e.disk.total / 1e9:.1f} GB{unknown}; judge calls {sum(v.judge_calls for v in e.evaluations):,}"
    q = e.evaluations[0].detectable
    yield (
        f"[dim]finds: true difference of two arms in points, one run each, found with power {q.power:g} where they "
        f"differ on {100 * q.discordance:.0f} % of the items; token counts are assumed[/]"
    )
    if not e.measured:
        yield _basis_line(e)


def _plans_line(e: Estimate) -> str:
    have = e.gpu.memory_bytes / 1e9
    parts = (f"{p.letter} {p.device / 1e9:.1f}{'' if p.device / 1e9 < have else ' [red]no[/]'}" for p in e.state_plans)
    return f"GB of weights, gradients, moments by plan: {', '.join(parts)}; one GPU has {have:.0f}"


def _memory_lines(e: Estimate) -> Iterable[str]:
    """The phase that decides in the largest stage, and what it grows with."""
    if e.stages:
        stage = max(e.stages, key=lambda s: s.memory.total)
        d, train = stage.memory, e.plan.train_config(stage.arm, e.plan.seeds[0])
        phases = ", ".join(f"{k} {v / 1e9:.0f}" for k, v in d.phases.items())
        yield f"GB at the peak of {escape(stage.arm)}: {phases}; {d.decides} decides, {d.advice(train)}"


def _basis_line(e: Estimate) -> str:
    fast, likely, slow = (100 * m for m in mfu_levels())
    flops, bandwidth = e.gpu.reached
    return (
        f"[dim]>: roofline at {flops:g} TFLOP/s and {bandwidth:g} TB/s ({e.gpu.reached_source}); likely: "
        f"{likely:.0f} % MFU, the nearest published run; range: {fast:.0f} to {slow:.1f} %; docs/estimate.md[/]"
    )
