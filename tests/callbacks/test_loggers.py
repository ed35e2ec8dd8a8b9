"""Loggers: each tool's own reader finds what the run logged."""

from __future__ import annotations

import csv
import struct
import sys
from types import SimpleNamespace

import numpy as np
import optax
import pytest
from tensorboard import context
from tensorboard.backend.event_processing import data_provider, plugin_event_multiplexer
from tensorboard.plugins.hparams import api_pb2, backend_context, list_session_groups

import flaxfit as ff


@pytest.fixture(scope="module")
def task(net):
    return ff.Task(net(), ff.losses.binary_crossentropy, optax.adam(1e-2), {"accuracy": ff.metrics.binary_accuracy})


class Fails(ff.callbacks.Callback):
    every_epochs = 3

    def on_chunk_end(self, progress):
        raise OSError("the run is lost")


def read(path, separator=","):
    with open(path, newline="", encoding="utf-8") as file:
        first, *rows = csv.reader(file, delimiter=separator)
    return {name: list(column) for name, column in zip(first, zip(*rows, strict=True), strict=True)}


def test_a_csv_file_has_each_epoch_once_after_a_resume(task, table, tmp_path):
    train, validation = table
    logger = ff.callbacks.CSVLogger(tmp_path / "logs" / "log.csv", separator=";")
    logger.every_epochs = 1
    options = {"validation": validation, "validation_every": 2, "run_dir": tmp_path / "run"}
    with pytest.raises(OSError, match="the run is lost"):
        ff.fit(task, train, epochs=6, callbacks=[logger, Fails()], **options)
    assert read(tmp_path / "logs" / "log.csv", ";")["epoch"] == ["1", "2", "3"]
    result = ff.fit(task, train, epochs=6, callbacks=[logger], **options)
    columns = read(tmp_path / "logs" / "log.csv", ";")
    assert columns["epoch"] == [str(epoch) for epoch in range(1, 7)]
    assert list(columns) == ["epoch", *result.history]
    np.testing.assert_array_equal([float(value) for value in columns["loss"]], result.history["loss"])
    assert [value == "" for value in columns["val_loss"]] == [True, False] * 3


def test_tensorboard_reads_hyperparameters_with_the_scores_of_the_best_epoch(task, table, tmp_path):
    results = {}
    for rate in (0.25, 0.5):
        hparams = {"rate": np.float32(rate), "widths": (16,), "norm": False}
        callbacks = [ff.callbacks.TensorBoard(tmp_path / str(rate), hparams)]
        results[rate] = ff.fit(task, table[0], validation=table[1], epochs=3, seed=int(4 * rate), callbacks=callbacks)
    reader = plugin_event_multiplexer.EventMultiplexer()
    reader.AddRunsFromDirectory(str(tmp_path)).Reload()
    provider = data_provider.MultiplexerDataProvider(reader, str(tmp_path))
    home, asking = backend_context.Context(SimpleNamespace(data_provider=provider)), context.RequestContext()
    experiment = home.experiment_from_metadata(asking, "", True, home.hparams_metadata(asking, ""), [])
    assert {info.name for info in experiment.hparam_infos} == {"rate", "widths", "norm"}
    asked = api_pb2.ListSessionGroupsRequest(slice_size=9, allowed_statuses=[api_pb2.STATUS_SUCCESS])
    groups = list_session_groups.Handler(asking, home, "", asked).run().session_groups
    found = {group.hparams["rate"].number_value: {m.name.tag: m.value for m in group.metric_values if not m.name.group} for group in groups}
    assert found.keys() == results.keys()
    for rate, result in results.items():
        expected = {f"best/{name}": value for name, value in result.history.row(result.best_epoch - 1).items()}
        assert found[rate] == pytest.approx(expected, rel=1e-6)


