from __future__ import annotations

import io
import json
import re

import numpy as np
import optax
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import flaxfit as ff
from flaxfit.callbacks.checkpoints import _best_epoch


def task_of(net):
    return ff.Task(net(), ff.losses.binary_crossentropy, optax.adam(1e-2), metrics={"accuracy": ff.metrics.binary_accuracy})


def test_tensorboards_own_reader_finds_every_scalar(net, table, tmp_path):
    train, validation = table
    log_dir = tmp_path / "sizes" / "Tiny"
    result = ff.fit(task_of(net), train, validation=validation, epochs=12, callbacks=[ff.callbacks.TensorBoard(log_dir)])
    for part, prefix in (("train", ""), ("validation", "val_")):
        reader = EventAccumulator(str(log_dir / part))
        reader.Reload()
        names = [name for name in result.history if name.startswith("val_") == (part == "validation")]
        assert sorted(reader.Tags()["scalars"]) == sorted(f"epoch_{name.removeprefix('val_')}" for name in names)
        scalars = reader.Scalars("epoch_accuracy")
        assert [scalar.step for scalar in scalars] == list(range(1, 13))
        np.testing.assert_allclose([scalar.value for scalar in scalars], result.history[f"{prefix}accuracy"], rtol=1e-6)


def test_metrics_writes_the_history_line_by_line(net, table, tmp_path):
    path = tmp_path / "deep" / "metrics.jsonl"
    result = ff.fit(task_of(net), table[0], validation=table[1], epochs=5, callbacks=[ff.callbacks.Metrics(path)])
    assert ff.History.from_jsonl(path) == result.history
    assert json.loads(path.read_text().splitlines()[0])["epoch"] == 1


def test_metrics_keeps_what_was_written_when_training_is_interrupted(net, table, tmp_path):
    class Interrupt(ff.callbacks.Callback):
        every_epochs = 4

        def on_chunk_end(self, progress):
            raise KeyboardInterrupt

    metrics = ff.callbacks.Metrics(tmp_path / "m.jsonl")
    metrics.every_epochs = 1
    with pytest.raises(KeyboardInterrupt):
        ff.fit(task_of(net), table[0], epochs=50, callbacks=[metrics, Interrupt()])
    assert len(ff.History.from_jsonl(tmp_path / "m.jsonl").epochs) == 4


def test_dots_are_one_an_epoch_with_a_full_line_every_hundred(net, table):
    file = io.StringIO()
    result = ff.fit(task_of(net), table[0], epochs=205, batch_size=250, callbacks=[ff.callbacks.Dots(file=file)])
    lines = file.getvalue().split("\n")
    assert sum(line.count(".") for line in lines if set(line) == {"."}) == 205
    full = [line for line in lines if line.startswith("Epoch")]
    assert [int(re.match(r"Epoch (\d+):", line)[1]) for line in full] == [1, 101, 201]
    assert f"loss: {result.history['loss'][100]:.4f}" in full[1]
    with pytest.raises(ValueError, match="report_every"):
        ff.callbacks.Dots(0)


def test_progress_prints_plain_lines_where_there_is_no_terminal(net, table):
    file = io.StringIO()
    result = ff.fit(task_of(net), table[0], validation=table[1], epochs=8, callbacks=[ff.callbacks.ProgressBar("plain net", file=file)])
    text = file.getvalue()
    assert "\x1b" not in text
    last = text.splitlines()[-1]
    values = result.history["val_loss"]
    assert re.match(r"plain net: epoch 8/8, [\d.e+]+ ms/epoch, ", last)
    assert f"val_loss {values[-1]:.4g}, best {values.min():.4g} in epoch {np.argmin(values) + 1}" in last


def test_progress_draws_a_bar_on_a_terminal(net, table):
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    file = Terminal()
    ff.fit(task_of(net), table[0], epochs=8, callbacks=[ff.callbacks.ProgressBar(file=file)])
    assert "\x1b" in file.getvalue()
    assert "8/8" in file.getvalue()


def test_a_hook_that_fails_lets_the_others_close(net, table, tmp_path):
    class Fails(ff.callbacks.Callback):
        every_epochs = 2

        def on_chunk_end(self, progress):
            raise RuntimeError("disk full")

    closed = []

    class Closes(ff.callbacks.Callback):
        def on_train_end(self):
            closed.append(True)

    with pytest.raises(RuntimeError, match="disk full"):
        ff.fit(task_of(net), table[0], epochs=5, callbacks=[Closes(), Fails()])
    assert closed == [True]


def test_the_best_epoch_by_a_metric_leaves_out_what_was_not_finite():
    nan, inf = np.nan, np.inf
    losses = {"loss": [1, nan, 1, 1, 1], "val_loss": [1, 1, inf, 1, 1]}
    history = ff.History(losses | {"auc": [0.5, 0.9, 0.1, 0.7, 0.7], "none": [nan] * 5})
    for monitor, mode, expected in (("auc", "max", 4), ("auc", "min", 1), ("none", "min", None)):
        assert _best_epoch(history, ff.EarlyStopping(monitor, mode=mode)) == expected
