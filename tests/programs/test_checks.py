"""Bad input: each a ValueError or TypeError that names the cure, before anything compiles."""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import flaxfit as ff
from flaxfit.programs import checks


def task_of(model, loss=ff.losses.binary_crossentropy, **fields):
    return ff.Task(model, loss, fields.pop("optimizer", optax.adam(1e-3)), **fields)


@pytest.fixture(autouse=True)
def nothing_compiles(monkeypatch):
    """Every test here fails if the error comes after a compilation of ours."""
    from flaxfit.train.job import Single

    def start(*args, **kwargs):
        raise AssertionError("compiled before the check")

    monkeypatch.setattr(Single, "start", start)


def with_value(data, value):
    x = np.array(data.x)
    x[3, 2] = value
    return ff.Dataset(x, data.y)


class Grows(nn.Module):
    @nn.compact
    def __call__(self, x, *, train):
        self.sow("seen", "values", x)
        return nn.Dense(1)(x)


class Draws(nn.Module):
    @nn.compact
    def __call__(self, x, *, train):
        return nn.Dense(1)(x) + (jax.random.normal(self.make_rng("noise"), (1,)) if train else 0)


class Reshapes(nn.Module):
    @nn.compact
    def __call__(self, x, *, train):
        return nn.Dense(1)(x.reshape(len(x), 2, 5))


class Empty(nn.Module):
    def __call__(self, x, *, train):
        return x


class Outputs(nn.Module):
    outputs: int

    @nn.compact
    def __call__(self, x, *, train):
        return nn.Dense(self.outputs)(x)


class AlwaysDrops(nn.Module):
    @nn.compact
    def __call__(self, x, *, train):
        return nn.Dropout(0.5, deterministic=False)(nn.Dense(1)(x))


def every(**cadence):
    hook = ff.callbacks.Callback()
    vars(hook).update(cadence)
    return hook


