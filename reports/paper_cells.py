"""Measured beside published: every cell of the paper's tables (or of a table in their layout), with its verdict.

A sheet is one table: its columns are the printed ones where a measured benchmark is among them, else the benchmarks'
own, which have no published counterpart; Table 3 has both. Kinds of cell: `score`, `gain` over the baseline, and in
Table 3 `contrast`, the arm that began with text minus the one that did not.
An agent's points stand as points / 100 wherever a percentage would be a fraction.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd

from evals.records import read_records
from reports.cells import Cells, design_of, macro_weights, shared_items
from reports.comparable import Taken, differences, prompt_change
from reports.compare import printed_share
from reports.layout import AGENT_CONTRAST, AGENTS, AVERAGES, BASELINE, GROUP_TITLES, PLAYERS, Benchmark, columns
from reports.rules import Rules
from reports.statistics import Design, Interval, against_printed, difference_interval, score_interval
from reports.unpaired import Gap, Share, Z, average_difference
from reports.verdicts import NOT_COMPARABLE, NOT_MEASURED, ONE_RUN, judge_family
from reproduce.published import Cell, Column, Registry

Kind = Literal["score", "gain", "contrast"]
CSV_COLUMNS = [
    "kind",
    "row",
    "arm",
    "column",
    "published",
    "published_n",
    "measured",
    "low",
    "high",
    "diff",
    "diff_low",
    "diff_high",
    "p",
    "verdict",
    "reason",
    "n",
    "seeds",
    "records",
    "protocols",
]
"""`published`, `measured` and all intervals in the table's unit; `diff` = measured - published; `p` is adjusted."""


@dataclass(frozen=True, slots=True)
class SheetColumn:
    """A column: its printed counterpart, if any, and what is measured for it."""

    name: str
    title: str
    group: str
    printed: str | None
    """`table.column` of the registry that says how it is measured; None where the paper has no such column."""
    members: tuple[str, ...] = ()
    """Names of the sheet's columns that it averages; empty for a measured one."""


@dataclass(frozen=True, slots=True)
class Sheet:
    """Layout of one table."""

    name: str
    title: str
    table: str
    columns: tuple[SheetColumn, ...]
    rows: tuple[tuple[str | None, str | None], ...]
    """(printed row, arm) in order; None where one of them is missing."""
    sections: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Part:
    """Per-item scores of a column for one arm: (k, n), whose mean is the column's value, and how the items hang
    together."""

    scores: np.ndarray
    design: Design
    taken: Taken


