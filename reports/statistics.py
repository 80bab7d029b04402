"""Intervals of scores and of paired differences, over seeds and items.

Axis letters: k seeds, n items of one benchmark, B benchmarks in an average. A part is the (k, n) array of per-item
scores of one benchmark. All intervals cover 95 %. Seeds are a random effect: their spread is part of every interval.

Sources: Miller 2024 (arXiv 2411.00640) for paired differences, item sampling and clusters, Satterthwaite 1946 for the
degrees of freedom, Wilson 1927 for one proportion, Tango 1998 for two paired ones, Donner & Zou 2012 (MOVER) for
averages of proportions, Holm 1979 and Benjamini & Hochberg 1995 for several tests at once.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from scipy.special import ndtri, stdtr, stdtrit
from statsmodels.stats.multitest import multipletests

from lmmr1.types import UserError
from reports.paired import Discordance, discordance, mcnemar_p, tango_interval, tango_p
from reports.unpaired import Share

Z = float(ndtri(0.975))
NO_INTERVAL = "no interval"
"""What a reader sees in its place where a benchmark has one problem: nothing is known of the spread."""


@dataclass(frozen=True, slots=True)
class Interval:
    """An estimate with its 95 % interval, as fractions (not percent); both ends are nan where none is known."""

    mean: float
    low: float
    high: float
    p: float = math.nan
    """Two-sided p-value of a mean of 0; nan where there is none (Wilson).

    Of the t statistic behind the interval, below 5 % just where it excludes 0; for one run against one exact McNemar,
    which is a little stricter than the interval.
    """
    item_variance: float = math.nan
    """Part of the squared standard error that shrinks with more items."""
    other_variance: float = math.nan
    """Part that does not: seeds, and the sampling error of a published number."""
    df: float = math.nan
    """Degrees of freedom of the t statistic."""
    pairs: Discordance | None = None
    """Counts of one run against one, where the tests are Tango's and McNemar's instead of t."""

    def p_at_most(self, shift: float) -> float:
        """One-sided p-value of H0: the true mean <= `shift`; 1 - p is that of H0: >= shift.

        With shift = -margin it is the test of non-inferiority; with both margins, TOST.
        """
        if self.pairs is not None:
            return tango_p(self.pairs, shift)
        se = math.sqrt(self.item_variance + self.other_variance)
        return float(stdtr(self.df, -(self.mean - shift) / se)) if se else float(self.mean <= shift)

    @property
    def unknown(self) -> bool:
        """Whether there is no interval: one item says nothing of the spread."""
        return math.isnan(self.low)

    @property
    def half_width(self) -> float:
        """The distance from the mean to the farther end; both are the same but for Wilson and at the limits."""
        return max(self.mean - self.low, self.high - self.mean)

    @property
    def excludes_zero(self) -> bool:
        """Whether 0 lies outside."""
        return self.low > 0 or self.high < 0


def wilson(mean: float, n: int) -> tuple[float, float]:
    """Wilson's score interval of a proportion `mean` = successes / n: (low, high); (0, 1) for n = 0.

    (p + z^2/2n ± z sqrt(p(1-p)/n + z^2/4n^2)) / (1 + z^2/n); the ends are exact at 0 and n successes.
    """
    if n == 0:
        return 0.0, 1.0
    centre = (mean + Z**2 / (2 * n)) / (1 + Z**2 / n)
    half = Z * math.sqrt(max(mean * (1 - mean), 0.0) / n + Z**2 / (4 * n**2)) / (1 + Z**2 / n)
    return (0.0 if mean == 0 else centre - half), (1.0 if mean == 1 else centre + half)


def ends_text(low: float | None, high: float | None, shown: Callable[[float], str] = "{:+.1f}".format) -> str:
    """`[-1.2, +3.4]`, each end as `shown` writes it, or that there is no interval.

    >>> ends_text(-1.2, 3.4), ends_text(math.nan, math.nan), ends_text(None, None)
    ('[-1.2, +3.4]', 'no interval', 'no interval')
    """
    known = low is not None and high is not None and not math.isnan(low)
    return f"[{shown(low)}, {shown(high)}]" if known else NO_INTERVAL


@dataclass(frozen=True, slots=True, eq=False)
class Design:
    """How the n items of one benchmark hang together; without labels they are independent and of one kind."""

    clusters: np.ndarray | None = None
    """(n,) labels of the problem that an item belongs to: items of one problem are not independent."""
    strata: np.ndarray | None = None
    """(n,) labels of the categories of a macro average: what differs between them is no sampling error."""

    @property
    def plain(self) -> bool:
        """Whether the theory of independent items of one kind holds: Wilson's, Tango's, McNemar's."""
        return self.clusters is None and self.strata is None


