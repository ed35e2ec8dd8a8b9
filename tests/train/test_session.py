"""What is in a run's directory belongs to the run, and what cannot be written does not cost the result."""

import json
import os
import shutil
import stat

import jax
import numpy as np
import optax
import pytest

import flaxfit as ff
from flaxfit.storage.directory import RunDirectory


@pytest.fixture(scope="module")
def task():
    return ff.Task(ff.nn.MLP((4,), 1), ff.losses.mse, optax.adam(3e-2))


@pytest.fixture(scope="module")
def data():
    x = np.random.default_rng(0).normal(size=(60, 3)).astype(np.float32)
    return ff.Dataset(x, x[:, 0])


def same(first, second):
    assert first.history == second.history
    assert all(map(np.array_equal, jax.tree.leaves((first.best, first.last)), jax.tree.leaves((second.best, second.last))))


def fails(*arguments, **options):
    raise OSError(28, "No space left on device")


def test_a_continued_run_that_was_never_exported_is_exported_when_it_is_reopened(task, data, tmp_path):
    ff.fit(task, data, epochs=3, run_dir=tmp_path)
    old = shutil.copytree(tmp_path / "export", tmp_path / "old")
    longer = ff.fit(task, data, epochs=9, run_dir=tmp_path)
    shutil.rmtree(tmp_path / "export")
    (tmp_path / "old").rename(tmp_path / "export")  # as if it had died after its last checkpoint
    assert ff.load(tmp_path).about["epochs"] == 3
    same(ff.fit(task, data, epochs=9, run_dir=tmp_path), longer)
    assert ff.load(tmp_path).about["epochs"] == 9
    assert ff.load(tmp_path).evaluate(data)["loss"] == pytest.approx(min(longer.history["loss"]), rel=0.2)
    written = (tmp_path / "export" / "model.json").stat().st_mtime_ns
    ff.fit(task, data, epochs=9, run_dir=tmp_path)
    assert (tmp_path / "export" / "model.json").stat().st_mtime_ns == written  # an export of this run is left alone
    assert not old.exists()


@pytest.mark.parametrize("damage", ["weights.safetensors", "predict.stablehlo", "SHA256SUMS"])
def test_a_damaged_export_is_written_again(task, data, tmp_path, damage):
    result = ff.fit(task, data, epochs=3, run_dir=tmp_path)
    file = tmp_path / "export" / damage
    file.write_bytes(file.read_bytes()[:-7])
    with pytest.raises(ValueError, match="damaged"):
        ff.load(tmp_path)
    same(ff.fit(task, data, epochs=3, run_dir=tmp_path), result)
    assert ff.load(tmp_path).about["epochs"] == 3


def test_checkpoints_without_their_config_are_refused(task, data, tmp_path):
    first = ff.fit(task, data, epochs=3, run_dir=tmp_path, seed=1)
    (tmp_path / "config.json").unlink()
    for seed in (1, 2):
        with pytest.raises(ValueError, match=r"has no config\.json that says whose they are"):
            ff.fit(task, data, epochs=3, run_dir=tmp_path, seed=seed)
    same(ff.fit(task, data, epochs=3, run_dir=tmp_path, seed=1, resume="force"), first)
    same(ff.fit(task, data, epochs=3, run_dir=tmp_path, seed=1), first)  # they are this run's from then on
    shutil.rmtree(tmp_path / "checkpoints")
    (tmp_path / "config.json").unlink()
    same(ff.fit(task, data, epochs=3, run_dir=tmp_path, seed=2), ff.fit(task, data, epochs=3, seed=2))


def test_checkpoints_under_the_config_of_another_run_are_refused(task, data, tmp_path):
    for seed in (1, 2):
        ff.fit(task, data, epochs=3, run_dir=tmp_path / str(seed), seed=seed)
    shutil.copy(tmp_path / "2" / "config.json", tmp_path / "1" / "config.json")
    with pytest.raises(ValueError, match=r"1/checkpoints has checkpoints, but .* has the config\.json of another run"):
        ff.fit(task, data, epochs=3, run_dir=tmp_path / "1", seed=2)
    shutil.copytree(tmp_path / "1" / "checkpoints", tmp_path / "2" / "checkpoints", dirs_exist_ok=True)
    shutil.rmtree(tmp_path / "2" / "export")
    with pytest.raises(ValueError, match=r"has the config\.json of another run"):
        ff.fit(task, data, epochs=3, run_dir=tmp_path / "2", seed=2)


