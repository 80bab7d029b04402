"""Figures behind the verdicts: gains with intervals, power, seeds, and scores by category. Each as SVG and PNG.

    python -m reports.evidence_plots --table results/micro/report/table1.csv --out-dir results/micro/report \\
        --scores results/micro/baseline/scores.csv results/micro/fre/scores.csv ... --benchmarks micro_chain ...

Writes forest, power, seeds and subsets, in one process because its start takes longer than a figure. Colours and
markers are those of reports.plots.
"""

from __future__ import annotations

import argparse
import math
import sys
from pathlib import Path

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from scipy.stats import t as student

from reports.cells import Cells, headline, load_cells, read_table
from reports.compare import printed_share
from reports.files import run_cli
from reports.layout import (
    AVERAGES,
    BASELINE,
    CONTROL,
    Benchmark,
    add_benchmarks_argument,
    arm_style,
    columns,
    parse_benchmarks,
)
from reports.plots import LINE, STYLE, legend, save
from reports.power import paired_detectable, paired_power
from reports.rules import Rules, rules
from reports.scores import read_scores
from reports.statistics import wilson
from reports.unpaired import share_difference
from reproduce.published import Registry, registry


def _note(text: str) -> Figure:
    """A figure that says why there is nothing to draw."""
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(10, 1))
        figure.text(0.5, 0.5, text, ha="center", va="center")
    return figure


# -------------------------------------------------------------------------------------------- forest


def plot_forest(table: pd.DataFrame, benchmarks: list[Benchmark], found: Registry, used: Rules) -> Figure:
    """Differences to the baseline in points with 95 % intervals, a row per column, averages last of their group.

    table: columns of reports.cells.COLUMNS. The margin is shaded; a printed gain is hollow, with its unpaired interval.
    """
    rows = table[table["diff"].notna()]
    if rows.empty:
        return _note("No arm beside the baseline.")
    arms = list(dict.fromkeys(rows.arm))
    shown = columns(benchmarks)
    printed = {(arm, name): gap for arm in arms for name, gap in _printed_gains(arm, found, used).items()}
    with matplotlib.rc_context(STYLE | {"axes.grid.axis": "x"}):
        figure = Figure(figsize=(10, 1.4 + len(shown) * (0.16 * len(arms) + 0.18)), layout="constrained")
        ax = figure.subplots()
        ax.axvspan(-used.margin, used.margin, color=LINE, alpha=0.5, zorder=0, linewidth=0)
        ax.axvline(0, color=STYLE["text.color"], linewidth=0.8)
        for at, arm in enumerate(arms):
            of = rows[rows.arm == arm].set_index("column")
            for y, (name, _, _) in enumerate(shown):
                place = y + 0.8 * ((at + 0.5) / len(arms) - 0.5)
                _forest_mark(ax, of.loc[name], place, arm_style(arm, arms))
                if (arm, name) in printed:
                    _printed_mark(ax, printed[arm, name], place + 0.8 / len(arms) / 3, arm_style(arm, arms))
        ax.set_yticks(range(len(shown)), [title for _, title, _ in shown])
        ax.set_ylim(len(shown) - 0.5, -0.5)
        for y, (name, _, _) in enumerate(shown):
            if name in AVERAGES:
                ax.axhspan(y - 0.5, y + 0.5, color=LINE, alpha=0.3, zorder=0, linewidth=0)
        ax.tick_params(axis="y", length=0)
        ax.set_xlabel(f"difference to the baseline (points); dark band: margin ±{used.margin:g}")
        legend(figure, arms, markers=True)
    return figure


def _forest_mark(ax: Axes, row: pd.Series, y: float, style: tuple[str, str]) -> None:
    colour, marker = style
    reach = [[100 * (row["diff"] - row.diff_low)], [100 * (row.diff_high - row["diff"])]]
    ax.errorbar(100 * row["diff"], y, xerr=reach, fmt=marker, color=colour, markersize=5, elinewidth=1.5)


def _printed_mark(ax: Axes, gap: tuple[float, float], y: float, style: tuple[str, str]) -> None:
    colour, marker = style
    hollow = {"markerfacecolor": "none", "markersize": 4, "elinewidth": 0.7}
    ax.errorbar(gap[0], y, xerr=gap[1], fmt=marker, color=colour, **hollow)