INDEPENDENT = Design()
Designs = Sequence[Design]
"""One per benchmark."""


def score_interval(parts: list[np.ndarray], designs: Designs | None = None, points: bool = False) -> Interval:
    """The unweighted mean of B benchmarks (B = 1: the benchmark itself) with its interval.

    parts: B arrays (k, n_b) with the same k seeds in the same order.
    k = 1, plain items and scores 0 or 1: Wilson for B = 1; for B > 1 MOVER: low = m - sqrt(sum_b (m_b - l_b)^2) / B,
    l_b Wilson's. It says nothing of seeds. Otherwise `_t_interval`, cut to [0, 1].
    points: an agent's scores / 100, which no limits hold and which are no proportions: `_t_interval` as it is.
    A benchmark with one problem has no interval, and no average with it. Raises UserError for one without items.
    """
    designs = designs or [INDEPENDENT] * len(parts)
    too_few = _too_few(parts, designs)
    mean = float(np.mean([p.mean() for p in parts]))
    if too_few:
        return Interval(mean, math.nan, math.nan)
    items = _item_terms([p.mean(axis=0) for p in parts], designs, 0.0 if points else 1.0)
    if points:
        return _t_interval(mean, [_seed_term(parts)], items, -math.inf, math.inf)
    found = _t_interval(mean, [_seed_term(parts)], items, 0.0)
    plain = all(design.plain for design in designs)
    if len(parts[0]) > 1 or not plain or any(not np.isin(p, (0, 1)).all() for p in parts):
        return found
    means = [float(p.mean()) for p in parts]
    ends = [wilson(m, p.shape[1]) for m, p in zip(means, parts, strict=True)]
    below = math.sqrt(sum((m - low) ** 2 for m, (low, _) in zip(means, ends, strict=True))) / len(parts)
    above = math.sqrt(sum((high - m) ** 2 for m, (_, high) in zip(means, ends, strict=True))) / len(parts)
    return replace(found, low=max(mean - below, 0.0), high=min(mean + above, 1.0), p=math.nan)


def difference_interval(
    parts: list[np.ndarray], base: list[np.ndarray], designs: Designs | None = None, points: bool = False
) -> Interval:
    """The mean difference arm - base, paired by item, averaged over B benchmarks without weights.

    parts: B arrays (k, n_b); base: B arrays (k', n_b), of the baseline or of another arm, with the same items in the
    same order.
    Per item: mean over the arm's seeds minus mean over the base's runs; its variance over items / n_b is the item
    part, over clusters and within strata where the design has them. Seed parts: of the arm (k > 1) and of the base
    (k' > 1), taken as independent. See `_t_interval`; cut to [-1, 1]. One run against one, on one benchmark of plain
    items, right or wrong, has an exact theory: Tango's interval, and McNemar's p. points: as for `score_interval`.
    A benchmark with one problem has no interval, and no average with it. Raises UserError for one without items.
    """
    designs = designs or [INDEPENDENT] * len(parts)
    too_few = _too_few(parts, designs)
    items = [a.mean(axis=0) - b.mean(axis=0) for a, b in zip(parts, base, strict=True)]
    mean = float(np.mean([d.mean() for d in items]))
    if too_few:
        return Interval(mean, math.nan, math.nan)
    seeds = [_seed_term(parts), _seed_term(base)]
    if points:
        return _t_interval(mean, seeds, _item_terms(items, designs, 0.0), -math.inf, math.inf)
    found = _t_interval(mean, seeds, _item_terms(items, designs), -1.0)
    if _is_one_pair(parts, base, designs):
        pairs = discordance(parts[0][0], base[0][0])
        low, high = tango_interval(pairs)
        return replace(found, low=low, high=high, p=mcnemar_p(pairs), pairs=pairs)
    return found


