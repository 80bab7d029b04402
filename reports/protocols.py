"""Every arm under every protocol: which gains live in the protocol and not in the model.

    python -m reports.protocols --main paper --out-dir results/paper/report --benchmarks math500 mathvision ... \\
        --scores results/paper/baseline/scores.csv results/paper/fre/scores.csv ... \\
        --others results/paper/protocols/rule/baseline/scores.csv results/paper/protocols/rule/fre/scores.csv ...

A gain is an arm minus the baseline, both asked and scored as the protocol does. The change of a gain between two
protocols is taken answer by answer: (arm - baseline) under one minus (arm - baseline) under the main one, on the same
items and by the same checkpoints. Categories are weighted as the main protocol weighs them. Writes protocols.csv (see
COLUMNS) and protocols.md.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from lmmr1.types import UserError
from reports.cells import Cells, design_of, headline, load_cells, macro_weights, require_same_items, shared_items
from reports.files import read_text, run_cli, write_text
from reports.layout import BASELINE, Benchmark, add_benchmarks_argument, arm_title, columns, parse_benchmarks
from reports.scores import read_scores
from reports.statistics import NO_INTERVAL, Design, Interval, difference_interval, ends_text, score_interval
from reports.tables import escape_markdown
from reports.verdicts import ONE_RUN

COLUMNS = [
    "arm", "protocol", "prompt", "column", "mean", "low", "high", "gain", "gain_low", "gain_high", "p", "change",
    "change_low", "change_high", "change_p", "word", "n", "seeds",
]  # fmt: skip
"""Fractions. `prompt`: of the arm, joined by `;`; `gain*` and `p`: arm minus baseline under this protocol; `change*`:
that gain minus the one under the main protocol, empty there; `word`: what becomes of the main protocol's gain here."""

HOLDS, REVERSED, OPEN, NEITHER = "holds", "reversed", "open", "no gain"
ONLY_MAIN, ONLY_HERE = "only there", "only here"
CAPTION = (
    "Accuracy in percent ± half-width of its 95 % interval, and the gain over the baseline in points under the same "
    "protocol. For every other protocol, what becomes of the gain or loss: `holds` where both intervals exclude 0 on "
    "one side, `reversed` where on different ones; `only there` (main protocol) or `only here` where one does, and "
    "the change excludes 0 too; `open` where one does and the change does not; `no gain` where neither does. "
    "The change is taken answer by answer."
)


@dataclass(frozen=True, slots=True)
class View:
    """All arms under one protocol."""

    name: str
    scores: pd.DataFrame
    cells: Cells

    def parts(self, arm: str, members: tuple[Benchmark, ...]) -> list[np.ndarray]:
        """(k, n) per benchmark."""
        return [self.cells[arm, b.name].to_numpy() for b in members]

    def prompts(self, arm: str, members: tuple[Benchmark, ...]) -> str:
        """The styles that the arm was asked in."""
        rows = self.scores[(self.scores.arm == arm) & self.scores.benchmark.isin([b.name for b in members])]
        return ";".join(dict.fromkeys(rows.prompt))


def read_views(
    main: str, scores: list[Path], others: list[Path], benchmarks: list[Benchmark]
) -> tuple[list[View], dict[str, Design]]:
    """The views, the main one first, with cells weighted as there, and the design of each benchmark.

    Raises UserError where a file is of another protocol than its group, or holds other items.
    """
    groups = {main: scores}
    for path in others:
        groups.setdefault(path.parent.parent.name, []).append(path)
    views, designs = [], dict[str, Design]()
    macro: dict[str, bool] = {}
    for name, paths in groups.items():
        rows = headline(read_scores(paths), benchmarks)
        _require_protocol(name, rows)
        cells = load_cells(rows)
        firsts = rows.drop_duplicates("benchmark").set_index("benchmark")
        for b in benchmarks:
            is_macro, items = firsts.loc[b.name].aggregation == "macro", shared_items(rows[rows.benchmark == b.name])
            wanted = macro.setdefault(b.name, is_macro)
            designs.setdefault(b.name, design_of(items, wanted))
            if wanted != is_macro:
                weights = macro_weights(items.category)
                for arm in dict.fromkeys(rows.arm):
                    cells[arm, b.name] = cells[arm, b.name] * (weights if wanted else 1 / weights)
        views.append(View(name, rows, cells))
    _require_alike(views)
    return views, designs


