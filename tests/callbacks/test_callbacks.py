from __future__ import annotations

import io
import json
import re
import time

import numpy as np
import optax
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import flaxfit as ff
from flaxfit.callbacks import Callback

pytestmark = pytest.mark.usefixtures("quickly_compiled")


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


def test_metrics_of_a_run_are_written_line_by_line(net, table, tmp_path):
    result = ff.fit(task_of(net), table[0], validation=table[1], epochs=5, run_dir=tmp_path)
    assert ff.History.from_jsonl(tmp_path / "metrics.jsonl") == result.history
    assert json.loads((tmp_path / "metrics.jsonl").read_text().splitlines()[0])["epoch"] == 1


def test_metrics_are_there_when_training_is_interrupted(net, table, tmp_path):
    class Interrupt(Callback):
        every_epochs = 4

        def on_chunk_end(self, progress):
            if progress.epoch == 8:
                raise KeyboardInterrupt

    ended = []
    with pytest.raises(KeyboardInterrupt):
        ff.fit(task_of(net), table[0], epochs=50, run_dir=tmp_path, callbacks=[Ends(ended), Interrupt()])
    assert ended == ["end"]
    assert (tmp_path / "config.json").exists()


class Ends(Callback):
    """Notes that training ended."""

    def __init__(self, noted):
        self.noted = noted

    def on_train_end(self):
        self.noted.append("end")


class StopAt(Callback):
    """Stops a run at an epoch, and notes every call."""

    every_epochs = 2

    def __init__(self, epoch, noted):
        self.epoch, self.noted, self.calls = epoch, noted, 0

    def on_chunk_end(self, progress):
        self.calls += 1
        self.noted.append((progress.epoch, progress.stop_reason))
        if progress.epoch == self.epoch:
            progress.stop()

    def state_dict(self):
        return {"calls": self.calls}

    def load_state_dict(self, state):
        self.calls = state["calls"]


@pytest.mark.parametrize("strategy", ["fit", "threads", "vmap"])
def test_a_callback_stops_the_run_at_its_epoch_and_it_stays_stopped(net, table, tmp_path, strategy):
    noted, task = [], task_of(net)

    def train(epoch, epochs):
        stop = StopAt(epoch, noted)
        if strategy == "fit":
            return ff.fit(task, table[0], epochs=epochs, run_dir=tmp_path, callbacks=[stop]), stop
        how = {"epochs": epochs, "run_dir": tmp_path, "strategy": strategy}
        return ff.fit_many(task, None, table[0], callbacks=lambda member: [stop], **how).results[0], stop

    train(99, 4)
    assert noted == [(2, None), (4, "epochs")]
    noted.clear()
    result, stop = train(8, 50)
    assert noted == [(6, None), (8, None), (8, "callback")]
    assert stop.calls == 5  # the two of the first run were in its checkpoint
    assert (result.stop_reason, len(result.history.epochs)) == ("callback", 8)
    again, _ = train(8, 50)
    assert again.stop_reason == "callback"
    assert again.history == result.history
    whole = ff.fit(task, table[0], epochs=8)
    np.testing.assert_allclose(whole.history["loss"], result.history["loss"], rtol=1e-5)


def test_the_clock_may_not_stop_a_run(net, table):
    class ByTheClock(Callback):
        every_seconds = 0.001

        def on_chunk_end(self, progress):
            progress.stop()

    with pytest.raises(ValueError, match="fixed beforehand: set every_epochs, not every_seconds"):
        ff.fit(task_of(net), table[0], epochs=5, callbacks=[ByTheClock()])


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
    values = result.history["val_binary_crossentropy"]
    assert re.match(r"plain net: epoch 8/8, [\d.e+]+ ms/epoch, ", last)
    assert f"val_binary_crossentropy {values[-1]:.4g}, best {values.min():.4g} in epoch {np.argmin(values) + 1}" in last


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


def test_the_rate_of_a_resumed_run_is_of_the_epochs_of_this_process(tmp_path):
    x = np.random.default_rng(0).normal(size=(60, 3)).astype(np.float32)
    task, data = ff.Task(ff.nn.MLP((4,), 1), ff.losses.mse, optax.adam(1e-2)), ff.Dataset(x, x[:, 0])
    ff.fit(task, data, epochs=2000, run_dir=tmp_path)

    class Sleeps(ff.callbacks.Callback):
        every_epochs = 1

        def on_chunk_end(self, progress):
            time.sleep(0.1)

    shown = io.StringIO()
    bar = ff.callbacks.ProgressBar(file=shown)
    result = ff.fit(task, data, epochs=2002, run_dir=tmp_path, callbacks=[Sleeps(), bar])
    (rate,) = re.findall(r"([\d.e+]+) ms/epoch", shown.getvalue().splitlines()[-1])
    assert float(rate) > 50  # of two epochs, not of 2,002
    assert result.timing.epoch == pytest.approx(result.timing.train / 2)
