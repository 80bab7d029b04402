"""The report of a run that is there, made again from its records: the workflow, held to the rules that only report."""

from __future__ import annotations

import csv
import io
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from lmmr1.config import read_mapping
from lmmr1.exits import FAILURE
from lmmr1.types import UserError
from reproduce.caches import environment
from reproduce.plan import ROOT, Plan

TARGET = "reproduce_all"
PUT_BACK = "put it there, or unpack the run again"
SCORES = "scores.csv"
"""Tables of scores are read from the records, wherever they lie, and belong to the report."""


@dataclass(frozen=True, slots=True)
class _File:
    """One file that the workflow makes."""

    path: str
    rule: str
    missing: bool


def report_again(results: Path, cores: str) -> None:
    """Make the report of `results` (results/NAME below the Snakefile's folder) again; no training, no evaluation.

    Made again is every file that a rule of `_reporting` writes; nothing else may run. Raises UserError where `results`
    lies elsewhere, or lacks a file that the report is made from; SystemExit with code 1 where Snakemake fails.
    """
    plan = Plan.load(read_mapping(results / "profile.json"))
    if results.resolve() != (ROOT / plan.results()).resolve():
        raise UserError(f"{results}: expected {ROOT / plan.results()}; unpack it with --into {ROOT}")
    files = _listed(results)
    rules = _reporting(files, Path(plan.results("report")))
    allowed = ["--allowed-rules", TARGET, *rules]
    _require_all(files, rules, _listed(results, *allowed, behind=files))
    options = ["--quiet", "rules", "reason", "host", "--cores", cores, "--forcerun", *rules, *allowed]
    if _workflow(results, *options).returncode:
        sys.exit(FAILURE)


def _listed(results: Path, *options: str, behind: Sequence[_File] = ()) -> list[_File]:
    """Every file behind the run's targets, by the workflow's own account.

    Raises UserError where that account fails for want of one of the files `behind` the report.
    """
    done = _workflow(results, "--cores", "1", "--summary", *options, capture=True)
    if done.returncode:
        words = done.stderr.split()
        if absent := [file.path for file in behind if file.missing and file.path in words]:
            raise UserError(f"{results}: cannot be made again, {absent[0]} is missing; {PUT_BACK}")
        sys.stderr.write(done.stderr)
        sys.exit(FAILURE)
    rows = csv.DictReader(io.StringIO(done.stdout), delimiter="\t", quoting=csv.QUOTE_NONE)
    return [_File(row["output_file"], row["rule"], row["status"] == "missing") for row in rows]


def _reporting(files: Sequence[_File], report: Path) -> list[str]:
    """The rules that write below results/NAME/report/, or a scores.csv: read from the workflow, so none is forgotten.

    Raises UserError where such a rule writes other files too: it would measure again what the report must only read.
    """
    outputs: dict[str, list[str]] = {}
    for file in files:
        outputs.setdefault(file.rule, []).append(file.path)
    found = []
    for rule, paths in outputs.items():
        reported = [p for p in paths if Path(p).is_relative_to(report) or Path(p).name == SCORES]
        if reported and len(reported) < len(paths):
            other = next(p for p in paths if p not in reported)
            raise UserError(f"rule {rule}: writes {reported[0]} and {other}; a rule of the report writes nothing else")
        found += [rule] if reported else []
    return found


def _require_all(files: Sequence[_File], rules: Sequence[str], makeable: Sequence[_File]) -> None:
    """Snakemake takes an old table for given where a record behind it is missing: that must not pass for a new one."""
    can = {file.path for file in makeable}
    left = [file.path for file in files if file.rule in rules and file.path not in can]
    if left:
        absent = [file.path for file in files if file.rule not in rules and file.missing]
        missing = ", ".join(absent[:3]) or "a file that it is made from"
        raise UserError(f"{left[0]}: cannot be made again, {missing} is missing; {PUT_BACK}")


def _workflow(results: Path, *options: str, capture: bool = False) -> subprocess.CompletedProcess[str]:
    """Snakemake on the run's own settings. `force`: a run of a large machine may be reported on by a small one."""
    settings = ["--configfile", str(results.resolve() / "profile.json"), "--config", "force=true"]
    command: Sequence[str] = [sys.executable, "-m", "snakemake", TARGET, "--rerun-triggers", "mtime", *settings]
    return subprocess.run(
        [*command, *options], cwd=ROOT, env=environment(), check=False, capture_output=capture, text=True
    )
