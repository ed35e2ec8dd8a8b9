"""What optax and Linen bring works through flaxfit unchanged: each shown against the math or a loop by hand."""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from flax.nnx import bridge

import flaxfit as ff


def task_of(model, optimizer, **fields):
    return ff.Task(model, ff.losses.binary_crossentropy, optimizer, **fields)


def test_gradient_clipping_bounds_the_update(net, table):
    task = task_of(net(), optax.chain(optax.clip_by_global_norm(0.01), optax.sgd(1.0)))
    start = ff.fit(task_of(net(), optax.sgd(0.0)), table[0], epochs=1, batch_size=250)
    result = ff.fit(task, table[0], epochs=1, batch_size=250)
    step = jax.tree.map(jnp.subtract, result.last.params, start.last.params)
    assert float(optax.tree.norm(step)) == pytest.approx(0.01, rel=1e-4)
    assert result.history["gradient_norm"][0] > 0.1  # the norm before clipping


def test_accumulating_two_half_batches_equals_one_batch(net, table):
    train = table[0][:240]
    accumulated = task_of(net(), optax.MultiSteps(optax.sgd(0.5), every_k_schedule=2))
    halves = ff.fit(accumulated, train, epochs=3, batch_size=120)
    whole = ff.fit(task_of(net(), optax.sgd(0.5)), train, epochs=3, batch_size=240)
    for a, b in zip(jax.tree.leaves(halves.last.params), jax.tree.leaves(whole.last.params), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)
    assert int(halves.last.step) == 6


def test_average_of_weights_is_what_is_validated_kept_and_scored(net, table):
    train, validation = table
    optimizer = optax.chain(optax.sgd(0.5), ff.averaging.weight_ema(0.9))
    task = task_of(net(), optimizer, eval_params=ff.averaging.averaged)
    result = ff.fit(task, train, validation=validation, epochs=4, batch_size=250)
    plain = task_of(net(), optax.sgd(0.5))
    params = [ff.fit(plain, train, epochs=epochs, batch_size=250).last.params for epochs in (1, 2, 3, 4)]
    average = params[0]  # as in Keras, from the weights after the first update on
    for new in params[1:]:
        average = jax.tree.map(lambda a, b: 0.9 * a + 0.1 * b, average, new)
    expected = ff.evaluate(plain, ff.TrainState(jnp.int32(4), average, {}, None), validation)["loss"]
    assert result.history["val_loss"][-1] == pytest.approx(expected, rel=1e-5)
    assert ff.evaluate(task, result.last, validation)["loss"] == pytest.approx(expected, rel=1e-5)
    assert ff.evaluate(task, result.best, validation)["loss"] == pytest.approx(result.history["val_loss"].min(), rel=1e-6)


def test_mixed_precision_computes_in_bfloat16_and_keeps_float32_weights(table):
    train, validation = table
    half = task_of(ff.nn.MLP((32,), 1, batch_norm=True, dropout=0.1, dtype=jnp.bfloat16), optax.adam(1e-2))
    full = task_of(ff.nn.MLP((32,), 1, batch_norm=True, dropout=0.1), optax.adam(1e-2))
    results = [ff.fit(task, train, validation=validation, epochs=30) for task in (half, full)]
    assert {str(leaf.dtype) for leaf in jax.tree.leaves((results[0].last.params, results[0].last.collections))} == {"float32"}
    losses = [result.history["loss"] for result in results]
    assert not np.array_equal(losses[0], losses[1])
    np.testing.assert_allclose(losses[0], losses[1], atol=0.05)
    assert losses[0][-1] < 0.7 * losses[0][0]
    assert "bf16" in str(jax.make_jaxpr(lambda p, c, x: half.apply(p, c, x))(results[0].last.params, results[0].last.collections, train.x))


def test_reduce_on_plateau_gets_the_objective(net, table):
    optimizer = optax.chain(optax.sgd(0.0), optax.contrib.reduce_on_plateau(factor=0.5, patience=2, rtol=0.0, atol=1e-3))
    result = ff.fit(task_of(net(), optimizer), table[0], epochs=10, batch_size=250)
    # Nothing improves at rate 0 beyond rounding, so the scale is halved again and again.
    assert float(optax.tree.get(result.last.opt_state, "scale")) < 0.2


def test_coupled_decay_is_half_the_l2_penalty(net, table):
    """`add_decayed_weights(w)` before SGD is the gradient of w/2 * sum of squares, kernels only."""
    decayed = task_of(net(), optax.chain(optax.add_decayed_weights(0.2, mask=ff.masks.kernels), optax.sgd(0.1)))
    penalized = task_of(net(), optax.sgd(0.1), penalty=ff.penalties.l2(0.1))
    a, b = (ff.fit(task, table[0], epochs=5).last.params for task in (decayed, penalized))
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        np.testing.assert_allclose(x, y, rtol=1e-4, atol=1e-6)


def test_max_norm_holds_after_every_epoch(net, table):
    task = task_of(net(), optax.adam(0.1), constraint=ff.constraints.max_norm(0.7))
    result = ff.fit(task, table[0], epochs=10)
    for name in ("Dense_0", "Dense_1"):
        norms = np.linalg.norm(result.last.params[name]["kernel"], axis=0)
        assert norms.max() <= 0.7 * (1 + 1e-6)
    assert norms.max() == pytest.approx(0.7, rel=1e-5)  # it binds


