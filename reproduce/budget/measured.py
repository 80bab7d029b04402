"""Profiles of the micro world: what their jobs took here before, else what docs/runtimes.md measured. Seconds."""

from __future__ import annotations

import csv
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from statistics import mean

from reproduce.budget.facts import workload
from reproduce.plan import Plan

PRETRAIN_STEPS = 3000
"""Default of reproduce/micro/pretrain.py:PretrainConfig, which cannot be imported without torch."""

PER_ITEM = {"lm_eval": "per_text_item", "vlmevalkit": "per_image_item", "agents": "per_game"}
"""What an item of each harness costs, in workload.yaml."""


@dataclass(frozen=True, slots=True)
class Jobs:
    """Wall seconds of one job of each kind, and where they are from."""

    pretrain: float
    train: dict[str, float]
    """By arm."""
    evaluate: dict[str, float]
    """By arm: all its runs, in every round."""
    other: float
    origin: str

    def wall(self, plan: Plan, cores: int) -> float:
        """Of the whole workflow: pretraining takes two processes, the rest runs side by side."""
        jobs = sum(self.train[a] * len(plan.seeds_of(a)) for a in plan.trained) + sum(self.evaluate.values())
        return self.pretrain * max(1, 2 / cores) + jobs / cores + self.other


def jobs(plan: Plan) -> Jobs:
    """Of `plan`: kinds that ran before in its results folder are taken from there."""
    here = Path(plan.results("timings"))
    found = {
        "pretrain": seconds(here.glob("*/checkpoint.tsv")),
        **{arm: seconds(here.glob(f"{arm}/*/train.tsv")) for arm in plan.trained},
    }
    train = {a: found[a] if found[a] is not None else _train(plan, a) for a in plan.trained}
    evaluate = {a: _evaluations(plan, a, here) for a in plan.arms}
    pretrain = found["pretrain"] if found["pretrain"] is not None else _pretrain(plan)
    own = any(s is not None for s in found.values())
    costs = workload().cpu
    return Jobs(pretrain, train, evaluate, costs.other, f"measured in {here}" if own else costs.origin)


def seconds(files: Iterable[Path]) -> float | None:
    """Mean of what Snakemake measured (column `s`); None where nothing was, or a file is not readable."""
    values = []
    for path in files:
        try:
            with path.open(encoding="utf-8", newline="") as f:
                values += [float(row["s"]) for row in csv.DictReader(f, delimiter="\t")]
        except (OSError, KeyError, ValueError):
            continue
    return mean(values) if values else None


def _pretrain(plan: Plan) -> float:
    costs, steps = workload().cpu.pretrain, plan.profile.micro.pretrain.get("steps", PRETRAIN_STEPS)
    return costs["start"] + costs["per_step"] * steps


def _train(plan: Plan, arm: str) -> float:
    costs, train = workload().cpu.train, plan.train_config(arm, plan.seeds[0])
    rows = train["num_prompts"] * train["dynamic_sampling_factor"] * train["num_generations"]
    longer = train["sampling"]["max_completion_length"] / 56  # per_row was measured at 56 tokens
    return costs["start"] + costs["per_row"] * train["max_steps"] * rows * longer * train["num_iterations"]


def _evaluations(plan: Plan, arm: str, here: Path) -> float:
    """Seconds of all processes that ask an arm: of each, what it took here before, or what its items cost."""
    rounds = plan.evaluations
    total = _evaluate(plan, arm, rounds.asked(rounds.main), here / arm / "evaluate_arm.tsv")
    for way in rounds.further:
        total += _evaluate(plan, arm, rounds.asked(way), here / way.name / arm / "evaluate_round.tsv")
    return total


def _evaluate(plan: Plan, arm: str, benchmarks: list[str], timing: Path) -> float:
    if (taken := seconds([timing])) is not None:
        return taken
    costs = workload().cpu.evaluate
    answers = sum(items_of(plan, b) * costs[PER_ITEM[plan.benchmarks[b].harness]] for b in benchmarks)
    return costs["start"] + answers * len(plan.seeds_of(arm))


def items_of(plan: Plan, benchmark: str) -> int:
    """Problems of a benchmark that this plan asks, or games that it plays."""
    spec, micro = plan.benchmarks[benchmark], plan.profile.micro
    known = spec.n or (spec.play.get("own") or micro.levels if spec.play else micro.items)
    return min(known, plan.profile.eval.limit or known)
