"""The page's tables as its template needs them: titles, texts, and for every cell where it comes from."""

from __future__ import annotations

from itertools import groupby
from typing import Any

import pandas as pd

from reports.layout import AVERAGES, BASELINE, CONTRASTS, GROUP_TITLES, Benchmark, arm_title, columns
from reports.paper_tables import KINDS, measured_text, printed_by, row_title, table3_notes, value_text
from reports.provenance import Trail
from reports.rules import Rules
from reports.summary import side, verdict_counts
from reports.tables import difference_texts, spread_text, with_marks
from reproduce.published import Registry


def table_rows(table: pd.DataFrame, titles: dict[str, str], trail: Trail, decimals: int = 1) -> list[dict[str, Any]]:
    """Per arm its name, title and cells. table: columns of `reports.cells.COLUMNS`; titles: of its columns."""
    arms = []
    base = table[table.arm == BASELINE].set_index("column").records
    for arm, rows in with_marks(table).groupby("arm", sort=False):
        cells = []
        for _, row in rows.iterrows():
            mean, spread = f"{100 * row['mean']:.{decimals}f}", spread_text(row, decimals)
            title = f"{arm_title(str(arm))} · {titles[row.column]}"
            facts = {"accuracy": f"{mean} {spread} %", "items": f"{row.n:,}", "seeds": row.seeds.replace(";", ", ")}
            found = trail.add(title, facts, row.records)
            diff = _difference(row, f"{row.records};{base[row.column]}", title, trail, decimals)
            cells.append({**diff, "mean": mean, "spread": spread, "column": row.column, "mean_from": found})
        arms.append({"name": arm, "title": arm_title(str(arm)), "cells": cells})
    return arms


def contrast_rows(
    contrasts: pd.DataFrame, titles: dict[str, str], trail: Trail, decimals: int = 1
) -> list[dict[str, Any]]:
    """Per pair of arms its title and cells. contrasts: columns of `reports.cells.CONTRAST_COLUMNS`."""
    found = []
    for pair, rows in with_marks(contrasts).groupby(["arm", "against"], sort=False):
        name = " − ".join(map(arm_title, pair))
        cells = [
            _difference(row, row.records, f"{name} · {titles[row.column]}", trail, decimals, "difference")
            for _, row in rows.iterrows()
        ]
        found.append({"title": CONTRASTS[pair], "cells": cells})
    return found


def _difference(
    row: pd.Series, records: str, title: str, trail: Trail, decimals: int, what: str = "difference to the baseline"
) -> dict[str, Any]:
    """A cell of differences; `diff` is empty for the baseline. records: of both sides."""
    cell = {"diff": "", "diff_ends": "", "mark": "", "verdict": side(row), "average": row.column in AVERAGES}
    if pd.isna(row["diff"]):
        return cell
    diff, ends = difference_texts(row, decimals)
    facts = {what: f"{diff} points {ends}", "p": f"{row.p:.2g}, two-sided, not corrected", "items": f"{row.n:,}"}
    facts |= {"p": "none"} if pd.isna(row.p) else {}
    facts["seeds"] = row.seeds.replace(";", ", ").replace("|", " against ")
    return {**cell, "diff": diff, "diff_ends": ends, "mark": row.mark, "diff_from": trail.add(title, facts, records)}


def group_spans(benchmarks: list[Benchmark]) -> list[tuple[str, int]]:
    """(title, columns) of the header's first row; an average has no title."""
    shown = columns(benchmarks)
    titles = ["" if name in AVERAGES else GROUP_TITLES[members[0].group] for name, _, members in shown]
    return [(title, len(list(run))) for title, run in groupby(titles)]


def paper_table(
    name: str, cells: pd.DataFrame, titles: dict[str, str], found: Registry, used: Rules, trail: Trail
) -> dict[str, Any]:
    """One of the paper's tables, published beside measured.

    cells: columns of `reports.paper_cells.CSV_COLUMNS`; titles: of columns that the paper does not have.
    """
    spec = found.tables[name]
    names = list(dict.fromkeys(cells.column))
    of_base = cells[(cells.kind == "score") & (cells.arm == BASELINE)]
    base = dict(zip(of_base.column, of_base.records, strict=True))
    shown = {c: spec.columns[c].title if c in spec.columns else titles.get(c, c) for c in names}
    blocks = []
    for kind, kind_title in KINDS.items():
        rows = []
        for (row, arm), of in cells[cells.kind == kind].groupby(["row", "arm"], sort=False):
            if of.published.notna().any() or of.measured.notna().any():
                title = row_title(row or None, arm or None, name, found)
                parts = [_paper_cell(c, title, name, shown, found, trail, base) for _, c in of.iterrows()]
                rows.append({"title": title, "cells": parts})
        if rows:
            blocks.append({"title": kind_title, "rows": rows})
    counts = verdict_counts(cells)
    return {
        "title": spec.title if any(c in spec.columns for c in names) else f"{spec.title}, over this run's benchmarks",
        "label": name.replace("table", "Table "),
        "columns": list(shown.values()),
        "blocks": blocks,
        "counts": counts,
        "measured": bool(counts),
        "compared": bool(set(counts) - {"not comparable"}),
        "notes": table3_notes(cells) if name == "table3" else [],
        "source": printed_by(name, found),
        "rules": used.text(),
    }


def _paper_cell(
    row: pd.Series, title: str, table: str, titles: dict[str, str], found: Registry, trail: Trail, base: dict[str, str]
) -> dict[str, Any]:
    """A cell with its verdict; one that is neither printed nor measured is empty. base: the baseline's records."""
    decimals = found.tables[table].decimals
    cell: dict[str, Any] = {"published": "", "measured": "", "verdict": row.verdict}
    facts = {}
    if pd.notna(row.published):
        cell["published"] = value_text(row.published, row.kind, decimals)
        items = f", {row.published_n} items" if row.published_n else ""
        facts["published"] = f"{cell['published']}{items} ({printed_by(table, found)}; {table}.{row.row}.{row.column})"
    if pd.notna(row.measured):
        cell["measured"] = measured_text(row)
        items = "levels" if found.tables[table].unit == "points" else "items"
        facts |= {"measured": f"{cell['measured']}, {row.n:,} {items}", "seeds": row.seeds.replace(";", ", ")}
    if row.verdict:
        facts["verdict"] = f"{row.verdict}: {row.reason}" if row.reason else row.verdict
    both = row.kind == "gain" and row.records
    records = f"{row.records};{base[row.column]}" if both else row.records
    if facts:
        cell["from"] = trail.add(f"{title} · {titles[row.column]}", facts, records)
    return cell
