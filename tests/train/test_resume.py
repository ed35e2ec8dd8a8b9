"""Runs with a directory: they go on to the same bits, whatever ended them."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from typing import ClassVar

import jax
import numpy as np
import optax
import pytest

import flaxfit as ff
from flaxfit.storage.directory import RunDirectory

# Everything that has a state: dropout, batch norm, shuffling, a short last batch, early stopping, averaged weights, a plateau schedule.
SCRIPT = """
import hashlib, sys
import jax, numpy as np, optax
import flaxfit as ff

class Began(ff.callbacks.Callback):
    every_seconds = 0.1

    def on_train_begin(self, run):
        print("began", flush=True)

    def on_chunk_end(self, progress):
        if progress.epoch:
            print("trained", flush=True)

rng = np.random.default_rng(0)
x = rng.normal(size=(400, 6)).astype(np.float32)
y = (x[:, 0] * x[:, 1] + 0.3 * rng.normal(size=400) > 0).astype(np.int32)
optimizer = optax.chain(optax.adam(1e-3), optax.contrib.reduce_on_plateau(patience=50), ff.averaging.weight_ema(0.99))
task = ff.Task(
    model=ff.nn.MLP((16, 16), 1, dropout=0.2, batch_norm=True), loss=ff.losses.binary_crossentropy, optimizer=optimizer,
    metrics={"accuracy": ff.metrics.binary_accuracy}, penalty=ff.penalties.l2(1e-3), eval_params=ff.averaging.averaged,
)
train, validation = ff.Dataset(x[:300], y[:300]), ff.Dataset(x[300:], y[300:])
for directory in sys.argv[2:]:
    result = ff.fit(
        task, train, validation=validation, epochs=int(sys.argv[1]), batch_size=7, seed=3, run_dir=directory or None,
        early_stopping=ff.EarlyStopping("val_loss", patience=10**6),
        callbacks=[Began(), ff.callbacks.Checkpoint(every_seconds=0.1)] if directory else [],
    )
    digest = hashlib.sha256(np.stack([result.history[name] for name in result.history]).tobytes())
    for leaf in jax.tree.leaves((result.best, result.last)):
        digest.update(np.asarray(leaf).tobytes())
    print(len(result.history.epochs), result.timing.chunks, digest.hexdigest())
