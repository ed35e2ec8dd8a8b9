"""Callbacks that show progress on the screen."""

from __future__ import annotations

import sys
import time
from contextlib import suppress
from typing import TYPE_CHECKING, TextIO

import numpy as np

from flaxfit.callbacks.base import Callback, Progress, Run

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress as Bar


def console(file: TextIO) -> Console:
    """Returns a console that falls silent when its file is gone. Rich's own would exit."""
    from rich.console import Console

    made = Console(file=file)
    made.on_broken_pipe = lambda: setattr(made, "quiet", True)
    return made


class ProgressBar(Callback):
    """Shows a progress bar with the epochs, the rate, the time left, and the current and best value of the monitored metric.

    On a terminal it is one line that is updated. Elsewhere, such as in a log file, a plain line is printed every ten seconds. A plain
    line with the last values stays when the run ends.

    Args:
      name: a name for the run, shown in front of the bar.
      file: the text stream to write to. By default it is standard error.
    """

    reads_state = False

    def __init__(self, name: str = "training", file: TextIO | None = None):
        self.name, self._file, self.every_seconds = name, file, 0.25
        self._bar: Bar | None = None

    def on_train_begin(self, run: Run) -> None:
        from rich import progress
        from rich.table import Column

        self._console = console(self._file or sys.stderr)
        self._best, self._last, self._printed = "", "", time.monotonic()
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
        rate = f"{progress.seconds / progress.trained * 1e3:.3g} ms/epoch"
        values = self._values(progress)
        if self._bar is not None and not progress.ended:
            self._bar.update(self._bar.task_ids[0], completed=progress.epoch, rate=rate, values=values)
        elif progress.ended or time.monotonic() - self._printed > 10:
            self.on_train_end()
            self._printed = time.monotonic()
            early = " (stopped)" if progress.ended and progress.epoch < progress.run.epochs else ""
            line = f"{self.name}: epoch {progress.epoch}/{progress.run.epochs}{early}, {rate}{values and ', ' + values}"
            with suppress(OSError):
                self._console.print(line, markup=False, highlight=False, soft_wrap=True)

    def _values(self, progress: Progress) -> str:
        new, monitor = progress.new, progress.run.monitor
        if not len(new.epochs):
            new = progress.history
        if not len(new.epochs):
            return ""
        best = new.best_epoch
        if best is not None and best >= new.epochs[0]:
            self._best = f", best {new[monitor][best - new.epochs[0]]:.4g} in epoch {best}"
        known = np.flatnonzero(new.validated) if monitor.startswith("val_") else [-1]
        if len(known):
            self._last = f"{monitor} {new[monitor][known[-1]]:.4g}"
        return f"{self._last}{self._best}"

    def on_train_end(self) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = None


class Dots(Callback):
    """Prints a dot for each epoch and, now and then, a line with all metrics, as `EpochDots` in the TensorFlow documentation does.

    Args:
      report_every: the number of epochs from one line of metrics to the next, 1 or more.
      file: the text stream to write to. By default it is standard output.

    Raises:
      ValueError: `report_every` is below 1.
    """

    reads_state = False

    def __init__(self, report_every: int = 100, file: TextIO | None = None):
        if report_every < 1:
            raise ValueError(f"Dots(report_every=...) must be at least 1, got {report_every}.")
        self.report_every, self._file, self.every_seconds = report_every, file, 0.2

    def on_chunk_end(self, progress: Progress) -> None:
        file, new, text = self._file or sys.stdout, progress.new, ""
        for index, epoch in enumerate(new.epochs):
            if (epoch - 1) % self.report_every == 0:
                values = {name: value for name, value in new.row(index).items() if name != "best_epoch"}
                line = ", ".join(f"{name}: {value:.4f}" for name, value in values.items())
                text += f"\nEpoch {epoch}: {line}\n"
            text += "."
        with suppress(OSError):  # Ctrl-C also ends what the output is piped to
            file.write(text + "\n" * progress.ended)
            file.flush()
