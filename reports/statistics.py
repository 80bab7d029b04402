"""Intervals of scores and of paired differences, over seeds and items.

Axis letters: k seeds, n items of one benchmark, B benchmarks in an average. A part is the (k, n) array of per-item
scores of one benchmark. All intervals cover 95 %.

Sources: Miller 2024 (arXiv 2411.00640) for paired differences and item sampling, Satterthwaite 1946 for the degrees of
freedom, Wilson 1927 for one proportion, Donner & Zou 2012 (MOVER) for averages of proportions, Holm 1979 for several
tests at once.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from scipy.special import ndtri, stdtr, stdtrit
from statsmodels.stats.multitest import multipletests

from lmmr1.types import UserError

Z = float(ndtri(0.975))


@dataclass(frozen=True, slots=True)
class Interval:
    """An estimate with its 95 % interval, as fractions (not percent)."""

    mean: float
    low: float
    high: float
    p: float = math.nan
    """Two-sided p-value of a mean of 0, from the t statistic behind the interval; nan where there is none (Wilson)."""

    @property
    def half_width(self) -> float:
        """The distance from the mean to the farther end; both are the same but for Wilson and at the limits."""
        return max(self.mean - self.low, self.high - self.mean)

    @property
    def excludes_zero(self) -> bool:
        """Whether 0 lies outside."""
        return self.low > 0 or self.high < 0


def wilson(mean: float, n: int) -> tuple[float, float]:
    """Wilson's score interval of a proportion `mean` = successes / n: (low, high).

    (p + z^2/2n ± z sqrt(p(1-p)/n + z^2/4n^2)) / (1 + z^2/n); the ends are exact at 0 and n successes.
    """
    centre = (mean + Z**2 / (2 * n)) / (1 + Z**2 / n)
    half = Z * math.sqrt(max(mean * (1 - mean), 0.0) / n + Z**2 / (4 * n**2)) / (1 + Z**2 / n)
    return (0.0 if mean == 0 else centre - half), (1.0 if mean == 1 else centre + half)


def score_interval(parts: list[np.ndarray]) -> Interval:
    """The unweighted mean of B benchmarks (B = 1: the benchmark itself) with its interval.

    parts: B arrays (k, n_b) with the same k seeds in the same order.
    k = 1 and scores 0 or 1: Wilson for B = 1; for B > 1 MOVER: low = m - sqrt(sum_b (m_b - l_b)^2) / B, l_b Wilson's.
    It says nothing of seeds. Otherwise `_t_interval`, cut to [0, 1].
    Raises UserError for a benchmark with fewer than 2 items.
    """
    _require_items(parts)
    mean = float(np.mean([p.mean() for p in parts]))
    if len(parts[0]) > 1 or any(not np.isin(p, (0, 1)).all() for p in parts):
        return _t_interval(mean, [_seed_term(parts), *_item_terms([p.mean(axis=0) for p in parts])], 0.0)
    means = [float(p.mean()) for p in parts]
    ends = [wilson(m, p.shape[1]) for m, p in zip(means, parts, strict=True)]
    below = math.sqrt(sum((m - low) ** 2 for m, (low, _) in zip(means, ends, strict=True))) / len(parts)
    above = math.sqrt(sum((high - m) ** 2 for m, (_, high) in zip(means, ends, strict=True))) / len(parts)
    return Interval(mean, max(mean - below, 0.0), min(mean + above, 1.0))


def difference_interval(parts: list[np.ndarray], base: list[np.ndarray]) -> Interval:
    """The mean difference arm - base, paired by item, averaged over B benchmarks without weights.

    parts: B arrays (k, n_b); base: B arrays (k', n_b), of the baseline or of another arm, with the same items in the
    same order.
    Per item: mean over the arm's seeds minus mean over the base's runs; its variance over items / n_b is the item
    part. Seed parts: of the arm (k > 1) and of the base (k' > 1), taken as independent. See `_t_interval`; cut to
    [-1, 1].
    Raises UserError for a benchmark with fewer than 2 items.
    """
    _require_items(parts)
    items = [a.mean(axis=0) - b.mean(axis=0) for a, b in zip(parts, base, strict=True)]
    mean = float(np.mean([d.mean() for d in items]))
    return _t_interval(mean, [_seed_term(parts), _seed_term(base), *_item_terms(items)], -1.0)


def survives_holm(p: np.ndarray) -> np.ndarray:
    """Which of m p-values (m,) are significant at 5 % after Holm's correction for m tests: (m,) of bool.

    >>> survives_holm(np.array([0.01, 0.04, 0.03, 0.012])).tolist()  # up to 0.05 / 4, / 3, then 0.03 > 0.05 / 2
    [True, False, False, True]
    """
    return multipletests(p, alpha=0.05, method="holm")[0]


def _require_items(parts: list[np.ndarray]) -> None:
    for part in parts:
        if part.shape[1] < 2:
            raise UserError(f"a benchmark with {part.shape[1]} item(s) has no interval; evaluate at least 2 items")


def _seed_term(parts: list[np.ndarray]) -> tuple[float, float]:
    """(s^2 / k, k - 1), s^2 the variance over seeds of the per-seed averages; (0, 1) for one seed."""
    per_seed = np.mean([p.mean(axis=1) for p in parts], axis=0)
    k = len(per_seed)
    return (float(per_seed.var(ddof=1)) / k, k - 1.0) if k > 1 else (0.0, 1.0)


def _item_terms(items: list[np.ndarray]) -> list[tuple[float, float]]:
    """Per benchmark (var_i / n_b / B^2, n_b - 1), benchmarks being independent samples of items.

    The variance of the mean is never taken below (z / (n + z^2))^2: with it, items that are all alike get the
    half-width z^2 / (n + z^2), which is Wilson's upper bound after 0 of n, instead of 0.
    """
    terms = []
    for d in items:
        n = len(d)
        variance = max(float(d.var(ddof=1)) / n, (Z / (n + Z**2)) ** 2)
        terms.append((variance / len(items) ** 2, n - 1.0))
    return terms


def _t_interval(mean: float, terms: list[tuple[float, float]], lowest: float) -> Interval:
    """mean ± t(0.975, df) SE with SE^2 = sum of the terms' variances v and df = (sum v)^2 / sum(v^2 / df_v).

    p = 2 P(t(df) > |mean| / SE), below 0.05 just where the interval excludes 0.
    Crossed with items, s^2/k over seeds also holds a share of the sampling noise of single answers, which the item part
    holds too: the interval errs on the wide side where answers are drawn at random (simulated coverage 93-99 %).
    """
    total = sum(v for v, _ in terms)
    df = total**2 / sum(v**2 / d for v, d in terms)
    half = float(stdtrit(df, 0.975)) * math.sqrt(total)
    p = 2 * float(stdtr(df, -abs(mean) / math.sqrt(total)))
    return Interval(mean, max(mean - half, lowest), min(mean + half, 1.0), p)
