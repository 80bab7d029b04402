"""Tests and intervals for pairs, aggregates, clusters and power: equal to scipy and statsmodels, right by simulation."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats as sp
from scipy.optimize import minimize_scalar
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.power import NormalIndPower
from statsmodels.stats.proportion import proportion_confint

from lmmr1.types import UserError
from reports import power
from reports.paired import Discordance, clustered_bootstrap, discordance, mcnemar_p, tango_interval, tango_p, tango_z
from reports.statistics import Design, adjusted, difference_interval, published_interval, score_interval, wilson
from reports.unpaired import Share, average_difference, effective_n, largest_discordance, share_difference
from reproduce.published import registry

EXACT = {"rel": 1e-10, "abs": 1e-10}
PAIRS = st.tuples(st.integers(2, 400), st.floats(0, 1), st.floats(0, 1)).map(
    lambda t: Discordance(t[0], int(t[1] * t[2] * t[0]), int(t[1] * (1 - t[2]) * t[0]))
)


def pair_arrays(n: int, gained: int, lost: int) -> tuple[np.ndarray, np.ndarray]:
    first, second = np.zeros(n), np.zeros(n)
    first[:gained], second[gained : gained + lost] = 1, 1
    return first, second


# ------------------------------------------------------------------------------------- equal to other libraries


@given(pairs=PAIRS)
def test_mcnemar_is_scipys_binomial_test(pairs):
    total = pairs.gained + pairs.lost
    want = sp.binomtest(pairs.gained, total, 0.5).pvalue if total else 1.0
    assert mcnemar_p(pairs) == pytest.approx(want, **EXACT)


@given(a=st.integers(0, 300), b=st.integers(0, 300))
def test_unpaired_test_is_the_plain_formula(a, b):
    first, second = Share(a / 300, 300), Share(b / 300, 300)
    se = math.sqrt(first.value * (1 - first.value) / 300 + second.value * (1 - second.value) / 300)
    got = share_difference(first, second)
    assert got.half_width == pytest.approx(sp.norm.ppf(0.975) * se, **EXACT)
    if se:
        assert got.p == pytest.approx(2 * sp.norm.sf(abs(first.value - second.value) / se), **EXACT)
    else:
        assert got.p == (1.0 if a == b else 0.0)


@given(p=st.lists(st.floats(0, 1), min_size=1, max_size=30))
@settings(max_examples=5)  # statsmodels collects garbage in every call
def test_adjusted_p_values_decide_as_the_corrections_do(p):
    for method in ("holm", "fdr_bh"):
        assert adjusted(np.array(p), method) == pytest.approx(multipletests(p, 0.05, method)[1], **EXACT)
    if len(p) == 1:
        assert adjusted(np.array(p), "holm")[0] == p[0]


@given(n=st.integers(1, 3000), k=st.integers(0, 3000))
def test_wilson_is_statsmodels(n, k):
    k = min(k, n)
    assert wilson(k / n, n) == pytest.approx(proportion_confint(k, n, method="wilson"), rel=1e-9, abs=1e-12)


@given(base=st.floats(0.05, 0.9), gain=st.floats(0.001, 0.09), n=st.integers(20, 5000))
def test_unpaired_power_is_statsmodels(base, gain, n):
    spread = math.sqrt(base * (1 - base) + (base + gain) * (1 - base - gain))
    want = NormalIndPower().power(gain / spread, nobs1=n, alpha=0.05, ratio=0)
    assert power.unpaired_power(base, gain, n) == pytest.approx(want, **EXACT)


@given(difference=st.floats(0.01, 0.2), q=st.floats(0.21, 0.5), n=st.integers(50, 5000))
def test_paired_power_is_the_plain_formula(difference, q, n):
    z, root = sp.norm.ppf(0.975), math.sqrt(q - difference**2)
    want = sp.norm.sf((z * math.sqrt(q) - difference * math.sqrt(n)) / root)
    want += sp.norm.cdf((-z * math.sqrt(q) - difference * math.sqrt(n)) / root)
    assert power.paired_power(difference, q, n) == pytest.approx(want, **EXACT)


def test_detectable_gains_and_items_undo_the_power():
    gain = power.paired_detectable(0.25, 500)
    assert power.paired_power(gain, 0.25, 500) == pytest.approx(0.8)
    assert power.unpaired_power(0.6, power.unpaired_detectable(0.6, 500), 500) == pytest.approx(0.8)
    n = power.paired_items(0.03, 0.25)
    assert power.paired_power(0.03, 0.25, n - 1) < 0.8 <= power.paired_power(0.03, 0.25, n) + 1e-6
    assert math.isnan(power.paired_detectable(0.01, 20)) and math.isnan(power.unpaired_detectable(0.99, 20))
    se = power.equivalence_error(0.02)
    assert power.equivalence_margin(se) == pytest.approx(0.02)
    draws = np.random.default_rng(0).normal(0, se, 200_000)
    assert (np.abs(draws) + sp.norm.ppf(0.975) * se < 0.02).mean() == pytest.approx(0.8, abs=0.005)
    one = power.equivalence_error(0.02, sides=1)
    assert (
        np.random.default_rng(0).normal(0, one, 200_000) - sp.norm.ppf(0.975) * one > -0.02
    ).mean() == pytest.approx(0.8, abs=0.005)


@given(pairs=PAIRS)
def test_tango_at_0_is_mcnemars_statistic_and_its_interval_inverts_the_test(pairs):
    total = pairs.gained + pairs.lost
    if total:
        assert tango_z(pairs, 0.0) == pytest.approx((pairs.gained - pairs.lost) / math.sqrt(total), **EXACT)
    low, high = tango_interval(pairs)
    assert -1 <= low <= pairs.difference <= high <= 1
    z = sp.norm.ppf(0.975)
    for end, sign in ((low, 1), (high, -1)):
        if abs(end) < 1:
            assert sign * tango_z(pairs, end) == pytest.approx(z, abs=1e-6)
    mirrored = tango_interval(Discordance(pairs.n, pairs.lost, pairs.gained))
    assert mirrored == pytest.approx((-high, -low), abs=1e-9)


@given(pairs=PAIRS, shift=st.floats(-0.5, 0.5))
@settings(max_examples=40)
def test_tango_z_equals_a_score_test_by_numerical_likelihood(pairs, shift):
    """Score / sqrt(information) at the restricted maximum, found by search instead of the closed form."""
    n, b, c = pairs.n, pairs.gained, pairs.lost
    if min(abs(shift), 1 - abs(shift)) < 0.01 or not b + c:
        return
    low, high = max(0.0, -shift) + 1e-12, (1 - shift) / 2 - 1e-12
    log_likelihood = lambda p: b * np.log(p + shift) + c * np.log(p) + (n - b - c) * np.log(1 - 2 * p - shift)
    best = minimize_scalar(lambda p: -log_likelihood(p), bounds=(low, high), method="bounded", options={"xatol": 1e-14})
    want = (b - c - n * shift) / math.sqrt(n * (2 * best.x + shift * (1 - shift)))
    assert tango_z(pairs, shift) == pytest.approx(want, rel=1e-3, abs=1e-3)


# ------------------------------------------------------------------------------------- simulation


@pytest.mark.parametrize(("p", "n"), [(0.3, 198), (0.634, 500), (0.1, 1517)])
def test_wilson_covers(p, n):
    k = np.random.default_rng(0).binomial(n, p, 4000)
    covered = [low <= p <= high for low, high in (wilson(x / n, n) for x in k)]
    assert 0.93 <= np.mean(covered) <= 0.97


@pytest.mark.parametrize(("gain", "loss", "n"), [(0.12, 0.08, 500), (0.15, 0.15, 200), (0.02, 0.03, 1500)])
def test_tango_covers(gain, loss, n):
    draws = np.random.default_rng(1).multinomial(n, [gain, loss, 1 - gain - loss], 2000)
    hits = [low <= gain - loss <= high for low, high in (tango_interval(Discordance(n, b, c)) for b, c, _ in draws)]
    assert 0.93 <= np.mean(hits) <= 0.97


def clustered(
    rng: np.random.Generator, problems: int, versions: int, gain: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(first, second, labels): versions of a problem are answered alike, and the problem decides who gains."""
    skill = rng.random(problems)
    better = rng.random(problems) < 2 * gain
    labels = np.repeat(np.arange(problems), versions)
    noise = rng.random((2, problems * versions))
    base = (0.7 * skill[labels] + 0.3 * noise[0] < 0.5).astype(float)
    other = (0.7 * skill[labels] + 0.3 * noise[1] < 0.5).astype(float)
    other[better[labels] & (other == 0)] = 1
    return other, base, labels