@pytest.mark.filterwarnings("ignore")  # of MLflow's imports
def test_mlflows_store_has_the_run(task, table, tmp_path, monkeypatch):
    mlflow = pytest.importorskip("mlflow")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    uri = (tmp_path / "mlruns").as_uri()

    def logger():
        made = ff.callbacks.MLflow("digits", run_name="first", hparams={"rate": 0.5}, tracking_uri=uri)
        made.every_epochs = 1
        return made

    options = {"validation": table[1], "validation_every": 2, "run_dir": tmp_path / "run", "epochs": 6}
    with pytest.raises(OSError, match="the run is lost"):
        ff.fit(task, table[0], callbacks=[logger(), Fails()], **options)
    client = mlflow.MlflowClient(uri)
    experiment = client.get_experiment_by_name("digits").experiment_id
    assert [run.info.status for run in client.search_runs([experiment])] == ["FAILED"]
    result = ff.fit(task, table[0], callbacks=[logger()], **options)
    (run,) = client.search_runs([experiment])
    assert (run.info.run_name, run.info.status, run.data.params) == ("first", "FINISHED", {"rate": "0.5"})
    logged = {name: [(each.step, each.value) for each in client.get_metric_history(run.info.run_id, name)] for name in ("loss", "val_loss")}
    assert logged["loss"] == list(zip(range(1, 7), result.history["loss"], strict=True))
    assert logged["val_loss"] == list(zip((2, 4, 6), result.history["val_loss"][1::2], strict=True))
    assert run.data.metrics["best/val_loss"] == result.history["val_loss"][result.best_epoch - 1]


@pytest.mark.filterwarnings("ignore")
def test_mlflow_catches_up_when_its_server_is_back(task, table, tmp_path, monkeypatch):
    mlflow = pytest.importorskip("mlflow")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    uri, log = (tmp_path / "mlruns").as_uri(), mlflow.MlflowClient.log_batch
    calls = []

    def sometimes(*arguments, **options):
        calls.append(options)
        if len(calls) == 4:
            raise mlflow.exceptions.MlflowException("no answer")
        return log(*arguments, **options)

    monkeypatch.setattr(mlflow.MlflowClient, "log_batch", sometimes)
    logger = ff.callbacks.MLflow(tracking_uri=uri)
    logger.every_epochs = 1
    with pytest.warns(RuntimeWarning, match="MLflow could not log epoch 3"):
        ff.fit(task, table[0], epochs=5, callbacks=[logger])
    client = mlflow.MlflowClient(uri)
    (run,) = client.search_runs([client.get_experiment_by_name("Default").experiment_id])
    assert [each.step for each in client.get_metric_history(run.info.run_id, "loss")] == [1, 2, 3, 4, 5]


def leveldb(content):
    """Yields the records of a log in LevelDB's format: blocks of 32 KiB, of parts with a header of checksum, length and kind."""
    at, record = 7, b""  # after wandb's own header
    while at + 7 <= len(content):
        left = 32768 - at % 32768
        if left < 7:
            at += left
            continue
        _, length, kind = struct.unpack("<IHB", content[at : at + 7])
        record += content[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):  # whole, or the last part
            yield record
            record = b""


@pytest.mark.filterwarnings("ignore")
def test_wandbs_files_have_the_run(task, table, tmp_path, monkeypatch):
    wandb = pytest.importorskip("wandb")
    from wandb.proto.wandb_internal_pb2 import Record

    monkeypatch.setenv("WANDB_SILENT", "true")
    logger = ff.callbacks.Wandb("digits", hparams={"rate": 0.5}, name="first", mode="offline", dir=str(tmp_path))
    result = ff.fit(task, table[0], epochs=4, callbacks=[logger])
    wandb.teardown()  # which waits until the file is written
    (path,) = tmp_path.rglob("run-*.wandb")
    losses, configs, summary = [], {}, {}
    for data in leveldb(path.read_bytes()):
        record = Record()
        record.ParseFromString(data)
        configs |= {item.key: item.value_json for item in record.run.config.update}
        losses += [float(item.value_json) for item in record.history.item if "loss" in (item.key, *item.nested_key)]
        summary |= {item.key or "/".join(item.nested_key): item.value_json for item in record.summary.update}
    assert configs["rate"] == "0.5"
    assert losses == result.history["loss"].tolist()
    assert float(summary["best/loss"]) == result.history["loss"][result.best_epoch - 1]


def test_a_missing_tracker_is_named_before_training(task, table, monkeypatch):
    for module, callback in (("mlflow", ff.callbacks.MLflow), ("wandb", ff.callbacks.Wandb)):
        monkeypatch.setitem(sys.modules, module, None)
        with pytest.raises(ImportError, match=rf"callbacks\.{callback.__name__} needs {module}.*pip install flaxfit\[{module}\]"):
            ff.fit(task, table[0], callbacks=[callback()])