def cases():
    def fit(change=None, **options):
        """(net, train) -> a call of fit."""
        return lambda net, train: ff.fit(task_of(net()), change(train) if change else train, **options)

    def trained(model=None, **fields):
        return lambda net, train: ff.fit(task_of(model or net(), **fields), train)

    stop = ff.EarlyStopping
    yield "empty", fit(lambda d: d[:0]), ValueError, r"train has no rows: its arrays are x \(0, 6\), y \(0,\)"
    yield "lengths", lambda net, d: ff.Dataset(d.x, d.y[:-1]), ValueError, "the same number of rows, got x: 250, y: 249"
    yield "text", lambda net, d: ff.Dataset([["a"]], [0]), TypeError, "x must hold numbers, got <U1: encode the values first"
    yield "ragged y", lambda net, d: ff.Dataset(d.x, None), TypeError, "Dataset: y is missing: pass an array"
    yield "64 bit", lambda net, d: ff.Dataset([[2**40]], [0]), ValueError, "x holds numbers that int32 cannot hold, first in row 0"
    yield "weights", lambda net, d: ff.Dataset(d.x, d.y, -np.ones(250)), ValueError, "must be finite and not negative"
    yield (
        "weights' shape",
        fit(lambda d: ff.Dataset(d.x, d.y, np.ones((250, 2)))),
        ValueError,
        r"train\.sample_weight of shape \(rows, 2\) has a number for each position",
    )
    yield "nan", fit(lambda d: with_value(d, np.nan)), ValueError, r"train\.x has NaN or infinity in 1 of 250 rows, first in row 3: remove"
    yield "infinity", fit(lambda d: with_value(d, np.inf)), ValueError, "NaN or infinity in 1 of 250 rows"
    yield "tuple", fit(lambda d: (d.x, d.y)), TypeError, r"must be a flaxfit.Dataset, got tuple: wrap the arrays as ff.Dataset\(x, y\)"
    yield (
        "labels",
        fit(lambda d: ff.Dataset(d.x, d.y + 1)),
        ValueError,
        r"train\.y has labels from 1 to 2, but binary_crossentropy .* from 0 to 1",
    )
    yield "batch 0", fit(batch_size=0), ValueError, r"batch_size must be at least 1 \(examples of a step\), got 0"
    yield "batch 2.5", fit(batch_size=2.5), TypeError, "batch_size must be an integer"
    yield "epochs 0", fit(epochs=0), ValueError, r"epochs must be at least 1 \(epochs\), got 0"
    yield "seed", fit(seed=-1), ValueError, "seed must be at least 0"
    yield "patience", lambda net, d: stop(patience=-1), ValueError, "patience"
    yield "monitor", fit(early_stopping=stop("binary_crossentropi")), ValueError, "did you mean 'binary_crossentropy'"
    yield "no validation", fit(early_stopping=stop("val_loss")), ValueError, r"a val_ metric needs fit\(validation=\.\.\.\)"
    yield "best_epoch", fit(early_stopping=stop("best_epoch")), ValueError, "no metric 'best_epoch'"
    yield "mode", fit(early_stopping=stop("gradient_norms_", mode="min")), ValueError, "did you mean 'gradient_norm'"
    yield "Keras's argument", fit(validation_data=1), TypeError, r"fit has no argument validation_data: use validation=ff\.Dataset\(x, y\)"
    yield "misspelled", fit(epoch=1), TypeError, "no argument 'epoch' of fit; did you mean 'epochs'"
    yield "hook", fit(callbacks=[print]), TypeError, "callbacks must be flaxfit.callbacks.Callback objects"
    yield "hook class", fit(callbacks=[ff.callbacks.ProgressBar]), TypeError, "pass an instance, not the class"
    yield "shapes", trained(Reshapes()), ValueError, r"Reshapes refuses x of shape \(rows, 6\): "
    yield "no parameters", trained(Empty()), ValueError, "Empty has no parameters to train"
    yield "growing", trained(Grows()), ValueError, r"a training step does not fit the fresh state: .*seen"
    yield "streams", trained(Draws()), ValueError, r"draws from a random stream that it is not given; Task\(rngs=\.\.\.\) names"
    yield "mask", trained(penalty=ff.penalties.l2(1e-3, mask="Dens_0")), ValueError, r"Dens_0.*Dense_0/kernel"
    yield "scalar", trained(loss=lambda z, y: jnp.mean(z)), ValueError, r"one number for the whole batch; .* remove the mean"
    yield "columns", trained(loss=lambda z, y: z), ValueError, r"must return one number for each example, shape \(rows,\)"
    yield "metric", trained(metrics={"m": lambda z, y: z.mean()}), ValueError, "the metric 'm' returns one number for the whole batch"
    yield (
        "refuses",
        trained(loss=lambda z, y: z @ jnp.ones((3, 3))),
        ValueError,
        r"the loss data_loss fails on \(logits \(rows, 1\), y \(rows,\)\): TypeError: .*contracting",
    )
    yield "penalty", trained(penalty=lambda p: p["Dense_0"]["bias"]), ValueError, "the penalty must be one number for all parameters"
    yield "eval_params", trained(eval_params=ff.averaging.averaged), ValueError, "needs weight_ema in the optimizer"
    yield "class", lambda net, d: task_of(net), TypeError, r"pass MyModel\(\.\.\.\), not the class"
    yield (
        "optimizer",
        lambda net, d: task_of(net(), optimizer=1e-3),
        TypeError,
        r"optax transformation such as optax.adam\(1e-3\), got float",
    )
    yield "metrics", lambda net, d: task_of(net(), metrics=[len]), TypeError, "must map names to functions"
    yield "loss", lambda net, d: task_of(net(), loss="mse"), TypeError, r"Task\(loss=\.\.\.\) must be a function, got str"
    yield "task", lambda net, d: ff.fit(net(), d), TypeError, "task must be a flaxfit.Task, got Net"
    yield (
        "taken name",
        lambda net, d: task_of(net(), metrics={"loss": ff.metrics.mae}),
        ValueError,
        "must not have the name 'loss', which is in use",
    )
    yield "the loss's name", lambda net, d: task_of(net(), metrics={"binary_crossentropy": ff.metrics.mae}), ValueError, "which is in use"
    yield "val_ name", lambda net, d: task_of(net(), metrics={"val_x": ff.metrics.mae}), ValueError, "which is in use"
    yield (
        "wrong axis",
        trained(Outputs(2), loss=lambda z, y: (z**2).mean(0)),
        ValueError,
        r"one number for each example, shape \(rows,\), got shape \(2,\)",
    )
    yield "augment", trained(augment=lambda k, x, y: (x[:7], y[:7])), ValueError, "must keep the number of rows"
    yield "augment's form", trained(augment=lambda x: x), ValueError, r"Task\(augment=\.\.\.\) must be \(key, x, y\) -> \(x, y\)"
    yield "preprocess", trained(preprocess=lambda x: x @ jnp.ones((9, 9))), ValueError, r"Task\(preprocess=\.\.\.\) refuses x"
    yield (
        "optimizer's mask",
        trained(optimizer=optax.adamw(1e-3, mask=ff.masks.matching("nope"))),
        ValueError,
        "the optimizer refuses.*nope",
    )
    yield "always drops", trained(AlwaysDrops()), ValueError, "random stream that it is not given"
    yield "row", lambda net, d: d[3], TypeError, r"data\[3:4\] for the example 3"
    yield "nothing", lambda net, d: ff.Dataset({}, d.y), TypeError, "must hold an array"
    yield "float32", lambda net, d: ff.Dataset([[1e200]], [0]), ValueError, "x holds numbers that float32 cannot hold, first in row 0"
    yield "seed 2**32", fit(seed=2**32), ValueError, r"seed must be below 2\*\*32"
    yield "bare hook", fit(callbacks=ff.callbacks.ProgressBar()), TypeError, "put it into brackets"
    yield "cadence", fit(callbacks=[every(every_epochs=-1)]), ValueError, "every_epochs must be at least 1"
    yield "half a step", fit(callbacks=[every(every_steps=1.5)]), TypeError, "every_steps must be an integer"
    yield "seconds", fit(callbacks=[every(every_seconds=0)]), ValueError, "every_seconds must be more than 0"
    yield "stopping", fit(early_stopping="val_loss"), TypeError, r"early_stopping must be ff\.EarlyStopping"
    yield "stopping class", fit(early_stopping=ff.EarlyStopping), TypeError, r"early_stopping must be ff\.EarlyStopping"
    yield "monitor's type", lambda net, d: stop(5), TypeError, "must be the name of a metric, or None for the data loss, got 5"
    yield "own hook class", fit(callbacks=[object()]), TypeError, "derive its class from Callback"
    yield (
        "NumPy metric",
        trained(metrics={"m": lambda z, y: np.sort(z)[:, 0]}),
        ValueError,
        r"Use jax\.numpy instead\. A NumPy function of a whole set goes into Task\(set_metrics",
    )
    yield "NumPy loss", trained(loss=lambda z, y: np.abs(np.asarray(z[:, 0]) - y)), ValueError, r"Use jax\.numpy instead\.(?! A NumPy)"
    yield "if", trained(loss=lambda z, y: z[:, 0] if z[0, 0] > 0 else y * 1.0), ValueError, r"Use jnp\.where instead"
    yield "no return", trained(loss=lambda z, y: None), ValueError, r"got NoneType\. Does it lack a return\?"
    yield "loss by name", lambda net, d: task_of(net(), "sparse_categorical_crossentropy"), TypeError, r"as ff\.losses\.categorical_cross"
    yield "metric by name", lambda net, d: task_of(net(), metrics={"m": "mae"}), TypeError, r"such as ff\.metrics\.mae"
    yield "order", lambda net, d: task_of(ff.losses.mse, net()), TypeError, r"got the module Net: Task\(model, loss, optimizer\)"
    yield "stopping as hook", fit(callbacks=[stop()]), TypeError, r"pass it as fit\(early_stopping=\.\.\.\)"
    yield "plateau as hook", fit(callbacks=[ff.Plateau]), TypeError, r"pass it as fit\(plateau=\.\.\.\)"
    yield (
        "classes as numbers",
        lambda net, d: ff.fit(task_of(net(), ff.losses.mse), ff.Dataset(d.x, np.array(["a", "b", "c", "d", "e"])[np.arange(250) % 5])),
        ValueError,
        r'5 classes \(a, b, c, \.\.\.\) numbered from 0, which mse would take for numbers.*kinds=\{TARGET: "number"\}',
    )
    yield "nested", lambda net, d: ff.Dataset(d, d.y), TypeError, "x must be arrays, got a Dataset: pass data.x"
    yield "one width", lambda net, d: ff.nn.MLP(16, 1), ValueError, r"such as \(16,\) for one layer"
    yield "initial", fit(initial={"params": {}}), TypeError, "initial must be a flaxfit.TrainState, such as result.best"
    yield "class weight's type", fit(class_weight=[1.0, 2.0]), TypeError, "class_weight must map classes to factors"
    yield "class weight", fit(class_weight={0: 1.0, 7: 2.0}), ValueError, r"classes that train\.y does not have: \[7\]"
    yield "class weight < 0", fit(class_weight={0: -1.0}), ValueError, "got -1.0 for class 0"
    yield "class weight y", fit(lambda d: ff.Dataset(d.x, d.y * 0.5), class_weight={0: 1.0}), TypeError, "needs integer class labels"


