"""Records of any folder as scores: what `lmmr1 eval` wrote, one arm of a profile, or one run of an arm."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from evals.records import find_records
from lmmr1.types import UserError
from reports.cells import Cells, load_cells, require_same_items
from reports.scores import record_rows


def folder_scores(folder: Path, arm: str) -> pd.DataFrame:
    """The headline rows (see reports.scores.COLUMNS) of all records below `folder`, named `arm`.

    `SEED/eval/BENCHMARK/record.json` are runs of one arm; any other `BENCHMARK/record.json` is a single run.
    Raises UserError where there are no records, or two of one seed and benchmark.
    """
    paths = find_records(folder)
    rows = pd.concat([record_rows(path, "", arm, _seed_of(path)) for path in paths], ignore_index=True)
    played = set(rows[rows.metric == "score"].benchmark)
    rows = rows[(rows.subset == "all") & ((rows.metric == "score") | ~rows.benchmark.isin(played))]
    rows = rows[rows.metric.isin(["accuracy", "score"])]
    twice = rows[rows.duplicated(["seed", "benchmark"])]
    if len(twice):
        raise UserError(
            f"{twice.iloc[0].record}: {twice.iloc[0].benchmark} is there twice below {folder}; give one arm"
        )
    if rows.empty:
        raise UserError(f"{folder}: no accuracy over all items in its records; run the evaluation again")
    return rows


def _seed_of(path: Path) -> int:
    run = path.parent.parent
    return int(run.parent.name) if run.name == "eval" and run.parent.name.isdecimal() else 0


def common_benchmarks(frames: list[pd.DataFrame], wanted: list[str] | None) -> list[str]:
    """Benchmarks that every run of every frame has, in the first frame's order; `wanted` must be among them.

    Raises UserError that names what is missing and where.
    """
    common = []
    for benchmark in wanted or list(dict.fromkeys(frames[0].benchmark)):
        lacking = [f for f in frames if set(f[f.benchmark == benchmark].seed) != set(f.seed)]
        if lacking and wanted:
            raise UserError(f"--benchmarks {benchmark}: not in all runs of {lacking[0].arm.iloc[0]}; evaluate it there")
        common += [] if lacking else [benchmark]
    if not common:
        names = " and ".join(f"{f.arm.iloc[0]} ({', '.join(dict.fromkeys(f.benchmark))})" for f in frames)
        raise UserError(f"no benchmark is in all of {names}; evaluate both on the same benchmarks")
    return common


def load_paired(frames: list[pd.DataFrame], benchmarks: list[str]) -> Cells:
    """Per-item scores of all frames for `benchmarks`. Raises UserError where their items differ."""
    rows = pd.concat(frames, ignore_index=True)
    cells = load_cells(rows[rows.benchmark.isin(benchmarks)])
    first = frames[0].arm.iloc[0]
    for (arm, benchmark), cell in cells.items():
        require_same_items(f"{benchmark} of {arm}", cell.columns, str(first), cells[first, benchmark].columns)
    return cells