class Measured:
    """The records of all arms, cut into the columns of a sheet."""

    def __init__(self, scores: pd.DataFrame, cells: Cells, registry: Registry) -> None:
        self.scores, self.cells, self.registry = scores, cells, registry
        self._parts: dict[tuple[str, str, tuple[str, ...], bool], Part | None] = {}
        firsts = scores.drop_duplicates("benchmark")
        self.items = {str(name): shared_items(rows) for name, rows in scores.groupby("benchmark", sort=False)}
        self.macro = {row.benchmark: row.aggregation == "macro" for _, row in firsts.iterrows()}

    @property
    def arms(self) -> list[str]:
        """In the order of the scores."""
        return list(dict.fromkeys(self.scores.arm))

    def arms_on(self, benchmarks: set[str]) -> list[str]:
        """Those that any of the benchmarks was measured for: scripted players play, and nothing else."""
        return list(dict.fromkeys(self.scores[self.scores.benchmark.isin(benchmarks)].arm))

    def part(self, arm: str, benchmark: str, subset: tuple[str, ...], macro: bool) -> Part | None:
        """The items of some categories (all without), each category weighted alike for `macro`; None: not measured."""
        key = (arm, benchmark, subset, macro)
        if key not in self._parts:
            self._parts[key] = self._cut(*key)
        return self._parts[key]

    def _cut(self, arm: str, benchmark: str, subset: tuple[str, ...], macro: bool) -> Part | None:
        cell = self.cells.get((arm, benchmark))
        if cell is None:
            return None
        items = self.items[benchmark].loc[cell.columns]
        scores = cell.to_numpy() / (macro_weights(items.category) if self.macro[benchmark] else 1)
        chosen = np.ones(len(items), bool) if not subset else items.category.isin(subset).to_numpy()
        if chosen.sum() < 2 or not set(subset) <= set(items.category):
            return None
        kept, scores = items[chosen], scores[:, chosen]
        if macro:
            scores = scores * macro_weights(kept.category)
        return Part(scores, design_of(kept, macro), self._taken(arm, benchmark, kept))

    def _taken(self, arm: str, benchmark: str, items: pd.DataFrame) -> Taken:
        rows = self.scores[(self.scores.arm == arm) & (self.scores.benchmark == benchmark)]
        return Taken(read_records(Path(rows.iloc[0].record))[0].protocol, len(items), items.category.nunique())

    def parts(self, arm: str, column: SheetColumn, sheet: Sheet) -> list[Part] | None:
        """One part, or one per member of an average; None unless all are measured."""
        if column.members:
            of = {c.name: c for c in sheet.columns}
            found = [self._column(arm, of[m]) for m in column.members]
            return None if any(p is None for p in found) else [p for p in found if p is not None]
        part = self._column(arm, column)
        return None if part is None else [part]

    def _column(self, arm: str, column: SheetColumn) -> Part | None:
        if column.printed is None:
            return self.part(arm, column.name, (), self.macro.get(column.name, False))
        spec = self.registry.column(column.printed)
        return self.part(arm, *_cut_of(spec))

    def rows(self, arm: str, column: SheetColumn, sheet: Sheet) -> pd.DataFrame:
        """The score rows (see reports.scores.COLUMNS) behind a cell."""
        names = [c for c in sheet.columns if c.name in column.members] or [column]
        found = [c.name if c.printed is None else self.registry.column(c.printed).benchmark for c in names]
        return self.scores[(self.scores.arm == arm) & self.scores.benchmark.isin(found)]


def sheets(measured: Measured, benchmarks: list[Benchmark]) -> list[Sheet]:
    """Tables 1 to 3. A sheet without any measured printed column shows what was printed, and for Table 1 our own."""
    registry, have = measured.registry, set(measured.scores.benchmark)
    found = []
    for name in ("table1", "table2", "table3"):
        printed = {spec.benchmark for spec in registry.tables[name].columns.values()} - {None}
        if name == "table1" and not printed & have:
            found.append(_own_sheet(measured, benchmarks))
        elif name == "table3":
            found.append(_agents_sheet(measured, [b for b in benchmarks if b.group == AGENTS]))
        else:
            found.append(_printed_sheet(name, measured))
    return found


def _own_sheet(measured: Measured, benchmarks: list[Benchmark]) -> Sheet:
    """Table 1's layout over benchmarks that the paper does not have."""
    shown = [
        SheetColumn(
            name,
            title,
            "" if name in AVERAGES else GROUP_TITLES[members[0].group],
            None,
            tuple(b.name for b in members) if name in AVERAGES else (),
        )
        for name, title, members in columns(benchmarks)
    ]
    names = {b.name for _, _, members in columns(benchmarks) for b in members}
    rows = [(None, arm) for arm in measured.arms_on(names)]  # no printed row stands for a model on other benchmarks
    title = "Table 1's layout over this run's benchmarks, which the paper does not have"
    return Sheet("table1", title, "table1", tuple(shown), tuple(rows))


