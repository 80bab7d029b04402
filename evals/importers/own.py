"""This suite's own `samples.jsonl`."""

from __future__ import annotations

from pathlib import Path

from evals.importers.stored import StoredAnswer, benchmark_name, judged
from evals.samples import FootballRow, SokobanRow, read_samples
from lmmr1.lines import from_json
from lmmr1.types import UserError


def read_own(path: Path) -> list[StoredAnswer]:
    """Our samples; episodes of games, which no scorer judges, are passed over.

    The folder of the benchmark names it, or record.json, which is checked to be of these samples.
    """
    arm, run = _arm(path)
    benchmark = _benchmark(path)
    return [
        StoredAnswer(benchmark, arm, run, row, judged([("accuracy", row.accuracy)]), str(path))
        for row in read_samples(path)
        if not isinstance(row, SokobanRow | FootballRow)
    ]


def _arm(path: Path) -> tuple[str, str]:
    """Arm and run: results/PROFILE/ARM/SEED/eval/BENCHMARK/samples.jsonl, else the folder above the benchmark's."""
    parts = path.resolve().parts
    if len(parts) > 5 and parts[-3] == "eval" and parts[-4].isdecimal():
        return parts[-5], parts[-4]
    return parts[-3] if len(parts) > 2 else "model", ""


def _benchmark(path: Path) -> str:
    record = path.with_name("record.json")
    if not record.is_file():
        return benchmark_name(path.parent.name)
    try:
        return str(from_json(record.read_bytes())[0]["benchmark"])
    except (ValueError, LookupError, TypeError):
        raise UserError(f"{record}: not a record file; delete it and run the evaluation again") from None
