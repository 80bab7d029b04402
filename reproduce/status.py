"""What a run has done, is doing and will cost, from the files in its results folder and its checkpoints' logs."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from statistics import median
from typing import Any, Literal

from lmmr1.types import UserError
from reproduce.budget.estimate import Estimate, Request, estimate
from reproduce.budget.hours import HOUR
from reproduce.budget.measured import seconds as measured_seconds
from reproduce.evaluations import Round
from reproduce.plan import ROOT, Plan

State = Literal["finished", "running", "stopped", "failed", "waiting", "missing"]
SCHEMA = 1
RECENT_STEPS = 10
"""Whose median time is the present pace."""
PATIENCE = 60.0
"""Seconds without a step, beside three steps' time, after which a training counts as stopped."""


@dataclass(frozen=True, slots=True)
class Job:
    """One training, or one evaluation of a run."""

    kind: Literal["train", "evaluate"]
    arm: str
    seed: int
    state: State
    benchmark: str | None = None
    round: str | None = None
    """Of an evaluation beside the main one: protocols/NAME or prompts/NAME."""
    step: int | None = None
    max_steps: int | None = None
    seconds_per_step: float | None = None
    seconds_left: float | None = None
    """Until it is finished, if nothing else runs; None where nothing is known."""
    message: str = ""
    """Of a failed job: what it said last; of a waiting one: for what."""
    log: str = ""


@dataclass(frozen=True, slots=True)
class Status:
    """All jobs of a run."""

    name: str
    profile: str
    jobs: list[Job]
    report: bool
    """The report is there."""
    basis: str
    """Where the times of what has not begun are from."""
    counts: dict[str, int] = field(default_factory=dict)

    def as_json(self) -> dict[str, Any]:
        """Plain values; schema 1 until a key changes its meaning or goes."""
        left = sum(j.seconds_left or 0 for j in self.jobs)
        return {"schema": SCHEMA, **asdict(self), "seconds_left": round(left, 1)}


def status_of(plan: Plan, root: Path = ROOT, now: float | None = None) -> Status:
    """The status of `plan`'s run below `root`. now: seconds since the epoch, for a test."""
    look = _Look(plan, root, time.time() if now is None else now)
    jobs = [look.training(a, s) for a in plan.trained for s in plan.seeds]
    jobs += [look.evaluation(a, s, b) for a in plan.arms for s in plan.seeds_of(a) for b in plan.benchmarks]
    rounds = plan.evaluations
    jobs += [
        look.evaluation(a, s, b, way)
        for way in rounds.further
        for a in plan.arms
        for s in plan.seeds_of(a)
        for b in rounds.asked(way)
    ]
    counts: dict[str, int] = {}
    for job in jobs:
        counts[job.state] = counts.get(job.state, 0) + 1
    report = (root / plan.results("report", "index.html")).is_file()
    return Status(plan.name, plan.profile.profile, jobs, report, look.basis, counts)