def _agents_sheet(measured: Measured, agents: list[Benchmark]) -> Sheet:
    """Table 3: the printed columns, those of the benchmarks that the paper does not have, and all players as rows.

    What is played on another pitch, or on other levels by design, has a column of its own: it is never set beside a
    printed value.
    """
    sheet = _printed_sheet("table3", measured)
    printed = {spec.benchmark for spec in measured.registry.tables["table3"].columns.values()}
    own = [SheetColumn(b.name, b.title, "", None) for b in agents if b.name not in printed]
    rows = list(sheet.rows)
    if own and not printed & set(measured.scores.benchmark):
        rows += [(None, arm) for arm in measured.arms]  # no printed row stands for a model on other benchmarks
    return replace(sheet, columns=(*sheet.columns, *own), rows=tuple(rows))


def _printed_sheet(name: str, measured: Measured) -> Sheet:
    registry = measured.registry
    table = registry.tables[name]
    shown = [_sheet_column(name, key, spec) for key, spec in table.columns.items()]
    arms_of = {row: [a for a in measured.arms if registry.arms.get(a) == row] for row in table.rows}
    rows: list[tuple[str | None, str | None]] = [(row, arm) for row in table.rows for arm in arms_of[row] or [None]]
    measurable = {spec.benchmark for spec in table.columns.values()} & set(measured.scores.benchmark)
    if measurable:
        rows += [(None, arm) for arm in measured.arms_on(measurable) if registry.arms.get(arm) not in table.rows]
    else:
        rows = [(row, None) for row in table.rows]
    return Sheet(name, table.title, name, tuple(shown), tuple(rows), dict(table.sections))


def _sheet_column(table: str, name: str, spec: Column) -> SheetColumn:
    # a printed twin of a measured column (MathVerse's average of versions) is measured as that column
    printed, members = (spec.same_as, ()) if spec.same_as else (f"{table}.{name}", spec.mean_of)
    return SheetColumn(name, spec.title, spec.group, printed, tuple(members))


# -------------------------------------------------------------------------------------------- cells


def sheet_cells(
    sheet: Sheet, measured: Measured, rules: Rules, lacking: Mapping[str, str] | None = None
) -> pd.DataFrame:
    """All cells of a sheet (see CSV_COLUMNS), kind after kind; verdicts per kind are one family.

    lacking: {benchmark: why it was not measured}; such cells of measured arms say so.
    """
    kinds: tuple[Kind, ...] = ("score", "gain", "contrast") if sheet.table == "table3" else ("score", "gain")
    frames = [_kind_cells(kind, sheet, measured, rules, lacking or {}) for kind in kinds]
    return pd.concat(frames, ignore_index=True)


def _kind_cells(kind: Kind, sheet: Sheet, measured: Measured, rules: Rules, lacking: Mapping[str, str]) -> pd.DataFrame:
    rows, family, at = [], [], []
    remarks: dict[int, list[str]] = {}
    unit = 100.0
    for printed_row, arm in _rows_of(kind, sheet, measured.registry):
        for column in sheet.columns:
            printed = _printed(kind, sheet, printed_row, column, measured.registry, rules)
            interval, n = _interval(kind, arm, column, sheet, measured)
            facts = _measured_facts(kind, interval, n, arm, column, sheet, measured, unit)
            diff, word, reason = Interval(*[math.nan] * 3), "", ""
            if interval is not None:
                differs = _differs(kind, printed_row, arm, column, sheet, measured, rules)
                if printed is None or differs:
                    word, reason = NOT_COMPARABLE, "; ".join(differs) or "no published value"
                else:
                    diff = against_printed(interval, printed.difference, (printed.half_width / Z) ** 2)
                    family.append((column.name, diff, n))
                    at.append(len(rows))
                    remarks[len(rows)] = _remarks(kind, str(arm), column, sheet, measured)
            elif arm is not None:
                word, reason = _not_measured(column, measured.registry, lacking)
            value = math.nan if printed is None else printed.difference * unit
            of = [kind, printed_row or "", arm or "", column.name, value, _printed_n(column, measured.registry)]
            differences = [unit * diff.mean, unit * diff.low, unit * diff.high]
            rows.append([*of, *facts[:3], *differences, math.nan, word, reason, *facts[3:]])
    frame = pd.DataFrame(rows, columns=CSV_COLUMNS)
    averages = tuple(c.name for c in sheet.columns if c.members)
    for where, verdict in zip(at, judge_family(family, rules, averages) if family else [], strict=True):
        reason = "; ".join([verdict.reason, *remarks[where]])
        frame.loc[where, ["p", "verdict", "reason"]] = [verdict.p, verdict.word, reason]
    return frame


