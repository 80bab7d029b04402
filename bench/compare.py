"""The core against TRL 1.16's GRPOTrainer, side by side: interleaved rounds, separate processes, one thread each.

    python -m bench.compare --out bench/results/2026-11-23.json            # the six points of the target, 5 rounds
    python -m bench.compare --curves --rounds 2 --out bench/results/...    # scaling in G, C, P and image tokens
    python -m bench.compare --quick --rounds 2 --at-least 1.5              # two small points, for CI

The gradient-equality gate (tests/test_trl_parity.py) runs first: a fast step that computes something else is no result.
Absolute seconds of this machine mean little; quote the ratios of medians.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable
from dataclasses import replace
from importlib.metadata import version
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from bench.common import CELL, Setting, build_model
from lmmr1.exits import REGRESSION

ROOT = Path(__file__).resolve().parent.parent
MAIN = [Setting(mode, side * CELL) for mode in ("forced", "natural") for side in (0, 4, 8)]
QUICK = [Setting("forced", 0, G=4, P=4, C=16, steps=2), Setting("forced", 4 * CELL, G=4, P=4, C=16, steps=2)]
BASE = Setting()
CURVES = {
    "G": [replace(BASE, G=g) for g in (2, 4, 8, 16, 32)],
    "C": [replace(BASE, C=c) for c in (16, 32, 64, 128)],
    "P": [replace(BASE, P=p) for p in (2, 4, 8, 16)],
    "image tokens": [replace(BASE, side=s * CELL) for s in (0, 4, 8)],
}


def median(values: list[float]) -> float:
    """The middle, or the mean of the two in the middle."""
    ordered, half = sorted(values), len(values) // 2
    return ordered[half] if len(values) % 2 else (ordered[half - 1] + ordered[half]) / 2


def run_side(side: str, model: Path, setting: Setting, root: Path = ROOT) -> dict[str, Any]:
    """One process, of the checkout `root`. Raises RuntimeError with the end of its error output where it fails."""
    environment = os.environ | {
        "OMP_NUM_THREADS": "1",
        "MKL_NUM_THREADS": "1",
        "HF_HUB_OFFLINE": "1",
        "PYTHONPATH": str(root),
    }
    command = [sys.executable, "-W", "ignore", "-m", "bench.side", side, str(model), json.dumps(setting.json())]
    done = subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{side}, {setting.name}: {done.stderr[-2000:]}")
    return json.loads(done.stdout.strip().splitlines()[-1])


def built_models(folder: Path, settings: Iterable[Setting]) -> dict[str, Path]:
    """The models that `settings` take, made in `folder`."""
    models = {name: folder / name for name in {kind_of(setting) for setting in settings}}
    for name, path in models.items():
        build_model(path, taught_to_stop=name == "taught")
    return models


def kind_of(setting: Setting) -> str:
    """A random model samples image marks, with which TRL's full rows fail, so images take the taught model too."""
    return "random" if setting.mode == "forced" and not setting.side else "taught"


def compare(settings: list[Setting], rounds: int, models: dict[str, Path], console: Console) -> list[dict[str, Any]]:
    """One row per setting: medians over all rounds' steps, ratio, phases, memory; sides alternate round by round."""
    rows = []
    for setting in settings:
        model = models[kind_of(setting)]
        runs: dict[str, list[dict[str, Any]]] = {"trl": [], "core": []}
        for _ in range(rounds):
            for side, done in runs.items():
                done.append(run_side(side, model, setting))
        rows.append(summary(setting, runs))
        console.print(f"{setting.name}: {rows[-1]['ratio']:.2f} times faster", highlight=False)
    return rows


