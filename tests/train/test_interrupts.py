"""Ctrl-C, the stop button of a notebook, and signals of a scheduler."""

import os
import pkgutil
import signal
import subprocess
import sys
import threading
import time

import jax
import numpy as np
import optax
import pytest

import flaxfit as ff
from flaxfit.signals import Signals
from flaxfit.train.job import Single


class Presses(ff.callbacks.Callback):
    """Sends signals to this process after an epoch, and notes what it is told."""

    every_epochs = 1

    def __init__(self, *presses, after=3):
        self.presses, self.after, self.reasons, self.ended = list(presses), after, [], 0

    def on_chunk_end(self, progress):
        self.reasons.append(progress.stop_reason)
        if progress.epoch == self.after:
            for number, pause in self.presses:
                time.sleep(pause)
                os.kill(os.getpid(), number)
                listening = getattr(signal.getsignal(number), "__self__", None)
                while isinstance(listening, Signals) and listening.heard is None:
                    time.sleep(0.01)  # the main thread handles it, but this may be another
            self.presses = []

    def on_train_end(self):
        self.ended += 1


@pytest.fixture(scope="module")
def task():
    return ff.Task(ff.nn.MLP((4,), 1, dropout=0.1), ff.losses.mse, optax.adam(1e-2))


@pytest.fixture
def data():
    x = np.random.default_rng(0).normal(size=(60, 3)).astype(np.float32)
    return ff.Dataset(x, x[:, 0])


def same(first, second):
    assert first.history == second.history
    assert all(map(np.array_equal, jax.tree.leaves((first.best, first.last)), jax.tree.leaves((second.best, second.last))))


@pytest.mark.parametrize("place", [None, "run"])
def test_in_a_notebook_fit_returns_what_there_is(task, data, tmp_path, monkeypatch, capsys, place):
    monkeypatch.setattr(sys, "ps1", ">>> ", raising=False)
    presses, run_dir = Presses((signal.SIGINT, 0)), place and tmp_path / place
    result = ff.fit(task, data, validation=data, epochs=10**6, callbacks=[presses], run_dir=run_dir)
    epochs = len(result.history.epochs)
    assert result.stop_reason == "interrupted"
    assert "interrupted" in repr(result)
    assert 3 <= epochs < 10**6
    assert presses.reasons[-1] == "interrupted"
    assert presses.ended == 1
    said = capsys.readouterr().err
    assert f"Interrupted: {'ended' if place is None else 'saved'} after {epochs} of 1000000 epochs" in said
    same(result, ff.fit(task, data, validation=data, epochs=epochs))
    if run_dir:
        assert ff.load(run_dir).evaluate(data)["mse"] == pytest.approx(min(result.history["val_mse"]), rel=1e-5)
        resumed = ff.fit(task, data, validation=data, epochs=epochs + 5, run_dir=run_dir, resume="force")
        same(resumed, ff.fit(task, data, validation=data, epochs=epochs + 5))


def test_in_a_script_the_interrupt_passes_on_with_the_result(task, data, tmp_path, capsys):
    presses = Presses((signal.SIGINT, 0))
    with pytest.raises(KeyboardInterrupt, match=r"saved after \d+ of 1000000 epochs. To continue: the same command, or") as info:
        ff.fit(task, data, epochs=10**6, callbacks=[presses], run_dir=tmp_path)
    result = info.value.result
    assert result.stop_reason == "interrupted"
    assert presses.ended == 1
    np.testing.assert_allclose(ff.load(tmp_path).predict(data.x), ff.predict(task, result.best, data.x), rtol=1e-5, atol=1e-6)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_two_signals_at_once_are_one(task, data):
    with pytest.raises(KeyboardInterrupt) as info:
        ff.fit(task, data, epochs=10**6, callbacks=[Presses((signal.SIGINT, 0), (signal.SIGINT, 0.1))])
    assert info.value.result.stop_reason == "interrupted"


def test_a_second_press_ends_at_once(task, data):
    presses = Presses((signal.SIGINT, 0), (signal.SIGINT, 0.6))
    with pytest.raises(KeyboardInterrupt) as info:
        ff.fit(task, data, epochs=10**6, callbacks=[presses])
    assert not hasattr(info.value, "result")
    assert presses.ended == 1


