"""Intervals: right by a slow second implementation and by simulation, and sane where data are extreme."""

from __future__ import annotations

import math
import statistics as plain

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import t as student
from statsmodels.stats.proportion import proportion_confint

from reports.statistics import Z, difference_interval, score_interval, survives_holm, wilson


def slow_interval(parts: list[list[list[float]]], base: list[list[list[float]]] | None) -> tuple[float, ...]:
    """Mean, low, high, p. Plain lists and loops: parts[benchmark][seed][item]. No limits applied."""
    terms = []
    for runs in [parts] if base is None else [parts, base]:
        k = len(runs[0])
        averages = [plain.fmean(plain.fmean(part[s]) for part in runs) for s in range(k)]
        if k > 1:
            terms.append((plain.variance(averages) / k, k - 1))
    means = []
    for b, part in enumerate(parts):
        n = len(part[0])
        items = [plain.fmean(run[i] for run in part) for i in range(n)]
        if base is not None:
            items = [x - plain.fmean(run[i] for run in base[b]) for i, x in enumerate(items)]
        means.append(plain.fmean(items))
        at_least = (Z / (n + Z * Z)) ** 2
        terms.append((max(plain.variance(items) / n, at_least) / len(parts) ** 2, n - 1))
    variance = sum(v for v, _ in terms)
    df = variance**2 / sum(v * v / d for v, d in terms)
    mean, half = plain.fmean(means), student.ppf(0.975, df) * math.sqrt(variance)
    return mean, mean - half, mean + half, 2 * student.sf(abs(mean) / math.sqrt(variance), df)


def draw(rng: np.random.Generator, k: int, sizes: list[int]) -> list[np.ndarray]:
    return [(rng.random((k, n)) < rng.beta(2, 2, n)).astype(float) for n in sizes]


@given(seed=st.integers(0, 10_000), k=st.integers(2, 5), sizes=st.lists(st.integers(2, 40), min_size=1, max_size=4))
@settings(max_examples=40, deadline=None)
def test_equals_the_slow_version(seed: int, k: int, sizes: list[int]) -> None:
    rng = np.random.default_rng(seed)
    parts, base = draw(rng, k, sizes), draw(rng, 1 + seed % 4, sizes)
    for got, want, lowest in (
        (score_interval(parts), slow_interval([p.tolist() for p in parts], None), 0.0),
        (
            difference_interval(parts, base),
            slow_interval([p.tolist() for p in parts], [b.tolist() for b in base]),
            -1.0,
        ),
    ):
        limited = (want[0], max(want[1], lowest), min(want[2], 1.0), want[3])
        assert np.allclose((got.mean, got.low, got.high, got.p), limited, rtol=0, atol=1e-9)


@given(seed=st.integers(0, 10_000), k=st.integers(1, 4), shift=st.floats(-0.4, 0.4))
@settings(max_examples=60, deadline=None)
def test_p_is_below_5_percent_just_where_the_interval_excludes_0(seed: int, k: int, shift: float) -> None:
    (base,) = draw(np.random.default_rng(seed), k, [30])
    (arm,) = draw(np.random.default_rng(seed + 1), 3, [30])
    got = difference_interval([arm + shift], [base])
    assert (got.p < 0.05) == got.excludes_zero and 0 <= got.p <= 1
    assert difference_interval([base], [arm + shift]).p == pytest.approx(got.p)


@given(p=st.lists(st.floats(0, 0.1), max_size=8))
@settings(max_examples=25, deadline=None)  # statsmodels collects garbage in every call
def test_holm_equals_the_slow_version(p: list[float]) -> None:
    """From the smallest p on: m - i tests are left at the i-th, and the first that fails ends it."""
    want, order = [False] * len(p), sorted(range(len(p)), key=lambda i: p[i])
    for rank, i in enumerate(order):
        if p[i] > 0.05 / (len(p) - rank):
            break
        want[i] = True
    assert survives_holm(np.array(p)).tolist() == want


@given(n=st.integers(2, 400), share=st.floats(0, 1))
@settings(max_examples=60, deadline=None)
def test_one_run_gives_wilsons_interval(n: int, share: float) -> None:
    successes = round(share * n)
    part = np.array([[1.0] * successes + [0.0] * (n - successes)])
    got = score_interval([part])
    assert np.allclose((got.low, got.high), proportion_confint(successes, n, method="wilson"), rtol=0, atol=1e-12)
    assert got.low <= got.mean <= got.high


def test_average_of_one_run_combines_the_wilson_intervals() -> None:
    parts = [np.array([[1.0] * k + [0.0] * (50 - k)]) for k in (0, 20)]
    (low, high), (low_2, high_2) = wilson(0.0, 50), wilson(0.4, 50)
    got = score_interval(parts)
    assert got.mean == pytest.approx(0.2)
    assert got.low == pytest.approx(0.2 - math.hypot(0 - low, 0.4 - low_2) / 2)
    assert got.high == pytest.approx(0.2 + math.hypot(high - 0, high_2 - 0.4) / 2)


