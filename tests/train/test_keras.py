"""Against Keras on JAX, from the same weights and the same batches. Runs where Keras is installed."""

from __future__ import annotations

import inspect
import os
import re
from pathlib import Path

import jax
import numpy as np
import optax
import pytest

import flaxfit as ff
from flaxfit.data.order import round_keys, shuffled

os.environ.setdefault("KERAS_BACKEND", "jax")
keras = pytest.importorskip("keras")
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # Keras 3.15 with NumPy 2

STEPS, BATCH = 100, 25  # 250 rows: 10 epochs of 10 steps


@pytest.mark.parametrize("variant", ["plain", "l2", "batch norm", "batch norm after, l2", "classes"])
def test_a_hundred_losses_equal_kerass(variant, table, each_loss):
    train, validation = table
    layers, penalty = keras.layers, 1e-2 if "l2" in variant else 0.0
    norm, classes = "batch norm" in variant, 3 if variant == "classes" else 1
    regularizer = keras.regularizers.L2(penalty) if penalty else None
    stack = [keras.Input((6,))]
    for _ in range(2):
        stack.append(layers.Dense(12, kernel_regularizer=regularizer))
        parts = [layers.Activation("relu"), *([layers.BatchNormalization()] if norm else [])]
        stack += parts if "after" in variant else parts[::-1]
    model = keras.Sequential([*stack, layers.Dense(classes, kernel_regularizer=regularizer)])
    loss = keras.losses.SparseCategoricalCrossentropy if classes > 1 else keras.losses.BinaryCrossentropy
    # A bias before batch norm has no gradient but rounding, which Adam would blow up to full steps: SGD there.
    adam = variant != "batch norm"
    model.compile(keras.optimizers.Adam(1e-2, epsilon=1e-10) if adam else keras.optimizers.SGD(5e-2, momentum=0.9), loss(from_logits=True))

    if classes > 1:
        train, validation = (ff.Dataset(part.x, part.y + (part.x[:, 0] > 1)) for part in table)
    hook, remember = each_loss
    task = ff.Task(
        ff.nn.MLP((12, 12), classes, batch_norm=("after" if "after" in variant else "before") if norm else False),
        ff.losses.categorical_crossentropy if classes > 1 else ff.losses.binary_crossentropy,
        optax.chain(remember, optax.adam(1e-2, eps=1e-10) if adam else optax.sgd(5e-2, momentum=0.9)),
        penalty=ff.penalties.l2(penalty) if penalty else None,
    )
    still = ff.Task(task.model, task.loss, optax.sgd(0.0))
    start = ff.fit(still, train, epochs=1, batch_size=250, seed=2).last
    dense = [layer for layer in model.layers if isinstance(layer, layers.Dense)]
    for number, layer in enumerate(dense):
        layer.set_weights([np.asarray(start.params[f"Dense_{number}"][name]) for name in ("kernel", "bias")])

    result = ff.fit(task, train, validation=validation, epochs=STEPS * BATCH // 250, batch_size=BATCH, seed=2, callbacks=[hook])
    losses = []
    for epoch in range(STEPS * BATCH // 250):
        order = shuffled(np.arange(250), np.asarray(round_keys(jax.random.key(2), epoch, 250)), 250)
        for rows in order.reshape(-1, BATCH):
            model.reset_metrics()
            losses.append(float(model.train_on_batch(train.x[rows], train.y[rows])))
    assert len(losses) == len(hook.losses) == STEPS
    np.testing.assert_allclose(hook.losses, losses, rtol=1e-4)
    scored = model.evaluate(validation.x, validation.y, verbose=0)
    assert result.history["val_loss"][-1] == pytest.approx(scored, rel=1e-3)


def test_sample_and_class_weights_mean_what_they_do_in_keras(table):
    train, _ = table
    weight = np.random.default_rng(0).uniform(0, 2, 250).astype(np.float32)
    model = keras.Sequential([keras.Input((6,)), keras.layers.Dense(1)])
    model.compile(keras.optimizers.SGD(0.0), keras.losses.BinaryCrossentropy(from_logits=True), metrics=["accuracy"])
    task = ff.Task(ff.nn.MLP((), 1), ff.losses.binary_crossentropy, optax.sgd(0.0))
    state = ff.fit(task, train, epochs=1).last
    model.layers[0].set_weights([np.asarray(state.params["Dense_0"][name]) for name in ("kernel", "bias")])
    for ours, theirs in (
        (ff.fit(task, ff.Dataset(train.x, train.y, weight), epochs=1), {"sample_weight": weight}),
        (ff.fit(task, train, epochs=1, class_weight={0: 0.5, 1: 3.0}), {"class_weight": {0: 0.5, 1: 3.0}}),
    ):
        history = model.fit(train.x, train.y, batch_size=32, shuffle=False, verbose=0, **theirs).history
        assert ours.history["loss"][0] == pytest.approx(history["loss"][0], rel=1e-4)


def test_inverse_time_decay_is_kerass():
    for staircase in (False, True):
        ours = ff.schedules.inverse_time_decay(1e-3, 20, 0.7, staircase=staircase)
        theirs = keras.optimizers.schedules.InverseTimeDecay(1e-3, 20, 0.7, staircase=staircase)
        np.testing.assert_allclose([ours(s) for s in range(0, 100, 7)], [float(theirs(s)) for s in range(0, 100, 7)], rtol=1e-5)


def test_losses_are_kerass():
    rng = np.random.default_rng(1)
    z, y = rng.normal(size=(20, 4)).astype(np.float32), rng.integers(0, 4, 20)
    for smoothing in (0.0, 0.2):
        theirs = keras.losses.CategoricalCrossentropy(from_logits=True, label_smoothing=smoothing, reduction=None)
        ours = ff.losses.categorical_crossentropy(z, y, label_smoothing=smoothing)
        np.testing.assert_allclose(ours, theirs(np.eye(4, dtype=np.float32)[y], z), rtol=1e-4)
        theirs = keras.losses.BinaryCrossentropy(from_logits=True, label_smoothing=smoothing, reduction=None)
        ours = ff.losses.binary_crossentropy(z[:, 0], y % 2, label_smoothing=smoothing)
        np.testing.assert_allclose(ours, theirs((y[:, None] % 2).astype(np.float32), z[:, :1]), rtol=1e-4)


@pytest.mark.parametrize("mode", ["min", "max"])
@pytest.mark.parametrize(("patience", "cooldown", "min_scale"), [(0, 0, 0.0), (1, 0, 0.0), (2, 3, 0.0), (3, 1, 0.2), (5, 2, 0.01)])
def test_a_plateau_lowers_the_rate_in_the_epochs_in_which_keras_does(mode, patience, cooldown, min_scale):
    model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1)])
    model.compile(keras.optimizers.SGD(1.0))
    sizes = {"patience": patience, "cooldown": cooldown, "factor": 0.5, "min_delta": 0.05, "mode": mode}
    peer = keras.callbacks.ReduceLROnPlateau("val_score", min_lr=min_scale, **sizes)
    peer.set_model(model)
    peer.on_train_begin()
    plateau = ff.Plateau("val_score", min_scale=min_scale, **sizes)
    state, scales = plateau.init(), []
    for epoch, value in enumerate(np.random.default_rng(patience).normal(size=80).cumsum() / 10):
        peer.on_epoch_end(epoch, {"val_score": float(value)})
        state = plateau.update(state, value)
        scales.append((float(model.optimizer.learning_rate), float(state.scale)))
    theirs, ours = np.transpose(scales)
    assert len(set(theirs)) > 2
    np.testing.assert_allclose(ours, theirs, rtol=1e-6)


