"""Sokoban and football as benchmarks: levels, settings and records of a run, for evals/plan.py and evals/run.py."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from evals.agents import football, sokoban
from evals.agents.episodes import to_records
from evals.agents.football import FootballEval
from evals.agents.football_prompt import messages as football_messages
from evals.agents.level_sets import LevelSet, football_set, sokoban_set
from evals.agents.sokoban import SokobanEval
from evals.agents.sokoban_prompt import messages as sokoban_messages
from evals.generation import EvalModel
from evals.judge import Judge
from evals.protocols import ProtocolSettings
from evals.records import EvalRecord, Protocol
from evals.registry import REGISTRY_FILE, Benchmark
from evals.samples import GameRow
from lmmr1.config import parse_settings
from lmmr1.types import UserError

FORMS = ("tags", "sections", "brief")
"""What --prompt can say of an agent benchmark."""

METRICS = ("score", "accuracy")
"""Of every record file: points / 100, and the share of episodes that were solved (Sokoban) or had a goal (football)."""


@dataclass(frozen=True, slots=True)
class PlayJob:
    """One agent benchmark to run; the same interface as `evals.plan.Job`."""

    benchmark: Benchmark
    levels: LevelSet[Any]
    cfg: SokobanEval | FootballEval
    settings: dict[str, Any]

    @property
    def name(self) -> str:
        """Name of the benchmark."""
        return self.benchmark.name

    @property
    def n(self) -> int:
        """Levels; what a record counts."""
        return len(self.levels.tasks)

    @property
    def batch_size(self) -> int:
        """Most episodes that are asked at once."""
        return int(self.settings["batch_size"])

    def answer(self, model: EvalModel, folder: Path, judge: Judge | None) -> Sequence[GameRow]:
        """Play all levels; one row for each level and repeat. No agent benchmark is judged."""
        tasks, size = self.levels.tasks, self.batch_size
        if isinstance(self.cfg, SokobanEval):
            rows: Sequence[GameRow] = sokoban.run(model, tasks, self.cfg, size, folder)
        else:
            rows = football.run(model, tasks, self.cfg, size, folder)
        shutil.rmtree(folder / "images", ignore_errors=True)  # the rows say what they showed
        return rows

    def records(self, rows: Sequence[GameRow], checkpoint: str, protocol: Protocol) -> list[EvalRecord]:
        """The records of both metrics, those of the score first."""
        about = {"benchmark": self.name, "checkpoint": checkpoint, "protocol": protocol, "samples": "samples.jsonl"}
        return [record for metric in METRICS for record in to_records(rows, metric=metric, **about)]


def play_job(
    benchmark: Benchmark,
    protocol: ProtocolSettings,
    *,
    prompt: str | None,
    max_new_tokens: int | None,
    batch_size: int,
    data_root: Path | None,
    benchmark_dir: Path | None,
    limit: int | None,
    any_data: bool,
) -> PlayJob:
    """Read and check levels and settings. Raises UserError for bad or missing ones, and for a missing simulator."""
    if prompt is not None and prompt not in FORMS:
        raise UserError(f"--prompt {prompt}: {benchmark.name} knows {', '.join(FORMS)}; leave it out for its own")
    own = benchmark.play.get("own", 0)
    values = {"max_new_tokens": max_new_tokens or benchmark.max_new_tokens, "form": _form(benchmark, protocol, prompt)}
    values = {k: v for k, v in benchmark.play.items() if k != "own"} | values
    where = f"{REGISTRY_FILE}, benchmark {benchmark.name}, key play"
    if benchmark.dataset == "sokoban":
        cfg = parse_settings(SokobanEval, values, where)
        levels = sokoban_set(benchmark, data_root, benchmark_dir, limit, any_data)
        settings = sokoban.protocol_settings(levels.tasks, cfg, batch_size)
        chat = sokoban_messages(cfg.form)
    else:
        cfg = parse_settings(FootballEval, values, where)
        levels = football_set(benchmark, own, data_root, limit)
        football.check(levels.tasks, cfg)
        settings = football.protocol_settings(levels.tasks, cfg, batch_size)
        chat = football_messages(cfg.form, ())
    return PlayJob(benchmark, levels, cfg, settings | _common(benchmark, protocol, levels, chat, settings, batch_size))


def _form(benchmark: Benchmark, protocol: ProtocolSettings, prompt: str | None) -> str:
    """The prompt form: what was asked for, the benchmark's, MageBench's where tools run as they come, LMM-R1's."""
    return prompt or benchmark.play.get("form") or ("sections" if protocol.scoring == "harness" else "tags")


def _common(
    benchmark: Benchmark,
    protocol: ProtocolSettings,
    levels: LevelSet[Any],
    chat: list[dict[str, Any]],
    settings: dict[str, Any],
    batch_size: int,
) -> dict[str, Any]:
    """The protocol's fields that are the same for all games."""
    return {
        "task": benchmark.name,
        "protocol": protocol.name,
        "instruction": "",  # the form names it: every player is asked in the words of sokoban_prompt or football_prompt
        "instruction_sha256": hashlib.sha256(json.dumps(chat).encode()).hexdigest()[:16],
        "images": "first",
        "decoding": {**settings["decoding"], "levels": levels.name},
        "batch_size": batch_size,
        "data_sha256": levels.sha256,
        "data_pin": levels.pin,
    }
