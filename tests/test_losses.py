import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from scipy.special import rel_entr, softmax, xlogy
from sklearn.metrics import hinge_loss, log_loss, mean_absolute_error, mean_pinball_loss, mean_poisson_deviance

from flaxfit import losses, metrics
from flaxfit.nn import MLP
from flaxfit.task.task import Task

RNG = np.random.default_rng(0)
BINARY: Any = RNG.normal(size=50).astype(np.float32), RNG.integers(0, 2, 50)
MULTI: Any = RNG.normal(size=(50, 4)).astype(np.float32), RNG.integers(0, 4, 50)


def test_binary_crossentropy_against_scikit_learn():
    logits, y = BINARY
    np.testing.assert_allclose(losses.binary_crossentropy(logits, y).mean(), log_loss(y, 1 / (1 + np.exp(-logits))), rtol=1e-6)


def test_categorical_crossentropy_against_scikit_learn():
    logits, y = MULTI
    np.testing.assert_allclose(losses.categorical_crossentropy(logits, y).mean(), log_loss(y, jax.nn.softmax(logits)), rtol=1e-6)


@pytest.mark.parametrize("dtype", [np.uint8, np.int64, np.float32, bool])
@pytest.mark.parametrize("shapes", [((50,), (50,)), ((50, 1), (50,)), ((50, 1), (50, 1)), ((50,), (50, 1))])
def test_one_logit_a_row_in_every_shape_and_type(dtype, shapes):
    logits, y = BINARY
    expected = losses.binary_crossentropy(logits, y.astype(np.float32))
    result = losses.binary_crossentropy(jnp.reshape(logits, shapes[0]), jnp.reshape(y.astype(dtype), shapes[1]))
    assert result.shape == (50,)
    np.testing.assert_array_equal(result, expected)


@pytest.mark.parametrize("dtype", [np.uint8, np.int32])
def test_one_hot_rows_and_class_numbers_agree(dtype):
    logits, y = MULTI
    one_hot = jnp.eye(4)[y]
    for smoothing in (0.0, 0.1):
        rows = losses.categorical_crossentropy(logits, one_hot, smoothing)
        np.testing.assert_allclose(losses.categorical_crossentropy(logits, y.astype(dtype), smoothing), rows, rtol=1e-5)


def test_label_smoothing_is_that_of_keras():
    logits, y = BINARY
    np.testing.assert_allclose(losses.binary_crossentropy(logits, y, 0.2), losses.binary_crossentropy(logits, y * 0.8 + 0.1), rtol=1e-6)
    logits, y = MULTI
    softened = np.eye(4)[y] * 0.8 + 0.2 / 4
    expected = -(softened * np.asarray(jax.nn.log_softmax(logits))).sum(1)
    np.testing.assert_allclose(losses.categorical_crossentropy(logits, y, 0.2), expected, rtol=1e-5)


@pytest.mark.parametrize(("loss", "data"), [(losses.binary_crossentropy, BINARY), (losses.categorical_crossentropy, MULTI)])
def test_label_smoothing_may_be_traced_and_a_plain_zero_costs_nothing(loss, data):
    traces = []

    @jax.jit
    def traced(smoothing):
        traces.append(1)
        return loss(*data, smoothing)

    for smoothing in (0.0, 0.1, 1.0):
        np.testing.assert_allclose(traced(smoothing), loss(*data, smoothing), rtol=1e-5, atol=1e-6)
    assert len(traces) == 1
    assert str(jax.make_jaxpr(lambda: loss(*data, label_smoothing=0.0))()) == str(jax.make_jaxpr(lambda: loss(*data))())


def test_mse_averages_a_rows_outputs():
    logits, y = jnp.asarray(RNG.normal(size=(2, 5, 3, 2)), jnp.float32)
    np.testing.assert_allclose(losses.mse(logits, y), ((logits - y) ** 2).mean((1, 2)), rtol=1e-5)
    np.testing.assert_allclose(losses.mse(logits[:, 0, :1], y[:, 0, 0]), (logits[:, 0, 0] - y[:, 0, 0]) ** 2, rtol=1e-5)


