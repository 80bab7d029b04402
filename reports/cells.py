"""Per-item scores behind the table, and its numbers: one row per arm (or contrast of two arms) and column."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from evals.samples import SampleRow, read_samples
from lmmr1.types import UserError
from reports.files import read_text
from reports.layout import BASELINE, CONTRASTS, Benchmark, columns
from reports.statistics import Design, Interval, difference_interval, score_interval

Cells = dict[tuple[str, str], pd.DataFrame]
"""(arm, benchmark) -> per-item scores (k seeds, n items): index seed, columns item id, both sorted."""
COLUMNS = [
    "profile",
    "arm",
    "column",
    "mean",
    "low",
    "high",
    "diff",
    "diff_low",
    "diff_high",
    "p",
    "n",
    "seeds",
    "records",
    "protocols",
    "prompts",
]
"""Fractions, not percent. `diff*` and `p` (two-sided, not corrected) are those of the difference to the baseline, empty
for the baseline itself. `seeds`, `records`, `protocols`, `prompts` (the styles
that the arm was asked in) are joined by `;`."""
CONTRAST_COLUMNS = [
    "profile",
    "arm",
    "against",
    "column",
    "diff",
    "diff_low",
    "diff_high",
    "p",
    "n",
    "seeds",
    "records",
]
"""`diff` = arm - against; the rest as in COLUMNS. `seeds`: those of arm, `|`, those of against; `records`: of both."""


def headline(scores: pd.DataFrame, benchmarks: list[Benchmark]) -> pd.DataFrame:
    """The rows over all items, accuracies and agents' scores. Raises UserError naming the first lacking record."""
    metrics = {b.name: b.metric for b in benchmarks}
    rows = scores[(scores.subset == "all") & (scores.metric == scores.benchmark.map(metrics))]
    for (profile, arm), of_arm in scores.groupby(["profile", "arm"], sort=False):
        for seed in sorted(set(of_arm.seed)):
            have = set(rows[(rows.arm == arm) & (rows.seed == seed)].benchmark)
            for b in benchmarks:
                if b.name not in have:
                    raise UserError(
                        f"results/{profile}/{arm}/{seed}/eval/{b.name}/record.json: no {b.metric} over all "
                        f"items for arm {arm}, seed {seed}; run this evaluation, then reports.scores"
                    )
    return rows[rows.benchmark.isin([b.name for b in benchmarks])]


def load_cells(scores: pd.DataFrame) -> Cells:
    """Read the per-sample files behind `headline` rows.

    Raises UserError where a file is missing or holds other items than the record or the arm's other seeds say.
    """
    cells: Cells = {}
    for (arm, benchmark), rows in scores.sort_values("seed").groupby(["arm", "benchmark"], sort=False):
        series = [_item_scores(row) for row in rows.itertuples()]
        for row, one in zip(rows.itertuples(), series, strict=True):
            require_same_items(row.samples, one.index, rows.iloc[0].samples, series[0].index)
        values = [s.to_numpy() for s in series]
        cells[arm, benchmark] = pd.DataFrame(values, index=list(rows.seed), columns=series[0].index)
    return cells


def _item_scores(row: tuple) -> pd.Series:
    """Per-item accuracy, sorted by id; an agent's items are levels: the mean over its repeats of the score / 100."""
    unit = 100 if row.metric == "score" else 1
    samples = pd.DataFrame(
        [(str(s.doc_id), _value(s, row) / unit, s.category) for s in read_samples(Path(row.samples))],
        columns=["doc_id", "value", "category"],
    )
    if row.metric != "score" and samples.doc_id.duplicated().any():
        raise UserError(f"{row.samples}: doc_id {samples.doc_id[samples.doc_id.duplicated()].iloc[0]} is there twice")
    items = samples.groupby("doc_id").agg(value=("value", "mean"), category=("category", "first"))
    values = items.value
    if row.aggregation == "macro":
        values = values * macro_weights(items.category)
    _require_as_recorded(row, values)
    return values.rename(None)