def test_a_run_from_before_identities_is_resumed_with_a_warning(task, data, tmp_path, monkeypatch):
    monkeypatch.setattr("uuid.uuid4", lambda: type("Nothing", (), {"hex": None}))
    ff.fit(task, data, epochs=3, run_dir=tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    del config["run"], config["crc32"]
    (tmp_path / "config.json").write_text(json.dumps(config))
    monkeypatch.undo()
    for epochs in (5, 7):
        with pytest.warns(UserWarning, match="a version that gave runs no identity"):
            resumed = ff.fit(task, data, epochs=epochs, run_dir=tmp_path)
        same(resumed, ff.fit(task, data, epochs=epochs))
    with pytest.raises(ValueError, match=r"seed: 0 -> 1"):
        ff.fit(task, data, epochs=7, run_dir=tmp_path, seed=1)


def test_populations_and_runs_do_not_share_a_directory(task, data, tmp_path):
    ff.fit(task, data, epochs=1, run_dir=tmp_path / "run")
    ff.fit_many(task, None, data, seeds=1, epochs=1, run_dir=tmp_path / "population")
    before = (tmp_path / "run" / "config.json").read_bytes()
    with pytest.raises(ValueError, match="has a run, not a population"):
        ff.fit_many(task, None, data, seeds=1, epochs=1, run_dir=tmp_path / "run")
    assert (tmp_path / "run" / "config.json").read_bytes() == before
    with pytest.raises(ValueError, match="has a population, not a run"):
        ff.fit(task, data, epochs=1, run_dir=tmp_path / "population")


def test_a_full_disk_at_the_end_costs_the_export_only(task, data, tmp_path, monkeypatch):
    expected = ff.fit(task, data, epochs=3)
    monkeypatch.setattr("flaxfit.programs.export.write_directory", fails)
    with pytest.warns(RuntimeWarning, match="the run is saved, but its model could not be exported .*No space left"):
        same(ff.fit(task, data, epochs=3, run_dir=tmp_path), expected)
    with pytest.warns(RuntimeWarning, match="could not be exported"):
        same(ff.fit(task, data, epochs=3, run_dir=tmp_path), expected)
    monkeypatch.undo()
    same(ff.fit(task, data, epochs=3, run_dir=tmp_path), expected)
    assert ff.load(tmp_path).about["epochs"] == 3


def test_epochs_that_could_not_be_logged_are_logged_later(task, data, tmp_path, monkeypatch):
    class Fills(ff.callbacks.Callback):
        every_epochs = 1

        def on_chunk_end(self, progress):
            disk.undo()
            if progress.epoch < 4:
                disk.setattr(RunDirectory, "append_metrics", fails)
                disk.setattr(RunDirectory, "write_metrics", fails)

    disk = pytest.MonkeyPatch()
    monkeypatch.setattr("flaxfit.callbacks.loggers.MetricsFile.every_epochs", 1)
    with pytest.warns(RuntimeWarning, match=r"metrics\.jsonl could not be written .*No space left.*Training continues"):
        result = ff.fit(task, data, epochs=6, run_dir=tmp_path, callbacks=[Fills()])
    same(result, ff.fit(task, data, epochs=6))
    assert RunDirectory(tmp_path).read_metrics() == result.history


def test_weights_that_cannot_be_written_do_not_end_the_run(task, data, tmp_path, monkeypatch):
    monkeypatch.setattr("flaxfit.callbacks.checkpoints.save_weights", fails)
    with pytest.warns(RuntimeWarning, match=r"weights/.* could not be written"):
        result = ff.fit(task, data, epochs=3, run_dir=tmp_path, callbacks=[ff.callbacks.SaveWeights("{epoch}")])
    same(result, ff.fit(task, data, epochs=3))


@pytest.mark.parametrize("name", ["export", "checkpoints", "metrics.jsonl"])
def test_what_would_fail_at_the_end_is_refused_at_the_start(task, data, tmp_path, name):
    class Runs(ff.callbacks.Callback):
        def on_train_begin(self, run):
            raise AssertionError("training began")

    if name == "metrics.jsonl":
        (tmp_path / name).mkdir()
    else:
        (tmp_path / name).write_text("notes")
    with pytest.raises(FileExistsError, match=name):
        ff.fit(task, data, epochs=3, run_dir=tmp_path, callbacks=[Runs()])
    with pytest.raises(ValueError, match="the run directory must have a name"):
        ff.fit(task, data, epochs=3, run_dir="")


def test_links_are_not_followed_and_the_configuration_is_private(task, data, tmp_path):
    victim, run = tmp_path / "victim", tmp_path / "run"
    victim.write_text("mine")
    run.mkdir()
    for name in (".owner", "config.json", "config.json.tmp", "metrics.jsonl.tmp", ".export.tmp"):
        (run / name).symlink_to(victim)
    (run / ".flaxfit-left").mkdir()  # by a process that was killed
    (run / ".flaxfit-left" / "file").write_text("part")
    (run / "config.json").unlink()
    before = os.umask(0)
    try:
        ff.fit(task, data, epochs=2, run_dir=run)
    finally:
        os.umask(before)
    assert victim.read_text() == "mine"
    assert stat.S_IMODE((run / "config.json").stat().st_mode) == 0o600
    assert not [path.name for path in run.iterdir() if path.name.startswith(".flaxfit-")]


def test_too_little_space_for_a_checkpoint_is_noticed_at_the_start(table, tmp_path, monkeypatch):
    train, _ = table
    task = ff.Task(ff.nn.MLP((8,), 1), ff.losses.binary_crossentropy, optax.adam(1e-2))
    usage = shutil.disk_usage(tmp_path)._replace(free=100)
    with monkeypatch.context() as patched:
        patched.setattr(shutil, "disk_usage", lambda path: usage)
        with pytest.raises(OSError, match=r"No space left: a checkpoint of this run takes [0-9,]+ bytes, 100 are free"):
            ff.fit(task, train, run_dir=tmp_path / "run")
    assert ff.fit(task, train, run_dir=tmp_path / "run").stop_reason == "epochs"