def test_a_handler_of_ones_own_hears_the_signal_after_all_is_saved(task, data, tmp_path):
    heard = []
    before = signal.signal(signal.SIGTERM, lambda *_: heard.append((tmp_path / "run" / "export").is_dir()))
    try:
        result = ff.fit(task, data, epochs=10**6, callbacks=[Presses((signal.SIGTERM, 0))], run_dir=tmp_path / "run")
    finally:
        signal.signal(signal.SIGTERM, before)
    assert heard == [True]
    assert result.stop_reason == "interrupted"


def test_an_interrupt_with_standard_error_gone_saves(tmp_path):
    script = (
        "import flaxfit as ff, numpy as np, optax, sys, os, signal\n"
        "class Press(ff.callbacks.Callback):\n"
        "    every_epochs = 2\n"
        "    def on_chunk_end(self, progress):\n"
        "        if not progress.ended:\n"
        "            os.close(2); os.kill(os.getpid(), signal.SIGINT)\n"
        "x = np.ones((20, 2), np.float32)\n"
        "task = ff.Task(ff.nn.MLP((4,), 1), ff.losses.mse, optax.adam(1e-2))\n"
        "ff.fit(task, ff.Dataset(x, x[:, 0]), epochs=10**6, callbacks=[Press()], run_dir=sys.argv[1])\n"
        "print('went on')\n"
    )
    done = subprocess.run([sys.executable, "-c", script, str(tmp_path / "run")], capture_output=True, text=True, check=False)
    assert done.returncode == -signal.SIGINT
    assert done.stdout == ""
    assert ff.load(tmp_path / "run").predict(np.ones((1, 2))).shape == (1, 1)


@pytest.mark.parametrize("strategy", ["threads", pytest.param("vmap", marks=pytest.mark.slow)])
def test_a_population_stops_as_a_whole_and_keeps_its_finished_members(task, data, tmp_path, strategy):
    options = {"seeds": 3, "epochs": 60, "run_dir": tmp_path, "strategy": strategy, "workers": 1}
    stopping = ff.EarlyStopping("loss", patience=5, min_delta=10.0)  # ends after six epochs
    done = ff.fit_many(task, None, data, early_stopping=stopping, **(options | {"seeds": 2}))

    def callbacks(member):
        return [Presses((signal.SIGINT, 0), after=1)] if member.seed == 2 else []

    with pytest.raises(KeyboardInterrupt, match="2 of 3 members had finished; saved in") as info:
        ff.fit_many(task, None, data, early_stopping=stopping, callbacks=callbacks, **options)
    study = info.value.result
    assert [member.seed for member in study.members] == [0, 1]
    for first, second in zip(done.results, study.results, strict=True):
        same(first, second)


def test_a_callback_that_fails_leaves_a_checkpoint_of_where_it_failed(task, data, tmp_path):
    class Fails(ff.callbacks.Callback):
        every_epochs = 5

        def on_chunk_end(self, progress):
            raise OSError("no space")

    class Sees(ff.callbacks.Callback):
        def on_train_begin(self, run):
            self.epochs = len(run.history.epochs)

    with pytest.raises(OSError, match="no space"):
        ff.fit(task, data, epochs=20, callbacks=[Fails()], run_dir=tmp_path)
    resumed = ff.fit(task, data, epochs=20, run_dir=tmp_path, callbacks=[sees := Sees()])
    assert sees.epochs == 5
    same(resumed, ff.fit(task, data, epochs=20))


@pytest.mark.parametrize("where", ["flaxfit.train.job.Single.start", "flaxfit.train.job.Single.compile", "flaxfit.train.session.export"])
def test_a_signal_outside_of_training_counts(task, data, tmp_path, monkeypatch, where):
    function = pkgutil.resolve_name(where.replace(".Single", ":Single"))

    def hears(*arguments, **options):
        os.kill(os.getpid(), signal.SIGINT)
        return function(*arguments, **options)

    monkeypatch.setattr(where, hears)
    with pytest.raises(KeyboardInterrupt, match="saved after") as info:
        ff.fit(task, data, epochs=4, run_dir=tmp_path)
    assert info.value.result.stop_reason == ("epochs" if where.endswith("export") else "interrupted")
    monkeypatch.undo()
    same(ff.fit(task, data, epochs=4, run_dir=tmp_path), ff.fit(task, data, epochs=4))
    assert ff.load(tmp_path).about["epochs"] == 4