def test_clusters_widen_the_interval_to_the_right_coverage():
    """Five correlated versions per problem: counting items as independent covers too rarely, problems as the unit not."""
    rng, naive, right, boot, trials = np.random.default_rng(2), 0, 0, 0, 500
    truth = np.mean([np.subtract(*clustered(np.random.default_rng(s), 4000, 5, 0.1)[:2]).mean() for s in range(20)])
    for _ in range(trials):
        first, second, labels = clustered(rng, 100, 5, 0.1)
        plain = difference_interval([first[None] * 0.5], [second[None] * 0.5])
        whole = difference_interval([first[None]], [second[None]], [Design(labels)])
        low, high = clustered_bootstrap(first - second, labels, resamples=300)
        naive += plain.low <= truth / 2 <= plain.high
        right += whole.low <= truth <= whole.high
        boot += low <= truth <= high
    assert naive / trials < 0.90
    assert 0.93 <= right / trials <= 0.97
    assert 0.925 <= boot / trials <= 0.975


def test_stratified_bootstrap_covers_a_macro_average():
    rng, hits, trials, sizes, gains = np.random.default_rng(3), 0, 400, (120, 200, 160), (0.2, 0.0, -0.05)
    strata = np.repeat(np.arange(3), sizes)
    for _ in range(trials):
        base = (rng.random(sum(sizes)) < 0.5).astype(float)
        up = np.repeat(np.abs(gains), sizes)
        arm = np.where(rng.random(sum(sizes)) < up, np.repeat(np.array(gains) > 0, sizes), base)
        low, high = clustered_bootstrap(arm - base, np.arange(sum(sizes)), strata, resamples=300)
        hits += low <= (0.2 * 0.5 + 0.0 - 0.05 * 0.5) / 3 <= high
    assert 0.925 <= hits / trials <= 0.975