def published_interval(parts: list[np.ndarray], published: list[Share], designs: Designs | None = None) -> Interval:
    """Measured minus published, averaged over B benchmarks: unpaired, as a published share has no items.

    Both sides' sampling errors count. The published run saw the same items, so its errors are really correlated with
    ours, mostly in our favour: the interval errs on the wide side.
    A benchmark with one problem has no interval, and no average with it. Raises UserError for one without items.
    """
    designs = designs or [INDEPENDENT] * len(parts)
    too_few = _too_few(parts, designs)
    mean = float(np.mean([p.mean() - s.value for p, s in zip(parts, published, strict=True)]))
    if too_few:
        return Interval(mean, math.nan, math.nan)
    printed = [(s.variance / len(parts) ** 2, math.inf) for s in published]
    items = _item_terms([p.mean(axis=0) for p in parts], designs)
    return _t_interval(mean, [_seed_term(parts), *printed], items, -1.0)


def against_printed(measured: Interval, printed: float, variance: float) -> Interval:
    """A measured score or gain minus the printed one, which has this sampling variance; see `published_interval`."""
    if measured.unknown:
        return Interval(measured.mean - printed, math.nan, math.nan)
    own = (measured.item_variance, measured.df)
    return _t_interval(
        measured.mean - printed, [(measured.other_variance, measured.df), (variance, math.inf)], [own], -1.0
    )


def _is_one_pair(parts: list[np.ndarray], base: list[np.ndarray], designs: Designs) -> bool:
    """One run against one on one benchmark of independent items that are right or wrong."""
    one = len(parts) == len(parts[0]) == len(base[0]) == 1 and designs[0].plain
    return one and bool(np.isin(parts[0], (0, 1)).all() and np.isin(base[0], (0, 1)).all())


def adjusted(p: np.ndarray, method: Literal["holm", "fdr_bh"]) -> np.ndarray:
    """m p-values (m,) adjusted for m tests at once: below 5 % just where the correction finds significance.

    >>> adjusted(np.array([0.01, 0.04]), "holm").round(3).tolist()
    [0.02, 0.04]
    """
    return multipletests(p, alpha=0.05, method=method)[1] if len(p) else p


def survives_holm(p: np.ndarray) -> np.ndarray:
    """Which of m p-values (m,) are significant at 5 % after Holm's correction for m tests: (m,) of bool.

    >>> survives_holm(np.array([0.01, 0.04, 0.03, 0.012])).tolist()  # up to 0.05 / 4, / 3, then 0.03 > 0.05 / 2
    [True, False, False, True]
    """
    return multipletests(p, alpha=0.05, method="holm")[0] if len(p) else p.astype(bool)


def _too_few(parts: list[np.ndarray], designs: Designs) -> bool:
    """Whether a benchmark has one independent problem, of which nothing varies. Raises UserError for one without."""
    if any(part.shape[1] == 0 for part in parts):
        raise UserError("a benchmark with 0 items has no score; evaluate it")
    labels = (range(p.shape[1]) if d.clusters is None else d.clusters for p, d in zip(parts, designs, strict=True))
    return any(len(set(of)) < 2 for of in labels)


