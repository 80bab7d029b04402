"""One word per cell: `reproduced`, `higher`, `lower`, `inconclusive` (with an n), `not comparable` (in what).

The rule: reproduced where the whole 95 % interval of the difference lies inside ± margin (two one-sided tests at
2.5 %); else higher or lower where the difference is significant at 5 % after correction over the family; else
inconclusive.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from reports.power import equivalence_error
from reports.rules import Rules
from reports.statistics import NO_INTERVAL, Interval, adjusted

REPRODUCED, HIGHER, LOWER = "reproduced", "higher", "lower"
INCONCLUSIVE, NOT_COMPARABLE = "inconclusive", "not comparable"
NOT_MEASURED = "not measured"
"""No verdict: the benchmark could not be run here, and the reason says why."""
ONE_RUN = "one run: the spread over seeds is not in it"
"""Stands behind every verdict on a single run."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """A word and what stands behind it; `p` is adjusted for the family."""

    word: str
    reason: str = ""
    p: float = math.nan


def judge(diff: Interval, p: float, margin: float, n: int, power: float = 0.8) -> Verdict:
    """The verdict on one difference. p: adjusted for the family; margin a fraction; n items measured.

    >>> judge(Interval(0.0, -0.01, 0.01, 1.0), 1.0, 0.02, 500).word
    'reproduced'
    >>> judge(Interval(0.05, 0.01, 0.09, 0.01), 0.01, 0.02, 500).word
    'higher'
    """
    if -margin < diff.low and diff.high < margin:
        return Verdict(REPRODUCED, f"the interval lies within ±{100 * margin:g} points", p)
    if p < 0.05 and diff.mean:
        return Verdict(HIGHER if diff.mean > 0 else LOWER, f"p = {p:.2g} after correction", p)
    return Verdict(INCONCLUSIVE, needed_text(diff, margin, n, power), p)


def needed_items(diff: Interval, margin: float, n: int, power: float, sides: int = 2) -> int | None:
    """Items with which a difference of 0 would be shown to lie within the margin, with this power; None: no number.

    sides: 1 where only a loss matters.

    Only the items' share of the variance shrinks with their number; that of seeds or of a printed number stays.
    """
    room = equivalence_error(margin, power, sides=sides) ** 2 - diff.other_variance
    return math.ceil(n * diff.item_variance / room) if room > 0 else None


def needed_text(diff: Interval, margin: float, n: int, power: float, sides: int = 2) -> str:
    """What would decide an inconclusive cell, in words."""
    if diff.unknown:
        return f"n = 1, {NO_INTERVAL}: a benchmark has one problem; evaluate at least 2"
    items = needed_items(diff, margin, n, power, sides)
    if items is None:
        rest = 100 * math.sqrt(diff.other_variance)
        total = (diff.item_variance + diff.other_variance) / equivalence_error(margin, power, sides=sides) ** 2
        return (
            f"more items alone would not do, seeds or the printed number leave an error of {rest:.1f} points; "
            f"{total:.1f} times the data on every side would (about {math.ceil(n * total):,} items)"
        )
    if items <= n:
        return f"the {n:,} items would do for a true difference of 0; this one may be near the margin"
    return f"about {items:,} items would do, {n:,} are there"


def judge_family(cells: list[tuple[str, Interval, int]], rules: Rules, averages: tuple[str, ...] = ()) -> list[Verdict]:
    """Verdicts on one family of differences, each (column, difference, items); averages are not corrected."""
    raw = np.array([diff.p for _, diff, _ in cells])
    tested = np.array([column not in averages for column, _, _ in cells], bool) & ~np.isnan(raw)
    p = raw.copy()
    if rules.correction != "none" and tested.any():
        p[tested] = adjusted(raw[tested], rules.correction)
    return [
        judge(diff, float(q), rules.margin_of(column), n, rules.power)
        for (column, diff, n), q in zip(cells, p, strict=True)
    ]