@pytest.mark.parametrize(("call", "error", "message"), [pytest.param(*case[1:], id=case[0]) for case in cases()])
def test_bad_input(call, error, message, net, table):
    with pytest.raises(error, match=message):
        call(net, table[0])


def test_labels_beyond_the_classes(net, table):
    train = ff.Dataset(table[0].x, np.arange(250) % 4)
    message = r"labels from 0 to 3, but categorical_crossentropy with logits \(rows, 3\) needs labels from 0 to 2"
    with pytest.raises(ValueError, match=message):
        ff.fit(task_of(net(outputs=3), ff.losses.categorical_crossentropy), train)
    with pytest.raises(ValueError, match="renumber the classes or widen the last layer"):
        ff.fit(task_of(net(outputs=3), optax.softmax_cross_entropy_with_integer_labels), train)


def test_validation_rows_must_look_like_training_rows(net, table):
    train, validation = table
    with pytest.raises(ValueError, match=r"validation rows differ from training rows: .*float\[6\].*float\[5\]"):
        ff.fit(task_of(net()), train, validation=ff.Dataset(validation.x[:, :5], validation.y))
    with pytest.raises(ValueError, match=r"validation\.y has labels from 0 to 5"):
        ff.fit(task_of(net()), train, validation=ff.Dataset(validation.x, np.arange(100) % 6))