def test_axes_beyond_the_rows_are_averaged():
    logits, y = jnp.asarray(RNG.normal(size=(5, 7, 4)), jnp.float32), jnp.asarray(RNG.integers(0, 4, (5, 7)), jnp.int32)
    each = losses.categorical_crossentropy(logits.reshape(-1, 4), y.ravel())
    np.testing.assert_allclose(losses.categorical_crossentropy(logits, y), each.reshape(5, 7).mean(1), rtol=1e-5)
    assert losses.binary_crossentropy(logits, logits > 0).shape == (5,)


def test_huge_logits_give_finite_losses_and_gradients():
    for value in (1e4, -1e4):
        loss, gradient = jax.value_and_grad(lambda z: losses.binary_crossentropy(z, jnp.ones(1)).sum())(jnp.array([value]))
        assert np.isfinite(loss)
        assert np.isfinite(gradient).all()


@pytest.mark.parametrize(
    ("loss", "logits", "y", "words"),
    [
        (losses.binary_crossentropy, (5, 3), (5,), "categorical_crossentropy"),
        (losses.mse, (5,), (5, 5), "must have one shape"),
        (losses.mse, (5, 2), (5, 3), "must have one shape"),
        (losses.categorical_crossentropy, (5, 1), (5,), "two classes or more"),
        (losses.categorical_crossentropy, (5,), (5,), "two classes or more"),
        (losses.categorical_crossentropy, (5, 3), (5, 1, 1), "labels are class numbers"),
        (losses.categorical_crossentropy, (5, 3), (5, 2), "labels are class numbers"),
    ],
)
def test_shapes_that_do_not_match_are_explained(loss, logits, y, words):
    with pytest.raises(ValueError, match=words):
        loss(jnp.zeros(logits), jnp.zeros(y))


@pytest.mark.parametrize("smoothing", [-0.1, 1.5, float("nan")])
def test_label_smoothing_outside_its_range(smoothing):
    with pytest.raises(ValueError, match="from 0 to 1"):
        losses.binary_crossentropy(jnp.zeros(2), jnp.zeros(2), smoothing)


def test_a_partial_keeps_its_name_in_the_logs():
    import optax

    loss = functools.partial(losses.categorical_crossentropy, label_smoothing=0.1)
    assert Task(MLP((), 3), loss, optax.sgd(0.1)).loss_name == "categorical_crossentropy"


def test_losses_and_metrics_say_their_mode_through_partial_and_jit():
    for function in (losses.mse, jax.jit(losses.mse), functools.partial(losses.categorical_crossentropy, label_smoothing=0.1)):
        assert losses.mode_of_function(function) == "min"
    assert losses.mode_of_function(functools.partial(optax.huber_loss, delta=0.5)) == "min"
    assert losses.mode_of_function(jax.jit(metrics.top_k(2))) == "max"
    assert losses.mode_of_function(functools.partial(metrics.Metric(losses.mse, "max"))) == "max"
    assert losses.mode_of_function(lambda logits, y: y) is None


RATES, COUNTS = RNG.normal(size=50).astype(np.float32), RNG.poisson(2.0, 50)


def test_mae_huber_and_pinball_against_oracles():
    outputs, y = RNG.normal(size=(2, 50)).astype(np.float32)
    np.testing.assert_allclose(losses.mae(outputs, y).mean(), mean_absolute_error(y, outputs), rtol=1e-5)
    error = np.abs(outputs - y)
    for delta in (0.3, 1.0):
        expected = np.where(error <= delta, error**2 / 2, delta * (error - delta / 2))
        np.testing.assert_allclose(losses.huber(outputs[:, None], y, delta=delta), expected, rtol=1e-4, atol=1e-7)
    for quantile in (0.1, 0.5, 0.9):
        np.testing.assert_allclose(losses.pinball(outputs, y, quantile).mean(), mean_pinball_loss(y, outputs, alpha=quantile), rtol=1e-5)


