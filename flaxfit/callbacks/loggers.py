"""Callbacks that write metrics to files and to trackers of experiments."""

from __future__ import annotations

import csv
import io
import os
import time
import warnings
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from flaxfit.arguments import needed
from flaxfit.callbacks.base import Callback, Progress, Run
from flaxfit.durable import make_directory, warned
from flaxfit.history import History


class TensorBoard(Callback):
    """Writes the metrics of each epoch for TensorBoard.

    The layout is that of Keras: `epoch_loss` and the other metrics are in `train/`, those of the validation in `validation/`. The callback
    needs tensorboardX (`pip install flaxfit[tensorboard]`).

    Args:
      log_dir: a directory for this run, such as `logs/sizes/Tiny`. It is created if it does not exist. By default it is `tensorboard`
        in the run's directory.
      hparams: the hyperparameters of the run for the tab HParams, such as `{"dropout": 0.5}`. When the run has ended, they are written with
        the metrics of its best epoch, as `best/val_loss` and so on.
    """

    reads_state = False
    every_seconds: float | None = 5.0

    def __init__(self, log_dir: str | os.PathLike[str] | None = None, hparams: Mapping[str, Any] | None = None):
        self._directory = None if log_dir is None else Path(log_dir).resolve()
        self._hparams = plain(hparams)
        self._writers: dict[str, Any] = {}

    def on_train_begin(self, run: Run) -> None:
        writer = needed("tensorboardX", "callbacks.TensorBoard", "tensorboard").SummaryWriter
        parts = ["train", "validation"] if any(name.startswith("val_") for name in run.columns) else ["train"]
        directory = self._directory or run.default("tensorboard")
        first = None if run.history is None else len(run.history.epochs) + 1  # what is logged from there on will be logged again
        self._writers = {part: writer(str(directory / part), purge_step=first) for part in parts}
        if self._hparams:
            self._writers[""] = writer(str(directory))

    def on_chunk_end(self, progress: Progress) -> None:
        new = progress.new
        for name, values in new.items():
            writer = self._writers["validation" if name.startswith("val_") else "train"]
            logged = new.validated if name.startswith("val_") else np.ones(len(values), bool)
            for epoch, value in zip(new.epochs[logged], values[logged], strict=True):
                writer.add_scalar(f"epoch_{name.removeprefix('val_')}", value, int(epoch))
        if self._hparams and progress.ended and progress.stop_reason != "interrupted":
            from tensorboardX.summary import hparams

            scores, root = best(progress.history), self._writers[""]
            for summary in hparams(self._hparams, scores):
                root.file_writer.add_summary(summary)
            for name, value in scores.items():
                root.add_scalar(name, value, progress.epoch)
        for writer in self._writers.values():
            writer.flush()

    def on_train_end(self) -> None:
        for writer in self._writers.values():
            writer.close()
        self._writers = {}


class CSVLogger(Callback):
    """Writes the metrics of each epoch to a CSV file, as Keras's `CSVLogger` does.

    The file has a column `epoch`, which counts from 1, and one for each metric. Cells of epochs without a validation are empty. A file from
    before is replaced. If the run is resumed, the file has the epochs before as well, each of them once.

    Args:
      filename: the file. Its directory is created if it does not exist.
      separator: the character between cells.
    """

    reads_state = False
    every_seconds: float | None = 1.0

    def __init__(self, filename: str | os.PathLike[str], separator: str = ","):
        self._path, self._separator = Path(filename).resolve(), separator

    def on_train_begin(self, run: Run) -> None:
        self._written = 0  # epochs, besides the header

    def on_chunk_end(self, progress: Progress) -> None:
        history = progress.history
        text = io.StringIO()
        table = csv.writer(text, delimiter=self._separator, lineterminator="\n")
        if not self._written:
            table.writerow(["epoch", *history])
        table.writerows([epoch, *values.values()] for epoch, values in rows(history, self._written, missing=""))
        with warned(self._path):
            make_directory(self._path.parent)
            with self._path.open("a" if self._written else "w", encoding="utf-8", newline="") as file:
                file.write(text.getvalue())
            self._written = len(history.epochs)