@pytest.mark.parametrize("n", [200, 500, 1500])
@pytest.mark.parametrize("q", [0.021, 0.05, 0.25])
def test_gate_passes_a_checkpoint_at_the_margin_in_at_most_5_5_percent(n, q):
    """True loss exactly 2 points, discordance q: how often the gate's test says that the loss is smaller."""
    draws = np.random.default_rng(4).multinomial(n, [(q - 0.02) / 2, (q + 0.02) / 2, 1 - q], 4000)
    passed = np.mean([tango_p(Discordance(n, b, c), -0.02) < 0.025 for b, c, _ in draws])
    alarms = np.mean([1 - tango_p(Discordance(n, b, c), -0.02) < 0.025 for b, c, _ in draws])
    assert passed <= 0.035 and alarms <= 0.055


def test_gate_type_1_error_with_seeds():
    """Three seeds against one run, true loss at the margin; the interval over seeds and items is on the wide side."""
    rng, n, trials, wrong = np.random.default_rng(5), 300, 1000, 0
    for _ in range(trials):
        skill = rng.random(n)
        arm = (
            np.where(rng.random((3, n)) < 0.2, rng.random((3, n)), skill) < 0.48 + rng.normal(0, 0.02, (3, 1))
        ).astype(float)
        base = (np.where(rng.random((1, n)) < 0.2, rng.random((1, n)), skill) < 0.5).astype(float)
        wrong += difference_interval([arm], [base]).p_at_most(-0.02) < 0.025
    assert wrong / trials <= 0.055