def test_pinball_of_several_quantiles_of_a_row():
    outputs, y = RNG.normal(size=(50, 3)).astype(np.float32), RNG.normal(size=50).astype(np.float32)
    quantiles = (0.1, 0.5, 0.9)
    expected = np.mean([mean_pinball_loss(y, outputs[:, i], alpha=quantile) for i, quantile in enumerate(quantiles)])
    for targets in (y, y[:, None]):
        np.testing.assert_allclose(losses.pinball(outputs, targets, quantiles).mean(), expected, rtol=1e-5)
    with pytest.raises(ValueError, match="between 0 and 1"):
        losses.pinball(outputs, y, (0.1, 1.0))
    with pytest.raises(ValueError, match="must have one shape"):
        losses.pinball(outputs, y, 0.5)


def test_the_minimum_of_pinball_is_the_quantile():
    y = np.sort(RNG.normal(size=101)).astype(np.float32)
    values = [float(losses.pinball(np.full(101, guess), y, 0.8).mean()) for guess in y]
    assert np.argmin(values) == 80


def test_poisson_against_scikit_learn_s_deviance():
    deviance = 2 * (losses.poisson_nll(RATES, COUNTS) + xlogy(COUNTS, COUNTS) - COUNTS)
    np.testing.assert_allclose(deviance.mean(), mean_poisson_deviance(COUNTS, np.exp(RATES)), rtol=1e-5)


def test_hinge_against_scikit_learn():
    np.testing.assert_allclose(losses.hinge(*BINARY).mean(), hinge_loss(BINARY[1], BINARY[0]), rtol=1e-5)
    np.testing.assert_allclose(losses.hinge(*MULTI).mean(), hinge_loss(MULTI[1], MULTI[0]), rtol=1e-5)


def test_focal_against_its_formula_and_cross_entropy():
    for (logits, y), cross_entropy in ((BINARY, losses.binary_crossentropy), (MULTI, losses.categorical_crossentropy)):
        chance = np.exp(-cross_entropy(logits, y))
        np.testing.assert_allclose(losses.focal(logits, y, gamma=0.0), cross_entropy(logits, y), rtol=1e-5)
        np.testing.assert_allclose(losses.focal(logits, y, gamma=1.5), (1 - chance) ** 1.5 * -np.log(chance), rtol=1e-3, atol=1e-6)
    logits, y = MULTI
    weights = np.array([0.1, 0.2, 0.3, 0.4], np.float32)
    np.testing.assert_allclose(losses.focal(logits, y, alpha=weights), weights[y] * losses.focal(logits, y), rtol=1e-5)
    logits, y = BINARY
    np.testing.assert_allclose(losses.focal(logits, y, alpha=0.3), np.where(y, 0.3, 0.7) * losses.focal(logits, y), rtol=1e-5)


def test_kl_against_scipy():
    logits, targets = MULTI[0], RNG.dirichlet(np.ones(4), 50).astype(np.float32)
    np.testing.assert_allclose(losses.kl(logits, targets), rel_entr(targets, softmax(logits, 1)).sum(1), rtol=1e-4, atol=1e-6)
    with pytest.raises(ValueError, match="kl compares logits"):
        losses.kl(*MULTI)


@pytest.mark.parametrize("name", ["mae", "huber", "pinball", "poisson_nll", "hinge", "focal", "kl"])
def test_new_losses_are_finite_with_their_gradients_for_large_outputs_and_say_their_mode(name):
    loss = getattr(losses, name)
    size = 80.0 if name == "poisson_nll" else 1e4
    y = jnp.ones((2, 2)) / 2 if name == "kl" else jnp.ones(2)
    logits = jnp.array([[size, -size], [-size, size]]) if name == "kl" else jnp.array([size, -size])
    values, gradient = jax.value_and_grad(lambda z: loss(z, y).sum())(logits)
    assert np.isfinite(values)
    assert np.isfinite(gradient).all()
    assert losses.mode_of_function(loss) == "min"
