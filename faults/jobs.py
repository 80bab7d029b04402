"""The workflow's own jobs, as it would run them: read from a dry run, so that no command is written down twice."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

STAGES = {
    "checkpoint": "pretraining",
    "prompts": "prompts",
    "text_benchmark": "benchmark files",
    "image_benchmark": "benchmark files",
    "level_benchmark": "benchmark files",
    "train": "training",
    "evaluate_arm": "evaluation",
    "evaluate_adopted": "evaluation",
    "evaluate_round": "evaluation",
    "evaluate_round_adopted": "evaluation",
    "play_scripted": "scripted players",
    "scores": "scores",
    "scores_of_players": "scores",
    "round_scores": "scores",
    "prompt_styles": "tables",
    "protocols": "tables",
    "contamination": "tables",
    "table1": "tables",
    "paper_tables": "tables",
    "quality": "tables",
    "plot_arms": "plots",
    "plot_curves": "plots",
    "plot_evidence": "plots",
    "page": "page",
    "check": "check",
}
"""Rule -> stage of the result table."""


@dataclass(frozen=True, slots=True)
class Job:
    """One command of the workflow."""

    rule: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    log: str
    module: str
    arguments: tuple[str, ...]

    @property
    def stage(self) -> str:
        """Its name in the result table."""
        return STAGES[self.rule]

    @property
    def name(self) -> str:
        """Rule and the thing that it makes."""
        return f"{self.rule} {Path(self.log).stem}"


def jobs(tree: Path, checkout: Path) -> list[Job]:
    """All jobs of the smoke profile that run a Python command. Raises RuntimeError where the dry run fails."""
    command = [sys.executable, "-m", "snakemake", "-n", "-p", "-F", "-s", str(checkout / "Snakefile")]
    command += ["--config", "profile=smoke", "--cores", "1", "--nolock", "--", "reproduce_all", "check"]
    done = subprocess.run(command, cwd=tree, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"the dry run failed:\n{done.stderr[-2000:]}")
    return _parse(done.stdout)


def _parse(text: str) -> list[Job]:
    pattern = r"^(?:local)?rule (\w+):\n(.*?)^Shell command: (.*?)$"
    blocks = re.finditer(pattern, text, re.DOTALL | re.MULTILINE)
    return [job for block in blocks if (job := _job(*block.groups())) is not None]


def _job(rule: str, facts: str, shell: str) -> Job | None:
    """None for a rule that is a plain shell command."""
    if rule not in STAGES:
        return None
    words = shlex.split(shell)
    end = min(words.index(mark) for mark in (">", "2>") if mark in words)
    at = max(i for i, word in enumerate(words[:end]) if word == "-m")  # the last: an evaluation is run by reproduce.gpu
    named = dict(re.findall(r"^    (input|output|log): (.*)$", facts, re.MULTILINE))
    lists = [tuple(filter(None, named.get(key, "").split(", "))) for key in ("input", "output")]
    return Job(rule, *lists, named["log"], words[at + 1], tuple(words[at + 2 : end]))
