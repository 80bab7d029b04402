"""Figures: scores per arm and benchmark, and training curves. Each as SVG and PNG.

    python -m reports.plots arms --table results/micro/report/table1.csv --out results/micro/report/arms \\
        --benchmarks micro_chain micro_table ...
    python -m reports.plots curves --out results/micro/report/curves \\
        --steps results/micro/fre/0/steps.jsonl results/micro/fre/1/steps.jsonl ...

--out is the path without suffix. An arm has the same colour and marker in every figure. SVGs have a transparent ground
and draw text and lines in INK and LINE, so that the page can recolour them for dark screens.
"""

from __future__ import annotations

import argparse
import io
import sys
from pathlib import Path

import matplotlib
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from lmmr1.types import UserError
from reports.cells import read_table
from reports.files import read_jsonl, run_cli, run_of, write_bytes
from reports.layout import (
    ARM_TITLES,
    AVERAGES,
    GROUP_TITLES,
    Benchmark,
    add_benchmarks_argument,
    arm_style,
    arm_title,
    columns,
    parse_benchmarks,
)

INK, LINE = "#1a1a1b", "#d9d9da"
STYLE = {
    "font.family": ["DejaVu Sans"],
    "font.size": 10,
    "axes.titlesize": 11,
    "axes.labelsize": 10,
    "text.color": INK,
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "axes.titlecolor": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "grid.color": LINE,
    "axes.axisbelow": True,
    "grid.linewidth": 0.8,
    "legend.frameon": False,
    "svg.fonttype": "none",
    "svg.hashsalt": "lmmr1",
    "figure.dpi": 100,
    "savefig.dpi": 160,
    "axes.titleweight": "bold",
}
CURVES = {
    "reward": "Reward",
    "rewards/accuracy/mean": "Accuracy reward",
    "completions/mean_length": "Completion length",
}
"""Metric of steps.jsonl (TRL's names): title of its panel."""
CURVE_UNITS = {
    "reward": "mean per rollout batch",
    "rewards/accuracy/mean": "share of right answers",
    "completions/mean_length": "tokens",
}


def plot_arms(table: pd.DataFrame, benchmarks: list[Benchmark]) -> Figure:
    """Dots with 95 % intervals in percent, one panel per average: its benchmarks and, set apart, the average itself.

    table: columns of `reports.cells.COLUMNS`, fractions.
    """
    panels: list[tuple[str, list[tuple[str, str]]]] = []
    shown: list[tuple[str, str]] = []
    for name, title, members in columns(benchmarks):
        shown.append((name, title))
        if name in AVERAGES:  # it closes its panel
            panels.append((", ".join(dict.fromkeys(GROUP_TITLES[b.group] for b in members)), shown))
            shown = []
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(10, 4.6), layout="constrained")
        axes = figure.subplots(1, len(panels), sharey=True, squeeze=False, width_ratios=[len(p) for _, p in panels])[0]
        for ax, (title, panel) in zip(axes, panels, strict=True):
            _arms_panel(ax, table, panel)
            ax.set_title(title, loc="left")
        axes[0].set_ylabel("Accuracy (%)")
        axes[0].set_ylim(bottom=-0.02 * axes[0].get_ylim()[1])  # a mean of 0 shows its whole marker
        legend(figure, list(dict.fromkeys(table.arm)), markers=True)
    return figure


def _arms_panel(ax: Axes, table: pd.DataFrame, panel: list[tuple[str, str]]) -> None:
    arms = list(dict.fromkeys(table.arm))
    for at, arm in enumerate(arms):
        rows = table[table.arm == arm].set_index("column").loc[[name for name, _ in panel]]
        colour, marker = arm_style(arm, arms)
        x = [i + 0.15 * (at - (len(arms) - 1) / 2) for i in range(len(panel))]
        low, high = (100 * (rows["mean"] - rows.low).clip(lower=0), 100 * (rows.high - rows["mean"]).clip(lower=0))
        ax.errorbar(x, 100 * rows["mean"], yerr=[low, high], fmt=marker, color=colour, markersize=6, elinewidth=1.6)
    ax.set_xticks(range(len(panel)), [title.replace(" ", "\n", 1) if len(title) > 10 else title for _, title in panel])
    ax.set_xlim(-0.5, len(panel) - 0.5)
    ax.axvspan(len(panel) - 1.5, len(panel) - 0.5, color=LINE, alpha=0.35, zorder=0, linewidth=0)
    ax.tick_params(axis="x", length=0)