def _require_protocol(name: str, rows: pd.DataFrame) -> None:
    wrong = rows[rows.protocol != name]
    if len(wrong):
        row = wrong.iloc[0]
        raise UserError(f"{row.record}: measured under protocol {row.protocol!r}, not {name!r}; evaluate it again")


def _require_alike(views: list[View]) -> None:
    first = views[0]
    for view in views[1:]:
        for (arm, benchmark), cell in view.cells.items():
            if (arm, benchmark) not in first.cells or list(cell.index) != list(first.cells[arm, benchmark].index):
                raise UserError(
                    f"{benchmark} of {arm}: other runs under {view.name} than under {first.name}; finish both"
                )
            where = f"{benchmark} of {arm} under {view.name}"
            require_same_items(where, cell.columns, first.name, first.cells[arm, benchmark].columns)


def summarise(views: list[View], designs: dict[str, Design], benchmarks: list[Benchmark]) -> pd.DataFrame:
    """One row per arm, protocol and column (see COLUMNS). Raises UserError without a baseline."""
    arms = list(dict.fromkeys(views[0].scores.arm))
    if BASELINE not in arms:
        raise UserError(f"no scores of arm {BASELINE!r}; evaluate it under these protocols too")
    rows = [
        _row(view, views[0], arm, column, members, [designs[b.name] for b in members])
        for arm in arms
        for column, _, members in columns(benchmarks)
        for view in views
    ]
    return pd.DataFrame(rows, columns=COLUMNS)


def _row(
    view: View, main: View, arm: str, column: str, members: tuple[Benchmark, ...], designs: list[Design]
) -> list[Any]:
    none = Interval(*[np.nan] * 3)
    parts, base = view.parts(arm, members), view.parts(BASELINE, members)
    mean = score_interval(parts, designs)
    gain = none if arm == BASELINE else difference_interval(parts, base, designs)
    change, word = none, ""
    if arm != BASELINE and view is not main:
        there = _gains(main.parts(arm, members), main.parts(BASELINE, members))
        moved = [here - before for here, before in zip(_gains(parts, base), there, strict=True)]
        change = score_interval(moved, designs, points=True)
        before = difference_interval(main.parts(arm, members), main.parts(BASELINE, members), designs)
        word = word_of(before, gain, change)
    about = [arm, view.name, view.prompts(arm, members), column]
    values = [value for i in (mean, gain, change) for value in (i.mean, i.low, i.high, i.p)]
    return [*about, *values[:3], *values[4:], word, sum(p.shape[1] for p in parts), len(parts[0])]


def _gains(parts: list[np.ndarray], base: list[np.ndarray]) -> list[np.ndarray]:
    """(k, n) per benchmark: the arm's answers minus the mean of the baseline's runs."""
    return [p - b.mean(axis=0) for p, b in zip(parts, base, strict=True)]


def word_of(main: Interval, here: Interval, change: Interval) -> str:
    """What becomes of the main protocol's gain under another one; see CAPTION."""
    if main.unknown or here.unknown:
        return OPEN
    there, now = main.excludes_zero, here.excludes_zero
    if there and now:
        return HOLDS if (main.low > 0) == (here.low > 0) else REVERSED
    if not there and not now:
        return NEITHER
    if not change.excludes_zero:
        return OPEN
    return ONLY_MAIN if there else ONLY_HERE