def test_paired_detects_what_unpaired_does_not():
    """A gain of 3 points on the same 1000 items at 4 % discordance, 400 times."""
    rng, paired, unpaired = np.random.default_rng(6), 0, 0
    for _ in range(400):
        base = (rng.random(1000) < 0.6).astype(float)
        change = rng.random(1000)
        arm = np.where(change < 0.09, 1.0, np.where(change > 0.99, 0.0, base))
        gained, lost = discordance(arm, base).gained, discordance(arm, base).lost
        paired += mcnemar_p(Discordance(1000, gained, lost)) < 0.05 and gained > lost
        unpaired += share_difference(Share(arm.mean(), 1000), Share(base.mean(), 1000)).p < 0.05
    assert paired / 400 > 0.95 and unpaired / 400 < 0.4


@pytest.mark.parametrize("runs", [1, 3])
def test_difference_to_a_printed_number_covers(runs):
    """Printed and measured runs are drawn independently here: the assumption of the interval."""
    rng, n, trials, hits = np.random.default_rng(7), 400, 2000, 0
    for _ in range(trials):
        skill = rng.random(n)
        arm = (np.where(rng.random((runs, n)) < 0.3, rng.random((runs, n)), skill) < 0.55).astype(float)
        got = published_interval([arm], [Share(rng.binomial(400, 0.5) / 400, 400)])
        hits += got.low <= 0.05 <= got.high
    assert 0.93 <= hits / trials <= 0.98


# ------------------------------------------------------------------------------------- clusters and strata


@st.composite
def designed(draw, strata: int = 4, clusters: int = 6) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(differences in [-1, 1], stratum labels, cluster labels), each (n,): any clusters in any strata, at least 2."""
    n = draw(st.integers(2, 25))
    values = draw(st.lists(st.integers(-4, 4), min_size=n, max_size=n))
    of = draw(st.lists(st.integers(0, strata - 1), min_size=n, max_size=n))
    problems = draw(st.lists(st.integers(0, clusters - 1), min_size=n, max_size=n).filter(lambda p: len(set(p)) > 1))
    return np.array(values) / 4, np.array(of).astype(str), np.array(problems).astype(str)


def variance(values: np.ndarray, design: Design | None = None) -> tuple[float, float]:
    """(variance of the mean, degrees of freedom) of a difference; `points`, so that no floor stands in the way.

    Where nothing varies but by rounding there are no degrees of freedom to count: 1.
    """
    found = difference_interval([values[None]], [np.zeros((1, len(values)))], design and [design], points=True)
    return found.item_variance, found.df if found.item_variance > 1e-20 else 1.0


@given(data=designed())
def test_a_design_that_says_nothing_changes_nothing(data):
    """Every item its own cluster, or all items of one category: the plain formula var(d) / n with n - 1."""
    values, _, _ = data
    n, one = len(values), np.full(len(values), "x")
    spread = values.var(ddof=1) / n
    plain = pytest.approx((spread, n - 1 if spread > 1e-20 else 1), **EXACT)
    designs = [None, Design(np.arange(n)), Design(strata=one), Design(np.arange(n), one)]
    assert all(variance(values, design) == plain for design in designs)


@given(data=designed(), seed=st.integers(0, 9))
def test_neither_the_order_of_items_nor_the_names_of_labels_matter(data, seed):
    values, strata, clusters = data
    mixed = np.random.default_rng(seed).permutation(len(values))
    renamed = Design(np.char.add("z", clusters[mixed]), np.char.add("cat ", strata[mixed]))
    assert variance(values, Design(clusters, strata)) == pytest.approx(variance(values[mixed], renamed), **EXACT)


@given(data=designed(), shifts=st.lists(st.integers(-3, 3), min_size=4, max_size=4))
def test_what_differs_between_categories_is_no_sampling_error(data, shifts):
    values, strata, clusters = data
    moved = values + np.array(shifts)[strata.astype(int)]
    for design in (Design(strata=strata), Design(clusters, strata)):
        assert variance(moved, design) == pytest.approx(variance(values, design), rel=1e-9, abs=1e-9)


@given(data=designed())
def test_clusters_within_categories_are_textbook_stratified_sampling(data):
    """The sum over categories h of (n_h / n)^2 times the variance of the category's own mean, each by itself."""
    values, strata, clusters = data
    inside = np.char.add(np.char.add(strata, "/"), clusters)  # no cluster in two categories
    n, want, units = len(values), 0.0, len(set(inside))
    if units < 2:
        return
    for name in set(strata):
        of = strata == name
        if len(set(inside[of])) > 1:  # else the category says nothing of its spread
            want += (of.sum() / n) ** 2 * variance(values[of], Design(inside[of]))[0]
    df = max(units - len(set(strata)), 1) if want > 1e-20 else 1
    assert variance(values, Design(inside, strata)) == pytest.approx((want, df), **EXACT)