def test_an_nnx_module_trains_through_the_bridge(table):
    class Net(nnx.Module):
        def __init__(self, rngs: nnx.Rngs):
            self.first, self.norm = nnx.Linear(6, 16, rngs=rngs), nnx.BatchNorm(16, rngs=rngs)
            self.drop, self.last = nnx.Dropout(0.1, rngs=rngs), nnx.Linear(16, 1, rngs=rngs)

        def __call__(self, x, *, train):
            x = nnx.relu(self.norm(self.first(x), use_running_average=not train))
            return self.last(self.drop(x, deterministic=not train))

    train, validation = table
    task = task_of(bridge.ToLinen(Net), optax.adam(1e-2))
    result = ff.fit(task, train, validation=validation, epochs=40)
    assert result.history["val_loss"].min() < 0.9 * result.history["val_loss"][0]
    assert "batch_stats" in result.best.collections
    assert "kernel_l2" in result.history
    assert ff.evaluate(task, result.best, validation)["loss"] == pytest.approx(result.history["val_loss"].min(), rel=1e-5)


class Explodes(nn.Module):
    """Fine at first; later its output is infinite, because a weight grows without bound."""

    @nn.compact
    def __call__(self, x, *, train):
        return x[:, :1] * jnp.exp(self.param("w", nn.initializers.ones, (1,)))


def test_a_loss_that_is_not_finite_ends_the_run_and_says_where(table):
    train, validation = table
    task = ff.Task(Explodes(), lambda logits, y: -(logits[:, 0] ** 2), optax.sgd(0.1))
    with pytest.warns(RuntimeWarning, match=r"training ended in epoch (\d+): (loss|val_loss) is -inf") as caught:
        result = ff.fit(task, train, validation=validation, epochs=50, batch_size=250)
    assert result.stop_reason == "non_finite"
    epochs = len(result.history.epochs)
    assert 1 < epochs < 50
    assert f"epoch {epochs}:" in str(caught[0].message)
    losses = np.stack([result.history["loss"], result.history["val_loss"]])
    assert not np.isfinite(losses[:, -1]).all()
    assert np.isfinite(losses[:, :-1]).all()
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(result.best))
    assert int(result.last.step) == epochs  # the state in which it ended
    assert result.best_epoch == 1 + np.nanargmin(np.where(np.isfinite(result.history["val_loss"]), result.history["val_loss"], np.nan))
    going_on = ff.fit(task, train, validation=validation, epochs=20, batch_size=250, terminate_on_nan=False)
    assert going_on.stop_reason == "epochs"
    assert len(going_on.history.epochs) == 20
    assert going_on.best_epoch == result.best_epoch  # NaN never counts as best


def test_a_weight_that_is_not_finite_ends_the_run_though_losses_look_fine(table):
    class Idle(nn.Module):
        @nn.compact
        def __call__(self, x, *, train):
            self.param("unused", nn.initializers.ones, (2,))
            return nn.Dense(1)(x)

    def poison(params):
        return {**params, "unused": params["unused"] / 0}

    task = ff.Task(Idle(), ff.losses.mse, optax.sgd(0.01), constraint=poison)
    with pytest.warns(RuntimeWarning, match="epoch 1: a weight or batch statistic is not finite"):
        result = ff.fit(task, table[0], epochs=5)
    assert not np.isfinite(result.last.params["unused"]).any()  # the state in which it ended
    assert int(result.best.step) == 0  # the initial weights, which are finite
    assert np.isfinite(result.best.params["unused"]).all()


def test_an_epoch_that_broke_down_is_never_the_best_whatever_its_accuracy(table):
    """All logits NaN call every row class 0, which on 90% zeros is a fine accuracy."""

    class Breaks(nn.Module):
        @nn.compact
        def __call__(self, x, *, train):
            scale = self.param("scale", nn.initializers.ones, (1,))
            return nn.Dense(1)(x) * scale / (1 - jnp.isnan(scale))

    zeros = ff.Dataset(table[0].x, (np.arange(250) % 10 == 0).astype(np.int32))
    steps_until_nan = optax.chain(optax.scale_by_schedule(lambda step: jnp.where(step < 3, 1e-3, jnp.nan)), optax.scale(-1.0))
    task = ff.Task(Breaks(), ff.losses.binary_crossentropy, steps_until_nan, metrics={"accuracy": ff.metrics.binary_accuracy})
    options = {"validation": zeros, "epochs": 6, "batch_size": 250, "early_stopping": ff.EarlyStopping("val_accuracy", patience=9)}
    with pytest.warns(RuntimeWarning, match="epoch 4"):
        result = ff.fit(task, zeros, **options)
    going_on = ff.fit(task, zeros, terminate_on_nan=False, **options)
    assert going_on.history["val_accuracy"][-1] == pytest.approx(0.9)
    for each in (result, going_on):
        assert each.best_epoch <= 3
        assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(each.best))