def test_a_signal_that_a_launcher_forwards_is_no_second_one_after_the_run(task, data):
    timer = threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGINT))

    class Starts(Presses):
        def on_train_end(self):
            timer.start()

    began = time.monotonic()
    try:
        with pytest.raises(KeyboardInterrupt) as info:
            ff.fit(task, data, epochs=10**6, callbacks=[Starts((signal.SIGINT, 0))])
        while time.monotonic() - began < 2 and timer.is_alive():
            time.sleep(0.01)  # a second KeyboardInterrupt would be raised here
    finally:
        timer.cancel()
    assert info.value.result.stop_reason == "interrupted"


def test_no_handler_is_left_where_the_interrupt_comes_while_they_are_put_back(monkeypatch):
    put = signal.signal

    def interrupted(number, handler):
        old = put(number, handler)
        if number == signal.SIGINT and handler is signal.default_int_handler:
            raise KeyboardInterrupt
        return old

    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)]
    with pytest.raises(KeyboardInterrupt), Signals():
        monkeypatch.setattr(signal, "signal", interrupted)
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)] == before


@pytest.mark.parametrize("thread", [False, True])
def test_whatever_ends_the_training_leaves_a_checkpoint(task, data, tmp_path, monkeypatch, thread):
    advance, chunks, raised = Single.advance, [], []

    def breaks(self, position, until):
        chunks.append(position)
        if len(chunks) == 4:
            raise SystemExit("the scheduler wants the machine")
        return advance(self, position, until)

    class Epochs(ff.callbacks.Callback):
        every_epochs = 1

    def trains():
        try:
            ff.fit(task, data, epochs=20, run_dir=tmp_path, callbacks=[Epochs()])
        except SystemExit as error:
            raised.append(error)

    monkeypatch.setattr(Single, "advance", breaks)
    if thread:
        other = threading.Thread(target=trains)
        other.start()
        other.join()
    else:
        trains()
    monkeypatch.undo()
    assert len(raised) == 1
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == [str(chunks[-1])]
    same(ff.fit(task, data, epochs=20, run_dir=tmp_path), ff.fit(task, data, epochs=20))


THREAD = """
import flaxfit as ff, numpy as np, optax, os, signal, sys, threading, time
x = np.ones((20, 2), np.float32)
task = ff.Task(ff.nn.MLP((4,), 1), ff.losses.mse, optax.adam(1e-2))
class Press(ff.callbacks.Callback):
    every_epochs = 2
    def on_chunk_end(self, progress):
        if progress.epoch == 2:
            os.kill(os.getpid(), signal.SIGINT)
bars = [ff.callbacks.Dots(file=sys.stdout), ff.callbacks.ProgressBar(file=sys.stdout)]
run = lambda: ff.fit(task, ff.Dataset(x, x[:, 0]), epochs=10**9, callbacks=[Press(), *bars], run_dir=sys.argv[1])
os.dup2(os.open("/dev/full", os.O_WRONLY), 1)  # nothing can be written there
threading.Thread(target=run).start()
while True:  # signal.pause() would miss a signal that arrives just before it
    time.sleep(0.1)
"""


def test_ctrl_c_ends_a_run_in_a_thread_whose_output_is_gone(tmp_path):
    run = tmp_path / "run"
    done = subprocess.run([sys.executable, "-c", THREAD, run], capture_output=True, text=True, check=False)
    assert "KeyboardInterrupt: saved after" in done.stderr
    assert "Warning" not in done.stderr
    assert max(int(path.name) for path in (run / "checkpoints").iterdir()) >= 2
    assert ff.load(run).predict(np.ones((1, 2))).shape == (1, 1)