def test_a_stratified_variance_computed_by_hand():
    """a: 1, 0, 1 with s^2 = 1/3; b: 0, 0, 1, 1 with s^2 = 1/3: (3/7)^2 / 9 + (4/7)^2 / 12 = 1/21.

    In clusters {1, 0}, {1} of a and {0, 0}, {1, 1} of b: sums of deviations -1/3, 1/3, -1, 1, so
    (2 (1/9 + 1/9) + 2 (1 + 1)) / 49 = 40/441.
    """
    values, strata = np.array([1, 0, 1, 0, 0, 1, 1.0]), np.array(list("aaabbbb"))
    assert variance(values, Design(strata=strata)) == pytest.approx((1 / 21, 5))
    assert variance(values, Design(np.array(list("ppqrrss")), strata)) == pytest.approx((40 / 441, 2))


def test_a_cluster_in_several_categories_is_one_unit():
    """MathVerse: every problem once in every version. The variance is that of the problems' means."""
    rng = np.random.default_rng(11)
    first, second, problems = clustered(rng, 30, 5, 0.1)
    d, versions = first - second, np.tile(np.arange(5), 30)
    means = d.reshape(30, 5).mean(axis=1)
    want = pytest.approx((means.var(ddof=1) / 30, 29), **EXACT)
    assert variance(d, Design(problems, versions)) == want == variance(d, Design(problems))
    assert variance(d, Design(strata=versions))[0] < 0.7 * means.var(ddof=1) / 30, "the versions hang together"


@given(data=designed())
def test_a_category_with_one_item_adds_its_weight_and_no_variance(data):
    values, strata, _ = data
    n = len(values)
    without, df = variance(values, Design(strata=strata))
    more = Design(strata=np.append(strata, "alone"))
    assert variance(np.append(values, 0.75), more) == pytest.approx((without * n**2 / (n + 1) ** 2, df), **EXACT)


def test_strata_give_a_macro_average_the_right_coverage():
    """Categories of very different levels, weighed alike: the interval covers, and one that takes the levels for
    sampling error is wider than it need be."""
    rng, levels, sizes, trials, hits, wide = np.random.default_rng(12), (0.9, 0.5, 0.1), (30, 60, 90), 600, 0, 0
    strata = np.repeat(np.arange(3), sizes)
    weights = sum(sizes) / (3 * np.repeat(sizes, sizes))
    for _ in range(trials):
        scores = (rng.random(sum(sizes)) < np.repeat(levels, sizes)) * weights
        right = score_interval([scores[None]], [Design(strata=strata)], points=True)
        hits += right.low <= 0.5 <= right.high
        wide += score_interval([scores[None]], points=True).half_width > 1.2 * right.half_width
    assert 0.93 <= hits / trials <= 0.97
    assert wide == trials


