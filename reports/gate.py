"""The regression gate: is every arm at most `--margin` points worse than the baseline, column by column?

    python -m reports.gate --scores results/micro/baseline/scores.csv results/micro/candidate/scores.csv \\
        --benchmarks micro_chain micro_table ... [--margin 2.0] [--strict]

Non-inferiority on the paired difference and its 95 % interval: `passed` where the whole interval lies above -margin,
`regression` where it lies below, `inconclusive` where it holds -margin. Exit code 0, 3 for any regression, and with
--strict 4 for any inconclusive column.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import pandas as pd

from lmmr1.exits import INCONCLUSIVE, REGRESSION
from lmmr1.types import UserError
from reports.cells import headline, load_cells, summarise
from reports.files import run_cli
from reports.layout import BASELINE, add_benchmarks_argument, parse_benchmarks
from reports.scores import read_scores

MARGIN = 2.0
"""Points. Below the sampling error of most of the paper's benchmarks a smaller loss cannot be told from none."""


def verdict(low: float, high: float, margin: float) -> str:
    """Of one paired difference with its interval, all in points.

    >>> verdict(-1.0, 3.0, 2.0), verdict(-9.0, -3.0, 2.0), verdict(-4.0, 1.0, 2.0)
    ('passed', 'regression', 'inconclusive')
    """
    if low > -margin:
        return "passed"
    return "regression" if high < -margin else "inconclusive"


def judge(table: pd.DataFrame, margin: float) -> pd.DataFrame:
    """One row per arm and column: arm, column, diff, diff_low, diff_high (points), verdict. The baseline has none.

    Raises UserError where there is nothing to compare.
    """
    rows = table[table.arm != BASELINE][["arm", "column", "diff", "diff_low", "diff_high"]].copy()
    if rows.empty:
        raise UserError(
            "nothing to check: give the scores of another arm than the baseline, e.g. --config candidate=PATH"
        )
    rows[["diff", "diff_low", "diff_high"]] *= 100
    rows["verdict"] = [verdict(r.diff_low, r.diff_high, margin) for r in rows.itertuples()]
    return rows


def exit_code(verdicts: pd.Series, strict: bool) -> int:
    """3 for any regression; with `strict` 4 for any inconclusive column; else 0."""
    if (verdicts == "regression").any():
        return REGRESSION
    return INCONCLUSIVE if strict and (verdicts == "inconclusive").any() else 0


def main(argv: list[str]) -> None:
    """Command line; see the top of this file."""
    parser = argparse.ArgumentParser(
        prog="python -m reports.gate", description="Fail where an arm is worse than the baseline."
    )
    parser.add_argument(
        "--scores", nargs="+", type=Path, required=True, help="scores.csv of the baseline and of others"
    )
    parser.add_argument("--margin", type=float, default=MARGIN, help="points that may be lost (default %(default)s)")
    parser.add_argument("--strict", action="store_true", help="an inconclusive column fails too, with exit code 4")
    add_benchmarks_argument(parser)
    args = parser.parse_args(argv)
    benchmarks = parse_benchmarks(args.benchmarks)
    scores = headline(read_scores(args.scores), benchmarks)
    rows = judge(summarise(scores, load_cells(scores), benchmarks), args.margin)
    print(rows.to_string(index=False, float_format=lambda v: f"{v:+.1f}"))
    print(f"margin {args.margin} points; {rows.verdict.value_counts().to_dict()}")
    sys.exit(exit_code(rows.verdict, args.strict))


if __name__ == "__main__":
    sys.exit(run_cli(main))
