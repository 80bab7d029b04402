"""Table 1 in the paper's layout, as Markdown, LaTeX and CSV.

    python -m reports.tables --out-dir results/micro/report \\
        --scores results/micro/baseline/scores.csv results/micro/fre/scores.csv ... \\
        --benchmarks micro_chain micro_table micro_drawn micro_legend micro_scene micro_count micro_most [--decimals 1]

Rows are the arms in the order of --scores, which must include the baseline. The per-sample files are found through the
records that the scores name. Writes table1.md, table1.tex and table1.csv, the last in full precision with the record
files behind every number.
"""

from __future__ import annotations

import argparse
import re
import sys
from pathlib import Path

import pandas as pd

from reports.cells import headline, load_cells, summarise
from reports.files import run_cli, write_text
from reports.layout import GROUP_TITLES, Benchmark, add_benchmarks_argument, arm_title, columns, parse_benchmarks
from reports.scores import read_scores
from reports.statistics import Interval

MEANS_CAPTION = (
    "Accuracy in percent, mean over seeds ± half-width of the 95 % interval over seeds and items "
    "(over items only for an arm of one run, as the baseline is)."
)
DIFFERENCES_CAPTION = (
    "Difference to the baseline in points, paired by item, with its 95 % interval; * where the "
    "interval excludes 0 (no correction for the number of cells)."
)


def mean_cell(row: pd.Series, decimals: int) -> str:
    """`41.2 ± 3.1` in percent."""
    interval = Interval(row["mean"], row.low, row.high)
    return f"{100 * interval.mean:.{decimals}f} ± {100 * interval.half_width:.{decimals}f}"


def difference_cell(row: pd.Series, decimals: int) -> str:
    """`+5.2 [+1.1, +9.3] *` in points, with a minus sign (U+2212) where negative."""
    ends = [_signed(100 * v, decimals) for v in (row["diff"], row.diff_low, row.diff_high)]
    mark = " *" if Interval(row["diff"], row.diff_low, row.diff_high).excludes_zero else ""
    return f"{ends[0]} [{ends[1]}, {ends[2]}]{mark}"


def _signed(value: float, decimals: int) -> str:
    text = f"{value:+.{decimals}f}"
    return text.replace("-", "−") if float(text) else text.lstrip("+-")


def rows_of(table: pd.DataFrame, differences: bool, decimals: int) -> list[list[str]]:
    """The cells as text: one list per arm, its title first. The baseline has no row among differences."""
    cell = difference_cell if differences else mean_cell
    shown = table[table["diff"].notna()] if differences else table
    by_arm = shown.groupby("arm", sort=False)
    return [[arm_title(arm), *(cell(row, decimals) for _, row in rows.iterrows())] for arm, rows in by_arm]


def markdown(table: pd.DataFrame, benchmarks: list[Benchmark], decimals: int = 1) -> str:
    """Both blocks as GitHub tables with their captions."""
    head = ["Arm", *(title for _, title, _ in columns(benchmarks))]
    blocks = []
    for caption, differences in ((MEANS_CAPTION, False), (DIFFERENCES_CAPTION, True)):
        lines = [
            _escape_markdown(head),
            ["---", *["---:"] * (len(head) - 1)],
            *(_escape_markdown(row) for row in rows_of(table, differences, decimals)),
        ]
        blocks.append(f"{_escape_markdown([caption])[0]}\n\n" + "".join("| " + " | ".join(x) + " |\n" for x in lines))
    return "\n".join(blocks)


def _escape_markdown(texts: list[str]) -> list[str]:
    return [re.sub(r"([\\|*_`<>])", r"\\\1", t) for t in texts]


def latex(table: pd.DataFrame, benchmarks: list[Benchmark], decimals: int = 1) -> str:
    r"""Both blocks as one booktabs `tabular`, with the paper's groups above the columns. Needs the package."""
    shown = columns(benchmarks)
    width = len(shown) + 1
    lines = [
        rf"\begin{{tabular}}{{l{'r' * len(shown)}}}",
        r"\toprule",
        *_latex_groups(shown),
        _latex_row(["Arm", *(title for _, title, _ in shown)]),
    ]
    blocks = (("Accuracy (%) ± 95 % half-width", False), ("Difference to the baseline (points) [95 % interval]", True))
    for caption, differences in blocks:  # short: a spanning cell does not wrap
        lines += [
            r"\midrule",
            rf"\multicolumn{{{width}}}{{l}}{{\emph{{{escape_latex(caption)}}}}} \\",
            r"\midrule",
            *(_latex_row(row) for row in rows_of(table, differences, decimals)),
        ]
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}"]) + "\n"


def _latex_groups(shown: list[tuple[str, str, tuple[Benchmark, ...]]]) -> list[str]:
    """The row of group names over the benchmarks, and the rules under them; averages stand alone."""
    groups = [members[0].group if len(members) == 1 and members[0].name == name else None for name, _, members in shown]
    cells, rules, at = [""], [], 0
    while at < len(groups):
        span = 1
        while groups[at] is not None and at + span < len(groups) and groups[at + span] == groups[at]:
            span += 1
        title = GROUP_TITLES[groups[at]] if groups[at] is not None else ""
        cells.append(rf"\multicolumn{{{span}}}{{c}}{{{escape_latex(title)}}}" if title else "")
        rules += [rf"\cmidrule(lr){{{at + 2}-{at + span + 1}}}"] if title else []
        at += span
    return [" & ".join(cells) + r" \\", "".join(rules)]


def _latex_row(texts: list[str]) -> str:
    return " & ".join(map(escape_latex, texts)) + r" \\"


def escape_latex(text: str) -> str:
    """Text as LaTeX source: special characters escaped, ±, − and → as math."""
    special = {
        "\\": r"\textbackslash{}",
        "~": r"\textasciitilde{}",
        "^": r"\textasciicircum{}",
        "±": r"$\pm$",
        "−": "$-$",
        "→": r"$\rightarrow$",
        "<": r"\textless{}",
        ">": r"\textgreater{}",
        "[": "{[}",
        "]": "{]}",
        **{c: "\\" + c for c in "&%$#_{}"},
    }
    return "".join(special.get(c, c) for c in text)


def main(argv: list[str]) -> None:
    """Command line; see the top of this file."""
    parser = argparse.ArgumentParser(prog="python -m reports.tables", description="Write Table 1.")
    parser.add_argument("--scores", nargs="+", type=Path, required=True, help="scores.csv of each arm, in row order")
    parser.add_argument("--out-dir", type=Path, required=True)
    parser.add_argument("--decimals", type=int, default=1, choices=(0, 1, 2))
    add_benchmarks_argument(parser)
    args = parser.parse_args(argv)
    benchmarks = parse_benchmarks(args.benchmarks)
    scores = headline(read_scores(args.scores), benchmarks)
    table = summarise(scores, load_cells(scores), benchmarks)
    write_text(args.out_dir / "table1.csv", table.to_csv(index=False, float_format="%.6f", lineterminator="\n"))
    table = table.round(6)  # the text tables show what the CSV says
    write_text(args.out_dir / "table1.md", markdown(table, benchmarks, args.decimals))
    write_text(args.out_dir / "table1.tex", latex(table, benchmarks, args.decimals))


if __name__ == "__main__":
    sys.exit(run_cli(main))