"""


@pytest.fixture(scope="module")
def script(tmp_path_factory):
    """Starts the script with directories of runs, one after the other; programs compiled once for all processes."""
    home = tmp_path_factory.mktemp("script")
    path = home / "train.py"
    path.write_text(SCRIPT)
    environment = os.environ | {"FLAXFIT_CACHE": str(home / "cache")}

    def start(epochs, *directories):
        command = [sys.executable, str(path), str(epochs), *map(str, directories)]
        return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    return start


def finished(process):
    """For each directory: epochs, chunks, checksum."""
    out, errors = process.communicate()
    assert process.returncode == 0, errors
    return [line.split() for line in out.splitlines() if len(line.split()) == 3]


@pytest.mark.parametrize("times", [2, pytest.param(20, marks=pytest.mark.slow)])
def test_killed_at_random_moments(script, tmp_path, times):
    epochs, moments = 300 * times, random.Random(times)
    [(_, _, digest)] = finished(script(epochs, ""))
    for _ in range(times):
        process = script(epochs, tmp_path / "run")
        assert process.stdout.readline() == "began\n", process.stderr.read()  # it was not finished before
        time.sleep(moments.uniform(0.0, 0.35))
        process.kill()
        process.communicate()
        assert process.returncode == -signal.SIGKILL
    last, again = finished(script(epochs, tmp_path / "run", tmp_path / "run"))
    assert last[2] == digest
    assert again[1:] == ["0", digest]  # what is finished is only read
    lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["epoch"] for line in lines] == list(range(1, epochs + 1))


@pytest.mark.parametrize(
    ("number", "code"),
    [(signal.SIGTERM, 143), *(pytest.param(*other, marks=pytest.mark.slow) for other in ((signal.SIGINT, 130), (signal.SIGHUP, 129)))],
)
def test_a_signal_saves_and_says_how_to_go_on(script, tmp_path, number, code):
    epochs = 3_000
    process = script(epochs, tmp_path / "run")
    assert [process.stdout.readline() for _ in range(2)] == ["began\n", "trained\n"]
    process.send_signal(number)
    _, said = process.communicate()
    assert process.returncode == 128 - code  # a shell reports death by a signal as 128 and the signal
    assert f"flaxfit resume {tmp_path / 'run'}" in said
    saved = int(said.split("saved after ")[1].split()[0])
    assert 0 < saved < epochs
    resumed, whole = finished(script(epochs, tmp_path / "run", ""))
    assert resumed[2] == whole[2]


@pytest.fixture(scope="module")
def task():
    return ff.Task(model=ff.nn.MLP((4,), 1, dropout=0.1), loss=ff.losses.binary_crossentropy, optimizer=optax.adam(1e-2))


def same(first, second):
    assert first.history == second.history
    for one, other in zip(jax.tree.leaves((first.best, first.last)), jax.tree.leaves((second.best, second.last)), strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("name", ["hidden=[8]", "lr=*", "a\\b", "größe 模型"])
def test_directories_of_any_name(task, table, tmp_path, name):
    whole = ff.fit(task, table[0], epochs=4)
    ff.fit(task, table[0], epochs=2, run_dir=tmp_path / name / "run")
    resumed = ff.fit(task, table[0], epochs=4, run_dir=tmp_path / name / "run")
    same(whole, resumed)
    assert resumed.timing.chunks
    assert ff.fit(task, table[0], epochs=4, run_dir=tmp_path / name / "run").timing.chunks == 0
    predicted = ff.load(tmp_path / name / "run" / "export").predict(table[0].x)
    np.testing.assert_allclose(predicted, ff.predict(task, whole.best, table[0].x), rtol=1e-5, atol=1e-6)


class StopAt(ff.callbacks.Callback):
    """Ends the run as a failure inside a hook would."""

    def __init__(self, steps):
        self.every_steps = steps

    def on_chunk_end(self, progress):
        raise RuntimeError("stop here")


def test_a_run_that_failed_inside_an_epoch_goes_on(task, table, tmp_path):
    train, validation = table
    how = {"validation": validation, "epochs": 5, "batch_size": 32}  # 8 steps an epoch
    with pytest.raises(RuntimeError, match="stop here"):
        ff.fit(task, train, **how, run_dir=tmp_path, callbacks=[ff.callbacks.Checkpoint(every_steps=3), StopAt(21)])
    assert (
        sorted(int(path.name) for path in (tmp_path / "checkpoints").iterdir())[-1] == 21
    )  # what saves is called last, and also where another callback fails
    went_on = ff.resume(tmp_path, task, train, validation=validation)
    same(went_on, ff.fit(task, train, **how))
    assert RunDirectory(tmp_path).read_metrics() == went_on.history


def test_fewer_epochs_than_there_are_is_refused_and_changes_nothing(task, table, tmp_path):
    train, _ = table
    ff.fit(task, train, epochs=4, run_dir=tmp_path / "run")
    ff.fit_many(task, None, train, epochs=4, seeds=2, run_dir=tmp_path / "threads", strategy="threads")
    ff.fit_many(task, None, train, epochs=4, seeds=2, run_dir=tmp_path / "vmap", strategy="vmap")
    files = {path: path.read_bytes() for path in tmp_path.rglob("*.json*") if path.parent.name != "threads" and path.parent.name != "vmap"}
    with pytest.raises(ValueError, match="has 4 epochs already, but epochs=2: pass epochs=4 or more, or use another directory"):
        ff.fit(task, train, epochs=2, run_dir=tmp_path / "run")
    for strategy in ("threads", "vmap"):
        with pytest.raises(ValueError, match="has 4 epochs already, but epochs=2"):
            ff.fit_many(task, None, train, epochs=2, seeds=2, run_dir=tmp_path / strategy, strategy=strategy)
    assert {path: path.read_bytes() for path in files} == files
    assert ff.fit(task, train, epochs=4, run_dir=tmp_path / "run").timing.chunks == 0


def test_more_epochs(task, table, tmp_path):
    train, validation = table
    ff.fit(task, train, validation=validation, epochs=3, run_dir=tmp_path)
    more = ff.resume(tmp_path, task, train, validation=validation, epochs=7)
    same(more, ff.fit(task, train, validation=validation, epochs=7))
    assert json.loads((tmp_path / "config.json").read_text())["arguments"]["epochs"] == 7


def test_an_early_stop_stays_one(task, table, tmp_path):
    train, validation = table
    how = {"validation": validation, "epochs": 400, "early_stopping": ff.EarlyStopping("val_loss", patience=2), "run_dir": tmp_path}
    first = ff.fit(task, train, **how)
    again = ff.fit(task, train, **how)
    assert first.stop_reason == again.stop_reason == "early_stopping"
    assert again.timing.chunks == 0
    same(first, again)


def test_a_stream_goes_on_where_it_stopped(task, table, tmp_path):
    train, _ = table
    with pytest.raises(RuntimeError, match="stop here"):
        ff.fit(task, ff.data.Stream(train), epochs=4, run_dir=tmp_path, callbacks=[ff.callbacks.Checkpoint(every_steps=5), StopAt(10)])
    same(ff.resume(tmp_path, task, ff.data.Stream(train)), ff.fit(task, train, epochs=4))


def test_another_run_in_the_directory_is_refused_with_the_differences(task, table, tmp_path):
    train, _ = table
    ff.fit(task, train, epochs=1, run_dir=tmp_path)
    with pytest.raises(ValueError, match=r"was another: (?s:.*)\n  arguments.batch_size: 32 -> 16\n  arguments.seed: 0 -> 1"):
        ff.fit(task, train, epochs=1, run_dir=tmp_path, batch_size=16, seed=1)
    with pytest.raises(ValueError, match=r"data.train.count: 250 -> 249\n  data.train.crc32: \d+ -> \d+"):
        ff.fit(task, train[1:], epochs=1, run_dir=tmp_path)
    other = ff.Task(model=task.model, loss=task.loss, optimizer=optax.adam(2e-2))  # only the program shows it
    with pytest.raises(ValueError, match="program: the optimizer computes something else"):
        ff.fit(other, train, epochs=1, run_dir=tmp_path)
    wider = ff.Task(model=ff.nn.MLP((5,), 1, dropout=0.1), loss=task.loss, optimizer=task.optimizer)
    with pytest.raises(ValueError, match=r"task.model: MLP\(\.\.\., .*hidden = .*\) -> MLP\(\.\.\., .*hidden = \(5,\), \.\.\.\)$"):
        ff.fit(wider, train, epochs=1, run_dir=tmp_path)
    assert ff.fit(task, train, epochs=1, run_dir=tmp_path).timing.chunks == 0  # nothing was lost


def test_whether_to_resume(task, table, tmp_path):
    train, _ = table
    with pytest.raises(FileNotFoundError, match="has no run to resume"):
        ff.fit(task, train, run_dir=tmp_path / "run", resume="must")
    with pytest.raises(FileNotFoundError, match="has no run to resume"):
        ff.resume(tmp_path / "run", task, train)
    ff.fit(task, train, run_dir=tmp_path / "run", resume="never")
    with pytest.raises(FileExistsError, match="has a run already"):
        ff.fit(task, train, run_dir=tmp_path / "run", resume="never")
    with pytest.raises(ValueError, match="no way to resume 'always'"):
        ff.fit(task, train, run_dir=tmp_path / "run", resume="always")


def test_two_runs_in_one_directory(task, table, tmp_path):
    train, _ = table
    with RunDirectory(tmp_path).lock(), pytest.raises(RuntimeError, match=f"process {os.getpid()} is running in {tmp_path}"):
        ff.fit(task, train, run_dir=tmp_path)
    assert len(ff.fit(task, train, run_dir=tmp_path).history.epochs) == 1


def test_a_damaged_newest_checkpoint(task, table, tmp_path):
    train, _ = table
    keep = [ff.callbacks.Checkpoint(every_epochs=1, keep=3)]
    ff.fit(task, train, epochs=4, batch_size=50, run_dir=tmp_path, callbacks=keep)
    for file in (tmp_path / "checkpoints" / "20").rglob("*"):
        if file.is_file():
            file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    with pytest.warns(RuntimeWarning, match=r"checkpoints/20 .* is resumed from the older .*checkpoints/15"):
        went_on = ff.fit(task, train, epochs=4, batch_size=50, run_dir=tmp_path, callbacks=keep)
    same(went_on, ff.fit(task, train, epochs=4, batch_size=50))
    assert went_on.timing.chunks > 0


def test_the_model_of_a_finished_run(task, table, tmp_path):
    train, validation = table
    result = ff.fit(task, train, validation=validation, epochs=3, run_dir=tmp_path)
    model = ff.load(tmp_path)
    expected = ff.evaluate(task, result.best, validation)
    assert model.evaluate(validation) == pytest.approx(expected, rel=1e-6)
    assert model.about["best_epoch"] == result.best_epoch
    assert model.about["arguments"]["epochs"] == 3


def test_a_fresh_model_scores_by_chance_and_the_restored_one_as_trained(tmp_path):
    """Keras's demonstration of saving, in a new process that has none of this one's code."""
    splits = ff.data.load("digits", validation=500)
    task = ff.Task(
        model=ff.nn.MLP((32,), 10),
        loss=ff.losses.categorical_crossentropy,
        optimizer=optax.adam(3e-3),
        metrics={"accuracy": ff.metrics.categorical_accuracy},
        preprocess=ff.data.standardize(splits.train.x),
    )
    result = ff.fit(task, splits.train, validation=splits.validation, epochs=15, run_dir=tmp_path)
    fresh = task.init(jax.random.key(1), splits.train.x[:1])
    assert ff.evaluate(task, fresh, splits.validation)["accuracy"] < 0.25
    trained = ff.evaluate(task, result.best, splits.validation)["accuracy"]
    assert trained > 0.85
    code = (
        "import sys, flaxfit as ff\nmodel = ff.load(sys.argv[1])\n"
        "print(model.evaluate(ff.data.load('digits', validation=500).validation)['accuracy'], 'flax' in sys.modules)"
    )
    restored, flax = subprocess.run([sys.executable, "-c", code, tmp_path], check=True, capture_output=True, text=True).stdout.split()
    assert float(restored) == pytest.approx(trained, abs=1e-6)
    assert flax == "False"


def test_weights_by_name(task, table, tmp_path):
    from safetensors.numpy import load_file

    train, validation = table
    hook = ff.callbacks.SaveWeights("{epoch:02d}-{val_loss:.5f}", best_only=False)
    result = ff.fit(task, train, validation=validation, epochs=3, run_dir=tmp_path, callbacks=[hook])
    names = [f"{epoch:02d}-{loss:.5f}.safetensors" for epoch, loss in enumerate(result.history["val_loss"], 1)]
    assert sorted(path.name for path in (tmp_path / "weights").iterdir()) == names
    last = load_file(tmp_path / "weights" / names[-1])
    np.testing.assert_array_equal(last["params/Dense_0/kernel"], result.last.params["Dense_0"]["kernel"])
    with pytest.raises(ValueError, match=r"no metric 'val_los'; did you mean 'val_loss'\?"):
        ff.fit(task, train, validation=validation, run_dir=tmp_path / "other", callbacks=[ff.callbacks.SaveWeights("{val_los}")])
    assert not (tmp_path / "other").exists()


def test_only_the_best_weights(task, table, tmp_path):
    train, validation = table
    hook = ff.callbacks.SaveWeights("{epoch}")
    result = ff.fit(task, train, validation=validation, epochs=30, run_dir=tmp_path, callbacks=[hook])
    improved = [epoch for epoch, best in enumerate(result.history["best_epoch"], 1) if epoch == best]
    assert sorted(int(path.stem) for path in (tmp_path / "weights").iterdir()) == improved


@pytest.fixture(scope="module")
def scored():
    optimizer = optax.adam(3e-2)
    metrics = {"accuracy": ff.metrics.binary_accuracy, "margin": lambda logits, y: logits[:, 0] * (2 * y - 1)}
    return ff.Task(model=ff.nn.MLP((4,), 1, dropout=0.1), loss=ff.losses.binary_crossentropy, optimizer=optimizer, metrics=metrics)


def records(values):
    """The epochs in which a value was larger than all before."""
    return [epoch for epoch, value in enumerate(values, 1) if all(value > before for before in values[: epoch - 1])]


def test_weights_and_checkpoints_by_a_monitor_of_their_own(scored, table, tmp_path):
    from safetensors.numpy import load_file

    class Each(ff.callbacks.Callback):
        every_epochs = 1
        params: ClassVar = {}

        def on_chunk_end(self, progress):
            self.params[progress.epoch] = jax.device_get(progress.state.train.params)

    train, validation = table
    how = {"validation": validation, "batch_size": 32}
    saved = ff.callbacks.Checkpoint(every_epochs=1, monitor="val_accuracy")
    named = ff.callbacks.SaveWeights("{epoch}-{val_accuracy:.3f}", monitor="val_accuracy")
    ff.fit(scored, train, **how, epochs=4, run_dir=tmp_path, callbacks=[saved, named, Each()])
    worst = ff.callbacks.SaveWeights("best", monitor="val_accuracy", mode="min")
    result = ff.fit(scored, train, **how, epochs=12, run_dir=tmp_path, callbacks=[saved, named, worst, Each()])  # resumed
    accuracy = result.history["val_accuracy"]
    best = records(accuracy)
    assert records(-result.history["val_loss"]) != best  # else the run's monitor would do
    names = {f"{epoch}-{accuracy[epoch - 1]:.3f}.safetensors": epoch for epoch in best}
    assert {path.name for path in (tmp_path / "weights").iterdir()} - {"best.safetensors"} == names.keys()
    for name, epoch in names.items():
        np.testing.assert_array_equal(
            load_file(tmp_path / "weights" / name)["params/Dense_0/kernel"], Each.params[epoch]["Dense_0"]["kernel"]
        )
    # What went on has the epochs before in mind: only a smaller one than they had is written.
    assert (tmp_path / "weights" / "best.safetensors").exists() == (records(-accuracy)[-1] > 4)
    kept = {best[-1], 12} if best[-1] < 12 else {11, 12}
    assert {int(path.name) // 8 for path in (tmp_path / "checkpoints").iterdir()} == kept  # 8 steps an epoch


def test_weights_of_an_epoch_that_was_not_finite_are_never_best(table, tmp_path):
    train, validation = table
    optimizer = optax.sgd(lambda step: jax.numpy.where(step == 15, jax.numpy.inf, 0.1))  # the last step of epoch 2
    task = ff.Task(model=ff.nn.MLP((4,), 1), loss=ff.losses.binary_crossentropy, optimizer=optimizer)
    hook = ff.callbacks.SaveWeights("{epoch}", monitor="gradient_norm", mode="min")
    for directory, sets in ((tmp_path / "validated", {"validation": validation}), (tmp_path / "alone", {})):
        with pytest.warns(RuntimeWarning, match="training ended in epoch 2"):
            result = ff.fit(task, train, **sets, epochs=5, batch_size=32, run_dir=directory, callbacks=[hook])
        assert np.isfinite(result.history["gradient_norm"]).all()
        assert result.history["gradient_norm"][1] < result.history["gradient_norm"][0]
        assert [path.name for path in (directory / "weights").iterdir()] == ["1.safetensors"]


def test_monitors_of_checkpoints_are_checked_at_the_door(scored, table, tmp_path):
    train, _ = table
    said = {
        r"Checkpoint\(monitor=...\): no metric 'acuracy'; did you mean 'accuracy'\?": {"monitor": "acuracy"},
        "'val_accuracy'; did you mean 'accuracy'": {"monitor": "val_accuracy"},
        "no metric 'best_epoch'": {"monitor": "best_epoch", "mode": "max"},
        "'margin' is best when small or large": {"monitor": "margin"},
    }
    for words, how in said.items():
        with pytest.raises(ValueError, match=words):
            ff.fit(scored, train, run_dir=tmp_path / "run", callbacks=[ff.callbacks.Checkpoint(1, **how)])
    assert not (tmp_path / "run").exists()
    for make in (lambda: ff.callbacks.Checkpoint(1, mode="max"), lambda: ff.callbacks.SaveWeights("w", mode="max")):
        with pytest.raises(ValueError, match="needs monitor"):
            make()


def test_hooks_find_their_place(task, table, tmp_path):
    train, _ = table
    ff.fit(task, train, epochs=2, run_dir=tmp_path, callbacks=[ff.callbacks.TensorBoard()])
    assert list((tmp_path / "tensorboard" / "train").iterdir())
    with pytest.raises(ValueError, match=r"the run has no directory for tensorboard: pass fit\(run_dir=...\)"):
        ff.fit(task, train, callbacks=[ff.callbacks.TensorBoard()])
    with pytest.raises(ValueError, match="must say how often to save"):
        ff.callbacks.Checkpoint()


def test_no_signal_handler_in_a_thread_and_none_left(task, table, tmp_path):
    train, _ = table
    before = signal.getsignal(signal.SIGTERM)
    results = []
    thread = threading.Thread(target=lambda: results.append(ff.fit(task, train, run_dir=tmp_path / "thread")))
    thread.start()
    thread.join()
    assert len(results) == 1
    ff.fit(task, train, run_dir=tmp_path / "main")
    assert signal.getsignal(signal.SIGTERM) is before


FROZEN = """
import sys, flax.linen as nn, flaxfit as ff, numpy as np, optax
class Net(nn.Module):
    kinds: frozenset
    @nn.compact
    def __call__(self, x, *, train):
        return nn.Dense(1)(x)
