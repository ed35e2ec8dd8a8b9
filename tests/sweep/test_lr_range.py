"""The learning-rate range test."""

from __future__ import annotations

import jax
import numpy as np
import optax
import pytest
from matplotlib import pyplot

import flaxfit as ff

pytestmark = pytest.mark.usefixtures("quickly_compiled")


def test_its_losses_are_those_of_a_plain_loop(table):
    task = ff.Task(ff.nn.MLP((), 1), ff.losses.binary_crossentropy, optax.sgd(0.1))
    train = table[0]
    found = ff.lr_range_test(task, train, optax.adam, low=1e-3, high=1.0, steps=20, batch_size=len(train))
    rates = np.geomspace(1e-3, 1.0, 20)
    np.testing.assert_allclose(found.rates, rates)
    state = ff.Task(task.model, task.loss, optax.adam(0.1)).init(jax.random.key(0), train.x)
    losses = []
    for rate in rates:  # the whole set in each step, so that the order of rows plays no part
        adam = ff.Task(task.model, task.loss, optax.adam(rate))
        state, sums = ff.train_step(adam, state, jax.random.key(0), train.x, train.y)
        losses.append(float(sums["loss"]) / len(train))
    np.testing.assert_allclose(found.losses, losses, rtol=1e-5)


def test_it_suggests_a_rate_that_learns(table):
    task = ff.Task(ff.nn.MLP((16,), 1), ff.losses.binary_crossentropy, optax.sgd(0.1))
    found = ff.lr_range_test(task, table[0], lambda rate: optax.sgd(rate, momentum=0.9), high=1e4, steps=150)
    assert found.suggestion == min(found.steepest, found.tenth)
    assert f"suggested learning rate {found.suggestion:.2g}" in str(found)
    trained = ff.fit(ff.Task(task.model, task.loss, optax.sgd(found.suggestion, momentum=0.9)), table[0], epochs=10)
    lowest = ff.fit(ff.Task(task.model, task.loss, optax.sgd(found.rates[0], momentum=0.9)), table[0], epochs=10)
    assert trained.history["loss"][-1] < 0.9 * lowest.history["loss"][-1]
    figure = ff.plots.lr_range(found)
    assert figure.axes[0].get_title() == str(found)
    pyplot.close(figure)


def test_the_rules_of_thumb_on_a_known_curve():
    rates = np.geomspace(1e-4, 10, 401)
    losses = 1 - 0.5 / (1 + np.exp(-4 * (np.log(rates) - np.log(0.01)))) + np.where(rates > 1, rates, 0.0)
    found = ff.RangeTest(rates, losses)
    assert found.steepest == pytest.approx(0.01, rel=0.35)  # the smoothed curve lags behind a little
    assert found.tenth == pytest.approx(0.1, rel=0.35)
    broken = ff.RangeTest(rates, np.where(rates > 0.5, np.nan, losses))
    assert broken.steepest == found.steepest
    assert np.isnan(broken.smoothed[rates > 0.5]).all()
    rising = ff.RangeTest(rates, rates)
    assert np.isnan(rising.suggestion)
    assert "lowered the loss" in str(rising)


def test_what_it_refuses(table):
    task = ff.Task(ff.nn.MLP((), 1), ff.losses.binary_crossentropy, optax.sgd(0.1))
    with pytest.raises(TypeError, match=r"is a function of the learning rate, such as optax\.adam, not optax\.adam\(1e-3\)"):
        ff.lr_range_test(task, table[0], optax.adam(1e-3))  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match="needs rates 0 < low < high"):
        ff.lr_range_test(task, table[0], optax.adam, low=1.0, high=0.1)