@pytest.mark.parametrize(
    ("seed_sd", "benchmarks", "paired"),
    [(0.0, 1, False), (0.03, 1, False), (0.08, 1, True), (0.03, 5, False), (0.0, 2, True), (0.03, 5, True)],
)
def test_coverage_with_three_seeds(seed_sd: float, benchmarks: int, paired: bool) -> None:
    """Items of a benchmark are a sample, seeds shift all of them; the true mean is known. 2,000 draws."""
    rng, n, trials, hits = np.random.default_rng(1), 120, 2000, 0
    for _ in range(trials):
        shift = rng.normal(0, seed_sd, (3, 1))
        parts, base = [], []
        for _ in range(benchmarks):
            # each item is easy or hard by a threshold, and a fifth of the answers is drawn anew for every seed
            threshold = rng.random(n)
            noisy = np.where(rng.random((3, n)) < 0.2, rng.random((3, n)), threshold)
            parts.append((noisy < 0.5 + shift).astype(float))
            base.append((np.where(rng.random((1, n)) < 0.2, rng.random((1, n)), threshold) < 0.4).astype(float))
        truth = 0.1 if paired else 0.5
        got = difference_interval(parts, base) if paired else score_interval(parts)
        hits += got.low <= truth <= got.high
    assert 0.92 <= hits / trials <= 0.98


@pytest.mark.parametrize("k", [1, 3])
def test_items_all_alike_still_have_an_interval(k: int) -> None:
    right, wrong = [np.ones((k, 100))], [np.zeros((1, 100))]
    score, diff, none = score_interval(right), difference_interval(right, wrong), difference_interval(right, right)
    bound = Z**2 / (100 + Z**2)
    assert (score.mean, score.high, diff.mean, none.mean) == (1.0, 1.0, 1.0, 0.0)
    assert score.low == pytest.approx(1 - bound, abs=2e-3)
    assert none.half_width == pytest.approx(bound, abs=2e-3)
    assert diff.excludes_zero and not none.excludes_zero


def test_one_seed_has_no_seed_part() -> None:
    rng = np.random.default_rng(3)
    (arm,), (base,) = draw(rng, 1, [80]), draw(rng, 1, [80])
    half = arm * 0.5  # other scores than 0 and 1: the general theory
    got, d = difference_interval([half], [base]), (half - base)[0]
    assert got.half_width == pytest.approx(student.ppf(0.975, 79) * d.std(ddof=1) / math.sqrt(80))


def test_order_of_items_seeds_and_benchmarks_does_not_matter() -> None:
    rng = np.random.default_rng(4)
    parts, base = draw(rng, 3, [50, 70]), draw(rng, 1, [50, 70])
    mixed = [rng.permutation(p.shape[1]) for p in parts]
    shuffled = [p[[2, 0, 1]][:, m] for p, m in zip(parts, mixed, strict=True)][::-1]
    shuffled_base = [b[:, m] for b, m in zip(base, mixed, strict=True)][::-1]
    for a, b in (
        (score_interval(parts), score_interval(shuffled)),
        (difference_interval(parts, base), difference_interval(shuffled, shuffled_base)),
    ):
        assert np.allclose((a.mean, a.low, a.high), (b.mean, b.low, b.high), rtol=0, atol=1e-12)


@pytest.mark.parametrize("seed_sd", [0.0, 0.05])
def test_contrast_of_two_equal_arms_is_rarely_significant(seed_sd: float) -> None:
    """Both arms have three seeds that shift all items; the true difference is 0. 2,000 draws."""
    rng, n, trials, alarms = np.random.default_rng(2), 120, 2000, 0
    for _ in range(trials):
        threshold = rng.random(n)
        runs = []
        for _ in range(2):
            answers = np.where(rng.random((3, n)) < 0.2, rng.random((3, n)), threshold)
            runs.append((answers < 0.5 + rng.normal(0, seed_sd, (3, 1))).astype(float))
        alarms += difference_interval([runs[0]], [runs[1]]).p < 0.05
    assert alarms / trials <= 0.065


def test_pairing_pays() -> None:
    rng = np.random.default_rng(5)
    difficulty = rng.random(200)
    base = (difficulty < 0.4).astype(float)[None]
    arm = (difficulty + rng.normal(0, 0.02, (3, 200)) < 0.5).astype(float)
    paired = difference_interval([arm], [base]).half_width
    assert paired < 0.8 * math.hypot(score_interval([arm]).half_width, score_interval([base]).half_width)
