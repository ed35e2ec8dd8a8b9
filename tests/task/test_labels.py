"""Labels in the forms that people have them, labels that do not count, and weights of classes and of time steps."""

from __future__ import annotations

import functools
import subprocess
import sys

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from sklearn.metrics import accuracy_score, f1_score, log_loss
from sklearn.utils.class_weight import compute_class_weight

import flaxfit as ff

pytestmark = pytest.mark.usefixtures("quickly_compiled")

CROSSENTROPY, ACCURACY = ff.losses.categorical_crossentropy, {"accuracy": ff.metrics.categorical_accuracy}


class Linear(nn.Module):
    """A logit or more for each row or, of inputs (rows, time steps, features), for each time step."""

    outputs: int = 3

    @nn.compact
    def __call__(self, x):
        return nn.Dense(self.outputs)(x)


@pytest.fixture(scope="module")
def classes():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(90, 4)).astype(np.float32)
    return x, (x[:, 0] + 0.3 * rng.normal(size=90) > 0).astype(np.int32) + (x[:, 1] > 0.5)


@pytest.fixture(scope="module")
def series():
    rng = np.random.default_rng(1)
    x = rng.normal(size=(40, 5, 4)).astype(np.float32)
    return x, (x[..., 0] > 0).astype(np.int32) + (x[..., 1] > 0.5)


@pytest.fixture(scope="module")
def task():
    return ff.Task(Linear(), CROSSENTROPY, optax.sgd(0.5), ACCURACY)


@pytest.fixture(scope="module")
def plain(task, classes):
    x, y = classes
    return ff.fit(task, ff.Dataset(x[:60], y[:60]), validation=ff.Dataset(x[60:], y[60:]), epochs=2)


FORMS = {
    "column": lambda y: y[:, None],
    "float": lambda y: y.astype(np.float32),
    "float column": lambda y: y[:, None].astype(np.float64),
    "bytes": lambda y: y.astype(np.uint8),
    "one-hot": lambda y: np.eye(3, dtype=np.int32)[y],
    "text": lambda y: np.array(["a", "b", "c"])[y],
    "column of text": lambda y: [[name] for name in np.array(["a", "b", "c"])[y].tolist()],
}


@pytest.mark.parametrize("form", FORMS)
def test_labels_of_every_form_train_alike(task, classes, plain, form):
    x, y = classes
    y = FORMS[form](y)
    result = ff.fit(task, ff.Dataset(x[:60], y[:60]), validation=ff.Dataset(x[60:], y[60:]), epochs=2)
    for name in ("loss", "accuracy", "val_loss", "val_accuracy"):
        np.testing.assert_allclose(result.history[name], plain.history[name], rtol=1e-6)


@pytest.mark.parametrize("loss", [ff.losses.hinge, ff.losses.focal], ids=lambda loss: loss.__name__)
def test_other_losses_of_classes_take_columns_and_floats(loss):
    rng = np.random.default_rng(0)
    logits, y = rng.normal(size=(20, 3)).astype(np.float32), rng.integers(3, size=20)
    for form in ("column", "float", "float column"):
        np.testing.assert_array_equal(loss(logits, FORMS[form](y)), loss(logits, y))


def test_a_class_number_that_is_not_whole_is_refused(task, classes, plain):
    x, y = classes
    broken = y.astype(np.float32)
    broken[70] = 1.5
    with pytest.raises(ValueError, match=r"validation\.y has the label 1\.5 in row 10, but class numbers must be whole"):
        ff.fit(task, ff.Dataset(x[:60], y[:60]), validation=ff.Dataset(x[60:], broken[60:]))
    with pytest.raises(ValueError, match=r"data\.y has the label 1\.5 in row 70"):
        ff.evaluate(task, plain.best, ff.Dataset(x, broken))
    with pytest.raises(ValueError, match=r"class numbers must be whole, got 0\.5"):
        CROSSENTROPY(jnp.zeros((2, 3)), jnp.array([0.5, 1.0]))
    binary = ff.Task(Linear(1), ff.losses.binary_crossentropy, optax.sgd(0.1))
    with pytest.raises(ValueError, match=r"validation\.y has the label 0\.5 in row 1, but the labels of train\.y are 0 and 1"):
        ff.fit(binary, ff.Dataset(x[:60], y[:60] > 0), validation=ff.Dataset(x[:2], [1.0, 0.5]))


