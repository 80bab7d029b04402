"""The report of a run that is there, made again from its records: the workflow, held to the rules that only report."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from lmmr1.exits import FAILURE
from lmmr1.types import UserError
from reproduce.plan import ROOT, Plan, read_yaml

REPORT_RULES = (
    "reproduce_all",
    "scores",
    "table1",
    "plot_arms",
    "plot_curves",
    "paper_tables",
    "plot_evidence",
    "page",
)
"""Nothing else may run: where one of their inputs is missing, the workflow stops and names it."""


def report_again(results: Path, cores: str) -> None:
    """Make the report of `results` (results/NAME below the Snakefile's folder) again; no training, no evaluation.

    Raises UserError where it lies elsewhere, SystemExit with Snakemake's code where that fails.
    """
    plan = Plan.load(read_yaml(results / "profile.json"))
    if results.resolve() != (ROOT / plan.results()).resolve():
        raise UserError(f"{results}: expected {ROOT / plan.results()}; unpack it with --into {ROOT}")
    command = [
        sys.executable, "-m", "snakemake", "reproduce_all", "--quiet", "rules", "reason", "host", "--cores", cores,
        "--configfile", str(results / "profile.json"), "--rerun-triggers", "mtime",
        "--forcerun", *REPORT_RULES[1:], "--allowed-rules", *REPORT_RULES,
    ]  # fmt: skip
    if subprocess.run(command, cwd=ROOT, check=False).returncode:
        sys.exit(FAILURE)
