"""What is drawn of many curves, and the limits of the axis."""

from __future__ import annotations

import numpy as np
import pytest

from flaxfit.history import History
from flaxfit.report.bands import band, limits

EPOCHS = np.arange(1, 201)
FALLING = 0.2 + 2 * np.exp(-EPOCHS / 10)


def test_the_band_is_numpys_and_ends_where_half_of_the_runs_do():
    random = np.random.default_rng(0)
    values = random.normal(size=(7, 50))
    values[0, 20:], values[1, 5], values[2, 6] = np.nan, np.inf, np.nan
    runs = [History({"loss": row[:length]}, first_epoch=3) for row, length in zip(values, (50, 50, 50, 50, 30, 30, 30), strict=True)]
    epochs, mean, low, high = band(runs, "loss")
    assert (epochs[0], epochs[-1]) == (3, 32)
    values[1, 5] = np.nan
    np.testing.assert_allclose(mean, np.nanmean(values[:, :30], 0))
    np.testing.assert_allclose([low, high], np.nanquantile(values[:, :30], (0.1, 0.9), axis=0))


@pytest.mark.parametrize(
    ("spoiled", "why"),
    [
        (np.where(EPOCHS < 3, 1e4, FALLING), "a spike at the start"),
        (np.where(EPOCHS == 100, 1e4, FALLING), "a spike later on"),
        (np.where(EPOCHS > 150, 1e6, FALLING), "a run that diverges"),
        (np.full(200, 1e6), "a run that never learns"),
        (np.where(EPOCHS > 150, np.nan, FALLING), "a run that ends on NaN"),
    ],
)
def test_what_goes_wrong_does_not_flatten_the_rest(spoiled, why):
    low, high = limits([(EPOCHS, FALLING), (EPOCHS, FALLING + 0.1), (EPOCHS, spoiled), (EPOCHS, spoiled + 0.1)]) or (0, 0)
    assert 0 < low < 0.2, why
    assert 0.7 < high < 1.2, why
    low, high = limits([(EPOCHS, FALLING), (EPOCHS, FALLING), (EPOCHS, spoiled)], log_x=True, log_y=True) or (0, 0)
    assert 0.1 < low < 0.2, why
    assert 2 < high < 20, why


def test_all_of_overfitting_is_shown():
    rising = FALLING + np.maximum(0, EPOCHS - 50) * 0.02
    low, high = limits([(EPOCHS, FALLING - 0.19), (EPOCHS, rising)]) or (0, 0)
    assert high > rising[-1]
    assert low < 0.02
    accuracy = limits([(EPOCHS, 1 - FALLING / 3), (EPOCHS, 1 - rising / 5)]) or (0, 0)
    assert accuracy[0] < 1 - rising[-1] / 5


def test_without_anything_to_draw_there_are_no_limits():
    assert limits([]) is None
    assert limits([(EPOCHS, np.full(200, np.nan))]) is None
    assert limits([(EPOCHS, -FALLING)], log_y=True) is None
    low, high = limits([(EPOCHS, np.zeros(200))]) or (0, 0)
    assert low < 0 < high
