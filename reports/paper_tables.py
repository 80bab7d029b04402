"""Tables 1 to 3 in the paper's layout, published beside measured with intervals and verdicts: CSV, Markdown, LaTeX.

    python -m reports.paper_tables --out-dir results/micro/report \\
        --scores results/micro/baseline/scores.csv results/micro/fre/scores.csv ... --benchmarks micro_chain ... \\
        [--players results/micro/idle/scores.csv ...]

Writes paper_table1, paper_table2 and paper_table3, each as .csv (every cell with the records behind it), .md and .tex
(a booktabs `tabular`), the last two from the first. A table of which nothing was measured shows what was printed.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import pandas as pd

from evals.agents.sokoban_levels import POINTS, published_uppers
from evals.records import read_records
from evals.registry import find
from lmmr1.sokoban import SOLVED
from lmmr1.types import UserError
from reports.cells import headline, load_cells
from reports.files import read_text, run_cli, write_text
from reports.layout import AGENT_CONTRAST, AGENTS, Benchmark, add_benchmarks_argument, arm_title, parse_all
from reports.paper_cells import CSV_COLUMNS, Measured, Sheet, sheet_cells, sheets
from reports.rules import Rules, rules
from reports.scores import read_scores
from reports.statistics import NO_INTERVAL
from reports.tables import escape_latex, escape_markdown
from reports.verdicts import HIGHER, INCONCLUSIVE, LOWER, NOT_COMPARABLE, REPRODUCED
from reproduce.published import Registry, registry

KINDS = {
    "score": "Scores",
    "gain": "Gains over the baseline (points)",
    "contrast": "Does text-first help an agent? " + " − ".join(map(arm_title, AGENT_CONTRAST)) + " (points)",
}
SYMBOLS = {
    REPRODUCED: "$=$",
    HIGHER: r"$\uparrow$",
    LOWER: r"$\downarrow$",
    INCONCLUSIVE: "?",
    NOT_COMPARABLE: r"$\times$",
}
NONE = "–"


def with_players(scores: pd.DataFrame, players: list[Path], benchmarks: list[Benchmark]) -> pd.DataFrame:
    """`scores` with the headline rows of scripted players, whose protocol is that of a model but for the model.

    Raises UserError as `read_scores` and `headline`.
    """
    played = [b for b in benchmarks if b.group == AGENTS]
    frames = [headline(read_scores([path]), played) for path in players if played]
    return pd.concat([scores, *frames], ignore_index=True)


def not_measured(texts: list[str]) -> dict[str, str]:
    """{benchmark: reason} of `BENCHMARK=REASON` texts. Raises UserError for another form or an unknown benchmark."""
    found = {}
    for text in texts:
        name, equals, reason = text.partition("=")
        if not (equals and reason.strip()):
            raise UserError(f"--not-measured {text!r}: give BENCHMARK=REASON")
        found[find(name).name] = reason.strip()
    return found


def value_text(value: float, kind: str, decimals: int) -> str:
    """A printed value, or a gain with its sign; a dash where there is none."""
    if pd.isna(value):
        return NONE
    return f"{value:.{decimals}f}" if kind == "score" else f"{value:+.{decimals}f}".replace("-", "−")


def measured_text(row: pd.Series, decimals: int = 1) -> str:
    """`62.8 ± 4.2`, the half-width being that of the farther end."""
    if pd.isna(row.measured):
        return NONE
    half = max(row.measured - row.low, row.high - row.measured)
    spread = f"({NO_INTERVAL})" if pd.isna(row.low) else f"± {half:.{decimals}f}"
    return f"{value_text(row.measured, row.kind, decimals)} {spread}"


def lines_of(cells: pd.DataFrame, sheet: Sheet, kind: str, found: Registry) -> list[tuple[str, str, list[str]]]:
    """(row title, what: published, measured or verdict, texts) per line; rows without any value are left out."""
    decimals = found.tables[sheet.table].decimals
    lines = []
    for printed_row, arm in sheet.rows:
        rows = cells[(cells.kind == kind) & (cells.row == (printed_row or "")) & (cells.arm == (arm or ""))]
        if rows.published.isna().all() and rows.measured.isna().all():
            continue
        title = row_title(printed_row, arm, sheet.table, found)
        if rows.published.notna().any():
            lines.append((title, "published", [value_text(v, kind, decimals) for v in rows.published]))
        if rows.measured.notna().any() or (rows.verdict != "").any():
            lines.append((title, "measured", [measured_text(row) for _, row in rows.iterrows()]))
            lines.append((title, "verdict", [v or NONE for v in rows.verdict]))
    return lines


def row_title(printed_row: str | None, arm: str | None, table: str, found: Registry) -> str:
    """The title of a printed row, of an arm, or of both in one."""
    titles = [found.tables[table].rows[printed_row].title] if printed_row else []
    titles += [arm_title(arm)] if arm and arm_title(arm) not in titles else []
    return " / ".join(titles)


# -------------------------------------------------------------------------------------------- Markdown


def markdown(cells: pd.DataFrame, sheet: Sheet, found: Registry, used: Rules) -> str:
    """Both kinds of cell as GitHub tables, the reasons behind the verdicts, and the rules."""
    parts = [f"**{sheet.title}** (`{sheet.name}`)"]
    for kind, title in KINDS.items():
        lines = lines_of(cells, sheet, kind, found)
        if not lines:
            continue
        head = ["Model", "", *(c.title for c in sheet.columns)]
        rows = [escape_markdown(head), ["---", "---", *["---:"] * len(sheet.columns)]]
        last = None
        for name, what, texts in lines:
            rows.append(escape_markdown([name if name != last else "", what, *texts]))
            last = name
        parts.append(f"{title}:\n\n" + "".join("| " + " | ".join(row) + " |\n" for row in rows))
    reasons = _reasons(cells, sheet)
    parts += ["\n".join(reasons)] if reasons else ["Nothing of this table was measured in this run."]
    if sheet.table == "table3":
        parts.append("\n".join(f"- {note}" for note in escape_markdown(table3_notes(cells))))
    parts.append(f"{NONE}: no such value. Rules: {used.text()}. Printed by: {printed_by(sheet.table, found)}.")
    return "\n\n".join(p.strip() for p in parts) + "\n"


def table3_notes(cells: pd.DataFrame) -> list[str]:
    """How little separates the printed rows, and what the measured columns were played on."""
    mini = published_uppers(True)
    least, most = POINTS * (SOLVED / 10) / len(mini), POINTS * max(mini) / len(mini)
    texts = [
        f"Sensitivity of the printed column Sokoban-Global: one more of its {len(mini)} levels solved in every repeat "
        f"moves the mean by {least:.1f} points (the last box alone) to {most:.1f} (the whole level), so rows a few "
        "points apart differ by a level or two. The printed values come without intervals.",
        "Scores are points, not percentages. Sokoban: 100 for the best possible play, the idle player gets 100 - 5 x "
        "upper reward of a level. The intervals of measured values are over levels (a level counts with the mean of "
        "its repeats) and, for trained arms, over seeds.",
    ]
    return [*texts, *played_on(cells)]


def played_on(cells: pd.DataFrame) -> list[str]:
    """One sentence on the environment and levels of every measured column."""
    texts = []
    for column, rows in cells[cells.records != ""].groupby("column", sort=False):
        decoding = read_records(Path(rows.records.iloc[0].split(";")[0]))[0].protocol.decoding
        how = ", ".join(f"{k} {decoding[k]}" for k in ("repeats", "temperature", "max_turns") if k in decoding)
        texts.append(
            f"{column}: environment {decoding['environment']}, levels {decoding['levels']} "
            f"({rows.n.iloc[0]} of them), {how}."
        )
    if texts:
        texts.append("Columns of different environments or levels are different measurements and are never compared.")
    return texts


def printed_by(name: str, found: Registry) -> str:
    """Where a table was read."""
    table = found.tables[name]
    return f"{found.sources[table.source].title}, {table.where}"


def _reasons(cells: pd.DataFrame, sheet: Sheet) -> list[str]:
    """One line per verdict and reason with the cells it holds for; most cells share few reasons."""
    titles = {c.name: c.title for c in sheet.columns}
    judged = cells[cells.verdict != ""]
    lines = []
    for (word, reason), rows in judged.groupby(["verdict", "reason"], sort=False):
        kinds = " and ".join(f"{k}s" for k in dict.fromkeys(rows.kind))
        where = ", ".join(dict.fromkeys(titles[c] for c in rows.column))
        arms = ", ".join(dict.fromkeys(arm_title(a) for a in rows.arm))
        lines.append(escape_markdown([f"- {word} ({kinds} of {arms}; {where}): {reason}"])[0].replace("\\|", "|"))
    return lines


# -------------------------------------------------------------------------------------------- LaTeX


def latex(cells: pd.DataFrame, sheet: Sheet, found: Registry) -> str:
    r"""One booktabs `tabular` as the paper has it: groups above the columns, sections between rows, symbols for words.

    Needs the package booktabs. = reproduced, arrows higher and lower, ? inconclusive, a cross not comparable.
    """
    width = len(sheet.columns) + 2
    lines = [rf"\begin{{tabular}}{{ll{'r' * len(sheet.columns)}}}", r"\toprule", *_group_lines(sheet)]
    lines.append(_row(["Model", "", *(escape_latex(c.title) for c in sheet.columns)]))
    for kind, title in KINDS.items():
        of = lines_of(cells, sheet, kind, found)
        if not of:
            continue
        lines += [r"\midrule", rf"\multicolumn{{{width}}}{{l}}{{\textbf{{{escape_latex(title)}}}}} \\", r"\midrule"]
        last, headings = None, _headings(sheet, found)
        for name, what, texts in of:
            if name != last and name in headings:
                heading = headings[name]
                lines += [r"\midrule"] if last is not None else []
                lines += [rf"\multicolumn{{{width}}}{{c}}{{\emph{{{escape_latex(heading)}}}}} \\"] if heading else []
            shown = [SYMBOLS.get(t, escape_latex(t)) for t in texts]
            lines.append(_row([escape_latex(name) if name != last else "", escape_latex(what), *shown]))
            last = name
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}"]) + "\n"


def _headings(sheet: Sheet, found: Registry) -> dict[str, str]:
    """{row title: heading of the section that it opens}."""
    return {
        row_title(row, arm, sheet.table, found): sheet.sections[row] for row, arm in sheet.rows if row in sheet.sections
    }


def _group_lines(sheet: Sheet) -> list[str]:
    """The row of group names over the columns, and the rules under them."""
    groups = [c.group for c in sheet.columns]
    if not any(groups):
        return []
    cells, rules_under, at = ["", ""], [], 0
    while at < len(groups):
        span = 1
        while at + span < len(groups) and groups[at + span] == groups[at]:
            span += 1
        cells.append(rf"\multicolumn{{{span}}}{{c}}{{{escape_latex(groups[at])}}}")
        rules_under += [rf"\cmidrule(lr){{{at + 3}-{at + span + 2}}}"] if groups[at] else []
        at += span
    return [_row(cells), "".join(rules_under)]


def _row(cells: list[str]) -> str:
    return " & ".join(cells) + r" \\"


def csv_text(cells: pd.DataFrame) -> str:
    """Four decimals for values, four significant digits of `p`."""
    shown = cells.assign(p=cells.p.map("{:.4g}".format, na_action="ignore"))
    return shown.to_csv(index=False, float_format="%.4f", lineterminator="\n")


def read_cells(path: Path) -> pd.DataFrame:
    """Read what this module wrote; texts that are empty stay empty. Raises UserError where the file is missing."""
    read_text(path)
    texts = ("row", "arm", "verdict", "reason", "seeds", "records", "protocols", "published_n")
    frame = pd.read_csv(path, dtype=dict.fromkeys(texts, str))
    return frame.fillna(dict.fromkeys(texts, ""))[CSV_COLUMNS]


def main(argv: list[str]) -> None:
    """Command line; see the top of this file."""
    parser = argparse.ArgumentParser(prog="python -m reports.paper_tables", description="Write Tables 1 to 3.")
    parser.add_argument("--scores", nargs="+", type=Path, required=True, help="scores.csv of each arm, in row order")
    parser.add_argument("--players", nargs="*", type=Path, default=[], help="scores.csv of each scripted player")
    parser.add_argument("--out-dir", type=Path, required=True)
    parser.add_argument(
        "--not-measured", action="append", default=[], metavar="BENCHMARK=REASON", help="why a column is empty"
    )
    add_benchmarks_argument(parser)
    args = parser.parse_args(argv)
    benchmarks = parse_all(args.benchmarks)
    lacking = not_measured(args.not_measured)
    scores = with_players(headline(read_scores(args.scores), benchmarks), args.players, benchmarks)
    measured = Measured(scores, load_cells(scores), registry())
    for sheet in sheets(measured, benchmarks):
        path = args.out_dir / f"paper_{sheet.name}.csv"
        write_text(path, csv_text(sheet_cells(sheet, measured, rules(), lacking)), sealed=True)
        cells = read_cells(path)  # the texts show what the CSV says
        write_text(path.with_suffix(".md"), markdown(cells, sheet, registry(), rules()))
        write_text(path.with_suffix(".tex"), latex(cells, sheet, registry()))


if __name__ == "__main__":
    sys.exit(run_cli(main))