class _Look:
    """Reads one results folder; everything slow is read once."""

    def __init__(self, plan: Plan, root: Path, now: float) -> None:
        self.plan, self.root, self.now = plan, root, now
        self._estimate: Estimate | None = None
        self._keys: dict[tuple[str, int], str | None] = {}

    @property
    def basis(self) -> str:
        """Where expected times are from."""
        here = self.root / self.plan.results("timings")
        if any(here.glob("*/*/train.tsv")):
            return f"jobs of this run that are finished ({self.plan.results('timings')}), else lmmr1 estimate"
        return "lmmr1 estimate"

    def training(self, arm: str, seed: int) -> Job:
        """One training."""
        most = int(self.plan.train_config(arm, seed)["max_steps"])
        log = self.plan.results("logs", f"train_{arm}_{seed}.log")
        if (self.root / self.plan.results(arm, str(seed), "manifest.json")).is_file():
            return Job("train", arm, seed, "finished", step=most, max_steps=most, seconds_left=0.0, log=log)
        whole = self._expected_training(arm)
        folder = self._folder(arm, seed)
        step, pace, age = _progress(folder) if folder else (0, None, None)
        left = (most - step) * pace if pace else whole
        state: State = "missing"
        message = ""
        if age is not None and age(self.now) < PATIENCE + 3 * (pace or PATIENCE):
            state = "running"
        elif said := _failure(self.root / log):
            state, message = "failed", said
        elif step:
            state, message = "stopped", f"after step {step}; the same command goes on from its last resume point"
        elif waits := self._waits_for(arm, seed):
            state, message = "waiting", f"for {waits}"
        return Job("train", arm, seed, state, None, None, step, most, pace, left, message, log)

    def evaluation(self, arm: str, seed: int, benchmark: str, way: Round | None = None) -> Job:
        """One benchmark of one run, in the main round or another."""
        rounds = self.plan.evaluations
        log = self._evaluation_log(arm, seed, benchmark, way)
        job = Job("evaluate", arm, seed, "finished", benchmark, way.name if way else None, seconds_left=0.0, log=log)
        if (self.root / rounds.folder(way or rounds.main, arm, seed) / benchmark / "record.json").is_file():
            return job
        job = replace(job, seconds_left=self._expected_evaluation(arm, benchmark))
        if not (self.root / self.plan.results(arm, str(seed), "manifest.json")).is_file():
            return replace(job, state="waiting", message=f"for the checkpoint of {arm}/{seed}")
        said = _failure(self.root / log)
        return replace(job, state="failed" if said else "missing", message=said)

    def _evaluation_log(self, arm: str, seed: int, benchmark: str, way: Round | None) -> str:
        if way:
            return self.plan.results("logs", f"evaluate_round_{'_'.join(way.folder)}_{arm}.log")
        if self.plan.profile.eval.jobs == "benchmark":
            return self.plan.results("logs", f"evaluate_{arm}_{seed}_{benchmark}.log")
        return self.plan.results("logs", f"evaluate_arm_{arm}.log")

    def _waits_for(self, arm: str, seed: int) -> str:
        parent = self.plan.parent_manifest(arm, str(seed))
        return "" if (self.root / parent).is_file() else parent

    def _folder(self, arm: str, seed: int) -> Path | None:
        """The run's folder among the checkpoints, if its key can be known: parent and prompts are there."""
        parent = self.root / self.plan.parent_manifest(arm, str(seed))
        prompts = self.root / self.plan.results("data", f"{self.plan.arms[arm].stage}.jsonl")
        if not (parent.is_file() and prompts.is_file()):
            return None
        from lmmr1.config import TrainConfig  # and torch: only where a training is unfinished
        from lmmr1.data import data_sha256, parse_samples
        from lmmr1.store import read_manifest, run_key

        cfg = TrainConfig(**self.plan.train_config(arm, seed))
        on_a_gpu = [cfg.model_copy(update={"bf16": True})] if cfg.bf16 is None else []  # this may be a login node
        try:
            digest, key = data_sha256(prompts, parse_samples(prompts)), read_manifest(parent).key
        except UserError:
            return None
        folders = [self.root / "checkpoints" / run_key(c, key, digest) for c in (cfg, *on_a_gpu)]
        return max(folders, key=_last_step)

    def _expected_training(self, arm: str) -> float:
        """Seconds of a whole training: of its arm's finished ones, of any arm's, or as estimated."""
        here = self.root / self.plan.results("timings")
        for files in (here.glob(f"{arm}/*/train.tsv"), here.glob("*/*/train.tsv")):
            if (found := measured_seconds(files)) is not None:
                return found
        stage = next(s for s in self._budget().stages if s.arm == arm)
        return stage.hours.likely * HOUR / stage.runs

    def _expected_evaluation(self, arm: str, benchmark: str) -> float:
        part = next(e for e in self._budget().evaluations if e.benchmark == benchmark)
        return part.hours.likely * HOUR / part.runs

    def _budget(self) -> Estimate:
        self._estimate = self._estimate or estimate(self.plan, Request())
        return self._estimate


def _last_step(folder: Path) -> float:
    """When a training wrote its last line; 0 where there is none."""
    file = folder / "timings.jsonl"
    return file.stat().st_mtime if file.is_file() else 0.0


def _progress(folder: Path) -> tuple[int, float | None, Any]:
    """(last step, median seconds of the last steps, now -> seconds since the last line) of a training's log."""
    file = folder / "timings.jsonl"
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
        written = file.stat().st_mtime
    except OSError:
        return 0, None, None
    rows = list(_rows(lines))
    if not rows:
        return 0, None, lambda now: now - written  # it has begun
    pace = median(row["seconds"] for row in rows[-RECENT_STEPS:])
    return rows[-1]["step"], pace, lambda now: now - written


def _rows(lines: Iterable[str]) -> Iterable[dict[str, Any]]:
    for line in lines:
        try:
            row = json.loads(line)
            yield {"step": int(row["step"]), "seconds": float(row["seconds"])}
        except (ValueError, KeyError, TypeError):
            continue  # the line that is being written


def _failure(log: Path) -> str:
    """What a job that ended badly said last: its error line, which names the fix, or its last line; else nothing."""
    try:
        text = log.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    errors = [line for line in lines if line.startswith("error:")]
    if errors:
        return errors[-1].removeprefix("error:").strip()[:300]
    broke = any(re.match(r"Traceback|Killed|Segmentation fault|MemoryError", line) for line in lines)
    return f"{lines[-1][:240]} (see {log.name}; the same command tries again)" if broke else ""