def _printed_gains(arm: str, found: Registry, used: Rules) -> dict[str, tuple[float, float]]:
    """{benchmark: (gain, half-width)} in points, of the printed row that an arm stands for."""
    table, row, base = found.tables["table1"], found.arms.get(arm), found.arms[BASELINE]
    if row not in table.rows or row == base:
        return {}
    gains = {}
    for name, spec in table.columns.items():
        if spec.benchmark:
            pair = [printed_share(found.cell(f"table1.{r}.{name}"), used) for r in (row, base)]
            gap = share_difference(*pair)
            gains[spec.benchmark] = (100 * gap.difference, 100 * gap.half_width)
    return gains


# -------------------------------------------------------------------------------------------- power


def plot_power(cells: Cells, benchmarks: list[Benchmark], used: Rules) -> Figure:
    """Power of the paired test against the true gain, a curve per benchmark, at the discordance that was measured.

    The measured discordance is the mean over arms of the share of items on which an arm's first run and the baseline's
    differ; without another arm the rules' planning value is used. A dot marks the gain found with the rules' power.
    """
    gains = np.linspace(0.001, 0.15, 150)
    shades = matplotlib.colormaps["viridis"](np.linspace(0, 0.9, len(benchmarks)))
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(10, 4.2), layout="constrained")
        ax = figure.subplots()
        for colour, b in zip(shades, benchmarks, strict=True):
            q, n = measured_discordance(cells, b.name, used), cells[BASELINE, b.name].shape[1]
            within = gains[gains < q]
            label = f"{b.title} (n = {n}, q = {100 * q:.0f} %)"
            ax.plot(
                100 * within, [100 * paired_power(d, q, n) for d in within], color=colour, label=label, linewidth=1.8
            )
            found = paired_detectable(q, n, used.power)
            if not math.isnan(found):
                ax.plot(100 * found, 100 * used.power, "o", color=colour, markersize=5, zorder=3)
        ax.axhline(100 * used.power, color=LINE, linewidth=1.2, zorder=0)
        ax.axvline(used.margin, color=LINE, linewidth=1.2, zorder=0)
        ax.set_xlabel("true difference (points); upright line: margin")
        ax.set_ylabel("power of the paired test (%)")
        ax.set_ylim(0, 102)
        ax.set_xlim(0, 15)
        figure.legend(loc="outside right upper", fontsize=9)
    return figure


def measured_discordance(cells: Cells, benchmark: str, used: Rules) -> float:
    """Mean share of items on which the first runs of an arm (not the control) and of the baseline differ; over 0."""
    base = cells[BASELINE, benchmark].to_numpy()[0]
    others = [c.to_numpy()[0] for (a, name), c in cells.items() if name == benchmark and a not in (BASELINE, CONTROL)]
    if not others:
        return used.discordance
    return max(float(np.mean([np.mean(o != base) for o in others])), 1 / len(base))


# -------------------------------------------------------------------------------------------- seeds


def plot_seeds(scores: pd.DataFrame, benchmarks: list[Benchmark]) -> Figure:
    """Each seed's score as a dot, per column and arm, with the mean of the seeds and its 95 % t interval over seeds.

    Only arms of at least two runs; the interval says how far another set of seeds may lie, on the same items.
    """
    runs = seed_scores(scores, benchmarks)
    several = [arm for arm, rows in runs.groupby("arm", sort=False) if rows.seed.nunique() > 1]
    if not several:
        return _note("No arm of this profile has more than one seed.")
    shown = columns(benchmarks)
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(10, 4.2), layout="constrained")
        ax = figure.subplots()
        for at, arm in enumerate(several):
            colour, _ = arm_style(arm, several)
            for x, (name, _, _) in enumerate(shown):
                values = 100 * runs[(runs.arm == arm) & (runs.column == name)].value.to_numpy()
                place = x + 0.8 * ((at + 0.5) / len(several) - 0.5)
                ax.plot([place] * len(values), values, "o", color=colour, markersize=4, alpha=0.5, markeredgewidth=0)
                half = student.ppf(0.975, len(values) - 1) * values.std(ddof=1) / math.sqrt(len(values))
                ax.errorbar(place + 0.06, values.mean(), yerr=half, fmt="_", color=colour, elinewidth=1.5, markersize=7)
        ax.set_xticks(range(len(shown)), [title.replace(" ", "\n", 1) for _, title, _ in shown])
        ax.set_ylabel("Accuracy (%)")
        ax.tick_params(axis="x", length=0)
        legend(figure, several, markers=False)
    return figure


