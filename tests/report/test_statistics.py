from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from flaxfit.report.statistics import Interval, auc_interval, compare, delong, family, interval, mcnemar, share

A = [0.612, 0.583, 0.601, 0.629, 0.595, 0.604]
B = [0.598, 0.585, 0.580, 0.607, 0.571, 0.596]


def held(intervals, truth, level=0.95):
    """The share of intervals that hold the truth, in units of the binomial's standard error from `level`."""
    share = np.mean([i.low <= truth <= i.high for i in intervals])
    return (share - level) / math.sqrt(level * (1 - level) / len(intervals))


@pytest.mark.parametrize("level", [0.8, 0.95])
def test_the_interval_of_a_mean_is_scipys(level):
    found = interval(A, level)
    assert (found.low, found.high) == pytest.approx(stats.t.interval(level, 5, np.mean(A), stats.sem(A)), rel=1e-12)
    assert (found.mean, found.sd, found.count) == (pytest.approx(np.mean(A)), pytest.approx(np.std(A, ddof=1)), 6)
    drawn = stats.bootstrap((A,), np.mean, confidence_level=level, method="BCa", rng=np.random.default_rng(3)).confidence_interval
    found = interval(A, level, "bootstrap", seed=3)
    assert (found.low, found.high) == tuple(drawn)
    assert found == interval(A, level, "bootstrap", seed=3)
    assert found != interval(A, level, "bootstrap", seed=4)


def test_intervals_hold_the_true_mean_as_often_as_they_say():
    rng = np.random.default_rng(0)
    for count in (2, 5):
        assert abs(held([interval(values) for values in rng.normal(7, 3, (2000, count))], 7)) < 3.5
    # The bootstrap's known shortfall at 40 values, about 2%, is 2.9 standard errors of 500 simulations.
    assert -2.9 - 3.5 < held([interval(values, method="bootstrap") for values in rng.normal(7, 3, (500, 40))], 7) < 3.5


def test_the_corrected_interval_holds_the_true_error_of_repeated_cross_validation():
    """10 times 10 folds of 60 normal rows; the model is the training rows' mean, whose expected squared error is 1 + 1 / 54."""
    rng, scores = np.random.default_rng(1), []
    for _ in range(500):
        y = rng.normal(size=60)
        folds = y[np.argsort(rng.random((10, 60)), axis=1)].reshape(100, 6)
        model = (y.sum() - folds.sum(1, keepdims=True)) / 54
        scores.append(((folds - model) ** 2).mean(1))
    truth = 1 + 1 / 54
    assert held([interval(s, method="corrected", test_ratio=1 / 9) for s in scores], truth) > -4.5
    assert held([interval(s) for s in scores], truth) < -40  # about half of them


def test_a_paired_comparison_is_scipys():
    found, differences = compare(A, B), np.subtract(B, A)
    reference = stats.ttest_rel(B, A)
    assert found.p_value == pytest.approx(reference.pvalue, rel=1e-9)
    assert (found.difference.low, found.difference.high) == pytest.approx(tuple(reference.confidence_interval()), rel=1e-9)
    assert found.rank_p_value == pytest.approx(stats.wilcoxon(B, A, method="exact").pvalue)
    assert found.effect == pytest.approx(differences.mean() / differences.std(ddof=1))
    assert found.share == pytest.approx(5 / 6)  # the losses of b are lower, but for one
    assert found.verdict == "better"
    assert compare(A, B, larger_is_better=True).verdict == "worse"
    assert compare(A, B, larger_is_better=True).share == pytest.approx(1 / 6)
    assert compare(B, A).verdict == "worse"
    assert compare(A, B, level=0.999).verdict == "undecided"
    assert str(compare(A, B, names=("small", "large"))) == (
        "large is better than small: difference -0.015 ± 0.011 (6), p 0.017, by ranks 0.062, effect -1.4, r +0.77, better in 83% of pairs"
    )
    assert str(compare(A, B, level=0.999)).startswith("whether b is better than a is undecided: difference -0.015 ± 0.028 (6), p 0.017")


