"""Progress on the screen, and logs in files."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from flaxfit.callbacks.base import Callback, Progress, Run

if TYPE_CHECKING:
    from rich.progress import Progress as Bar


def _line(names: Mapping[str, float]) -> str:
    return ", ".join(f"{name}: {value:.4f}" for name, value in names.items())


class ProgressBar(Callback):
    """A progress bar: epochs, rate, time left, current and best value of the monitor.

    On a terminal one live line on standard error; elsewhere plain lines, one every ten seconds. At the end a plain line stays.

    Args:
      name: what to call the run.
      file: where to write; standard error by default.
    """

    reads_state = False

    def __init__(self, name: str = "training", file: TextIO | None = None):
        self.name, self._file, self.every_seconds = name, file, 0.25
        self._bar: Bar | None = None

    def on_train_begin(self, run: Run) -> None:
        from rich import progress
        from rich.console import Console
        from rich.table import Column

        self._console = Console(file=self._file or sys.stderr)
        self._best, self._printed = "", time.monotonic()
        if self._console.is_terminal:
            whole = Column(no_wrap=True, overflow="ignore")  # numbers are not cut; what is left over is for the values
            texts = [progress.TextColumn(f"{{task.{field}}}", table_column=whole) for field in ("description", "fields[rate]")]
            count, left = progress.MofNCompleteColumn(table_column=whole), progress.TimeRemainingColumn(table_column=whole)
            values = progress.TextColumn("{task.fields[values]}", table_column=Column(no_wrap=True, ratio=1))
            shape = (texts[0], progress.BarColumn(10), count, texts[1], left, values)
            self._bar = progress.Progress(*shape, console=self._console, transient=True, expand=True)
            self._bar.add_task(self.name, total=run.epochs, rate="", values="")
            self._bar.start()

    def on_chunk_end(self, progress: Progress) -> None:
        rate = f"{progress.seconds / (progress.epoch + progress.step / progress.run.steps_per_epoch) * 1e3:.3g} ms/epoch"
        values = self._values(progress)
        if self._bar is not None and not progress.ended:
            self._bar.update(self._bar.task_ids[0], completed=progress.epoch, rate=rate, values=values)
        elif progress.ended or time.monotonic() - self._printed > 10:
            self.on_train_end()
            self._printed = time.monotonic()
            early = " (stopped)" if progress.ended and progress.epoch < progress.run.epochs else ""
            line = f"{self.name}: epoch {progress.epoch}/{progress.run.epochs}{early}, {rate}{values and ', ' + values}"
            self._console.print(line, markup=False, highlight=False, soft_wrap=True)

    def _values(self, progress: Progress) -> str:
        new, monitor = progress.new, progress.run.stopping.monitor
        if not len(new.epochs):
            new = progress.history
        if not len(new.epochs):
            return ""
        best = new.best_epoch
        if best is not None and best >= new.epochs[0]:
            self._best = f", best {new[monitor][best - new.epochs[0]]:.4g} in epoch {best}"
        return f"{monitor} {new[monitor][-1]:.4g}{self._best}"

    def on_train_end(self) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = None


class Dots(Callback):
    """A dot an epoch, and a full line of metrics every so many: the TensorFlow documentation's `EpochDots`.

    Args:
      report_every: epochs between full lines.
      file: where to write; standard output by default.
    """

    reads_state = False

    def __init__(self, report_every: int = 100, file: TextIO | None = None):
        if report_every < 1:
            raise ValueError(f"Dots(report_every=...) must be at least 1, got {report_every}.")
        self.report_every, self._file, self.every_seconds = report_every, file, 0.2

    def on_chunk_end(self, progress: Progress) -> None:
        file, new = self._file or sys.stdout, progress.new
        for index, epoch in enumerate(new.epochs):
            if (epoch - 1) % self.report_every == 0:
                values = {name: value for name, value in new.row(index).items() if name != "best_epoch"}
                file.write(f"\nEpoch {epoch}: {_line(values)}\n")
            file.write(".")
        if progress.ended:
            file.write("\n")
        file.flush()


class TensorBoard(Callback):
    """Scalars for TensorBoard, in Keras's layout: `epoch_loss` in `train/` and, for validation, in `validation/`.

    Needs tensorboardX (`pip install flaxfit[tensorboard]`).

    Args:
      log_dir: a directory for this run, such as `logs/sizes/Tiny`, made where it is missing; by default `tensorboard` in the run
        directory.
    """

    reads_state = False

    def __init__(self, log_dir: str | os.PathLike[str] | None = None):
        self._directory = None if log_dir is None else Path(log_dir).resolve()
        self._writers: dict[str, Any] = {}
        self.every_seconds = 5.0

    def on_train_begin(self, run: Run) -> None:
        try:
            from tensorboardX import SummaryWriter
        except ImportError as error:
            raise ImportError("callbacks.TensorBoard needs tensorboardX: pip install flaxfit[tensorboard]") from error
        parts = ["train", "validation"] if any(name.startswith("val_") for name in run.columns) else ["train"]
        directory = self._directory or run.default("tensorboard")
        first = None if run.history is None else len(run.history.epochs) + 1  # what is logged from there on will be logged again
        self._writers = {part: SummaryWriter(str(directory / part), purge_step=first) for part in parts}

    def on_chunk_end(self, progress: Progress) -> None:
        new = progress.new
        for name, values in new.items():
            writer = self._writers["validation" if name.startswith("val_") else "train"]
            for epoch, value in zip(new.epochs, values, strict=True):
                writer.add_scalar(f"epoch_{name.removeprefix('val_')}", value, int(epoch))
        for writer in self._writers.values():
            writer.flush()

    def on_train_end(self) -> None:
        for writer in self._writers.values():
            writer.close()
        self._writers = {}


class Metrics(Callback):
    """One line of JSON an epoch, which `History.from_jsonl` and any other reader of JSON lines reads.

    Args:
      path: the file; an older one is replaced, as by Keras's `CSVLogger`. In a run directory `metrics.jsonl` is written anyway.
    """

    reads_state = False

    def __init__(self, path: str | os.PathLike[str] | None = None):
        self._path = None if path is None else Path(path).resolve()
        self._file: TextIO | None = None
        self.every_seconds = 1.0

    def on_train_begin(self, run: Run) -> None:
        path = self._path or run.default("metrics_path")
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = path.open("w", encoding="utf-8")
        if run.history is not None:
            self._file.writelines(line + "\n" for line in run.history.lines())

    def on_chunk_end(self, progress: Progress) -> None:
        assert self._file is not None
        self._file.writelines(line + "\n" for line in progress.new.lines())
        self._file.flush()

    def on_train_end(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None