def summary(setting: Setting, runs: dict[str, list[dict[str, Any]]]) -> dict[str, Any]:
    """Medians of all steps of all rounds, spread over rounds, memory above the start."""
    seconds = {side: [s for run in done for s in run["seconds"]] for side, done in runs.items()}
    per_round = [median(t["seconds"]) / median(c["seconds"]) for t, c in zip(runs["trl"], runs["core"], strict=True)]
    memory = {side: max(r["rss_mb"] - r["rss_start_mb"] for r in done) for side, done in runs.items()}
    tokens = {side: setting.G * setting.P * done[0]["mean_length"] for side, done in runs.items()}
    return {
        "name": setting.name, "setting": setting.json(), "ratio": median(seconds["trl"]) / median(seconds["core"]),
        "ratio_min": min(per_round), "ratio_max": max(per_round), "rounds": len(per_round),
        "seconds": {k: median(v) for k, v in seconds.items()},
        "tokens_per_second": {k: tokens[k] / median(v) for k, v in seconds.items()},
        "mean_length": {k: done[0]["mean_length"] for k, done in runs.items()},
        "memory_mb": memory, "phases": {k: done[0]["phases"] for k, done in runs.items()},
        "load": [r["load"] for done in runs.values() for r in done],
    }  # fmt: skip


def matmul_rate() -> float:
    """GFLOP/s of a 1024^3 fp32 product on one thread: the yardstick of this machine, best of 5."""
    a, best = torch.randn(1024, 1024), float("inf")
    for _ in range(5):
        start = time.perf_counter()
        a @ a
        best = min(best, time.perf_counter() - start)
    return 2 * 1024**3 / best / 1e9


def linear_flops(setting: Setting) -> float:
    """Linear layers of one step, completions only: decode, forward, and a backward of twice the forward."""
    hidden, mlp, heads, vocabulary, layers = 128, 512, 128 + 2 * 64, 512, 4
    per_token = layers * (hidden * heads + hidden * hidden + 3 * hidden * mlp) + hidden * vocabulary
    return 2 * per_token * setting.G * setting.P * setting.C * 4


HEAD = (
    "point",
    "TRL s",
    "core s",
    "ratio",
    "range over rounds",
    "core tokens/s",
    "memory MB, TRL / core",
    "matmul share",
)


def cells(row: dict[str, Any], rate: float) -> list[str]:
    """One row as text. The share is the counted linear work of a forced step over what `rate` could do in its time."""
    setting, seconds, memory = Setting(**row["setting"]), row["seconds"], row["memory_mb"]
    share = linear_flops(setting) / seconds["core"] / rate / 1e9
    return [
        row["name"],
        f"{seconds['trl']:.2f}",
        f"{seconds['core']:.2f}",
        f"{row['ratio']:.2f}",
        f"{row['ratio_min']:.2f} to {row['ratio_max']:.2f}",
        f"{row['tokens_per_second']['core']:.0f}",
        f"{memory['trl']} / {memory['core']}" if memory else "not kept",
        f"{share:.0%}" if setting.mode == "forced" else "-",
    ]


def show(results: dict[str, list[dict[str, Any]]], rate: float, console: Console) -> None:
    """The table on the terminal."""
    for rows in results.values():
        table = Table(*HEAD, box=None)
        for row in rows:
            table.add_row(*cells(row, rate))
        console.print(table)


def slope(rows: list[dict[str, Any]], axis: str, side: str) -> float:
    """Seconds per step that one more of `axis` costs, by least squares."""
    x, y = [row["setting"][axis] for row in rows], [row["seconds"][side] for row in rows]
    mean_x, mean_y = sum(x) / len(x), sum(y) / len(y)
    over = sum((a - mean_x) * (b - mean_y) for a, b in zip(x, y, strict=True))
    return over / sum((a - mean_x) ** 2 for a in x)


def growth(results: dict[str, list[dict[str, Any]]]) -> list[str]:
    """How step time grows along the axes of the curves, ours over TRL's, as sentences."""
    names = {"G": "completion per prompt", "C": "token per completion", "P": "prompt"}
    ratios = {
        name: slope(results[a], a, "core") / slope(results[a], a, "trl") for a, name in names.items() if a in results
    }
    return [f"One more {name} costs {ratio:.2f} of what it costs TRL." for name, ratio in ratios.items()]


def markdown(result: dict[str, Any]) -> str:
    """The same as a document, with what it was measured on."""
    versions = ", ".join(f"{k} {v}" for k, v in result["versions"].items())
    rows = [row for part in result["results"].values() for row in part]
    lines = [
        f"Measured by `python -m bench.compare` on {result['cpu']}, {result['threads']} thread, {versions}; load "
        f"at the start {result['load_at_start']:.1f}; fp32 matrix product {result['matmul_gflops']:.0f} GFLOP/s. "
        f"Medians over {rows[0]['rounds']} interleaved rounds; quote the ratios, not the seconds.",
        "",
        "| " + " | ".join(HEAD) + " |",
        "|---" + "|---:" * (len(HEAD) - 1) + "|",
    ]
    lines += ["| " + " | ".join(cells(r, result["matmul_gflops"])) + " |" for r in rows]
    grown = growth(result["results"])
    return "\n".join([*lines, *(["", *grown] if grown else [])]) + "\n"


