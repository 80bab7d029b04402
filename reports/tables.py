"""Table 1 in the paper's layout, as Markdown, LaTeX and CSV.

    python -m reports.tables --out-dir results/micro/report \\
        --scores results/micro/baseline/scores.csv results/micro/fre/scores.csv ... \\
        --benchmarks micro_chain micro_table micro_drawn micro_legend micro_scene micro_count micro_most [--decimals 1]

Rows are the arms in the order of --scores, which must include the baseline. The per-sample files are found through the
records that the scores name. Writes table1.md and table1.tex, and the numbers in them with the record files behind
each: table1.csv (means, differences to the baseline) and contrasts.csv (differences between two trained arms, see
reports.layout.CONTRASTS; a header only where no contrast has both its arms).
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from reports.cells import csv_text, headline, load_cells, read_contrasts, read_table, summarise, summarise_contrasts
from reports.files import run_cli, write_text
from reports.layout import (
    AVERAGES,
    CONTRASTS,
    GROUP_TITLES,
    Benchmark,
    add_benchmarks_argument,
    arm_title,
    columns,
    parse_benchmarks,
)
from reports.scores import read_scores
from reports.statistics import NO_INTERVAL, Interval, ends_text, survives_holm

MEANS_CAPTION = (
    "Accuracy in percent, mean over seeds ± half-width of the 95 % interval over seeds and items "
    "(over items only for an arm of one run, as the baseline is)."
)
_MARKS_CAPTION = (
    "* where the interval excludes 0 (no correction for the number of cells), † where the difference also survives "
    "Holm's correction, at 5 %, for all benchmark cells of this block (averages are neither counted nor marked †)."
)
DIFFERENCES_CAPTION = f"Difference to the baseline in points, paired by item, with its 95 % interval; {_MARKS_CAPTION}"
CONTRASTS_CAPTION = (
    "Difference between two trained arms in points, paired by item, with its 95 % interval over items and the seeds of "
    f"both; {_MARKS_CAPTION}"
)


@dataclass(frozen=True, slots=True)
class Block:
    """A part of Table 1 as text. `short`: a caption of one line; `head`: what a row is; a row starts with its title."""

    caption: str
    short: str
    head: str
    rows: list[list[str]]


def mean_cell(row: pd.Series, decimals: int) -> str:
    """`41.2 ± 3.1` in percent."""
    return f"{100 * row['mean']:.{decimals}f} {spread_text(row, decimals)}"


def spread_text(row: pd.Series, decimals: int) -> str:
    """`± 3.1`, the half-width in percent, or that there is no interval."""
    interval = Interval(row["mean"], row.low, row.high)
    return f"({NO_INTERVAL})" if interval.unknown else f"± {100 * interval.half_width:.{decimals}f}"


def prompts_note(table: pd.DataFrame) -> str:
    """In which words the arms were asked, where those differ; then a gain includes the change. Empty where they do not.

    table: columns of `reports.cells.COLUMNS`.
    """
    of_arm = {
        arm: ", ".join(dict.fromkeys(";".join(rows.prompts).split(";")))
        for arm, rows in table.groupby("arm", sort=False)
    }
    if len(set(of_arm.values())) < 2:
        return ""
    styles = "; ".join(f"{arm_title(arm)}: {prompts}" for arm, prompts in of_arm.items())
    return f"Arms were asked in different words, and a difference between two includes that change ({styles})."


def with_marks(rows: pd.DataFrame) -> pd.DataFrame:
    """Rows of one block (of table1.csv or of contrasts.csv) with a column `mark`: `*†`, `*` or nothing.

    * where the interval excludes 0; † where also p survives Holm's correction over the block's benchmark cells.
    """
    tested = (rows.p.notna() & ~rows.column.isin(list(AVERAGES))).to_numpy(bool)
    survives = pd.Series(False, index=rows.index)
    survives[tested] = survives_holm(rows.p[tested].to_numpy(float))
    clear = (rows.diff_low > 0) | (rows.diff_high < 0)
    return rows.assign(mark=["" if not c else "*†" if s else "*" for c, s in zip(clear, survives, strict=True)])


def difference_texts(row: pd.Series, decimals: int) -> tuple[str, str]:
    """`+5.2` and `[+1.1, +9.3]` in points, with a minus sign (U+2212) where negative."""
    return _signed(100 * row["diff"], decimals), ends_text(
        row.diff_low, row.diff_high, lambda end: _signed(100 * end, decimals)
    )


def difference_cell(row: pd.Series, decimals: int) -> str:
    """`+5.2 [+1.1, +9.3] *`: the difference with its interval and its mark (see `with_marks`)."""
    return " ".join((*difference_texts(row, decimals), row.mark)).rstrip()


def _signed(value: float, decimals: int) -> str:
    text = f"{value:+.{decimals}f}"
    return text.replace("-", "−") if float(text) else text.lstrip("+-")


def text_blocks(table: pd.DataFrame, contrasts: pd.DataFrame, decimals: int = 1) -> list[Block]:
    """Means, differences to the baseline (which has no row there) and, where there are any, contrasts.

    table, contrasts: columns of `reports.cells.COLUMNS` and `CONTRAST_COLUMNS`, as read from the CSV files.
    """
    means = [
        [arm_title(arm), *(mean_cell(row, decimals) for _, row in rows.iterrows())]
        for arm, rows in table.groupby("arm", sort=False)
    ]
    differences = with_marks(table[table["diff"].notna()]).groupby("arm", sort=False)
    pairs = with_marks(contrasts).groupby(["arm", "against"], sort=False)
    asked = prompts_note(table)
    blocks = [
        Block(f"{MEANS_CAPTION} {asked}".rstrip(), "Accuracy (%) ± 95 % half-width", "Arm", means),
        Block(
            DIFFERENCES_CAPTION,
            "Difference to the baseline (points) [95 % interval]",
            "Arm",
            _difference_rows(((arm_title(arm), rows) for arm, rows in differences), decimals),
        ),
        Block(
            CONTRASTS_CAPTION,
            "Difference between two trained arms (points) [95 % interval]",
            "Contrast",
            _difference_rows(((CONTRASTS[pair], rows) for pair, rows in pairs), decimals),
        ),
    ]
    return blocks[: 2 if contrasts.empty else 3]


def _difference_rows(groups: Iterable[tuple[str, pd.DataFrame]], decimals: int) -> list[list[str]]:
    return [[title, *(difference_cell(row, decimals) for _, row in rows.iterrows())] for title, rows in groups]


def markdown(blocks: list[Block], benchmarks: list[Benchmark]) -> str:
    """The blocks as GitHub tables with their captions."""
    parts = []
    for block in blocks:
        head = [block.head, *(title for _, title, _ in columns(benchmarks))]
        lines = [
            escape_markdown(head),
            ["---", *["---:"] * (len(head) - 1)],
            *(escape_markdown(row) for row in block.rows),
        ]
        caption = escape_markdown([block.caption])[0]
        parts.append(f"{caption}\n\n" + "".join("| " + " | ".join(x) + " |\n" for x in lines))
    return "\n".join(parts)


def escape_markdown(texts: list[str]) -> list[str]:
    """Texts for the cells of a GitHub table: nothing in them is markup."""
    return [re.sub(r"([\\|*_`<>])", r"\\\1", t) for t in texts]


def latex(blocks: list[Block], benchmarks: list[Benchmark]) -> str:
    r"""The blocks as one booktabs `tabular`, with the paper's groups above the columns. Needs the package."""
    shown = columns(benchmarks)
    width = len(shown) + 1
    lines = [
        rf"\begin{{tabular}}{{l{'r' * len(shown)}}}",
        r"\toprule",
        *_latex_groups(shown),
        _latex_row(["Arm", *(title for _, title, _ in shown)]),
    ]
    for block in blocks:  # with its short caption: a spanning cell does not wrap
        lines += [
            r"\midrule",
            rf"\multicolumn{{{width}}}{{l}}{{\emph{{{escape_latex(block.short)}}}}} \\",
            r"\midrule",
            *(_latex_row(row) for row in block.rows),
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
    """Text as LaTeX source: special characters escaped, ±, −, → and † as math, – as --."""
    special = {
        "\\": r"\textbackslash{}",
        "~": r"\textasciitilde{}",
        "^": r"\textasciicircum{}",
        "±": r"$\pm$",
        "−": "$-$",
        "→": r"$\rightarrow$",
        "†": r"$\dagger$",
        "–": "--",
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
    cells = load_cells(scores)
    table, contrasts = args.out_dir / "table1.csv", args.out_dir / "contrasts.csv"
    texts = [csv_text(rows(scores, cells, benchmarks)) for rows in (summarise, summarise_contrasts)]
    for path, text in zip((table, contrasts), texts, strict=True):
        write_text(path, text, sealed=True)
    blocks = text_blocks(read_table(table), read_contrasts(contrasts), args.decimals)  # they show what the CSV says
    write_text(args.out_dir / "table1.md", markdown(blocks, benchmarks), sealed=True)
    write_text(args.out_dir / "table1.tex", latex(blocks, benchmarks))


if __name__ == "__main__":
    sys.exit(run_cli(main))
