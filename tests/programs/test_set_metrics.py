"""Metrics of the whole validation set at the end of each epoch: exact, in the compiled run or on the host."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import sklearn.metrics

import flaxfit as ff

pytestmark = pytest.mark.usefixtures("quickly_compiled")


def youden(logits, y):
    """A NumPy function: JAX cannot trace it."""
    order = np.argsort(logits[:, 0])
    hits = np.cumsum(2 * y[order] - 1.0)
    return -hits.min() / len(y)


def separation(logits, y):
    """A function of JAX that is no mean over rows."""
    return (jnp.where(y == 1, logits[:, 0], jnp.inf).min() - jnp.where(y == 0, logits[:, 0], -jnp.inf).max()).astype(jnp.float32)


SETS = {
    "f1": ff.metrics.f1,
    "separation": ff.Metric(separation, "max"),
    "youden": ff.Metric(youden, "max"),
    "average_precision": sklearn.metrics.average_precision_score,
}
ON_HOST = {"youden", "average_precision"}


def task_of(net, names=tuple(SETS), **fields):
    chosen = {name: SETS[name] for name in names}
    return ff.Task(net(batch_norm=True), ff.losses.binary_crossentropy, optax.adam(1e-2), set_metrics=chosen, **fields)


class AtEachEpoch(ff.callbacks.Callback):
    """Computes the set metrics by hand from the state after each epoch."""

    every_epochs = 1

    def __init__(self, validation):
        self.validation, self.rows = validation, []

    def on_chunk_end(self, progress):
        if len(progress.new.epochs):
            task, (x, y) = progress.run.task, (self.validation.x, self.validation.y)
            logits = np.asarray(task.apply(progress.state.train.params, progress.state.train.collections, x)[0])
            oracle = sklearn.metrics.average_precision_score(y, 1 / (1 + np.exp(-logits[:, 0].astype(float))))
            self.rows.append([sklearn.metrics.f1_score(y, logits[:, 0] > 0), separation(logits, y), youden(logits, y), oracle])


@pytest.mark.parametrize("rows", [100, 1024, 1500])  # less than a step of validation, one, and one and a half
def test_each_epoch_against_scikit_learn_and_numpy_by_hand(net, table, rows):
    validation = table[1][np.arange(rows) % 100]
    task, by_hand = task_of(net), AtEachEpoch(validation)
    result = ff.fit(task, table[0], validation=validation, epochs=4, batch_size=60, callbacks=[by_hand])
    logged = np.stack([result.history[f"val_{name}"] for name in SETS], 1)
    np.testing.assert_allclose(logged, by_hand.rows, rtol=1e-5, atol=1e-6)
    scores = ff.evaluate(task, result.last, validation)
    for name in SETS:
        assert scores[name] == pytest.approx(result.history[f"val_{name}"][-1], rel=1e-5)
    streamed = ff.evaluate(task, result.last, ff.data.Stream(validation), batch_size=64)
    assert [streamed[name] for name in SETS] == pytest.approx([scores[name] for name in SETS], rel=1e-6)


@pytest.mark.parametrize("names", [("f1",), ("youden",), tuple(SETS)])
def test_nothing_else_changes_and_only_host_metrics_end_chunks(net, table, names):
    how = {"validation": table[1], "epochs": 30, "batch_size": 60}
    plain, result = ff.fit(task_of(net, ()), table[0], **how), ff.fit(task_of(net, names), table[0], **how)
    assert set(result.history) - set(plain.history) == {f"val_{name}" for name in names}
    for name, values in plain.history.items():
        np.testing.assert_array_equal(result.history[name], values)
    for one, other in zip(jax.tree.leaves((plain.best, plain.last)), jax.tree.leaves((result.best, result.last)), strict=True):
        np.testing.assert_array_equal(one, other)
    assert (result.timing.chunks >= 30) == bool(ON_HOST & set(names))
    assert plain.timing.chunks < 15


@pytest.mark.parametrize("name", ["f1", "youden"])
def test_early_stopping_best_weights_and_plateau_go_by_them(net, table, name, tmp_path):
    stopping, plateau = ff.EarlyStopping(f"val_{name}", patience=3), ff.Plateau(f"val_{name}", factor=0.5, patience=1)
    task = task_of(net, (name,))
    how = {"validation": table[1], "batch_size": 60, "early_stopping": stopping, "plateau": plateau}
    whole = ff.fit(task, table[0], epochs=60, **how)
    values = whole.history[f"val_{name}"]
    assert whole.stop_reason == "early_stopping"
    assert whole.best_epoch == values.argmax() + 1
    assert len(values) == whole.best_epoch + 3
    assert (whole.history["learning_rate_scale"] < 1).any()
    best = ff.evaluate(task, whole.best, table[1])[name]
    assert best == pytest.approx(values.max(), rel=1e-5)
    ff.fit(task, table[0], epochs=2, run_dir=tmp_path / "run", **how)
    resumed = ff.fit(task, table[0], epochs=60, run_dir=tmp_path / "run", **how)
    assert resumed.history == whole.history
    for one, other in zip(jax.tree.leaves((whole.best, whole.last)), jax.tree.leaves((resumed.best, resumed.last)), strict=True):
        np.testing.assert_array_equal(one, other)
    assert f"val_{name}" in (tmp_path / "run" / "metrics.jsonl").read_text()


@pytest.mark.parametrize("strategy", [pytest.param("threads", marks=pytest.mark.slow), "vmap"])
def test_members_of_populations_have_them(table, strategy):
    def make_task(hp):
        sets = {name: SETS[name] for name in ("f1", "youden")}
        sets["above"] = lambda logits, y: (logits > hp["bar"]).mean()
        sets["above_on_host"] = lambda logits, y: np.mean(np.asarray(logits) > np.asarray(hp["bar"]))
        return ff.Task(ff.nn.MLP((8,), 1), ff.losses.binary_crossentropy, optax.adam(hp["rate"]), set_metrics=sets)

    how = {"validation": table[1], "epochs": 12, "batch_size": 60, "early_stopping": ff.EarlyStopping("val_youden", patience=2)}
    study = ff.fit_many(make_task, {"rate": [1e-2, 1e-1], "bar": [0.0, 0.5]}, table[0], strategy=strategy, **how)
    assert len({len(result.history.epochs) for result in study.results}) > 1  # they end at different times
    for member, result in zip(study.members, study.results, strict=True):
        alone = ff.fit(make_task(member.setting), table[0], seed=member.seed, **how)
        assert list(alone.history) == list(result.history)
        assert len(alone.history.epochs) == len(result.history.epochs)
        for name in alone.history:
            np.testing.assert_allclose(result.history[name], alone.history[name], rtol=1e-3, atol=1e-5)
        np.testing.assert_allclose(result.history["val_above"], result.history["val_above_on_host"], rtol=1e-6)
    assert study.table("val_f1").rows[0].interval.count == 1


def test_a_stream_with_chunks_inside_epochs(net, table, monkeypatch):
    monkeypatch.setattr("flaxfit.data.stream.CHUNK_ROWS", 70)
    task, how = task_of(net), {"validation": table[1], "epochs": 3, "batch_size": 60}
    memory, stream = (ff.fit(task, rows, **how) for rows in (table[0], ff.data.Stream(table[0])))
    for name in SETS:
        np.testing.assert_allclose(stream.history[f"val_{name}"], memory.history[f"val_{name}"], rtol=1e-5)


def test_a_second_fit_compiles_nothing_and_traces_nothing(net, table):
    traces = []

    def counted(logits, y):
        traces.append(1)
        return logits.mean()

    task = ff.Task(net(), ff.losses.binary_crossentropy, optax.adam(1e-2), set_metrics={"a": counted, "youden": youden})
    ff.fit(task, table[0], validation=table[1], epochs=2)
    seen = len(traces)
    ff.fit(task, table[0], validation=table[1], epochs=5, seed=3)
    assert len(traces) == seen


def test_two_outputs_and_modes(table):
    import flax.linen as nn

    class Heads(nn.Module):
        @nn.compact
        def __call__(self, x, *, train):
            return {"a": nn.Dense(1)(x), "b": nn.Dense(3)(x)}

    y = {"a": table[0].x[:, 0], "b": np.arange(250) % 3}

    def loss(outputs, y):
        return ff.losses.mse(outputs["a"], y["a"]) + ff.losses.categorical_crossentropy(outputs["b"], y["b"])

    sets = {
        "r2": lambda z, y: ff.metrics.r2(z["a"], y["a"]),
        "kappa": lambda z, y: sklearn.metrics.cohen_kappa_score(y["b"], np.asarray(z["b"]).argmax(1)),
    }
    data = ff.Dataset(table[0].x, y)
    task = ff.Task(Heads(), loss, optax.adam(1e-2), set_metrics=sets)
    result = ff.fit(task, data, validation=data[:99], epochs=2)
    outputs = ff.predict(task, result.last, data.x[:99])
    assert result.history["val_r2"][-1] == pytest.approx(sklearn.metrics.r2_score(y["a"][:99], outputs["a"][:, 0]), abs=1e-5)
    assert result.history["val_kappa"][-1] == pytest.approx(
        sklearn.metrics.cohen_kappa_score(y["b"][:99], outputs["b"].argmax(1)), abs=1e-6
    )
    with pytest.raises(ValueError, match="'val_r2' is best when small or large"):
        ff.fit(task, data, validation=data, early_stopping=ff.EarlyStopping("val_r2"))


def test_what_is_no_metric_of_a_set(net, table):
    def task(**sets):
        return ff.Task(net(), ff.losses.binary_crossentropy, optax.adam(1e-2), metrics={"m": ff.metrics.mae}, set_metrics=sets)

    def fit(**sets):
        ff.fit(task(**sets), table[0], validation=table[1])

    with pytest.raises(ValueError, match=r"set metric 'each' must return one number for the whole set"):
        fit(each=ff.metrics.binary_accuracy)
    with pytest.raises(ValueError, match=r"the set metric 'confused' must return one number for the whole set, got shape \(2, 2\)"):
        fit(confused=ff.metrics.confusion_matrix)
    with pytest.raises(ValueError, match=r"the set metric 'shapes' fails on \(logits \(100, 1\), y \(100,\)\): ValueError"):
        fit(shapes=lambda z, y: jnp.stack([z[0], y]).mean())
    with pytest.raises(ZeroDivisionError) as raised:
        fit(broken=lambda z, y: 1 / (0 * len(np.asarray(z))))
    assert raised.value.__notes__ == ["in Task(set_metrics=...), the metric 'broken'"]
    for name in ("m", "loss", "val_x", "binary_crossentropy"):
        with pytest.raises(ValueError, match=rf"Task\(set_metrics=\.\.\.\) must not have the name '{name}'"):
            task(**{name: ff.metrics.f1})
    with pytest.raises(TypeError, match=r"Task\(set_metrics=\.\.\.\) must map names to functions"):
        ff.Task(net(), ff.losses.mse, optax.sgd(0.1), set_metrics=[ff.metrics.f1])
    with pytest.raises(TypeError, match=r"set_metrics\['f'\]=\.\.\.\) must be a function, got str"):
        task(f="f1")
    with pytest.raises(ValueError, match=r"evaluate.*must not have the name 'f1'"):
        ff.evaluate(task(f1=ff.metrics.f1), ff.fit(task(), table[0]).last, table[1], metrics={"f1": ff.metrics.f1})
    with pytest.raises(ValueError, match=r"whole set goes into Task\(set_metrics=\.\.\.\)"):
        ff.fit(ff.Task(net(), ff.losses.mse, optax.sgd(0.1), metrics={"f1": ff.metrics.f1}), table[0])


def test_a_run_that_breaks_down_ends_as_always(net, table):
    with pytest.warns(RuntimeWarning, match="training ended in epoch"):
        result = ff.fit(
            ff.Task(net(), ff.losses.binary_crossentropy, optax.sgd(1e38), set_metrics={"ap": sklearn.metrics.average_precision_score}),
            table[0], validation=table[1], epochs=5,
        )  # fmt: skip
    assert result.stop_reason == "non_finite"
    assert np.isnan(result.history["val_ap"][-1])


def test_without_validation_there_are_none(net, table):
    result = ff.fit(task_of(net), table[0], epochs=2)
    assert not [name for name in result.history if "youden" in name or "f1" in name]


def test_arguments_set_by_partial(table):
    train = ff.Dataset(table[0].x, np.arange(250) % 3)
    weighted = functools.partial(ff.metrics.f1, average="weighted")
    task = ff.Task(ff.nn.MLP((), 3), ff.losses.categorical_crossentropy, optax.adam(1e-2), set_metrics={"f1": weighted})
    result = ff.fit(task, train, validation=train)
    taken = ff.predict(task, result.last, train.x).argmax(1)
    assert result.history["val_f1"][0] == pytest.approx(sklearn.metrics.f1_score(train.y, taken, average="weighted"), abs=1e-6)