def main() -> None:
    """Command line; see the top of this file."""
    parser = argparse.ArgumentParser(
        prog="python -m bench.compare", description="Time the core against TRL, side by side."
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--quick", action="store_true", help="two small points")
    parser.add_argument("--curves", action="store_true", help="scaling curves instead of the main points")
    parser.add_argument("--at-least", type=float, default=0.0, help="exit with 3 where a ratio is below this")
    parser.add_argument("--skip-gate", action="store_true", help="the parity tests were run just now")
    parser.add_argument("--out", type=Path, help="JSON file; with --curves also a plot beside it")
    args = parser.parse_args()
    console, load = Console(), os.getloadavg()[0]
    torch.set_num_threads(1)
    if not args.skip_gate:
        subprocess.run([sys.executable, "-m", "pytest", "-q", "tests/test_trl_parity.py"], cwd=ROOT, check=True)
    with tempfile.TemporaryDirectory() as folder:
        groups = {"quick": QUICK} if args.quick else CURVES if args.curves else {"main": MAIN}
        models = built_models(Path(folder), chain.from_iterable(groups.values()))
        rate = matmul_rate()
        results = {name: compare(settings, args.rounds, models, console) for name, settings in groups.items()}
    show(results, rate, console)
    if args.out:
        packages = {p: version(p) for p in ("torch", "transformers", "trl")}
        header = {"versions": packages, "threads": 1, "load_at_start": load, "matmul_gflops": rate, "cpu": cpu_name()}
        args.out.parent.mkdir(parents=True, exist_ok=True)
        result = header | {"results": results}
        args.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
        args.out.with_suffix(".md").write_text(markdown(result), encoding="utf-8")
        if args.curves:
            plot(results, args.out.with_suffix(".svg"))
    slow = [row["name"] for rows in results.values() for row in rows if row["ratio"] < args.at_least]
    if slow:
        console.print(f"less than {args.at_least} times as fast as TRL: {', '.join(slow)}")
        sys.exit(REGRESSION)


def cpu_name() -> str:
    """Model name of the processor, from the kernel."""
    info = Path("/proc/cpuinfo")
    names = (
        [line.partition(":")[2].strip() for line in info.read_text().splitlines() if line.startswith("model name")]
        if info.exists()
        else []
    )
    return names[0] if names else "unknown"


def plot(results: dict[str, list[dict[str, Any]]], out: Path) -> None:
    """Seconds per step of both sides along each axis, with the ratio written at each point."""
    import matplotlib as mpl

    mpl.use("svg")
    import matplotlib.pyplot as plt

    axis_of = {"G": "G", "C": "C", "P": "P", "image tokens": "side"}
    figure, axes = plt.subplots(1, len(results), figsize=(4 * len(results), 3.6), layout="constrained")
    for axis, (name, rows) in zip(axes, results.items(), strict=True):
        values = [r["setting"][axis_of[name]] for r in rows]
        x = [(v // CELL) ** 2 for v in values] if name == "image tokens" else values
        for side, colour in (("trl", "#D55E00"), ("core", "#0072B2")):
            axis.plot(
                x, [r["seconds"][side] for r in rows], "o-", color=colour, label={"trl": "TRL", "core": "lmmr1"}[side]
            )
        for at, row in zip(x, rows, strict=True):
            axis.annotate(
                f"{row['ratio']:.1f}x",
                (at, row["seconds"]["core"]),
                textcoords="offset points",
                xytext=(0, -14),
                ha="center",
            )
        axis.set(xlabel=name, ylabel="seconds per step", ylim=(0, None))
        axis.spines[["top", "right"]].set_visible(False)
    axes[0].legend(frameon=False)
    figure.savefig(out, metadata={"Date": None})


if __name__ == "__main__":
    main()