def test_labels_in_a_column_and_floats_are_checked_and_other_losses_left_alone(net, table):
    train, _ = table
    with pytest.raises(ValueError, match="labels from 0 to 2"):
        ff.fit(task_of(net()), ff.Dataset(train.x, np.arange(250)[:, None] % 3))
    with pytest.raises(ValueError, match=r"labels from 0 to 1.5"):
        ff.fit(task_of(net()), ff.Dataset(train.x, 1.5 * train.y))

    def gaussian(logits, y):
        return logits[:, 1] + (y - logits[:, 0]) ** 2 * jnp.exp(-logits[:, 1])

    with pytest.raises(AssertionError, match="compiled before the check"):  # so it passed the door
        ff.fit(task_of(net(outputs=2), gaussian), ff.Dataset(train.x, np.arange(250) % 7))


def test_integer_validation_rows_against_float_training_rows(net, table):
    train, _ = table
    with pytest.raises(ValueError, match=r"float\[6\].*integer\[6\]"):
        ff.fit(task_of(net()), train, validation=ff.Dataset(np.ones((4, 6), np.uint8), np.ones(4)))


def test_a_state_of_another_model_or_none_is_refused(net, table):
    train, _ = table
    state = ff.TrainState(0, {"Dense_0": {"kernel": np.ones((6, 1), np.float32)}}, {}, None)
    for call in (lambda s: ff.evaluate(task_of(net()), s, train), lambda s: ff.predict(task_of(net()), s, train.x)):
        with pytest.raises(ValueError, match=r"state does not fit the model on x of shape \(rows, 6\): .*Dense_0"):
            call(state)
        with pytest.raises(TypeError, match=r"must be a flaxfit.TrainState, such as result.best or result.last, got dict"):
            call({"params": {}})
    with pytest.raises(ValueError, match=r"must not have the name 'loss'"):
        ff.evaluate(task_of(net()), state, train, metrics={"loss": ff.metrics.auc})


def test_evaluate_and_predict_check_too(net, table):
    with pytest.raises(ValueError, match="data has no rows"):
        ff.evaluate(task_of(net()), None, table[0][:0])
    with pytest.raises(ValueError, match=r"predict\.x has NaN"):
        ff.predict(task_of(net()), None, np.full((2, 6), np.nan))


@pytest.mark.parametrize("arrays", [np, jnp])
def test_finite_numbers_whose_sum_overflows_are_finite(arrays):
    checks.check_finite("x", arrays.full((4, 3), 3e38, arrays.float32))
    with pytest.raises(ValueError, match="x has NaN or infinity in 1 of 4 rows, first in row 2"):
        checks.check_finite("x", arrays.array([[3e38], [3e38], [-np.inf], [0.0]], arrays.float32))