def test_an_unpaired_comparison_is_scipys():
    found, reference = compare(A, B[:4], method="unpaired"), stats.ttest_ind(B[:4], A, equal_var=False)
    assert found.p_value == pytest.approx(reference.pvalue, rel=1e-9)
    assert (found.difference.low, found.difference.high) == pytest.approx(tuple(reference.confidence_interval()), rel=1e-9)
    ranks = stats.mannwhitneyu(A, B[:4])
    assert found.rank_p_value == pytest.approx(ranks.pvalue)
    assert found.share == pytest.approx(ranks.statistic / 24)
    assert found.effect == pytest.approx((np.mean(B[:4]) - np.mean(A)) / math.sqrt((np.var(A, ddof=1) + np.var(B[:4], ddof=1)) / 2))


def test_a_comparison_over_folds_has_the_corrected_variance():
    plain, found = compare(A, B), compare(A, B, method="corrected", test_ratio=0.2)
    wider = math.sqrt((1 / 6 + 0.2) / (1 / 6))
    assert found.difference.high - found.difference.mean == pytest.approx(wider * (plain.difference.high - plain.difference.mean))
    t = plain.difference.mean / (plain.difference.sd / math.sqrt(6)) / wider
    assert found.p_value == pytest.approx(2 * stats.t.cdf(-abs(t), 5))
    assert math.isnan(found.rank_p_value)
    assert found.verdict == "undecided"
    assert "by ranks" not in str(found)


def test_equal_values_say_nothing_about_their_spread():
    for method in ("t", "bootstrap"):
        assert str(interval([0.3, 0.1 + 0.2, 0.3], method=method)) == "0.3 (no interval from 3 equal values)"
        single = interval([0.6012], method=method)
        assert math.isnan(single.low)
        assert math.isnan(single.high)
        assert str(single) == "0.6012 (no interval from 1)"
    # 0.3 - 0.1 and 0.6 - 0.4 are one difference, though not to the bit. Three equal ones are the sign test's 1/4, six its 1/32.
    same = compare([0.1, 0.4, 0.5], [0.3, 0.6, 0.7])
    assert (same.difference.sd, same.p_value, same.verdict) == (0, 0.25, "undecided")
    assert math.isnan(same.difference.low)
    single = np.float32([0.85, 0.9, 0.75]) + np.float32(0.01)
    assert compare([0.85, 0.9, 0.75], single).p_value == 0.25
    six = compare([0.1] * 6, [0.3] * 6)
    assert (six.p_value, six.verdict) == (2 / 64, "worse")
    assert compare([0.1] * 3, [0.3] * 3, method="unpaired").verdict == "undecided"
    none = compare(A, A)
    assert (none.p_value, none.rank_p_value, none.share, none.verdict) == (1, 1, 0.5, "undecided")
    for few in (compare([0.5], [0.4]), compare([0.5], [0.5]), compare([0.5], [0.4, 0.3], method="unpaired")):
        assert few.verdict == "undecided"
        assert math.isnan(few.p_value)
        assert "no interval" in str(few)


def test_two_equal_accuracies_are_seldom_told_apart():
    """Accuracies of 100 rows are so coarse that all differences of 2 seeds are often equal, which is no evidence."""
    rng = np.random.default_rng(0)
    draws = rng.binomial(100, 0.98, (2000, 2, 2)) / 100
    assert np.mean([np.ptp(b - a) < 1e-9 and abs((b - a).mean()) > 1e-9 for a, b in draws]) > 0.08  # these had p 0
    assert np.mean([compare(a, b).verdict != "undecided" for a, b in draws]) <= 0.05


def test_ties_of_the_kind_accuracies_have_are_seen_through_rounding():
    # Differences of 0.1, -0.1, 0.2, 0, 0.1, 0.3, 0.1: as floats, no two are alike.
    found = compare([0.1, 0.7, 0.5, 0.3, 0.2, 0.6, 0.8], [0.2, 0.6, 0.7, 0.1 + 0.2, 0.3, 0.9, 0.9], larger_is_better=True)
    assert found.rank_p_value == pytest.approx(stats.wilcoxon([1, -1, 2, 0, 1, 3, 1]).pvalue)
    assert found.share == pytest.approx(5.5 / 7)
    # Differences that cancel have no effect, not one of 3e-14.
    assert compare([0.1, 0.2, 0.3], [0.2, 0.1, 0.3]).effect == 0