def macro_weights(categories: pd.Series) -> np.ndarray:
    """(n,) n / (C n_category), with which the plain mean of C categories' items is the mean of their means."""
    sizes = categories.groupby(categories).transform("size").to_numpy(float)
    return len(categories) / (categories.nunique() * sizes)


def _value(sample: SampleRow, row: tuple) -> float:
    try:
        return sample.value(row.metric)
    except ValueError as e:
        raise UserError(f"{row.samples}: {e}; run the evaluation again") from None


def _require_as_recorded(row: tuple, values: pd.Series) -> None:
    if len(values) != row.n or not np.isclose(values.mean(), row.value, rtol=0, atol=1e-6):
        raise UserError(
            f"{row.samples}: {len(values)} items, mean {values.mean():.6f}, but {row.record} says "
            f"{row.n} items, {row.value:.6f} ({row.aggregation}); run the evaluation again"
        )


def load_items(row: Any) -> pd.DataFrame:
    """What groups the items of one record: index doc_id (sorted), columns `problem`, which items that ask the same
    problem share (MathVerse's five versions do), and `category`."""
    rows = [(str(s.doc_id), s.problem, s.category) for s in read_samples(Path(row.samples))]
    frame = pd.DataFrame(rows, columns=["doc_id", "problem", "category"])
    return frame.drop_duplicates("doc_id").set_index("doc_id").sort_index()  # repeats of a level are one item


def shared_items(rows: pd.DataFrame) -> pd.DataFrame:
    """`load_items` of one benchmark for all arms in `rows`. Raises UserError where they group their items otherwise:
    an interval must not depend on whose file says what hangs together."""
    firsts = list(rows.drop_duplicates("arm").itertuples())
    found = load_items(firsts[0])
    for row in firsts[1:]:
        items = load_items(row)
        if items.index.equals(found.index) and not items.equals(found):
            item = items.index[(items != found).any(axis=1)][0]
            raise UserError(
                f"{row.samples}: item {item} has problem and category {tuple(items.loc[item])}, in "
                f"{firsts[0].samples} it has {tuple(found.loc[item])}; evaluate both on the same data"
            )
    return found


def design_of(items: pd.DataFrame, macro: bool) -> Design:
    """The design of items (`load_items`, in the order of the cells): problems that are shared, categories of a macro
    average. A category with one problem says nothing of its spread: then the whole is taken as one stratum, whose
    variance holds the differences between categories too and errs on the wide side."""
    clusters = items.problem.to_numpy(str) if items.problem.duplicated().any() else None
    problems = items.groupby("category").problem.nunique()
    strata = items.category.to_numpy(str) if macro and len(problems) > 1 and problems.min() > 1 else None
    return Design(clusters, strata)


def load_designs(scores: pd.DataFrame) -> dict[str, Design]:
    """The design of each benchmark, which its arms agree on. Raises UserError where they do not."""
    return {
        str(name): design_of(shared_items(rows), rows.aggregation.iloc[0] == "macro")
        for name, rows in scores.groupby("benchmark", sort=False)
    }


def require_same_items(path: str, ids: pd.Index, other_path: str, other: pd.Index) -> None:
    """Raise UserError, naming the first ids that differ, unless both hold the same items."""
    if not ids.equals(other):
        first = ", ".join(sorted(set(ids) ^ set(other))[:3])
        raise UserError(
            f"{path}: other items than {other_path}, only in one of them: {first}; evaluate both on the same data file"
        )


