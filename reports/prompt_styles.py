"""Every arm under every prompt style, and its gain against the style that suits the baseline best.

    python -m reports.prompt_styles --out-dir results/micro/report --benchmarks micro_chain micro_table ... \\
        --scores results/micro/prompts/none/baseline/scores.csv results/micro/prompts/r1/fre/scores.csv ...

A gain over a baseline that was asked in a way that does not suit it is no gain of training. Per column (benchmark or
average) the baseline's best style is the one with the largest mean there, picked on the very items that the gain is
measured on: that favours the baseline. Writes prompts.csv (see COLUMNS) and prompts.md.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from lmmr1.types import UserError
from reports.cells import Cells, headline, load_cells, load_designs, require_same_items
from reports.files import read_text, run_cli, write_text
from reports.layout import BASELINE, Benchmark, add_benchmarks_argument, arm_title, columns, parse_benchmarks
from reports.scores import read_scores
from reports.statistics import Design, Interval, difference_interval, score_interval
from reports.tables import difference_texts, escape_markdown, mean_cell

COLUMNS = ["arm", "style", "column", "mean", "low", "high", "best", "diff", "diff_low", "diff_high", "p", "n"]
"""Fractions. `best`: the baseline's best style in this column; `diff*` and `p` are of the difference to it."""
CAPTION = (
    "Accuracy in percent per arm and prompt style, mean ± half-width of its 95 % interval; below it the difference in "
    "points, paired by item, to the baseline under the style that suits the baseline best in that column (picked on "
    "the same items, which favours the baseline)."
)

_BETWEEN = "\t"
"""Joins arm and style to one name; neither has a tab."""


def read_styles(paths: list[Path], benchmarks: list[Benchmark]) -> pd.DataFrame:
    """Headline rows of all scores.csv, `arm` as arm, tab, style; the style is the folder above the arm's.

    Raises UserError where one style was measured in two ways, or a record is missing.
    """
    frames = []
    for style in dict.fromkeys(path.parent.parent.name for path in paths):
        rows = headline(read_scores([p for p in paths if p.parent.parent.name == style]), benchmarks)
        frames.append(rows.assign(arm=rows.arm + _BETWEEN + style))
    return pd.concat(frames, ignore_index=True)


def summarise(scores: pd.DataFrame, benchmarks: list[Benchmark]) -> pd.DataFrame:
    """One row per arm, style and column (see COLUMNS). Raises UserError without a baseline, or where items differ."""
    cells, designs = load_cells(scores), load_designs(scores)
    names = list(dict.fromkeys(scores.arm))
    of_base = [name for name in names if name.split(_BETWEEN)[0] == BASELINE]
    if not of_base:
        raise UserError(f"no scores of arm {BASELINE!r}; evaluate it under these prompt styles too")
    for (name, benchmark), cell in cells.items():
        first = cells[of_base[0], benchmark]
        require_same_items(f"{benchmark} of {name!r}", cell.columns, f"arm {BASELINE}", first.columns)
    best = {column: _best(cells, of_base, members) for column, _, members in columns(benchmarks)}
    rows = [
        _row(cells, designs, name, column, members, best[column])
        for name in names
        for column, _, members in columns(benchmarks)
    ]
    return pd.DataFrame(rows, columns=COLUMNS)


def _best(cells: Cells, of_base: list[str], members: tuple[Benchmark, ...]) -> str:
    """The name with the largest mean; the first of equals."""
    return max(of_base, key=lambda name: float(np.mean([cells[name, b.name].to_numpy().mean() for b in members])))


def _row(
    cells: Cells, designs: dict[str, Design], name: str, column: str, members: tuple[Benchmark, ...], best: str
) -> list[Any]:
    parts, base = ([cells[n, b.name].to_numpy() for b in members] for n in (name, best))
    of = [designs[b.name] for b in members]
    mean = score_interval(parts, of)
    diff = Interval(*[np.nan] * 3) if name == best else difference_interval(parts, base, of)
    arm, style = name.split(_BETWEEN)
    about = [diff.mean, diff.low, diff.high, diff.p, sum(p.shape[1] for p in parts)]
    return [arm, style, column, mean.mean, mean.low, mean.high, best.split(_BETWEEN)[1], *about]


def read_table(path: Path) -> pd.DataFrame:
    """Read the prompts.csv that this module wrote. Raises UserError on another file."""
    if not read_text(path).startswith(",".join(COLUMNS) + "\n"):
        raise UserError(f"{path}: not made by reports.prompt_styles (other columns); make it again")
    return pd.read_csv(path, keep_default_na=False, na_values={"diff": "", "diff_low": "", "diff_high": "", "p": ""})


def text_rows(table: pd.DataFrame, decimals: int = 1) -> list[dict[str, Any]]:
    """Per arm and style its title, style and cells: `mean`, and `diff` with `ends` and `best`, empty for the best."""
    found = []
    for (arm, style), rows in table.groupby(["arm", "style"], sort=False):
        cells = []
        for _, row in rows.iterrows():
            diff, ends = ("", "") if pd.isna(row["diff"]) else difference_texts(row, decimals)
            cells.append({"mean": mean_cell(row, decimals), "diff": diff, "ends": ends, "best": row.best})
        found.append({"arm": arm, "title": arm_title(str(arm)), "style": style, "cells": cells})
    return found


def markdown(rows: list[dict[str, Any]], benchmarks: list[Benchmark]) -> str:
    """The rows as one GitHub table under its caption."""
    head = ["Arm", "Prompt", *(title for _, title, _ in columns(benchmarks))]
    lines = [escape_markdown(head), ["---", "---", *["---:"] * (len(head) - 2)]]
    for row in rows:
        cells = [f"{c['mean']} ({c['diff']} {c['ends']})" if c["diff"] else c["mean"] for c in row["cells"]]
        lines.append(escape_markdown([row["title"], row["style"], *cells]))
    return f"{CAPTION}\n\n" + "".join("| " + " | ".join(line) + " |\n" for line in lines)


def main(argv: list[str]) -> None:
    """Command line; see the top of this file."""
    parser = argparse.ArgumentParser(prog="python -m reports.prompt_styles", description="Arms under prompt styles.")
    parser.add_argument("--scores", nargs="+", type=Path, required=True, help="prompts/STYLE/ARM/scores.csv")
    parser.add_argument("--out-dir", type=Path, required=True)
    add_benchmarks_argument(parser)
    args = parser.parse_args(argv)
    benchmarks = parse_benchmarks(args.benchmarks)
    table = summarise(read_styles(args.scores, benchmarks), benchmarks)
    path = args.out_dir / "prompts.csv"
    write_text(path, table.to_csv(index=False, float_format="%.6f", lineterminator="\n"), sealed=True)
    write_text(args.out_dir / "prompts.md", markdown(text_rows(read_table(path)), benchmarks))


if __name__ == "__main__":
    sys.exit(run_cli(main))