PAGE = (Path(__file__).parents[2] / "docs" / "guides" / "from_keras.md").read_text(encoding="utf-8")


def test_the_guide_has_every_argument_of_compile_fit_and_callbacks():
    callbacks = [kind for kind in vars(keras.callbacks).values() if inspect.isclass(kind) and kind is not keras.callbacks.CallbackList]
    arguments = {
        name
        for function in (keras.Model.compile, keras.Model.fit, *(kind.__init__ for kind in callbacks))
        for name, parameter in inspect.signature(function).parameters.items()
        if name != "self" and parameter.kind is not parameter.VAR_KEYWORD
    }
    said = set(re.findall(r"\w+", " ".join(re.findall(r"^\| [^|]*\|[^|]*\|", PAGE, re.MULTILINE))))
    assert {kind.__name__ for kind in callbacks} | arguments <= said


def keras_optimizers():
    (code,) = re.findall(r"^```python\n([^`]*?^optimizers = .*?)^```$", PAGE, re.DOTALL | re.MULTILINE)
    namespace = {}
    exec(code, namespace)
    return namespace["optimizers"]


@pytest.mark.parametrize(("name", "optimizer"), keras_optimizers().items())
def test_the_optimizers_of_the_guide_are_kerass_with_default_arguments(name, optimizer):
    rng = np.random.default_rng(0)
    params, gradients = rng.normal(size=8).astype(np.float32), rng.normal(size=(50, 8)).astype(np.float32)
    variable, theirs = keras.Variable(params), getattr(keras.optimizers, name)()
    state = optimizer.init(params)
    for gradient in gradients:
        theirs.apply([gradient], [variable])
        updates, state = optimizer.update(gradient, state, params)
        params = optax.apply_updates(params, updates)
    np.testing.assert_allclose(params, np.asarray(variable), rtol=2e-5)