def summarise(scores: pd.DataFrame, cells: Cells, benchmarks: list[Benchmark]) -> pd.DataFrame:
    """Table 1's numbers (see COLUMNS), rows in the order of arms in `scores` and of `layout.columns`.

    Raises UserError without a baseline, or where an arm's items differ from the baseline's.
    """
    arms = list(dict.fromkeys(scores.arm))
    if BASELINE not in arms:
        raise UserError(f"no scores of arm {BASELINE!r} among {', '.join(arms)}; pass its scores.csv too")
    for (arm, benchmark), cell in cells.items():
        base = cells[BASELINE, benchmark]
        require_same_items(f"{benchmark} of arm {arm}", cell.columns, f"arm {BASELINE}", base.columns)
    rows, designs = [], load_designs(scores)
    for arm in arms:
        for name, _, members in columns(benchmarks):
            parts, base = _parts(cells, arm, members), _parts(cells, BASELINE, members)
            of = [designs[b.name] for b in members]
            mean = score_interval(parts, of)
            diff = difference_interval(parts, base, of) if arm != BASELINE else Interval(*[np.nan] * 3)
            sources = _sources(scores, arm, members)
            rows.append(
                [
                    sources.profile.iloc[0],
                    arm,
                    name,
                    mean.mean,
                    mean.low,
                    mean.high,
                    diff.mean,
                    diff.low,
                    diff.high,
                    diff.p,
                    sum(p.shape[1] for p in parts),
                    _joined(cells[arm, members[0].name].index),
                    _joined(sources.record),
                    _joined(dict.fromkeys(sources.protocol_hash)),
                    _joined(dict.fromkeys(sources.prompt)),
                ]
            )
    return pd.DataFrame(rows, columns=COLUMNS)


def summarise_contrasts(scores: pd.DataFrame, cells: Cells, benchmarks: list[Benchmark]) -> pd.DataFrame:
    """The numbers (see CONTRAST_COLUMNS) of each of `layout.CONTRASTS` whose arms are both in `scores`; may be empty.

    The seeds of both arms count as independent runs. Those of an arm that continues the other's checkpoints are not:
    what the two share cancels in the difference, so there the interval errs on the wide side.
    Raises UserError where the items of the two arms differ.
    """
    pairs = [pair for pair in CONTRASTS if set(pair) <= set(scores.arm)]
    for (arm, against), b in ((pair, b) for pair in pairs for b in benchmarks):
        ids, other = cells[arm, b.name].columns, cells[against, b.name].columns
        require_same_items(f"{b.name} of arm {arm}", ids, f"arm {against}", other)
    rows, designs = [], load_designs(scores) if pairs else {}
    for arm, against in pairs:
        for name, _, members in columns(benchmarks):
            parts, base = _parts(cells, arm, members), _parts(cells, against, members)
            diff = difference_interval(parts, base, [designs[b.name] for b in members])
            sources = pd.concat([_sources(scores, a, members) for a in (arm, against)])
            seeds = [_joined(cells[a, members[0].name].index) for a in (arm, against)]
            estimate = [diff.mean, diff.low, diff.high, diff.p, sum(p.shape[1] for p in parts)]
            about = [sources.profile.iloc[0], arm, against, name]
            rows.append([*about, *estimate, "|".join(seeds), _joined(sources.record)])
    return pd.DataFrame(rows, columns=CONTRAST_COLUMNS)


def _parts(cells: Cells, arm: str, members: tuple[Benchmark, ...]) -> list[np.ndarray]:
    return [cells[arm, b.name].to_numpy() for b in members]


def _sources(scores: pd.DataFrame, arm: str, members: tuple[Benchmark, ...]) -> pd.DataFrame:
    return pd.concat([scores[(scores.arm == arm) & (scores.benchmark == b.name)] for b in members])


def _joined(values: object) -> str:
    return ";".join(map(str, values))


def csv_text(rows: pd.DataFrame) -> str:
    """A table or contrasts as CSV: six decimals, but four significant digits of `p`, which may be tiny."""
    shown = rows.assign(p=rows.p.map("{:.4g}".format, na_action="ignore"))
    return shown.to_csv(index=False, float_format="%.6f", lineterminator="\n")


def read_table(path: Path) -> pd.DataFrame:
    """Read the table1.csv that reports.tables wrote. Raises UserError on another file."""
    return _read(path, COLUMNS)


def read_contrasts(path: Path) -> pd.DataFrame:
    """Read the contrasts.csv that reports.tables wrote; it may have no rows. Raises UserError on another file."""
    return _read(path, CONTRAST_COLUMNS)


def _read(path: Path, expected: list[str]) -> pd.DataFrame:
    if not read_text(path).startswith(",".join(expected) + "\n"):
        raise UserError(f"{path}: not made by reports.tables (other columns); make it again")
    return pd.read_csv(path, dtype=dict.fromkeys(("seeds", "records", "protocols", "prompts"), str))
