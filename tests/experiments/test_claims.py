from __future__ import annotations

import numpy as np
import pytest
from claims import decided, held, holds, prediction, single, within

from flaxfit.report.statistics import compare, interval


def test_a_claim_falls_by_one_comparison_only_beyond_the_chance_of_the_worst_of_many():
    better = compare([0.30, 0.40, 0.50], [0.10, 0.21, 0.29])
    worse = compare([0.10, 0.21, 0.29, 0.40], [0.20, 0.26, 0.40, 0.46])
    assert (better.verdict, worse.verdict) == ("better", "worse")
    assert 0.05 / 5 < worse.p_value < 0.05 / 2
    assert held([better] * 2) is True
    assert held([better, worse]) is False
    assert held([*[better] * 4, worse]) is None
    assert held(worse, "worse") is True
    with pytest.raises(ValueError, match="at least one comparison"):
        held([])


def test_a_mean_lies_within_bounds():
    found = interval([4.0, 5.0, 6.0])  # 5 +- 2.5
    assert within(found, 2, 8) is True
    assert within(found, 5, 8) is None
    assert within(found, 8, 9) is False
    assert within(found, 0, 1) is False
    assert within(interval([2.0, 2.0]), 2, 8) is None  # two equal values say nothing of their spread
    single = interval([4.0])
    assert within(single, 0, 9) is None  # of a single run nothing is known


def test_a_comparison_says_whether_its_claim_held():
    assert held(compare([3.0, 4.0, 5.0], [1.0, 2.1, 3.0])) is True
    assert held(compare([3.0, 4.0, 5.0], [1.0, 2.1, 3.0], larger_is_better=True)) is False
    assert held(compare([3.0, 4.0], [3.1, 3.8])) is None


def test_that_one_does_not_beat_another_needs_a_margin():
    a, same = [0.50, 0.52, 0.49, 0.51, 0.50], [0.503, 0.517, 0.492, 0.512, 0.498]
    near, wide = compare(a, same, margin=0.01), compare(a, same, margin=0.001)
    assert [held(near, wanted) for wanted in ("not better", "equivalent", "better")] == [True, True, None]
    assert [held(wide, wanted) for wanted in ("not better", "equivalent")] == [None, None]
    small = compare(a, np.array(same) - 0.005, margin=0.01)  # it is better, but by less than the margin
    assert [held(small, wanted) for wanted in ("not better", "equivalent", "better")] == [True, True, True]
    across = compare(a, np.array(same) - 0.011, margin=0.01)  # better, by more or by less
    assert [held(across, wanted) for wanted in ("not better", "equivalent", "better")] == [None, None, True]
    equal = compare([0.5, 0.7], [0.4, 0.6], margin=0.01)  # two equal differences show little
    assert [held(equal, wanted) for wanted in ("not better", "equivalent")] == [None, None]
    better = compare(a, np.array(same) - 0.1, margin=0.01)
    assert [held(better, wanted) for wanted in ("not better", "equivalent", "better")] == [False, False, True]
    with pytest.raises(ValueError, match="needs a margin, stated beforehand"):
        held(compare(a, same), "equivalent")


def test_a_and_b_have_the_larger_p():
    one, other = compare([0.30, 0.40, 0.50], [0.10, 0.21, 0.29]), compare([0.3, 0.4, 0.5, 0.6], [0.2, 0.35, 0.38, 0.51])
    assert decided([one, other]) == (True, max(one.p_value, other.p_value))


def test_a_prediction_interval_holds_one_further_run():
    rng = np.random.default_rng(5)
    draws = rng.normal(7, 3, (2000, 6))
    share = np.mean([holds(prediction(run[:5]), run[5]) for run in draws])
    assert abs(share - 0.95) < 0.02
    assert holds(prediction([1.0]), 1.0) is None


def test_a_published_score_is_undecided_where_the_range_is_too_wide_to_fail():
    runs = [0.61, 0.58, 0.60, 0.62, 0.59]  # a further one: 0.552 to 0.648
    assert single(runs, 0.61, 0.05) == (True, "0.61, a further run 0.600 ± 0.048")
    assert single(runs, 0.70, 0.05)[0] is False
    assert single(runs, 0.70, 0.04)[0] is False  # however wide
    assert single(runs, 0.61, 0.04)[0] is single([0.6], 0.6, 0.05)[0] is None
