"""Callbacks that write metrics to files."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np

from flaxfit.arguments import needed
from flaxfit.callbacks.base import Callback, Progress, Run
from flaxfit.durable import warned


class TensorBoard(Callback):
    """Writes the metrics of each epoch for TensorBoard.

    The layout is that of Keras: `epoch_loss` and the other metrics are in `train/`, those of the validation in `validation/`. The callback
    needs tensorboardX (`pip install flaxfit[tensorboard]`).

    Args:
      log_dir: a directory for this run, such as `logs/sizes/Tiny`. It is created if it does not exist. By default it is `tensorboard`
        in the run's directory.
    """

    reads_state = False

    def __init__(self, log_dir: str | os.PathLike[str] | None = None):
        self._directory = None if log_dir is None else Path(log_dir).resolve()
        self._writers: dict[str, Any] = {}
        self.every_seconds = 5.0

    def on_train_begin(self, run: Run) -> None:
        writer = needed("tensorboardX", "callbacks.TensorBoard", "tensorboard").SummaryWriter
        parts = ["train", "validation"] if any(name.startswith("val_") for name in run.columns) else ["train"]
        directory = self._directory or run.default("tensorboard")
        first = None if run.history is None else len(run.history.epochs) + 1  # what is logged from there on will be logged again
        self._writers = {part: writer(str(directory / part), purge_step=first) for part in parts}

    def on_chunk_end(self, progress: Progress) -> None:
        new = progress.new
        for name, values in new.items():
            writer = self._writers["validation" if name.startswith("val_") else "train"]
            logged = new.validated if name.startswith("val_") else np.ones(len(values), bool)
            for epoch, value in zip(new.epochs[logged], values[logged], strict=True):
                writer.add_scalar(f"epoch_{name.removeprefix('val_')}", value, int(epoch))
        for writer in self._writers.values():
            writer.flush()

    def on_train_end(self) -> None:
        for writer in self._writers.values():
            writer.close()
        self._writers = {}


class MetricsFile(Callback):
    """Writes one line of JSON for each epoch to `metrics.jsonl` in the run's directory. Every run with a directory uses it."""

    reads_state = False
    every_seconds = 1.0
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