x = np.ones((8, 2), np.float32)
task = ff.Task(Net(frozenset("abcdefgh")), ff.losses.mse, optax.sgd(1e-2))
ff.fit(task, ff.Dataset(x, x[:, 0]), epochs=int(sys.argv[2]), run_dir=sys.argv[1])
"""


def test_the_order_of_a_set_is_no_difference(tmp_path):
    for seed in ("1", "2"):
        command = [sys.executable, "-c", FROZEN, tmp_path, seed, "--hf-token", "abc"]
        done = subprocess.run(command, env=os.environ | {"PYTHONHASHSEED": seed}, capture_output=True, text=True, check=False)
        assert not done.returncode, done.stderr
    config = RunDirectory(tmp_path).read_config()
    assert config["task"]["model"].count("frozenset({'a', 'b', 'c', 'd', 'e', 'f', 'g', 'h'})") == 1
    assert config["environment"]["command"][-2:] == ["--hf-token", "(hidden)"]


def test_a_member_with_a_long_name_is_loaded(task, table, tmp_path):
    grid = {"note": ff.static(["x" * 300])}
    study = ff.fit_many(lambda hp: task, grid, table[0], seeds=1, epochs=1, run_dir=tmp_path)
    (name,) = (member.name for member in study.members)
    study.export(name, table[0])
    assert ff.load(tmp_path, member=name).predict(table[0].x).shape[0] == len(table[0])