def read_steps(paths: list[Path]) -> pd.DataFrame:
    """Training logs as (arm, seed, step, *CURVES), one row per step. Raises UserError on a file without them."""
    frames = [pd.DataFrame(columns=["step", *CURVES, "arm", "seed"])] if not paths else []
    for path in paths:
        run = run_of(path)
        frame = pd.DataFrame(list(read_jsonl(path)))
        missing = [c for c in ("step", *CURVES) if c not in frame]
        if missing:
            raise UserError(f"{path}: no {', '.join(missing)} in it; train this arm again")
        frames.append(frame[["step", *CURVES]].assign(arm=run.arm, seed=run.seed))
    steps = pd.concat(frames, ignore_index=True)
    arms = list(ARM_TITLES)
    order = {a: arms.index(a) if a in arms else len(arms) for a in dict.fromkeys(steps.arm)}
    return steps.sort_values("arm", key=lambda names: names.map(order), kind="stable", ignore_index=True)


def plot_curves(steps: pd.DataFrame) -> Figure:
    """One panel per metric of CURVES: a thin line per seed, a thick one for their mean, smoothed over steps.

    steps: columns arm, seed, step, *CURVES; without rows the figure says that no arm was trained.
    """
    if steps.empty:
        with matplotlib.rc_context(STYLE):
            figure = Figure(figsize=(10, 1))
            figure.text(0.5, 0.5, "No arm of this profile was trained.", ha="center", va="center")
        return figure
    arms = list(dict.fromkeys(steps.arm))
    window = max(1, int(steps.step.max()) // 15)
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(10, 3.7), layout="constrained")
        for ax, (metric, title) in zip(figure.subplots(1, len(CURVES)), CURVES.items(), strict=True):
            for arm in arms:
                wide = steps[steps.arm == arm].pivot_table(index="step", columns="seed", values=metric)
                colour = arm_style(arm, arms)[0]
                ax.plot(wide.index, wide, color=colour, linewidth=0.6, alpha=0.4)
                mean = wide.mean(axis=1, skipna=False).rolling(window, center=True, min_periods=1).mean()
                ax.plot(wide.index, mean, color=colour, linewidth=2.2, solid_capstyle="round")
            ax.set_title(title, loc="left")
            ax.set_ylabel(CURVE_UNITS[metric])
            ax.set_xlabel("step of the arm's last stage")
            ax.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=6))
            ax.margins(x=0.02)
            ax.set_ylim(bottom=min(-0.02 * ax.get_ylim()[1], float(steps[metric].min())))
        legend(figure, arms, markers=False)
    return figure


def legend(figure: Figure, arms: list[str], markers: bool) -> None:
    """Above the axes, so that it never covers data."""
    handles = []
    for arm in arms:
        colour, marker = arm_style(arm, arms)
        line = {"marker": marker, "linestyle": "none", "markersize": 7} if markers else {"linewidth": 2.2}
        handles.append(Line2D([], [], color=colour, label=arm_title(arm), **line))
    figure.legend(handles=handles, loc="outside upper center", ncols=len(arms), columnspacing=1.4, handletextpad=0.5)


def save(figure: Figure, out: Path) -> None:
    """Write `out`.svg and `out`.png (160 dpi), byte for byte the same for the same data."""
    with matplotlib.rc_context(STYLE):  # hashsalt and fonttype are read while saving
        for kind in ("svg", "png"):
            buffer = io.BytesIO()
            absent = {"svg": ("Date", "Creator", "Format", "Type"), "png": ("Software",)}[kind]
            figure.savefig(buffer, format=kind, transparent=kind == "svg", metadata=dict.fromkeys(absent))
            write_bytes(out.with_name(f"{out.name}.{kind}"), buffer.getvalue(), sealed=kind == "svg")


def main(argv: list[str]) -> None:
    """Command line; see the top of this file."""
    parser = argparse.ArgumentParser(prog="python -m reports.plots", description="Draw a figure as SVG and PNG.")
    kinds = parser.add_subparsers(dest="kind", required=True)
    arms = kinds.add_parser("arms", help="scores per arm and benchmark")
    arms.add_argument("--table", type=Path, required=True, help="table1.csv")
    add_benchmarks_argument(arms)
    curves = kinds.add_parser("curves", help="training curves")
    curves.add_argument("--steps", nargs="*", type=Path, default=[], help="steps.jsonl of each trained run")
    for kind in (arms, curves):
        kind.add_argument("--out", type=Path, required=True, help="path without suffix")
    args = parser.parse_args(argv)
    if args.kind == "arms":
        save(plot_arms(read_table(args.table), parse_benchmarks(args.benchmarks)), args.out)
    else:
        save(plot_curves(read_steps(args.steps)), args.out)


if __name__ == "__main__":
    sys.exit(run_cli(main))
