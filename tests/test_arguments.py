"""The order of a loss's or metric's arguments, by the names of its parameters."""

from __future__ import annotations

import functools
import inspect

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import sklearn.metrics

import flaxfit as ff
from flaxfit.arguments import in_order, targets_first


def with_parameters(*names):
    """A function of parameters with these names that returns its first argument."""
    space: dict = {}
    exec(f"def function({', '.join(names)}): return {names[0]}", space)
    return space["function"]


@pytest.mark.parametrize(
    "names",
    [
        *[(name, "x") for name in ("y_true", "target", "targets", "label", "labels")],
        *[("y", name) for name in ("y_pred", "y_hat", "pred", "preds", "logits", "output", "outputs", "predictions")],
        ("y_true", "y_pred"),
        ("labels", "logits", "weight=1"),
        ("Y_true", "Y_pred"),
    ],
)
def test_targets_first(names):
    assert in_order(with_parameters(*names))("outputs", "targets") == "targets"


@pytest.mark.parametrize(
    "names",
    [
        ("logits", "y"),
        ("y", "x"),
        ("a", "b"),
        ("y_pred", "y_true"),
        ("predictions", "targets"),
        ("logits", "labels"),
        ("z", "*rest"),
        ("*all",),
    ],
)
def test_outputs_first(names):
    function = with_parameters(*names) if names != ("*all",) else lambda *all: all[0]
    assert in_order(function) is function
    assert function("outputs", "targets") == "outputs"


@pytest.mark.parametrize("names", [("y_true", "labels"), ("logits", "y_pred"), ("outputs", "preds"), ("target", "y_true")])
def test_names_that_contradict_each_other(names):
    with pytest.raises(ValueError, match=rf"\({names[0]}, {names[1]}\) of Task\(loss=\.\.\.\) contradict each other. Rename them"):
        ff.Task(ff.nn.MLP((), 1), with_parameters(*names), optax.sgd(0.1))
    with pytest.raises(ValueError, match="contradict each other"):
        ff.Task(ff.nn.MLP((), 1), ff.losses.mse, optax.sgd(0.1), metrics={"m": with_parameters(*names)})


def test_partials_jitted_functions_methods_and_objects():
    def weighted(weight, y_true, y_pred):
        return weight * y_true

    class Loss:
        def __call__(self, y_true, y_pred, sample_weight=None):
            return y_true

        def method(self, y_true, y_pred):
            return y_true

    for function in (functools.partial(weighted, 1), jax.jit(with_parameters("y_true", "y_pred")), Loss(), Loss().method):
        assert in_order(function)(1, 2) == 2
    assert in_order(in_order(Loss()))(1, 2) == 2
    assert in_order(np.add) is np.add


def pinball90(y_true, y_pred):
    error = y_true.reshape(-1) - y_pred.reshape(-1)
    return jnp.maximum(0.9 * error, -0.1 * error)


def same_in_flaxfit_s_order(logits, y):
    return pinball90(y, logits)


def test_every_place_takes_functions_of_either_order(table):
    rng = np.random.default_rng(1)
    train = ff.Dataset(table[0].x, table[0].x[:, 0] + rng.normal(size=250).astype(np.float32))

    def mean(y_true, y_pred):
        return pinball90(y_true, y_pred).mean()

    def same_mean(logits, y):
        return mean(y, logits)

    def fitted(function, mean):
        wrapped = {"m": function, "said": ff.Metric(function, "min"), "batch": ff.losses.of_batch(function, 50)}
        task = ff.Task(ff.nn.MLP((), 1), function, optax.adam(1e-2), metrics=wrapped, set_metrics={"set": mean})
        return task, ff.fit(task, train, validation=train[:100], epochs=3)

    (task, one), (other_task, other) = fitted(pinball90, mean), fitted(same_in_flaxfit_s_order, same_mean)
    assert task.loss_name == "pinball90"
    for name, values in one.history.items():
        np.testing.assert_array_equal(values, other.history[name.replace("pinball90", "same_in_flaxfit_s_order")])
    scores = [
        ff.evaluate(t, r.last, train, metrics={"e": f}) for t, r, f in ((task, one, mean), (other_task, other, lambda z, y: mean(y, z)))
    ]
    assert scores[0]["e"] == pytest.approx(scores[0]["pinball90"], rel=1e-5)
    assert scores[1]["e"] == pytest.approx(scores[0]["e"], rel=1e-5)


def test_keras_s_own_names_modes_and_reductions():
    """Keras is not installed: functions and objects with its signatures and modules stand for its own."""

    def mean_absolute_error(y_true, y_pred):
        return jnp.abs(y_true - y_pred[..., 0])

    mean_absolute_error.__module__ = "keras.src.losses.losses"
    task = ff.Task(ff.nn.MLP((), 1), ff.losses.mse, optax.sgd(0.1), metrics={"mae": mean_absolute_error})
    assert task.modes["mae"] == "min"
    assert isinstance(task.metrics["mae"], targets_first)

    def mean_over_the_batch(y_true, y_pred):
        return mean_absolute_error(y_true, y_pred).mean()

    with pytest.raises(ValueError, match=r"remove the mean \(in Keras, reduction=None\)"):
        ff.fit(ff.Task(ff.nn.MLP((), 1), mean_over_the_batch, optax.sgd(0.1)), ff.Dataset(np.eye(8), np.ones(8)))


def test_functions_of_scikit_learn_are_refused_where_rows_are_wanted():
    with pytest.raises(TypeError, match=r"Task\(metrics\['f1'\]=.*scikit-learn.*use Task\(set_metrics=\.\.\.\)"):
        ff.Task(
            ff.nn.MLP((), 1), ff.losses.mse, optax.sgd(0.1), metrics={"f1": functools.partial(sklearn.metrics.f1_score, average="macro")}
        )
    with pytest.raises(TypeError, match=r"Task\(loss=.*scikit-learn.*flaxfit\.losses"):
        ff.Task(ff.nn.MLP((), 1), sklearn.metrics.log_loss, optax.sgd(0.1))


@pytest.mark.parametrize(
    ("module", "name", "hint"),
    [
        (ff, "loses", "flaxfit has no 'loses'; did you mean 'losses'"),
        (ff.losses, "mean_squared_error", "flaxfit.losses has no 'mean_squared_error': use mse"),
        (ff.losses, "crossentropy", "did you mean '.*crossentropy'"),
        (ff.metrics, "accuracy", "use binary_accuracy or categorical_accuracy"),
        (ff.callbacks, "EarlyStopping", r"use fit\(early_stopping=ff.EarlyStopping\(\.\.\.\)\)"),
        (ff.callbacks, "TensorBord", "did you mean 'TensorBoard'"),
    ],
)
def test_names_that_a_module_does_not_have(module, name, hint):
    with pytest.raises(AttributeError, match=hint):
        getattr(module, name)
    assert not hasattr(module, name)


@pytest.mark.parametrize(
    ("kind", "argument", "hint"),
    [
        (ff.EarlyStopping, "restore_best_weights", "EarlyStopping has no argument restore_best_weights: use result.best"),
        (ff.Plateau, "min_lr", "use min_scale, a fraction of the first learning rate"),
        (ff.callbacks.SaveWeights, "save_best_only", "use best_only"),
        (ff.EarlyStopping, "patients", "unexpected keyword argument 'patients'"),
    ],
)
def test_arguments_of_keras(kind, argument, hint):
    with pytest.raises(TypeError, match=hint):
        kind(**{argument: True})
    assert argument not in inspect.signature(kind).parameters
    assert "monitor" in inspect.signature(kind).parameters