def _rows_of(kind: Kind, sheet: Sheet, registry: Registry) -> list[tuple[str | None, str | None]]:
    """The rows that have cells of a kind: a gain has none at the baseline, for players, nor printed above it."""
    if kind == "score":
        return list(sheet.rows)
    if kind == "contrast":
        first, second = AGENT_CONTRAST
        rows = [(row, arm) for row, arm in sheet.rows if arm == first or (arm is None and row == registry.arms[first])]
        arms = {arm for _, arm in sheet.rows}
        return [(row, arm) for row, arm in rows if arm is None or second in arms]
    at = next((i for i, (row, arm) in enumerate(sheet.rows) if arm == BASELINE or registry.arms[BASELINE] == row), -1)
    return [(row, arm) for row, arm in sheet.rows[at + 1 :] if arm not in (BASELINE, *PLAYERS)]


def _not_measured(column: SheetColumn, registry: Registry, lacking: Mapping[str, str]) -> tuple[str, str]:
    """Verdict and reason of a measured arm's empty cell: the reason that was given, if one was."""
    benchmark = column.name if column.printed is None else registry.column(column.printed).benchmark
    reason = lacking.get(str(benchmark), "")
    return (NOT_MEASURED, reason) if reason else ("", "")


def _held_against(kind: Kind) -> str:
    """The arm that a difference is taken to."""
    return AGENT_CONTRAST[1] if kind == "contrast" else BASELINE


def _printed(
    kind: Kind, sheet: Sheet, row: str | None, column: SheetColumn, registry: Registry, rules: Rules
) -> Gap | None:
    """A printed value (or difference of two) / 100, with its sampling error; None: not printed."""
    table = registry.tables[sheet.table]
    if row is None or column.printed is None or row not in table.rows:
        return None
    cell = registry.cell(f"{sheet.table}.{row}.{column.name}")
    unit = 100.0
    if kind == "score":
        shares = _shares(sheet, row, column, registry, rules)
        return Gap(cell.value / unit, _half_width(shares), math.nan)
    base = registry.arms[_held_against(kind)]
    if base not in table.rows:
        return None
    gain = (cell.value - registry.cell(f"{sheet.table}.{base}.{column.name}").value) / unit
    both = [_shares(sheet, r, column, registry, rules) for r in (row, base)]
    return Gap(gain, average_difference(*both).half_width if both[0] else 0.0, math.nan)


def _shares(sheet: Sheet, row: str, column: SheetColumn, registry: Registry, rules: Rules) -> list[Share]:
    """The printed shares behind a cell: its own, or those of the columns it averages; none for rewards."""
    names = column.members or (column.name,)
    cells = [registry.cell(f"{sheet.table}.{row}.{m}") for m in names]
    cells = [_twin(c, registry) for c in cells]
    return [printed_share(c, rules) for c in cells if c.unit == "percent"]


def _twin(cell: Cell, registry: Registry) -> Cell:
    """A column that repeats another stands for that one, which says how it was measured."""
    if not cell.spec.same_as:
        return cell
    table, column = cell.spec.same_as.split(".")
    rows = registry.tables[table].rows
    row = cell.row if cell.row in rows else next(iter(rows))
    return Cell(
        **{**{f: getattr(cell, f) for f in Cell.__slots__}, "spec": registry.cell(f"{table}.{row}.{column}").spec}
    )


def _half_width(shares: list[Share]) -> float:
    return Z * math.sqrt(sum(s.variance for s in shares)) / max(len(shares), 1)