def test_classes_that_training_lacks_are_told(task, classes):
    x, y = classes
    with pytest.warns(UserWarning, match=r"validation\.y has \d+ labels of classes that train\.y does not have \(2\)"):
        ff.fit(task, ff.Dataset(x[y < 2], y[y < 2]), validation=ff.Dataset(x, y))


def softmax_regression(x, y, counts, weight=None, steps=3, rate=0.5):
    """Full-batch gradient descent from zero on the mean over positions that count, by hand in float64."""
    x, y = x.reshape(-1, x.shape[-1]), np.eye(3)[np.where(counts, y, 0).ravel()]
    each = counts.ravel() * (1.0 if weight is None else weight.ravel())
    kernel, bias = np.zeros((x.shape[1], 3)), np.zeros(3)
    losses = []
    for _ in range(steps):
        logits = x @ kernel + bias
        p = np.exp(logits - logits.max(1, keepdims=True))
        p /= p.sum(1, keepdims=True)
        losses.append(-(each * np.log((p * y).sum(1))).sum() / counts.sum())
        gradient = (p - y) * each[:, None] / counts.sum()
        kernel, bias = kernel - rate * x.T @ gradient, bias - rate * gradient.sum(0)
    return kernel, bias, losses


def from_zero(task, x):
    state = task.init(jax.random.key(0), x[:1])
    return ff.TrainState(state.step, jax.tree.map(jnp.zeros_like, state.params), state.collections, None)


def trained(task, data, **options):
    return ff.fit(task, data, initial=from_zero(task, data.x), epochs=3, batch_size=len(data), **options)


@pytest.mark.parametrize("label", [-1, 9])
def test_labels_that_do_not_count_do_not_count(classes, label):
    x, y = classes
    counts = np.arange(90) % 3 > 0
    data = ff.Dataset(x, np.where(counts, y, label))
    task = ff.Task(Linear(), CROSSENTROPY, optax.sgd(0.5), ACCURACY, ignore_label=label, set_metrics={"f1": ff.metrics.f1})
    result = trained(task, data, validation=data)
    kernel, bias, losses = softmax_regression(x, y, counts)
    np.testing.assert_allclose(result.history["loss"], losses, rtol=1e-5)
    np.testing.assert_allclose(result.last.params["Dense_0"]["kernel"], kernel, atol=1e-6)
    logits = x @ kernel + bias
    taken, true = logits[counts].argmax(1), y[counts]
    expected = {"accuracy": accuracy_score(true, taken), "f1": f1_score(true, taken, average="macro")}
    expected["loss"] = log_loss(true, np.exp(logits[counts]) / np.exp(logits[counts]).sum(1, keepdims=True))
    scores = ff.evaluate(task, result.last, data, batch_size=7, metrics={"whole": f1_score_macro})
    streamed = ff.evaluate(task, result.last, ff.data.Stream(data), batch_size=7)
    for name, value in expected.items():
        assert scores[name] == pytest.approx(value, rel=1e-5)
        assert streamed[name] == pytest.approx(value, rel=1e-5)
        assert result.history[f"val_{name}"][-1] == pytest.approx(value, rel=1e-5)
    assert scores["whole"] == pytest.approx(expected["f1"])
    interval = ff.evaluate(task, result.last, data, interval=True)["accuracy"]
    assert (interval.count, interval.mean) == (counts.sum(), pytest.approx(expected["accuracy"]))


f1_score_macro = functools.partial(ff.metrics.f1, average="macro")


def test_batches_of_which_nothing_counts_change_nothing(classes):
    x, y = classes
    task = ff.Task(Linear(), CROSSENTROPY, optax.sgd(0.5), ACCURACY, ignore_label=-1)
    y = np.where(np.arange(90) < 2, y, -1)
    result = ff.fit(task, ff.Dataset(x, y), epochs=2, batch_size=4)
    assert np.isfinite(result.history["loss"]).all()
    assert (result.history["accuracy"] <= 1).all()
    with pytest.raises(ValueError, match=r"train\.y has no label that counts: all are -1"):
        ff.fit(task, ff.Dataset(x[2:], y[2:]))