def seed_scores(scores: pd.DataFrame, benchmarks: list[Benchmark]) -> pd.DataFrame:
    """(arm, seed, column, value) of each run, averages among the columns; fractions."""
    frames = []
    for name, _, members in columns(benchmarks):
        of = scores[scores.benchmark.isin([b.name for b in members])]
        mean = of.groupby(["arm", "seed"], sort=False).value.mean().reset_index()
        frames.append(mean.assign(column=name))
    return pd.concat(frames, ignore_index=True)


# -------------------------------------------------------------------------------------------- categories


def plot_subsets(scores: pd.DataFrame, benchmarks: list[Benchmark]) -> Figure:
    """Scores by category, a panel per benchmark that has several: MathVerse's versions, MathVision's subjects, others.

    scores: all rows of reports.scores, subsets among them. Dots are means over seeds with Wilson's 95 % interval for
    the items of one run, where there are several; printed values of Table 2 are not shown here but in paper_table2.
    """
    rows = scores[(scores.subset != "all") & (scores.metric == "accuracy")]
    panels = [b for b in benchmarks if rows[rows.benchmark == b.name].subset.nunique() > 1]
    if not panels:
        return _note("No benchmark of this profile has categories.")
    arms = list(dict.fromkeys(scores.arm))
    counts = [rows[rows.benchmark == b.name].subset.nunique() for b in panels]
    width = 4
    with matplotlib.rc_context(STYLE | {"axes.grid.axis": "x"}):
        lines = math.ceil(len(panels) / width)
        heights = [max(counts[i : i + width]) for i in range(0, len(panels), width)]
        size = (10, 1.0 + sum(0.5 + h * (0.12 * len(arms) + 0.1) for h in heights))
        figure = Figure(figsize=size, layout="constrained")
        axes = figure.subplots(
            lines, min(width, len(panels)), squeeze=False, sharex=True, height_ratios=heights
        ).ravel()
        for ax, b in zip(axes, panels, strict=False):
            _subset_panel(ax, rows[rows.benchmark == b.name], arms)
            ax.set_title(b.title, loc="left")
        for ax in axes[len(panels) :]:
            ax.set_visible(False)
        axes[0].set_xlim(-2, 102)
        figure.supxlabel("Accuracy (%)", fontsize=10)
        legend(figure, arms, markers=True)
    return figure


def _subset_panel(ax: Axes, rows: pd.DataFrame, arms: list[str]) -> None:
    names = list(dict.fromkeys(rows.subset))
    for at, arm in enumerate(arms):
        colour, marker = arm_style(arm, arms)
        for y, name in enumerate(names):
            of = rows[(rows.arm == arm) & (rows.subset == name)]
            if of.empty:
                continue
            mean, n = of.value.mean(), int(of.n.iloc[0])
            low, high = wilson(mean, n) if n > 1 else (math.nan, math.nan)
            reach = np.clip([[100 * (mean - low)], [100 * (high - mean)]], 0, None)
            place = y + 0.8 * ((at + 0.5) / len(arms) - 0.5)
            ax.errorbar(100 * mean, place, xerr=reach, fmt=marker, color=colour, markersize=4, elinewidth=1.1)
    ax.set_yticks(range(len(names)), [f"{n} ({rows[rows.subset == n].n.iloc[0]})" for n in names])
    ax.set_ylim(len(names) - 0.5, -0.5)
    ax.tick_params(axis="y", length=0)


def main(argv: list[str]) -> None:
    """Command line; see the top of this file."""
    parser = argparse.ArgumentParser(prog="python -m reports.evidence_plots", description="Draw SVG and PNG.")
    parser.add_argument("--table", type=Path, required=True, help="table1.csv")
    parser.add_argument("--scores", nargs="+", type=Path, required=True, help="scores.csv of each arm")
    parser.add_argument("--out-dir", type=Path, required=True)
    add_benchmarks_argument(parser)
    args = parser.parse_args(argv)
    benchmarks, scores = parse_benchmarks(args.benchmarks), read_scores(args.scores)
    rows = headline(scores, benchmarks)
    figures = {
        "forest": plot_forest(read_table(args.table), benchmarks, registry(), rules()),
        "power": plot_power(load_cells(rows), benchmarks, rules()),
        "seeds": plot_seeds(rows, benchmarks),
        "subsets": plot_subsets(scores, benchmarks),
    }
    for name, figure in figures.items():
        save(figure, args.out_dir / name)


if __name__ == "__main__":
    sys.exit(run_cli(main))