def test_ranks_are_left_out_where_they_cannot_decide():
    assert math.isnan(compare(A[:5], B[:5]).rank_p_value)  # at least 1/16
    assert "by ranks" not in str(compare(A[:5], B[:5]))
    assert compare(A, B).rank_p_value > 0
    assert math.isnan(compare(A[:3], B[:3], method="unpaired").rank_p_value)  # at least 1/10
    assert compare(A[:4], B[:4], method="unpaired").rank_p_value > 0  # at least 1/35


@pytest.mark.parametrize("scale", [1e-150, 1e150, 1e300])
def test_numbers_of_any_scale(scale):
    a, b, ordinary = np.multiply(A, scale), np.multiply(B, scale), compare(A, B, margin=0.1)
    found = compare(a, b, margin=0.1 * scale)
    assert (found.p_value, found.effect) == pytest.approx((ordinary.p_value, ordinary.effect))
    assert found.difference.low / scale == pytest.approx(ordinary.difference.low)
    assert found.p_equivalent == pytest.approx(ordinary.p_equivalent)
    assert interval(a).high / scale == pytest.approx(interval(A).high)
    assert len(str(found)) < 200


def test_intervals_stay_within_the_bounds_of_the_metric():
    assert interval([0.99, 1.0, 0.95], bounds=(0, 1)).high == 1
    assert interval([0.99, 1.0, 0.95]).high > 1
    assert compare([0.9, 0.1], [0.1, 0.9], bounds=(0, 1)).difference.low == -1
    assert interval([0.02, 0.3, 0.01], bounds=(0, math.inf)).low == 0
    with pytest.raises(ValueError, match="beyond the metric's bounds"):
        interval([90.0, 95.0], bounds=(0, 1))
    wilson = stats.binomtest(19, 20).proportion_ci(method="wilson")
    assert (share(19, 20).low, share(19, 20).high) == pytest.approx((wilson.low, wilson.high))


def test_seeds_and_rows_are_crossed():
    """Against the textbook's two-way analysis of variance without replication, mean squares written out."""
    rng = np.random.default_rng(3)
    values = rng.normal(size=(4, 1)) * 0.1 + rng.normal(size=(1, 30)) + 0.3 * rng.normal(size=(4, 30))
    by_seed, by_row = values.mean(1), values.mean(0)
    ms_seed, ms_row = 30 * by_seed.var(ddof=1), 4 * by_row.var(ddof=1)
    total = ((values - values.mean()) ** 2).sum()
    ms_rest = (total - 3 * ms_seed - 29 * ms_row) / (3 * 29)
    square = (ms_seed + ms_row - ms_rest) / 120
    df = square**2 / ((ms_seed / 120) ** 2 / 3 + (ms_row / 120) ** 2 / 29)
    half = max(stats.t.isf(0.025, df) * math.sqrt(square), stats.t.isf(0.025, 3) * math.sqrt(ms_seed / 120))
    found = interval(values, method="crossed")
    assert (found.mean, found.high - found.mean, found.count) == (pytest.approx(values.mean()), pytest.approx(half), 4)
    assert found.high - found.low > interval(by_seed).high - interval(by_seed).low  # which covers no rows
    paired = compare(np.zeros_like(values), values)
    assert (paired.difference.low, paired.difference.high) == pytest.approx((found.low, found.high))
    assert paired.difference.method == "crossed"
    # One seed: rows alone, as a t-test over rows.
    single = compare(np.zeros((1, 30)), values[:1])
    assert single.p_value == pytest.approx(stats.ttest_1samp(values[0], 0).pvalue)
    # Other seeds on the same rows: the rows still cancel.
    row = 5 * rng.normal(size=(1, 30))
    apart = compare(row + values, row + rng.permuted(values, axis=0), method="unpaired")
    assert apart.difference.high - apart.difference.low < 3
    with pytest.raises(ValueError, match="common seeds"):
        compare(values[:2], values)