# ------------------------------------------------------------------------------------- order and extremes


def test_order_of_rows_never_matters():
    rng = np.random.default_rng(8)
    first, second, labels = clustered(rng, 40, 5, 0.1)
    strata = np.where(labels < 15, "a", "b")
    mixed = rng.permutation(len(labels))
    assert clustered_bootstrap(first - second, labels, strata) == pytest.approx(
        clustered_bootstrap((first - second)[mixed], labels[mixed], strata[mixed])
    )
    assert discordance(first, second) == discordance(first[mixed], second[mixed])
    one, other = (
        difference_interval([a[None]], [b[None]], [Design(c)])
        for a, b, c in ((first, second, labels), (first[mixed], second[mixed], labels[mixed]))
    )
    assert (one.mean, one.low, one.high, one.p) == pytest.approx((other.mean, other.low, other.high, other.p))


def test_zero_discordance():
    pairs, (first, _) = Discordance(500, 0, 0), pair_arrays(500, 100, 0)
    assert mcnemar_p(pairs) == 1.0 and pairs.rate == 0
    z2 = sp.norm.ppf(0.975) ** 2
    assert tango_interval(pairs) == pytest.approx((-z2 / (500 + z2), z2 / (500 + z2)))
    got = difference_interval([first[None]], [first[None]])
    assert (got.mean, got.p, got.pairs) == (0.0, 1.0, pairs) and got.p_at_most(-0.02) < 0.001
    assert clustered_bootstrap(np.zeros(9), np.arange(9)) == (0.0, 0.0)


def test_all_lost_or_all_gained():
    for gained, lost in ((50, 0), (0, 50)):
        first, second = pair_arrays(50, gained, lost)
        got = difference_interval([first[None]], [second[None]])
        assert got.excludes_zero and abs(got.mean) == 1 and -1 <= got.low <= got.high <= 1


@pytest.mark.parametrize("call", [
    lambda: discordance(np.array([]), np.array([])),
    lambda: discordance(np.ones(3), np.ones(4)),
    lambda: discordance(np.full(3, 0.5), np.ones(3)),
    lambda: clustered_bootstrap(np.array([]), np.array([])),
    lambda: clustered_bootstrap(np.ones(5), np.zeros(5)),
    lambda: clustered_bootstrap(np.ones(4), np.arange(4), np.array(["a", "a", "a", "b"])),
    lambda: Share(0.5, 0),
    lambda: Share(1.5, 10),
    lambda: difference_interval([np.ones((1, 0))], [np.ones((1, 0))]),
    lambda: published_interval([np.ones((1, 0))], [Share(0.5, 10)]),
    lambda: score_interval([np.ones((3, 0))]),
])  # fmt: skip
def test_nothing_to_compare_is_refused(call):
    with pytest.raises(UserError):
        call()


def test_wilson_of_nothing_says_nothing():
    assert wilson(0.0, 0) == (0.0, 1.0)


# ------------------------------------------------------------------------------------- the notes' numbers


def share(row: str, column: str, icc: float = 0.5) -> Share:
    cell = registry().cell(f"table1.{row}.{column}")
    return Share(cell.value / 100, effective_n(cell.spec.n, cell.spec.per_problem, icc))


COLUMNS = [name for name, spec in registry().tables["table1"].columns.items() if spec.n]
MM = COLUMNS[2:]