def test_time_steps_that_do_not_count_and_weights_of_time_steps(series):
    x, y = series
    counts, weight = np.random.default_rng(2).random((40, 5)) > 0.4, np.random.default_rng(3).random((40, 5)).astype(np.float32)
    task = ff.Task(Linear(), CROSSENTROPY, optax.sgd(0.5), ACCURACY, ignore_label=-1)
    data = ff.Dataset(x, np.where(counts, y, -1), weight)
    result = trained(task, data)
    kernel, bias, losses = softmax_regression(x, y, counts, weight)
    np.testing.assert_allclose(result.history["loss"], losses, rtol=1e-5)
    np.testing.assert_allclose(result.last.params["Dense_0"]["kernel"], kernel, atol=1e-6)
    accuracy = accuracy_score(y[counts], (x @ kernel + bias).argmax(-1)[counts])
    assert ff.evaluate(task, result.last, data, batch_size=16)["accuracy"] == pytest.approx(accuracy)
    with pytest.raises(ValueError, match="different numbers of labels that count"):
        ff.evaluate(task, result.last, data, interval=True)


def test_weights_of_time_steps_alone(series):
    x, y = series
    weight = np.random.default_rng(3).random((40, 5)).astype(np.float32)
    task = ff.Task(Linear(), CROSSENTROPY, optax.sgd(0.5))
    result = trained(task, ff.Dataset(x, y, weight), validation=ff.Dataset(x, y, weight))
    kernel, _, losses = softmax_regression(x, y, np.ones((40, 5), bool), weight)
    np.testing.assert_allclose(result.history["loss"], losses, rtol=1e-5)
    np.testing.assert_allclose(result.last.params["Dense_0"]["kernel"], kernel, atol=1e-6)


def test_weights_of_time_steps_need_a_mean_over_them(series):
    x, y = series

    def longest(logits, y):
        return optax.softmax_cross_entropy_with_integer_labels(logits, y).max(1)

    weight = np.ones((40, 5))
    with pytest.raises(ValueError, match=r"what the loss longest gives for a row is not the mean over its positions|cannot be computed"):
        ff.fit(ff.Task(Linear(), longest, optax.sgd(0.1)), ff.Dataset(x, y, weight))
    with pytest.raises(
        ValueError,
        match=r"train\.sample_weight of shape \(rows, 7\) has a number for each position.*: they are \(rows, 5, 3\) and \(rows, 5\)",
    ):
        ff.fit(ff.Task(Linear(), CROSSENTROPY, optax.sgd(0.1)), ff.Dataset(x, y, np.ones((40, 7))))


def test_balanced_class_weights_are_those_of_scikit_learn(classes, series):
    x, y = classes
    factors = compute_class_weight("balanced", classes=np.arange(3), y=y)
    for form in ("column", "float", "one-hot", "text"):
        task = ff.Task(Linear(), CROSSENTROPY, optax.sgd(0.5))
        result = trained(task, ff.Dataset(x, FORMS[form](y)), class_weight="balanced")
        np.testing.assert_allclose(result.history["loss"], softmax_regression(x, y, y >= 0, factors[y])[2], rtol=1e-5)
    x, y = series
    factors, task = compute_class_weight("balanced", classes=np.arange(3), y=y.ravel()), ff.Task(Linear(), CROSSENTROPY, optax.sgd(0.5))
    result = trained(task, ff.Dataset(x, y), class_weight="balanced")
    np.testing.assert_allclose(result.history["loss"], softmax_regression(x, y, y >= 0, factors[y])[2], rtol=1e-5)


def test_class_weights_by_name_and_of_labels_that_count(classes):
    x, y = classes
    counts, names = np.arange(90) % 4 > 0, ("a", "b", "c")
    data, task = ff.Dataset(x, y, classes=names), ff.Task(Linear(), CROSSENTROPY, optax.sgd(0.5))
    by_name, by_number = (trained(task, data, class_weight=weight).history for weight in ({"b": 3.0}, {1: 3.0}))
    assert by_name == by_number
    with pytest.raises(ValueError, match="no class 'd' among the names of the classes"):
        trained(task, data, class_weight={"d": 2.0})
    task = ff.Task(Linear(), CROSSENTROPY, optax.sgd(0.5), ignore_label=-1)
    result = trained(task, ff.Dataset(x, np.where(counts, y, -1)), class_weight="balanced")
    factors = compute_class_weight("balanced", classes=np.arange(3), y=y[counts])
    np.testing.assert_allclose(result.history["loss"], softmax_regression(x, y, counts, factors[y])[2], rtol=1e-5)
    config = ff.TrainConfig(class_weight={"1": 2.0, "b": 1.0})
    assert ff.TrainConfig.from_record(config.record()) == config
    assert ff.TrainConfig.from_record(ff.TrainConfig(class_weight="balanced").record()).class_weight == "balanced"


