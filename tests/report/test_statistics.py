from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from flaxfit.report.statistics import compare, interval

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
        "large is better than small: difference -0.014 ± 0.011 (6), effect -1.4, better in 83% of pairs, p 0.017, by ranks 0.062"
    )
    assert str(compare(A, B, level=0.999)).startswith("whether b is better than a is undecided: difference -0.014 ± 0.028 (6), effect")


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


def test_scores_without_spread_and_single_ones():
    for method in ("t", "bootstrap"):
        assert str(interval([0.3, 0.1 + 0.2, 0.3], method=method)) == "0.3 ± 0 (3)"
        single = interval([0.6012], method=method)
        assert math.isnan(single.low)
        assert math.isnan(single.high)
        assert str(single) == "0.6012 (no interval from 1)"
    # 0.3 - 0.1 and 0.6 - 0.4 are one difference, though not to the bit.
    same = compare([0.1, 0.4, 0.5], [0.3, 0.6, 0.7])
    assert (same.difference.sd, same.effect, same.p_value, same.verdict) == (0, math.inf, 0, "worse")
    none = compare(A, A)
    assert (none.effect, none.p_value, none.rank_p_value, none.share, none.verdict) == (0, 1, 1, 0.5, "undecided")
    for few in (compare([0.5], [0.4]), compare([0.5], [0.4, 0.3], method="unpaired")):
        assert few.verdict == "undecided"
        assert math.isnan(few.p_value)
        assert "no interval" in str(few)


def test_ties_of_the_kind_accuracies_have_are_seen_through_rounding():
    # Differences of 0.1, -0.1, 0.2, 0: as floats, no two are alike.
    found = compare([0.1, 0.7, 0.5, 0.3], [0.2, 0.6, 0.7, 0.1 + 0.2], larger_is_better=True)
    assert found.rank_p_value == pytest.approx(stats.wilcoxon([1, -1, 2, 0]).pvalue)
    assert found.share == 5 / 8


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
        (A, {"method": "corrected", "test_ratio": 0}, "must be more than 0, got 0"),
    ],
)
def test_what_has_no_interval_is_refused(values, options, message):
    with pytest.raises(ValueError, match=message):
        interval(values, **options)


def test_what_cannot_be_compared_is_refused():
    with pytest.raises(ValueError, match=r"got 6 of plain and 4 of dropout.*unpaired"):
        compare(A, B[:4], names=("plain", "dropout"))
    with pytest.raises(ValueError, match="1 of 2 values of b are NaN"):
        compare([1, 2], [1, math.nan])
    with pytest.raises(ValueError, match="no method 'welch'"):
        compare(A, B, method="welch")
