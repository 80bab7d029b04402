"""Do our loop and TRL's trainer learn alike? Reads what one run of the workflow left, with the arms of both.

    snakemake --cores all --config name=trl_check seeds='[0, 1, 2]' \\
        arms='[baseline, fre, fre_trl, mgt_only, mgt_only_trl]'
    python -m bench.learning --results results/trl_check --out bench/results/trl_trainer.json --plot docs/trl_curves.svg

Base, prompts and their order, rewards and settings are the same on both sides (docs/trl.md). Two trainers agree on a
stage where the difference of their mean rewards over the last steps lies within the larger range over seeds.
"""

from __future__ import annotations

import argparse
import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

PAIRS = {"fre": "fre_trl", "mgt_only": "mgt_only_trl"}
"""Arm of our loop: the same arm through TRL."""
LAST = 10
"""Steps at the end that are compared."""
SMOOTHED = 5
"""Steps that the plot averages over."""


def curves_of(results: Path, arm: str) -> list[list[float]]:
    """Mean reward of every step, seed after seed."""
    files = sorted(results.glob(f"{arm}/*/steps.jsonl"), key=lambda f: int(f.parent.name))
    return [[json.loads(line)["reward"] for line in f.read_text().splitlines()] for f in files]


def verdict(ours: list[list[float]], theirs: list[list[float]]) -> dict[str, Any]:
    """Mean reward over the last steps per seed and side, their difference, the larger range over seeds, and whether
    the one lies within the other."""
    last = [[float(np.mean(c[-LAST:])) for c in side] for side in (ours, theirs)]
    difference, spread = float(np.mean(last[1]) - np.mean(last[0])), max(max(v) - min(v) for v in last)
    sides = {"lmmr1": last[0], "trl": last[1]}
    return {"last_steps": sides, "difference": difference, "spread": spread, "agree": abs(difference) <= spread}


def table(results: Path) -> dict[str, dict[str, list[float]]]:
    """Arm and column of the run's Table 1: mean and interval, fractions."""
    rows: dict[str, dict[str, list[float]]] = {}
    with (results / "report" / "table1.csv").open(encoding="utf-8") as f:
        for row in csv.DictReader(f):
            rows.setdefault(row["arm"], {})[row["column"]] = [float(row[k]) for k in ("mean", "low", "high")]
    return rows


def seconds(results: Path, arm: str) -> float:
    """Median seconds of a step over all seeds: with whatever else the machine did at the time."""
    files = results.glob(f"{arm}/*/timings.jsonl")
    return float(np.median([json.loads(x)["seconds"] for f in files for x in f.read_text().splitlines()]))


def plot(stages: dict[str, Any], out: Path) -> None:
    """A panel per stage; thin lines are seeds, thick ones their mean, smoothed over a few steps."""
    import matplotlib as mpl

    mpl.use("svg")
    mpl.rcParams["svg.hashsalt"] = "lmmr1"
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, len(stages), figsize=(9, 3.6), sharey=True, layout="constrained", squeeze=False)
    smooth = lambda c: np.convolve(c, np.ones(SMOOTHED) / SMOOTHED, mode="valid")
    for axis, (arm, stage) in zip(axes[0], stages.items(), strict=True):
        for side, colour, name in (("lmmr1", "#0072B2", "lmmr1"), ("trl", "#D55E00", "TRL 1.16")):
            for curve in stage["curves"][side]:
                axis.plot(range(SMOOTHED, len(curve) + 1), smooth(curve), color=colour, alpha=0.35, linewidth=1)
            mean = smooth(np.mean(stage["curves"][side], axis=0))
            axis.plot(range(SMOOTHED, len(mean) + SMOOTHED), mean, color=colour, linewidth=2.4, label=name)
        axis.set(xlabel="step", title=arm)
        axis.spines[["top", "right"]].set_visible(False)
    axes[0][0].set_ylabel("mean reward (accuracy + 0.5 format)")
    axes[0][0].legend(frameon=False, loc="lower right")
    figure.savefig(out, metadata={"Date": None})


def main() -> None:
    """Command line; see the top of this file."""
    parser = argparse.ArgumentParser(prog="python -m bench.learning", description="Do both trainers learn alike?")
    parser.add_argument("--results", type=Path, required=True, help="folder of a workflow run with the arms of both")
    parser.add_argument("--out", type=Path, required=True, help="JSON with curves and verdicts")
    parser.add_argument("--plot", type=Path, required=True, help="SVG")
    args = parser.parse_args()
    stages = {}
    for arm, twin in PAIRS.items():
        curves = {"lmmr1": curves_of(args.results, arm), "trl": curves_of(args.results, twin)}
        times = {"lmmr1": seconds(args.results, arm), "trl": seconds(args.results, twin)}
        stages[arm] = {**verdict(*curves.values()), "seconds_per_step": times, "curves": curves}
    manifest = json.loads(next(args.results.glob(f"{next(iter(PAIRS.values()))}/*/manifest.json")).read_text())
    facts = {k: manifest[k] for k in ("config", "versions", "device", "code")}
    result = {**facts, "stages": stages, "table": table(args.results)}
    args.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    plot(stages, args.plot)
    for arm, stage in stages.items():
        Console().print(arm, {k: stage[k] for k in ("last_steps", "difference", "spread", "agree")})


if __name__ == "__main__":
    main()
