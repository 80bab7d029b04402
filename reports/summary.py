"""What the report says first: the verdict on the claim, on every arm and on the control, in words and figures."""

from __future__ import annotations

from typing import Any

import pandas as pd

from reports.layout import AVERAGES, BASELINE, CLAIM, CLAIM_COLUMN, CONTROL, Benchmark, arm_title, columns
from reports.statistics import NO_INTERVAL, Interval
from reports.verdicts import HIGHER, INCONCLUSIVE, LOWER, NOT_COMPARABLE, ONE_RUN, REPRODUCED

WORDS = (REPRODUCED, HIGHER, LOWER, INCONCLUSIVE, NOT_COMPARABLE)


def claim(contrasts: pd.DataFrame, benchmarks: list[Benchmark]) -> list[str]:
    """One sentence on the contrast behind the paper's central claim; none where one of its arms is missing.

    contrasts: columns of `reports.cells.CONTRAST_COLUMNS`.
    """
    return [
        f"Text-first against direct RL: {_claim(row, f'{title} of {len(members)} benchmarks')}{_runs(row)}."
        for column, title, members in _averages(benchmarks)
        for _, row in contrasts[contrasts.column == column].iterrows()
        if (row.arm, row.against, column) == (*CLAIM, CLAIM_COLUMN)
    ]


def gains(table: pd.DataFrame, benchmarks: list[Benchmark]) -> list[str]:
    """One sentence per average on every arm but the control, the multimodal average first: it is the paper's claim.

    table: columns of `reports.cells.COLUMNS`.
    """
    sentences = []
    for name, title, members in reversed(_averages(benchmarks)):
        rows = table[(table.column == name) & ~table.arm.isin([BASELINE, CONTROL])]
        verdicts = "; ".join(f"{arm_title(row.arm)} {_verdict(row)}" for _, row in rows.iterrows())
        if verdicts:
            sentences.append(f"{title} of {len(members)} benchmarks, compared with the baseline: {verdicts}.")
    trained = table[table.arm != BASELINE]
    if sentences and not trained.seeds.astype(str).str.contains(";").any():
        sentences.append(f"Every arm is {ONE_RUN}, here and in all that follows.")
    return sentences


def control(table: pd.DataFrame, benchmarks: list[Benchmark]) -> list[str]:
    """One sentence on the arm whose reward ignores the answer, with a warning where it gains."""
    name, title, _ = _averages(benchmarks)[-1]
    sentences = []
    for _, row in table[(table.arm == CONTROL) & (table.column == name)].iterrows():
        reading = (
            " A reward that ignores the answer gains too: hold the other gains against this one."
            if row.diff_low > 0
            else ""
        )
        sentences.append(f"The random-reward control {_verdict(row)} in the {title}.{reading}")
    return sentences


def _averages(benchmarks: list[Benchmark]) -> list[tuple[str, str, tuple[Benchmark, ...]]]:
    return [c for c in columns(benchmarks) if c[0] in AVERAGES]


def _runs(row: pd.Series) -> str:
    """What a contrast of single runs does not hold."""
    return "" if ";" in str(row.seeds) else f"; of each arm {ONE_RUN}"


def _claim(row: pd.Series, where: str) -> str:
    """Which side of the other arm an arm lies on, if any."""
    points, ends = _points(row)
    arm, against = arm_title(row.arm), arm_title(row.against)
    if not Interval(row["diff"], row.diff_low, row.diff_high).excludes_zero:
        return f"{arm} is not distinguishable from {against} in the {where} ({points} points, {ends})"
    side = "above" if row.diff_low > 0 else "below"
    return f"{arm} is {points.lstrip('+−')} points {side} {against} in the {where} ({ends})"


def _points(row: pd.Series) -> tuple[str, str]:
    """`+5.2` and `95 % interval +1.1 to +9.3`, in points; or that there is no interval."""
    mean, low, high = (f"{100 * v:+.1f}".replace("-", "−") for v in (row["diff"], row.diff_low, row.diff_high))
    unknown = Interval(row["diff"], row.diff_low, row.diff_high).unknown
    return mean, NO_INTERVAL if unknown else f"95\u00a0% interval {low} to {high}"


def _verdict(row: pd.Series) -> str:
    points, ends = _points(row)
    if not Interval(row["diff"], row.diff_low, row.diff_high).excludes_zero:
        return f"cannot be told from the baseline ({points} points, {ends})"
    return f"{'gains' if row.diff_low > 0 else 'loses'} {points.lstrip('+−')} points ({ends})"


def arm_cards(arms: list[dict[str, Any]], benchmarks: list[Benchmark]) -> list[dict[str, Any]]:
    """Per arm but the baseline its title and, per average, the difference to the baseline: for the page's first screen.

    arms: as `reports.page_tables.table_rows` gives them.
    """
    cards = []
    for arm in arms:
        cells = {cell["column"]: cell for cell in arm["cells"]}
        parts = [
            {
                "title": f"{title} of {len(members)}",
                "points": cells[name]["diff"],
                "ends": cells[name]["diff_ends"].replace("[", "95\u00a0% interval ["),
                "word": cells[name]["verdict"],
                "from": cells[name]["diff_from"],
            }
            for name, title, members in reversed(_averages(benchmarks))
            if cells[name]["diff"]
        ]
        cards += [{"arm": arm["name"], "title": arm["title"], "averages": parts}] if parts else []
    return cards


def side(row: pd.Series) -> str:
    """`gain` or `loss` where the interval of a difference excludes 0, else empty."""
    return "gain" if row.diff_low > 0 else "loss" if row.diff_high < 0 else ""


def verdict_counts(cells: pd.DataFrame) -> dict[str, int]:
    """{verdict: cells of a paper table that have it}, in a fixed order, without those of which there are none."""
    counts = cells.verdict.value_counts()
    return {word: int(counts[word]) for word in WORDS if word in counts}
