"""The comparisons' error rates, with few draws: 400 draws of 5% are within 2.2% of it in 95 of 100 simulations; the seed is fixed."""

from __future__ import annotations

import pytest
import type_one_error

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