class _Tracker(Callback):
    """What `MLflow` and `Wandb` share: each epoch is sent once, and a resumed run goes on where it was."""

    reads_state = False
    every_seconds: float | None = 5.0

    def __init__(self, hparams: Mapping[str, Any] | None):
        self._hparams = plain(hparams)
        self._id: str | None = None
        self._sent, self._ended = 0, False

    def on_train_begin(self, run: Run) -> None:
        self._id, self._sent, self._ended = None, 0, False

    def state_dict(self) -> Mapping[str, Any]:
        return {"id": self._id, "sent": self._sent}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._id, self._sent = state["id"], state["sent"]


class MLflow(_Tracker):
    """Logs hyperparameters and the metrics of each epoch to MLflow.

    The callback needs MLflow (`pip install flaxfit[mlflow]`). The metrics of the best epoch are logged as `best/val_loss` and so on at the
    end. A run that is resumed from a checkpoint continues its run in MLflow. If the server cannot be reached, training continues
    with a warning, and what was not logged is sent the next time.

    Args:
      experiment: the name of the experiment, which is created if it does not exist. By default it is that of the environment variable
        `MLFLOW_EXPERIMENT_NAME`, or "Default".
      run_name: the name of the run. By default MLflow makes one up.
      hparams: the hyperparameters of the run, which MLflow shows as parameters.
      tracking_uri: the address of the server, or of a database. By default it is the one that MLflow is set to.
    """

    def __init__(
        self,
        experiment: str | None = None,
        *,
        run_name: str | None = None,
        hparams: Mapping[str, Any] | None = None,
        tracking_uri: str | None = None,
    ):
        super().__init__(hparams)
        self._experiment, self._run_name, self._uri = experiment, run_name, tracking_uri

    def check(self, run: Run) -> None:
        """Checks that MLflow is installed."""
        needed("mlflow", "callbacks.MLflow", "mlflow")

    def on_chunk_end(self, progress: Progress) -> None:
        mlflow = needed("mlflow", "callbacks.MLflow", "mlflow")
        try:
            self._log(progress, mlflow)
        except mlflow.exceptions.MlflowException as error:
            warnings.warn(f"MLflow could not log epoch {progress.epoch} ({error}). Training continues.", RuntimeWarning, stacklevel=2)

    def _log(self, progress: Progress, mlflow: Any) -> None:
        Metric, Param = mlflow.entities.Metric, mlflow.entities.Param
        self._client = client = mlflow.MlflowClient(self._uri)
        if self._id is None:
            name = self._experiment or os.environ.get("MLFLOW_EXPERIMENT_NAME") or "Default"
            if client.get_experiment_by_name(name) is None:
                with suppress(mlflow.exceptions.MlflowException):  # another member of a population has created it
                    client.create_experiment(name)
            experiment = client.get_experiment_by_name(name).experiment_id
            self._id = client.create_run(experiment, run_name=self._run_name).info.run_id
            client.log_batch(self._id, params=[Param(name, str(value)) for name, value in self._hparams.items()])
        elif not self._sent:
            client.update_run(self._id, status="RUNNING")
        now = int(time.time() * 1000)
        for epoch, values in rows(progress.history, self._sent):
            client.log_batch(self._id, metrics=[Metric(name, value, now, epoch) for name, value in values.items()])
            self._sent = epoch
        if progress.ended:
            scores = best(progress.history)
            client.log_batch(self._id, metrics=[Metric(name, value, now, progress.epoch) for name, value in scores.items()])
            client.set_terminated(self._id, _STATUS.get(progress.stop_reason or "", "FINISHED"))
            self._ended = True

    def on_train_end(self) -> None:
        if self._id is not None and not self._ended:
            self._client.set_terminated(self._id, "FAILED")


_STATUS = {"interrupted": "KILLED", "non_finite": "FAILED"}


