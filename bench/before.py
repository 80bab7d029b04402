"""The core of another checkout against this one's, in turn, on the same models: did a change make a step slower?

    git worktree add ../before COMMIT && python -m bench.before ../before --out bench/results/before.json

Two runs of `bench.compare` on different days differ by up to 17 %; here both sides share their minutes.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from bench.common import Setting
from bench.compare import MAIN, ROOT, built_models, cpu_name, kind_of, median, run_side
from lmmr1.store import code_version


def against(before: Path, settings: list[Setting], rounds: int, models: dict[str, Path], console: Console) -> Any:
    """One row per setting: median seconds of a step on both sides, and the ratio, also by round."""
    rows = []
    for setting in settings:
        model = models[kind_of(setting)]
        pairs = [[run_side("core", model, setting, root) for root in (before, ROOT)] for _ in range(rounds)]
        old, new = (median([s for run in side for s in run["seconds"]]) for side in zip(*pairs, strict=True))
        by_round = sorted(median(b["seconds"]) / median(a["seconds"]) for b, a in pairs)
        row = {"name": setting.name, "seconds": {"before": old, "after": new}, "ratio": old / new}
        rows.append(row | {"by_round": [round(r, 3) for r in by_round]})
        low, high = by_round[0], by_round[-1]
        console.print(
            f"{setting.name}: {old / new:.3f} times as fast as before ({low:.3f} to {high:.3f})", highlight=False
        )
    return rows


def main() -> None:
    """Command line; see the top of this file."""
    parser = argparse.ArgumentParser(
        prog="python -m bench.before", description="Time the core against another checkout's."
    )
    parser.add_argument("before", type=Path, help="folder of the other checkout")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--out", type=Path, help="JSON file")
    args = parser.parse_args()
    commits = {"before": code_version(args.before), "after": code_version(ROOT)}  # of now, not of when it ends
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        rows = against(args.before.resolve(), MAIN, args.rounds, built_models(Path(folder), MAIN), Console())
    if args.out:
        result = commits | {"cpu": cpu_name(), "threads": 1, "rounds": args.rounds, "results": rows}
        args.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
