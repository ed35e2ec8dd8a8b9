"""Rows in order, a share held out, and validation every few epochs."""

from __future__ import annotations

import jax
import numpy as np
import optax
import pytest
from matplotlib import pyplot

import flaxfit as ff
from flaxfit.task.task import Task


@pytest.fixture(scope="module")
def task():
    metrics = {"accuracy": ff.metrics.binary_accuracy}
    return Task(ff.nn.MLP((8,), 1), ff.losses.binary_crossentropy, optax.adam(0.03), metrics)


VALIDATED = ["val_loss", "val_binary_crossentropy", "val_accuracy"]


def test_rows_without_shuffling_are_those_of_a_plain_loop(table):
    rows = ff.Dataset(table[0].x[:50], table[0].y[:50])
    linear = Task(ff.nn.MLP((), 1), ff.losses.binary_crossentropy, optax.sgd(0.1))
    result = ff.fit(linear, rows, epochs=2, batch_size=16, shuffle=False)
    streamed = ff.fit(linear, ff.data.Stream(rows), epochs=2, batch_size=16, shuffle=False)
    state = linear.init(jax.random.key(0), rows.x[:1])
    for first in [0, 16, 32, 48] * 2:
        state, _ = ff.train_step(linear, state, jax.random.key(0), rows.x[first : first + 16], rows.y[first : first + 16])
    for found in (result.last.params, streamed.last.params):
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), found, state.params)
    with pytest.raises(ValueError, match="shuffle=False takes examples in order, but replacement=True draws them at random: choose one"):
        ff.fit(linear, rows, shuffle=False, replacement=True)


def test_validation_split_holds_out_the_last_rows_before_shuffling(task, table):
    rows = table[0]
    split = ff.fit(task, rows, validation_split=0.3, epochs=2)
    given = ff.fit(task, rows[:175], validation=rows[175:], epochs=2)
    assert split.history == given.history
    study = ff.fit_many(task, None, rows, validation_split=0.3, epochs=2)
    assert study.results[0].history == given.history
    with pytest.raises(ValueError, match="pass either validation_split or validation, not both"):
        ff.fit(task, rows, validation=table[1], validation_split=0.3)
    with pytest.raises(ValueError, match="leaves 250 for training and 0 for validation"):
        ff.fit(task, rows, validation_split=1e-9)
    with pytest.raises(ValueError, match=r"validation_split must be a fraction between 0 and 1, or None, got 20"):
        ff.fit(task, rows, validation_split=20)
    with pytest.raises(ValueError, match="cross_validate validates on the rows that each fold holds out"):
        ff.cross_validate(task, rows, validation_split=0.2)


def test_skipped_epochs_are_nan_and_change_nothing_else(task, table):
    train, validation = table
    every = ff.fit(task, train, validation=validation, epochs=10).history
    third = ff.fit(task, train, validation=validation, epochs=10, validation_every=3)
    mask = np.arange(1, 11) % 3 == 0
    assert (third.history.validated == mask).all()
    rtol = 0 if jax.default_backend() == "cpu" else 1e-6  # other compilers may choose other kernels for another program
    for name in every:
        if name in VALIDATED:
            np.testing.assert_allclose(third.history[name][mask], every[name][mask], rtol)
            assert np.isnan(third.history[name][~mask]).all()
        elif name != "best_epoch":
            np.testing.assert_allclose(third.history[name], every[name], rtol)
    losses = every["val_binary_crossentropy"]
    assert third.best_epoch == 3 * (1 + np.argmin(losses[mask]))
    assert third.stop_reason == "epochs"
    score = ff.evaluate(task, third.best, validation)["binary_crossentropy"]
    assert score == pytest.approx(losses[(third.best_epoch or 0) - 1], rel=1e-5)


def test_patience_counts_validations(task, table):
    train, validation = table
    stopping = ff.EarlyStopping("val_loss", patience=2, min_delta=10.0)  # nothing is an improvement but the first
    result = ff.fit(task, train, validation=validation, epochs=30, validation_every=4, early_stopping=stopping)
    assert (len(result.history.epochs), result.stop_reason, result.best_epoch) == (12, "early_stopping", 4)
    by_training = ff.EarlyStopping("loss", patience=2, min_delta=10.0)
    result = ff.fit(task, train, validation=validation, epochs=30, validation_every=4, early_stopping=by_training)
    assert (len(result.history.epochs), result.best_epoch) == (3, 1)
    plateau = ff.Plateau("val_loss", factor=0.5, patience=1, min_delta=10.0)
    scale = ff.fit(task, train, validation=validation, epochs=9, validation_every=3, plateau=plateau).history["learning_rate_scale"]
    assert scale.tolist() == [1.0] * 6 + [0.5] * 3