@pytest.mark.parametrize(("row", "column", "delta", "half", "p"), [
    ("fre_text", "math500", 2.00, 5.9, 0.51), ("fre_text", "gpqa", 6.57, 9.3, 0.17), ("fre_text", "mathvision", 2.17, 2.2, 0.0496),
    ("fre_text", "mathverse", 4.19, 3.7, 0.026), ("fre_text", "mmstar", 3.75, 3.6, 0.039), ("fre_text", "mathvista", 0.70, 4.3, 0.75),
    ("fre_multi", "mmstar", 7.36, 3.6, 5e-5), ("mgt_geo", "olympiadbench", 4.35, 2.3, 3e-4), ("mgt_percereason", "gpqa", 8.59, 9.3, 0.071),
])  # fmt: skip
def test_claims_of_table_1(row, column, delta, half, p):
    got = share_difference(share(row, column), share("qwen", column))
    assert 100 * got.difference == pytest.approx(delta, abs=0.005)
    assert 100 * got.half_width == pytest.approx(half, abs=0.05)
    assert got.p == pytest.approx(p, rel=0.1)


def test_counts_after_correction():
    rows = ("fre_text", "fre_multi", "mgt_geo", "mgt_percereason")
    p = np.array([share_difference(share(r, c), share("qwen", c)).p for r in rows for c in COLUMNS])
    assert (len(p), (p < 0.05).sum()) == (28, 13)
    assert (adjusted(p, "fdr_bh") < 0.05).sum() == 9 and (adjusted(p, "holm") < 0.05).sum() == 7


@pytest.mark.parametrize(("first", "second", "delta", "half"), [
    ("mgt_percereason", "qwen", 4.83, 1.48), ("fre_text", "qwen", 3.23, 1.48), ("fre_multi", "qwen", 3.47, 1.47),
    ("fre_text", "fre_multi", -0.24, 1.48), ("mgt_percereason", "fre_text", 1.60, 1.50),
])  # fmt: skip
def test_multimodal_averages(first, second, delta, half):
    got = average_difference([share(first, c) for c in MM], [share(second, c) for c in MM])
    assert (100 * got.difference, 100 * got.half_width) == (
        pytest.approx(delta, abs=0.006),
        pytest.approx(half, abs=0.006),
    )


def test_discordance_at_which_a_claim_would_hold():
    for row, column, q in (
        ("fre_text", "gpqa", 0.23),
        ("fre_text", "mathvista", 0.01),
        ("mgt_percereason", "gpqa", 0.39),
    ):
        gap, n = share_difference(share(row, column), share("qwen", column)).difference, share(row, column).n
        assert largest_discordance(gap, n) == pytest.approx(q, abs=0.006)
        at = largest_discordance(gap, n)  # just there, the paired interval touches 0
        assert abs(gap) == pytest.approx(sp.norm.ppf(0.975) * math.sqrt((at - gap**2) / n))
    assert largest_discordance(0.0534, 1517) == 1.0


def test_power_per_benchmark():
    """Smallest gain found with 80 % power, unpaired and paired at q = 0.25; margin of an equivalence test at 5 %."""
    expected = {
        "math500": (8.3, 6.2, 8.9), "gpqa": (13.5, 9.9, 14.3), "olympiadbench": (3.3, 3.6, 3.9), "mathvision": (3.1, 2.5, 3.3),
        "mathverse": (5.3, 3.9, 5.6), "mmstar": (5.1, 3.6, 5.3), "mathvista": (6.0, 4.4, 6.3),
    }  # fmt: skip
    for column, (unpaired, paired, margin) in expected.items():
        base, se = share("qwen", column), math.sqrt(2 * share("mgt_percereason", column).variance)
        assert 100 * power.unpaired_detectable(base.value, base.n) == pytest.approx(unpaired, abs=0.06)
        assert 100 * power.paired_detectable(0.25, base.n) == pytest.approx(paired, abs=0.06)
        assert 100 * power.equivalence_margin(se, alpha=0.05) == pytest.approx(margin, abs=0.06)
    assert power.paired_items(0.025, 0.25) == pytest.approx(3100, rel=0.02)
    assert power.paired_items(0.004, 0.25) == pytest.approx(120_000, rel=0.03)
