"""The comparisons' error rates, with few draws: 400 draws of 5% are within 2.2% of it in 95 of 100 simulations; the seed is fixed."""

from __future__ import annotations

import null_studies
import numpy as np
import pytest
import type_one_error

from flaxfit.report.statistics import compare

CONFIG = type_one_error.Config(draws=400, rows=60)


@pytest.mark.parametrize("name", type_one_error.cases(CONFIG.rows))
def test_no_comparison_finds_a_difference_too_often_where_there_is_none(name):
    draw, _, _ = type_one_error.cases(CONFIG.rows)[name]
    most = 0.12 if name == "nearest neighbor, 20 hold-outs" else 0.07  # there the correction is known to fall short
    assert type_one_error.share(CONFIG, draw, 0.0) <= most


def test_they_find_one_that_is_there():
    cases = type_one_error.cases(CONFIG.rows)
    for name in ("least squares, 20 hold-outs", "5 seeds x 200 rows", "2 models, 200 rows, McNemar", "5 against a baseline, 10 seeds"):
        draw, effect, _ = cases[name]
        assert type_one_error.share(CONFIG, draw, 2 * effect) > 0.5


def test_folds_and_seeds_taken_for_independent_scores_err_about_half_of_the_time():
    """As `Study.compare` once took them: 5 folds x 5 seeds are not 25 independent pairs."""
    rng, found = np.random.default_rng(0), 0
    for _ in range(200):
        tests = rng.permutation(np.arange(60) % 5) == np.arange(5)[:, None]
        found += null_studies.decided(compare(*null_studies.errors("nearest neighbor", rng, tests, 5, 0.0).reshape(2, -1)))
    assert found / 200 > 0.4