def _seed_term(parts: list[np.ndarray]) -> tuple[float, float]:
    """(s^2 / k, k - 1), s^2 the variance over seeds of the per-seed averages; (0, 1) for one seed."""
    per_seed = np.mean([p.mean(axis=1) for p in parts], axis=0)
    k = len(per_seed)
    return (float(per_seed.var(ddof=1)) / k, k - 1.0) if k > 1 else (0.0, 1.0)


def _item_terms(items: list[np.ndarray], designs: Designs, floor: float = 1.0) -> list[tuple[float, float]]:
    """Per benchmark (var_b / B^2, df_b), benchmarks being independent samples of items; see `_item_variance`.

    The variance is never taken below (z / (m + z^2))^2, m the independent units: with it, items that are all alike get
    the half-width z^2 / (m + z^2), which is Wilson's upper bound after 0 of m, instead of 0. `floor` scales that bound:
    0 takes the variance as it is.
    """
    terms = []
    for d, design in zip(items, designs, strict=True):
        variance, units, df = _item_variance(d, design)
        terms.append((max(variance, floor * (Z / (units + Z**2)) ** 2) / len(items) ** 2, df))
    return terms


def _item_variance(d: np.ndarray, design: Design) -> tuple[float, int, float]:
    """Variance of the mean of d (n,), how many independent units are behind it, and its degrees of freedom.

    sum_h C_h / (C_h - 1) sum_{c in h} (sum_{i in c} (d_i - mean_h))^2 / n^2 over strata h and their C_h clusters, as in
    stratified cluster sampling (Cochran 1977, ch. 5 and 9); one stratum and clusters of one item: var(d) / n. A cluster
    that lies in several strata is one unit of the whole: MathVerse's versions share their problems.
    """
    n = len(d)
    strata = np.zeros(n, int) if design.strata is None else np.unique(design.strata, return_inverse=True)[1]
    means = np.bincount(strata, weights=d) / np.bincount(strata)
    units = np.arange(n) if design.clusters is None else np.unique(design.clusters, return_inverse=True)[1]
    sums = np.bincount(units, weights=d - means[strata])
    count = len(sums)
    first = np.unique(units, return_index=True)[1]
    homes = strata[first]
    if (homes[units] != strata).any():
        return count / (count - 1) * float((sums**2).sum()) / n**2, count, count - 1.0
    sizes = np.bincount(homes, minlength=len(means))
    # `reports.cells.design_of` gives no stratum of a single unit, of which no spread is known
    factors = np.where(sizes > 1, sizes / np.maximum(sizes - 1, 1), 1.0)
    return float((factors[homes] * sums**2).sum()) / n**2, count, float(max(count - len(means), 1))


def _error(terms: list[tuple[float, float]]) -> tuple[float, float]:
    """Standard error and Satterthwaite's degrees of freedom: SE^2 = sum v, df = (sum v)^2 / sum(v^2 / df_v)."""
    total = sum(v for v, _ in terms)
    return math.sqrt(total), total**2 / sum(v**2 / d for v, d in terms) if total else 1.0


def _t_interval(
    mean: float,
    others: list[tuple[float, float]],
    items: list[tuple[float, float]],
    lowest: float,
    highest: float = 1.0,
) -> Interval:
    """mean ± t(0.975, df) SE over all terms (see `_error`), cut to [lowest, highest].

    p = 2 P(t(df) > |mean| / SE), below 0.05 just where the interval excludes 0; where nothing varies at all it is 1
    for a mean of 0, else 0.
    Crossed with items, s^2/k over seeds also holds a share of the sampling noise of single answers, which the item part
    holds too: the interval errs on the wide side where answers are drawn at random (simulated coverage 93-99 %).
    """
    se, df = _error([*others, *items])
    half = float(stdtrit(df, 0.975)) * se
    p = 2 * float(stdtr(df, -abs(mean) / se)) if se else float(mean == 0)
    parts = (sum(v for v, _ in items), sum(v for v, _ in others))
    return Interval(mean, max(mean - half, lowest), min(mean + half, highest), p, *parts, df)