class Wandb(_Tracker):
    """Logs hyperparameters and the metrics of each epoch to Weights & Biases.

    The callback needs wandb (`pip install flaxfit[wandb]`). The metrics of the best epoch are in the summary as `best/val_loss` and so on.
    A run that is resumed from a checkpoint continues its run at Weights & Biases.

    Args:
      project: the name of the project. By default Weights & Biases chooses it.
      hparams: the hyperparameters of the run, which are its `config`.
      options: other arguments of `wandb.init`, such as `name`, `group`, `dir` and `mode="offline"`.
    """

    def __init__(self, project: str | None = None, *, hparams: Mapping[str, Any] | None = None, **options: Any):
        super().__init__(hparams)
        self._project, self._options, self._run = project, options, None

    def check(self, run: Run) -> None:
        """Checks that wandb is installed."""
        needed("wandb", "callbacks.Wandb", "wandb")

    def on_chunk_end(self, progress: Progress) -> None:
        wandb = needed("wandb", "callbacks.Wandb", "wandb")
        if self._run is None:
            options = {"project": self._project, "config": self._hparams, "reinit": "create_new", **self._options}
            self._run: Any = wandb.init(**options, **({} if self._id is None else {"id": self._id, "resume": "allow"}))
            self._id = self._run.id
        for epoch, values in rows(progress.history, self._sent):
            self._run.log(values, step=epoch)
            self._sent = epoch
        if progress.ended:
            self._run.summary.update(best(progress.history))
            self._ended = True

    def on_train_end(self) -> None:
        if self._run is not None:
            self._run.finish(exit_code=int(not self._ended))
            self._run = None


def plain(hparams: Mapping[str, Any] | None) -> dict[str, Any]:
    """Returns hyperparameters as plain values. Those that are no numbers become text.

    Example:
      >>> plain({"rate": np.float32(0.5), "widths": (16, 16), "norm": True})
      {'rate': 0.5, 'widths': '(16, 16)', 'norm': True}
    """
    values = {name: value.item() if getattr(value, "shape", None) == () else value for name, value in (hparams or {}).items()}
    return {name: value if isinstance(value, bool | int | float) else str(value) for name, value in values.items()}


def best(history: History) -> dict[str, float]:
    """Returns the metrics of the best epoch as `best/...`, or of the last one if there was no best. Those that are NaN are left out.

    Example:
      >>> best(History({"loss": [0.7, 0.5, 0.6], "best_epoch": [1, 2, 2]}))
      {'best/loss': 0.5, 'best/best_epoch': 2.0}
    """
    values = history.row((history.best_epoch or 0) - 1) if len(history.epochs) else {}
    return {f"best/{name}": value for name, value in values.items() if not np.isnan(value)}


def rows(history: History, first: int, missing: Any = None) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yields the number and the metrics of each epoch after the first so many.

    Metrics of the validation in epochs without one are replaced by `missing`, or left out if it is None.
    """
    for index, (epoch, validated) in enumerate(zip(history.epochs[first:], history.validated[first:], strict=True), start=first):
        values = {name: value if validated or not name.startswith("val_") else missing for name, value in history.row(index).items()}
        yield int(epoch), {name: value for name, value in values.items() if value is not None}


class MetricsFile(Callback):
    """Writes one line of JSON for each epoch to `metrics.jsonl` in the run's directory. Every run with a directory uses it."""

    reads_state = False
    every_seconds: float | None = 1.0
    saves = True

    def on_train_begin(self, run: Run) -> None:
        run.default("metrics_path")
        self._directory, self._whole = run.directory, True
        if run.history is None and run.directory is not None:
            run.directory.metrics_path.unlink(missing_ok=True)

    def on_chunk_end(self, progress: Progress) -> None:
        if self._directory is not None:
            whole, self._whole = self._whole, False
            with warned(self._directory.metrics_path):
                if whole:
                    self._directory.append_metrics(progress.new)
                else:  # earlier epochs could not be written
                    self._directory.write_metrics(progress.history)
                self._whole = True