def test_splits_are_averaged_over_seeds_before_they_are_corrected():
    rng = np.random.default_rng(4)
    a, b = rng.normal(size=(2, 5, 3))
    how = {"method": "corrected", "test_ratio": 0.25}
    assert interval(a, **how) == interval(a.mean(1), **how)
    found, means = compare(a, b, **how), compare(a.mean(1), b.mean(1), **how)
    assert (found.p_value, found.difference.low) == pytest.approx((means.p_value, means.difference.low))
    assert found.difference.count == 5


def test_a_family_is_holms_and_its_intervals_agree_with_the_verdicts():
    rng = np.random.default_rng(5)
    for shift in (0.0, 0.6, 1.0):
        baseline, *others = rng.normal(size=(5, 12)) + shift * np.arange(5)[:, None]
        single = [compare(baseline, other, margin=0.5) for other in others]
        found = family(single)
        p, order = np.array([c.p_value for c in single]), np.argsort([c.p_value for c in single])
        holm = np.maximum.accumulate(np.minimum(1, p[order] * [4, 3, 2, 1]))
        np.testing.assert_allclose(np.array([c.p_value for c in found])[order], holm)
        for one, member in zip(single, found, strict=True):
            assert member.difference.low <= one.difference.low
            assert (member.verdict in ("better", "worse")) == (member.difference.low >= 0 or member.difference.high <= 0)
            assert member.family == 4
            assert member.p_equivalent == pytest.approx(min(1, 4 * one.p_equivalent))
    bonferroni = stats.t.isf(0.05 / 4 / 2, 11) * found[0].difference.sd / math.sqrt(12)
    assert found[0].difference.high == pytest.approx(found[0].difference.mean + bonferroni)
    assert "(of 4, Holm)" in str(found[0])
    assert family([compare(A, B)]) == [compare(A, B)]
    with pytest.raises(ValueError, match="one level"):
        family([compare(A, B), compare(A, B, level=0.9)])
    with pytest.raises(ValueError, match="corrected already"):
        family(found)


def test_what_holm_decides_alone_has_an_interval_that_ends_at_zero():
    """Five of 0.02 and one of 0.001: Holm finds none of the five, Bonferroni neither; of two, Holm finds the second."""
    strong, weak = compare(np.zeros(8), np.arange(8) + 9.0), compare(np.zeros(8), [1, 2, -1, 3, 2, 0, 1, 2.0])
    assert 0.025 < weak.p_value < 0.05
    _, found = family([strong, weak])
    assert (found.verdict, found.difference.low) == ("worse", 0.0)
    assert found.difference.high > weak.difference.high
    assert family([weak] * 2)[0].verdict == "undecided"


def test_equivalence_is_two_one_sided_tests():
    a, b = np.array([0.50, 0.52, 0.49, 0.51, 0.50]), np.array([0.503, 0.517, 0.492, 0.512, 0.498])
    found = compare(a, b, margin=0.01)
    upper, lower = (stats.ttest_1samp(b - a, edge, alternative=way).pvalue for edge, way in ((0.01, "less"), (-0.01, "greater")))
    assert (found.p_not_worse, found.p_not_better) == pytest.approx((upper, lower))  # of losses: b is worse where it is larger
    assert (found.verdict, found.p_equivalent) == ("equivalent", pytest.approx(max(upper, lower)))
    assert str(found).startswith("b equals a within ± 0.01: difference")
    assert compare(a, b).verdict == "undecided"  # no difference found is none shown
    wide = compare(a, b, margin=0.001)
    assert wide.verdict == "undecided"
    n = int(wide.needed)  # runs that give an interval as narrow as the margin
    halves = [stats.t.isf(0.025, runs - 1) * (b - a).std(ddof=1) / math.sqrt(runs) for runs in (n - 1, n)]
    assert halves[0] > 0.001 >= halves[1]
    assert f"for ± 0.001 it takes {n} runs" in str(wide)
    several = family([wide, wide])[0]  # narrower intervals take more
    assert several.needed > n
    # More splits do not help beyond what the shared rows leave.
    split = compare(a, b, margin=0.001, method="corrected", test_ratio=1 / 4)
    assert split.needed == math.inf
    assert "it takes more rows" in str(split)
    with pytest.raises(ValueError, match="margin is the smallest difference that matters"):
        compare(a, b, margin=0)