def read_table(path: Path) -> pd.DataFrame:
    """Read the protocols.csv that this module wrote. Raises UserError on another file."""
    if not read_text(path).startswith(",".join(COLUMNS) + "\n"):
        raise UserError(f"{path}: not made by reports.protocols (other columns); make it again")
    return pd.read_csv(path, dtype={"prompt": str, "word": str}).fillna({"word": "", "prompt": ""})


def text_rows(table: pd.DataFrame, decimals: int = 1) -> list[dict[str, Any]]:
    """Per arm and protocol its title, protocol, prompt and cells: `mean`, `gain`, `change`, `word`, perhaps empty."""
    found = []
    for (arm, protocol), rows in table.groupby(["arm", "protocol"], sort=False):
        cells = [
            {
                "mean": _score(row, decimals),
                "gain": _points(row.gain, row.gain_low, row.gain_high, decimals),
                "change": _points(row.change, row.change_low, row.change_high, decimals),
                "word": row.word,
            }
            for _, row in rows.iterrows()
        ]
        prompts = ", ".join(dict.fromkeys(";".join(rows.prompt).split(";")))
        found.append(
            {"arm": arm, "title": arm_title(str(arm)), "protocol": protocol, "prompt": prompts, "cells": cells}
        )
    return found


def _score(row: pd.Series, decimals: int) -> str:
    spread = f"({NO_INTERVAL})" if pd.isna(row.low) else f"± {50 * (row.high - row.low):.{decimals}f}"
    return f"{100 * row['mean']:.{decimals}f} {spread}"


def _points(mean: float, low: float, high: float, decimals: int) -> str:
    if pd.isna(mean):
        return ""

    def signed(value: float) -> str:
        return f"{100 * value:+.{decimals}f}".replace("-", "−")

    return f"{signed(mean)} {ends_text(low, high, signed)}"


def caption(table: pd.DataFrame) -> str:
    """CAPTION and, where an arm has one run, that its spread over seeds is not in it."""
    return f"{CAPTION} Arms of {ONE_RUN}." if table.seeds.min() == 1 else CAPTION


def markdown(rows: list[dict[str, Any]], benchmarks: list[Benchmark], above: str = CAPTION) -> str:
    """The rows as one GitHub table under its caption."""
    head = ["Arm", "Protocol", "Asked", *(title for _, title, _ in columns(benchmarks))]
    lines = [escape_markdown(head), ["---", "---", "---", *["---:"] * (len(head) - 3)]]
    for row in rows:
        cells = [" ".join(filter(None, (c["mean"], c["gain"], c["word"]))) for c in row["cells"]]
        lines.append(escape_markdown([row["title"], row["protocol"], row["prompt"], *cells]))
    return f"{above}\n\n" + "".join("| " + " | ".join(line) + " |\n" for line in lines)


def main(argv: list[str]) -> None:
    """Command line; see the top of this file."""
    parser = argparse.ArgumentParser(prog="python -m reports.protocols", description="Arms under protocols.")
    parser.add_argument("--main", required=True, help="the protocol of --scores")
    parser.add_argument("--scores", nargs="+", type=Path, required=True, help="scores.csv of each arm")
    parser.add_argument("--others", nargs="+", type=Path, required=True, help="protocols/PROTOCOL/ARM/scores.csv")
    parser.add_argument("--out-dir", type=Path, required=True)
    add_benchmarks_argument(parser)
    args = parser.parse_args(argv)
    benchmarks = parse_benchmarks(args.benchmarks)
    table = summarise(*read_views(args.main, args.scores, args.others, benchmarks), benchmarks)
    path = args.out_dir / "protocols.csv"
    write_text(path, table.to_csv(index=False, float_format="%.6f", lineterminator="\n"), sealed=True)
    write_text(args.out_dir / "protocols.md", markdown(text_rows(read_table(path)), benchmarks, caption(table)))


if __name__ == "__main__":
    sys.exit(run_cli(main))