def test_chunks_resuming_and_populations_keep_the_bits(task, table, tmp_path):
    train, validation = table
    options = {"validation": validation, "validation_every": 3, "batch_size": 100}
    whole = ff.fit(task, train, epochs=8, **options)
    ff.fit(task, train, epochs=5, run_dir=tmp_path / "run", **options)
    assert ff.resume(tmp_path / "run", task, train, validation=validation, epochs=8).history == whole.history
    with pytest.raises(ValueError, match=r"validation_every"):
        ff.fit(task, train, epochs=8, run_dir=tmp_path / "run", **{**options, "validation_every": 2})
    with pytest.raises(ValueError, match=r"shuffle"):
        ff.fit(task, train, epochs=8, run_dir=tmp_path / "run", shuffle=False, **options)
    many = ff.fit_many(task, None, train, seeds=2, epochs=8, strategy="vmap", **options)
    np.testing.assert_allclose(many.results[0].history["val_loss"], whole.history["val_loss"], rtol=1e-4)
    assert many.table("val_loss", at="last").rows[0].broken == 0


def test_metrics_of_the_host_wait_too(table):
    calls = []

    def counted(logits, y):
        if isinstance(logits, np.ndarray):  # it is traced once, to see whether it could be compiled
            calls.append(len(y))
        return float(np.mean((np.asarray(logits)[:, 0] > 0) == y))

    task = Task(ff.nn.MLP((), 1), ff.losses.binary_crossentropy, optax.sgd(0.1), set_metrics={"host": counted})
    for strategy in ("threads", "vmap"):
        calls.clear()
        study = ff.fit_many(task, None, table[0], validation=table[1], epochs=4, validation_every=2, strategy=strategy)
        assert np.isnan(study.results[0].history["val_host"]).tolist() == [True, False, True, False]
        assert len(calls) == 2


def test_diagnosis_and_plots_leave_skipped_epochs_out(tmp_path):
    epochs = np.arange(1, 101)
    falling = 0.4 * np.exp(-epochs / 20) + 0.1
    rising = np.where(epochs % 3, np.nan, falling + 0.004 * np.maximum(epochs - 40, 0))
    columns = {"loss": falling, "mse": falling, "val_loss": rising, "val_mse": rising}
    history = ff.History(columns, validation_every=3)
    assert ff.diagnose(history).verdict == "overfitted"
    assert 35 <= (ff.diagnose(history).epoch or 0) <= 45
    assert ff.diagnose(ff.History(columns)).verdict == "diverging"  # the last of these is no number
    figure = ff.plots.learning_curves({"run": history})
    drawn = [line for line in figure.axes[0].lines if line.get_linestyle() == "--"]
    assert [np.size(line.get_xdata()) for line in drawn] == [33]
    pyplot.close(figure)


def test_callbacks_show_the_last_validation(task, table, tmp_path, capsys):
    from tensorboardX import SummaryWriter

    scalars = []
    add = SummaryWriter.add_scalar
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(SummaryWriter, "add_scalar", lambda self, *point: (scalars.append(point), add(self, *point)))
        callbacks = [ff.callbacks.ProgressBar("run"), ff.callbacks.TensorBoard(tmp_path), ff.callbacks.SaveWeights("{epoch}")]
        options = {"validation": table[1], "validation_every": 3, "epochs": 7, "run_dir": tmp_path / "run"}
        history = ff.fit(task, table[0], callbacks=callbacks, **options).history
    assert f"val_binary_crossentropy {history['val_binary_crossentropy'][5]:.4g}" in capsys.readouterr().err
    assert all(np.isfinite(value) for _, value, _ in scalars)
    assert {epoch for name, _, epoch in scalars if name == "epoch_loss"} == set(range(1, 8))
    assert {int(file.stem) for file in (tmp_path / "run" / "weights").iterdir()} <= {3, 6}


def test_validation_every_needs_something_to_validate(task, table):
    with pytest.raises(ValueError, match=r"validation_every=2 needs validation examples"):
        ff.fit(task, table[0], epochs=4, validation_every=2)
    with pytest.raises(ValueError, match=r"validation_every=5 is more than epochs=4, so that there would be no validation"):
        ff.fit(task, table[0], validation=table[1], epochs=4, validation_every=5)