def test_mcnemar_is_the_exact_test_of_the_rows_that_differ():
    rng = np.random.default_rng(6)
    a, b = rng.random((2, 80)) < [[0.6], [0.9]]
    found = mcnemar(a, b, names=("small", "large"))
    assert found.p_value == pytest.approx(stats.binomtest(int((b & ~a).sum()), int((a ^ b).sum())).pvalue)
    assert found.difference.mean == pytest.approx(b.mean() - a.mean())
    assert found.verdict == "better"
    assert "which rows were held out; not seeds" in str(found)
    assert mcnemar(a, a).p_value == 1
    with pytest.raises(ValueError, match="0 or 1, for the same rows, got 80 and 79"):
        mcnemar(a, b[1:])
    with pytest.raises(ValueError, match="whether each model is right"):
        mcnemar(a, np.linspace(0, 1, 80))


def test_delong_is_its_definition():
    """The covariance of the placements, pair by pair as DeLong et al. (1988) write it."""
    rng = np.random.default_rng(7)
    y = rng.random(60) < 0.4
    scores = np.round(rng.normal(size=(2, 60)) + [[1.0], [2.0]] * y, 1)  # with ties
    one, zero = scores[:, y], scores[:, ~y]
    wins = (one[:, :, None] > zero[:, None]) + 0.5 * (one[:, :, None] == zero[:, None])
    area, covariance = wins.mean((1, 2)), np.cov(wins.mean(2)) / y.sum() + np.cov(wins.mean(1)) / (~y).sum()
    error = math.sqrt(covariance[0, 0] + covariance[1, 1] - 2 * covariance[0, 1])
    found = delong(y, *scores)
    assert found.difference.mean == pytest.approx(area[1] - area[0])
    assert found.p_value == pytest.approx(2 * stats.norm.sf(abs(area[1] - area[0]) / error))
    alone = auc_interval(y, scores[0][:, None])
    assert (alone.mean, alone.mean - alone.low) == pytest.approx((area[0], 1.959964 * math.sqrt(covariance[0, 0])))
    assert delong(y, scores[0], scores[0]).p_value == 1
    with pytest.raises(ValueError, match="labels 0 and 1"):
        delong(y * 2, *scores)
    with pytest.raises(ValueError, match="one finite logit for each example"):
        delong(y, scores[0], scores[1][1:])


@pytest.mark.parametrize(
    ("values", "options", "message"),
    [
        ([0.1, math.nan, math.inf, 0.2], {}, "2 of 4 values are NaN or infinite: leave out"),
        ([], {}, r"one number a run, shape \(runs,\), got shape \(0,\)"),
        ([[0.1, 0.2]], {}, r"got shape \(1, 2\)"),
        (A, {"level": 95}, "level must lie between 0 and 1, got 95"),
        (A, {"method": "bootstap"}, "no method 'bootstap'; did you mean 'bootstrap'"),
        (A, {"method": "corrected"}, "needs test_ratio="),
        (A, {"test_ratio": 0.1}, "needs test_ratio=.*no other method takes it"),
        (A, {"method": "crossed"}, r"values must be of shape \(seeds, rows\)"),
        (A, {"method": "corrected", "test_ratio": 0}, "must be more than 0, got 0"),
    ],
)
def test_what_has_no_interval_is_refused(values, options, message):
    with pytest.raises(ValueError, match=message):
        interval(values, **options)


def test_what_cannot_be_compared_is_refused():
    with pytest.raises(ValueError, match=r"got \(6,\) of plain and \(4,\) of dropout.*unpaired"):
        compare(A, B[:4], names=("plain", "dropout"))
    with pytest.raises(ValueError, match="1 of 2 values of b are NaN"):
        compare([1, 2], [1, math.nan])
    with pytest.raises(ValueError, match="no method 'welch'"):
        compare(A, B, method="welch")


@pytest.mark.parametrize(
    ("low", "high", "shown"),
    [(-0.67, -0.0033, "-0.300 [-0.670, -0.003]"), (-0.5967, -0.0033, "-0.300 ± 0.297"), (0.0, 0.24, "-0.30 [0.00, 0.24]")],
)
def test_a_reader_sees_whether_an_interval_excludes_zero(low, high, shown):
    assert str(Interval(-0.3, low, high, 0.1, 5)) == f"{shown} (5)"