def test_balanced_weights_of_a_fold_are_of_its_training_rows(classes):
    x, y = classes
    task = ff.Task(Linear(), CROSSENTROPY, optax.sgd(0.5))
    scores = ff.cross_validate(task, ff.Dataset(x, y), folds=3, shuffle_seed=None, class_weight="balanced", epochs=1)
    rows = scores.folds[1][0]
    factors = compute_class_weight("balanced", classes=np.arange(3), y=y[rows])
    alone = ff.fit(task, ff.Dataset(x[rows], y[rows]), class_weight=dict(enumerate(factors)), epochs=1)
    np.testing.assert_allclose(scores.study.results[1].history["loss"], alone.history["loss"], rtol=1e-5)


LOADS = """
import sys, flaxfit as ff, numpy as np
model = ff.load(sys.argv[1])
x, y = (np.load(f"{sys.argv[1]}/../{name}.npy") for name in "xy")
scores = model.evaluate(ff.Dataset(x, y, classes=model.classes))
print(scores["loss"], scores["accuracy"], *model.predict(x, classes=model.classes))
"""


def test_names_of_classes_come_back_in_a_new_process(tmp_path, classes):
    x, y = classes
    names = np.array(["cat", "dog", "owl"])[y]
    task = ff.Task(Linear(), CROSSENTROPY, optax.sgd(0.5), ACCURACY)
    data = ff.Dataset(x, names)
    result = ff.fit(task, data, epochs=3)
    taken = ff.predict(task, result.best, x, classes=data.classes)
    scores = ff.evaluate(task, result.best, data)
    assert scores["accuracy"] == pytest.approx(accuracy_score(names, taken))
    ff.export(tmp_path / "model", task, result.best, data)
    for name, array in (("x", x), ("y", names)):
        np.save(tmp_path / f"{name}.npy", array)
    printed = subprocess.run([sys.executable, "-c", LOADS, tmp_path / "model"], check=True, capture_output=True, text=True).stdout.split()
    assert [float(printed[0]), float(printed[1])] == pytest.approx([scores["loss"], scores["accuracy"]], rel=1e-5)
    assert printed[2:] == taken.tolist()
    model = ff.load(tmp_path / "model")
    with pytest.raises(ValueError, match="the classes of the model are cat, dog, owl, those of data dog, owl: number them in the same way"):
        model.evaluate(ff.Dataset(x[names != "cat"], names[names != "cat"]))
    with pytest.raises(ValueError, match=r"has 2 names, but outputs of shape .* have 3 classes"):
        model.predict(x, classes=("cat", "dog"))


def test_an_export_leaves_out_labels_that_do_not_count(tmp_path, series):
    x, y = series
    counts = np.random.default_rng(2).random((40, 5)) > 0.4
    task = ff.Task(Linear(), CROSSENTROPY, optax.sgd(0.5), ACCURACY, ignore_label=-1)
    data = ff.Dataset(x, np.where(counts, y, -1))
    result = ff.fit(task, data, epochs=1)
    model = ff.load(ff.export(tmp_path / "model", task, result.best, data))
    metrics = {"f1": f1_score_macro}
    expected = ff.evaluate(task, result.best, data, metrics=metrics)
    assert model.evaluate(data, metrics=metrics) == pytest.approx(expected, rel=1e-5)


def test_a_table_is_evaluated_by_a_loaded_model(tmp_path):
    rng = np.random.default_rng(0)
    frame = {"size": rng.normal(size=80), "color": rng.choice(["red", "blue"], 80)}
    frame["kind"] = np.where(frame["size"] + (frame["color"] == "red") > 0.5, "big", np.where(frame["size"] < -0.5, "small", "middle"))
    table = ff.data.Table(frame, "kind")
    task = ff.Task(Linear(), CROSSENTROPY, optax.sgd(0.5), ACCURACY)
    result = ff.fit(task, table, epochs=5)
    model = ff.load(ff.export(tmp_path / "model", task, result.best, table.dataset()))
    assert model.evaluate(table)["accuracy"] == pytest.approx(ff.evaluate(task, result.best, table.dataset())["accuracy"])
    rows = np.flatnonzero(frame["kind"] != "big")
    other = ff.data.Table({name: values[rows] for name, values in frame.items()}, "kind")
    taken = model.predict(pandas_of(frame, rows), classes=model.classes)
    assert model.evaluate(other)["accuracy"] == pytest.approx(accuracy_score(frame["kind"][rows], taken))


def pandas_of(frame, rows):
    import pandas

    return pandas.DataFrame({name: frame[name][rows] for name in ("color", "size")})
