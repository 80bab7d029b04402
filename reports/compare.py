"""Two measurements side by side: records against records, paired by item, or records against printed numbers."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from evals.records import read_records
from lmmr1.types import UserError
from reports.cells import Cells, design_of, load_designs, load_items, macro_weights, shared_items
from reports.comparable import Taken, differences, printed_cells
from reports.folders import common_benchmarks, folder_scores, load_paired
from reports.paired import clustered_bootstrap
from reports.rules import Rules
from reports.scores import check_protocols
from reports.statistics import Design, Interval, difference_interval, published_interval
from reports.unpaired import Share, effective_n
from reports.verdicts import ONE_RUN, Verdict, judge_family
from reproduce.published import Cell, Registry

MEAN = "mean"
"""Name of the column that averages all benchmarks of a comparison without weights."""


@dataclass(frozen=True, slots=True)
class Difference:
    """One benchmark (or the average of all) of two measurements; fractions. `second` is what is compared against."""

    column: str
    n: int
    first: float
    second: float
    interval: Interval
    seeds: tuple[int, int]
    """Runs on either side; 0 for a printed number."""
    bootstrap: tuple[float, float] | None = None
    """95 % interval over resampled problems, where items share problems or are averaged over categories."""
    prompts: tuple[str, ...] = ()
    """`cot -> paper` where the two were asked in different words."""

    @property
    def remarks(self) -> list[str]:
        """What a reader of a verdict must know, as the interval does not hold it."""
        changed = [f"the difference includes the change of prompt {', '.join(self.prompts)}"] if self.prompts else []
        return [*changed, *([ONE_RUN] if 1 in self.seeds else [])]


def known(value: float, digits: int | None = None) -> float | None:
    """A number for JSON, which has no nan."""
    return None if math.isnan(value) else value if digits is None else round(value, digits)


def compare_records(
    first: pd.DataFrame, second: pd.DataFrame, benchmarks: list[str] | None = None, cross_protocol: bool = False
) -> list[Difference]:
    """first - second per benchmark and, for several, on average; both as `folder_scores` gives them.

    An agent's points are held against each other too, and are part of no average.
    Raises UserError where the items differ, or the protocols (unless `cross_protocol`).
    """
    names = common_benchmarks([first, second], benchmarks)
    rows = pd.concat([first, second], ignore_index=True)
    rows = rows[rows.benchmark.isin(names)]
    if not cross_protocol:
        check_protocols(rows)
    cells = load_paired([second, first], names)
    arms = (str(first.arm.iloc[0]), str(second.arm.iloc[0]))
    items = {name: shared_items(rows[rows.benchmark == name]) for name in names}
    found = [_paired([name], cells, items, arms, rows) for name in names]
    shares = [name for name in names if (rows[rows.benchmark == name].metric != "score").all()]
    return [*found, _paired(shares, cells, items, arms, rows)] if len(shares) > 1 else found


def _paired(
    names: list[str], cells: Cells, items: dict[str, pd.DataFrame], arms: tuple[str, str], rows: pd.DataFrame
) -> Difference:
    parts, base = ([cells[arm, name].to_numpy() for name in names] for arm in arms)
    macro = {name: (rows[rows.benchmark == name].aggregation == "macro").all() for name in names}
    designs = [design_of(items[name], macro[name]) for name in names]
    bootstrap, points = None, (rows[rows.benchmark.isin(names)].metric == "score").all()
    interval = difference_interval(parts, base, designs, bool(points))
    if len(names) == 1 and not points and not designs[0].plain and not interval.unknown:
        of = (items[names[0]], designs[0].strata is not None)
        bootstrap = _bootstrap(parts[0].mean(axis=0) - base[0].mean(axis=0), *of)
    return Difference(
        column=names[0] if len(names) == 1 else MEAN,
        n=sum(p.shape[1] for p in parts),
        first=float(np.mean([p.mean() for p in parts])),
        second=float(np.mean([b.mean() for b in base])),
        interval=interval,
        seeds=(len(parts[0]), len(base[0])),
        bootstrap=bootstrap,
        prompts=_prompt_changes(rows[rows.benchmark.isin(names)], arms),
    )


def _prompt_changes(rows: pd.DataFrame, arms: tuple[str, str]) -> tuple[str, ...]:
    """`second -> first` for each change of prompt between the arms, sorted."""
    asked = rows.drop_duplicates(["arm", "benchmark"]).set_index(["benchmark", "arm"]).prompt
    pairs = {(asked[name, arms[1]], asked[name, arms[0]]) for name in dict.fromkeys(rows.benchmark)}
    return tuple(sorted(f"{before} -> {after}" for before, after in pairs if before != after))


def remark_lines(remarks: dict[str, list[str]]) -> list[str]:
    """One line for each remark: where it holds for some columns only, with their names."""
    columns: dict[str, list[str]] = {}
    for column, texts in remarks.items():
        for text in texts:
            columns.setdefault(text, []).append(column)
    return [text if len(names) == len(remarks) else f"{', '.join(names)}: {text}" for text, names in columns.items()]


def _bootstrap(differences: np.ndarray, items: pd.DataFrame, macro: bool) -> tuple[float, float]:
    problems, strata = items.problem.to_numpy(str), None
    if macro:
        strata = items.category.to_numpy(str)
        differences = differences / macro_weights(items.category)  # the cells are weighted already
    return clustered_bootstrap(differences, problems, strata)


def compare_published(
    first: pd.DataFrame,
    row: str,
    registry: Registry,
    rules: Rules,
    benchmarks: list[str] | None = None,
    cross_protocol: bool = False,
) -> list[Difference]:
    """Measured - printed per benchmark of Table 1 that may be compared (`split_comparable`) and, for several, on
    average; unpaired. Raises UserError as that does."""
    printed = printed_cells(registry, row)
    names, _ = split_comparable(first, row, registry, rules, benchmarks, cross_protocol)
    cells = load_paired([first], names)
    designs = load_designs(first[first.benchmark.isin(names)])
    arm = str(first.arm.iloc[0])
    shares = {name: printed_share(printed[name], rules) for name in names}
    found = [_against_printed([name], cells, designs, arm, shares) for name in names]
    return [*found, _against_printed(names, cells, designs, arm, shares)] if len(names) > 1 else found


def split_comparable(
    first: pd.DataFrame,
    row: str,
    registry: Registry,
    rules: Rules,
    benchmarks: list[str] | None = None,
    cross_protocol: bool = False,
) -> tuple[list[str], dict[str, str]]:
    """The benchmarks of records that may be held against a row of Table 1, and those that may not with the reason.

    Raises UserError for an unknown row, for one of `benchmarks` that may not be compared, and, with all reasons, where
    none is left.
    """
    printed = printed_cells(registry, row)
    kept, left_out = [], {}
    common = common_benchmarks([first], benchmarks)
    if not set(common) & set(printed):
        raise UserError(
            f"{first.arm.iloc[0]}: row {row!r} of Table 1 has no value for {', '.join(common)}; "
            f"it has {', '.join(printed)}; give records instead"
        )
    for name in common:
        if name not in printed:
            left_out[name] = f"row {row!r} of Table 1 has no value for {name}; it has {', '.join(printed)}"
            continue
        differs = differences(taken_of(first[first.benchmark == name].iloc[0]), printed[name], rules.must_match_score)
        if differs and not cross_protocol:
            left_out[name] = f"not measured as the printed value {printed[name].id}: {'; '.join(differs)}"
        else:
            kept.append(name)
    if left_out and (benchmarks or not kept):
        raise UserError(
            f"{first.arm.iloc[0]}: {' | '.join(f'{n}: {reason}' for n, reason in left_out.items())}; give records of "
            "another checkpoint, or --allow-cross-protocol to compare what was measured differently all the same"
        )
    return kept, left_out


def _against_printed(
    names: list[str], cells: Cells, designs: dict[str, Design], arm: str, shares: dict[str, Share]
) -> Difference:
    parts = [cells[arm, name].to_numpy() for name in names]
    return Difference(
        column=names[0] if len(names) == 1 else MEAN,
        n=sum(p.shape[1] for p in parts),
        first=float(np.mean([p.mean() for p in parts])),
        second=float(np.mean([shares[name].value for name in names])),
        interval=published_interval(parts, [shares[n] for n in names], [designs[n] for n in names]),
        seeds=(len(parts[0]), 0),
    )


def printed_share(cell: Cell, rules: Rules) -> Share:
    """A printed percentage with its effective number of items (clusters at the rules' ICC, parts by their sizes)."""
    if cell.spec.sizes:  # an unweighted mean of parts: (1/H^2) sum p (1 - p) / n_h
        return Share(cell.value / 100, len(cell.spec.sizes) ** 2 / sum(1 / size for size in cell.spec.sizes))
    return Share(cell.value / 100, effective_n(cell.spec.n or 0, cell.spec.per_problem, rules.icc))


def taken_of(row: pd.Series) -> Taken:
    """What a headline row (see reports.scores.COLUMNS) was computed from."""
    return Taken(read_records(Path(row.record))[0].protocol, int(row.n), load_items(row).category.nunique())


def verdicts_of(differences: list[Difference], rules: Rules) -> list[Verdict]:
    """A verdict per difference; the average is not part of the family."""
    return judge_family([(d.column, d.interval, d.n) for d in differences], rules, averages=(MEAN,))


def compare_folders(first: Path, second: Path, benchmarks: list[str] | None, cross_protocol: bool) -> list[Difference]:
    """`compare_records` of two folders. Raises UserError as it does, and for folders without records."""
    frames = [folder_scores(path, str(path)) for path in (first, second)]
    if first.resolve() == second.resolve():
        frames[0] = frames[0].assign(arm=f"{first} (again)")
    return compare_records(*frames, benchmarks, cross_protocol)