def _printed_n(column: SheetColumn, registry: Registry) -> str:
    return "" if column.printed is None else str(registry.column(column.printed).n or "")


def _interval(
    kind: Kind, arm: str | None, column: SheetColumn, sheet: Sheet, measured: Measured
) -> tuple[Interval | None, int]:
    """The measured score or difference with its interval (fractions), and the number of items; None: not measured."""
    parts = None if arm is None else measured.parts(arm, column, sheet)
    if parts is None:
        return None, 0
    arrays, designs = [p.scores for p in parts], [p.design for p in parts]
    n = sum(a.shape[1] for a in arrays)
    points = measured.registry.tables[sheet.table].unit == "points"
    if kind == "score":
        return score_interval(arrays, designs, points), n
    base = measured.parts(_held_against(kind), column, sheet)
    if base is None:
        return None, 0
    return difference_interval(arrays, [b.scores for b in base], designs, points), n


def _measured_facts(
    kind: Kind,
    interval: Interval | None,
    n: int,
    arm: str | None,
    column: SheetColumn,
    sheet: Sheet,
    measured: Measured,
    unit: float,
) -> list[object]:
    """measured, low, high, n, seeds, records, protocols."""
    if interval is None or arm is None:
        return [math.nan, math.nan, math.nan, 0, "", "", ""]
    rows = measured.rows(arm, column, sheet)
    others = measured.rows(_held_against(kind), column, sheet) if kind == "contrast" else rows[:0]
    seeds = ";".join(map(str, sorted(set(rows.seed))))
    values = [unit * v for v in (interval.mean, interval.low, interval.high)]
    return [*values, n, seeds, ";".join([*rows.record, *others.record]), ";".join(dict.fromkeys(rows.protocol_hash))]


def _differs(
    kind: Kind, row: str | None, arm: str | None, column: SheetColumn, sheet: Sheet, measured: Measured, rules: Rules
) -> list[str]:
    """In what the measurement of a cell differs from the printed one, for its column or for the columns it averages; of
    a difference between two arms, at either end."""
    registry = measured.registry
    if row is None or column.printed is None:
        return []
    fields = rules.must_match_score if kind == "score" else rules.must_match_gain
    ends = [(row, str(arm))]
    if kind != "score":
        other = _held_against(kind)
        ends += [(registry.arms[other], other)] if registry.arms[other] in registry.tables[sheet.table].rows else []
    found: dict[str, None] = {}
    for name in column.members or (column.name,):
        prefix = f"{name} " if column.members else ""
        for at, (of_row, of_arm) in enumerate(ends):
            cell = _twin(registry.cell(f"{sheet.table}.{of_row}.{name}"), registry)
            part = measured.part(of_arm, *_cut_of(cell.spec))
            texts = differences(part.taken, cell, fields) if part else []
            found |= dict.fromkeys(f"{prefix}{'at the baseline ' * bool(at and kind == 'gain')}{t}" for t in texts)
    return list(found)


def _cut_of(spec: Column) -> tuple[str, tuple[str, ...], bool]:
    """What `Measured.part` needs for a printed column: benchmark, categories, whether each category weighs alike."""
    return str(spec.benchmark), spec.subset, spec.aggregation == "macro"


def _remarks(kind: Kind, arm: str, column: SheetColumn, sheet: Sheet, measured: Measured) -> list[str]:
    """What a reader of a verdict must know: a gain that holds a change of prompt, and a spread that is not in it."""
    parts = measured.parts(arm, column, sheet) or []
    found = []
    if kind != "score":
        base = measured.parts(_held_against(kind), column, sheet) or []
        changes = {prompt_change(p.taken, b.taken) for p, b in zip(parts, base, strict=True)} - {""}
        if changes:
            found.append(f"both gains include the change of prompt {', '.join(sorted(changes))}")
    if min(len(p.scores) for p in parts) == 1:
        found.append(ONE_RUN)
    return found
