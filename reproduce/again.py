"""The report of a run that is there, made again from its records: the workflow, held to the rules that only report."""

from __future__ import annotations

import csv
import io
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from lmmr1.exits import FAILURE
from lmmr1.types import UserError
from reproduce.plan import ROOT, Plan, read_yaml

TARGET = "reproduce_all"
SCORES = "scores.csv"
"""Tables of scores are read from the records, wherever they lie, and belong to the report."""


def report_again(results: Path, cores: str) -> None:
    """Make the report of `results` (results/NAME below the Snakefile's folder) again; no training, no evaluation.

    Nothing but the rules of `report_rules` may run: where one of their inputs is missing, the workflow stops and names
    it. Raises UserError where `results` lies elsewhere, SystemExit with code 1 where Snakemake fails.
    """
    plan = Plan.load(read_yaml(results / "profile.json"))
    if results.resolve() != (ROOT / plan.results()).resolve():
        raise UserError(f"{results}: expected {ROOT / plan.results()}; unpack it with --into {ROOT}")
    rules = report_rules(results)
    options = ["--quiet", "rules", "reason", "host", "--cores", cores, "--forcerun", *rules]
    if _workflow(results, *options, "--allowed-rules", TARGET, *rules).returncode:
        sys.exit(FAILURE)


def report_rules(results: Path) -> list[str]:
    """Every rule behind the run's targets that writes below results/NAME/report/, or a scores.csv.

    They are read from the workflow's own list of files, so that a rule that is added later cannot be forgotten. Raises
    UserError where such a rule writes other files too: it would measure again what the report must only read.
    """
    listed = _workflow(results, "--cores", "1", "--summary", capture=True)
    if listed.returncode:
        sys.stderr.write(listed.stderr)
        sys.exit(FAILURE)
    outputs: dict[str, list[str]] = {}
    for row in csv.DictReader(io.StringIO(listed.stdout), delimiter="\t", quoting=csv.QUOTE_NONE):
        outputs.setdefault(row["rule"], []).append(row["output_file"])
    return _reporting(outputs, Path(results.parent.name, results.name, "report"))


def _reporting(outputs: dict[str, list[str]], report: Path) -> list[str]:
    found = []
    for rule, files in outputs.items():
        reported = [f for f in files if Path(f).is_relative_to(report) or Path(f).name == SCORES]
        if reported and len(reported) < len(files):
            other = next(f for f in files if f not in reported)
            raise UserError(f"rule {rule}: writes {reported[0]} and {other}; a rule of the report writes nothing else")
        found += [rule] if reported else []
    return found


def _workflow(results: Path, *options: str, capture: bool = False) -> subprocess.CompletedProcess[str]:
    """Snakemake on the run's own settings. `force`: a run of a large machine may be reported on by a small one."""
    settings = ["--configfile", str(results.resolve() / "profile.json"), "--config", "force=true"]
    command: Sequence[str] = [sys.executable, "-m", "snakemake", TARGET, "--rerun-triggers", "mtime", *settings]
    return subprocess.run([*command, *options], cwd=ROOT, check=False, capture_output=capture, text=True)
