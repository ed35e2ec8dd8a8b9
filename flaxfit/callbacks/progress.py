"""Callbacks that show progress on the screen."""

from __future__ import annotations

import sys
from contextlib import suppress
from typing import TextIO

import numpy as np

from flaxfit.callbacks.base import Callback, Progress, Run
from flaxfit.callbacks.line import Line, Status, pace


class ProgressBar(Callback):
    """Shows a progress bar with the epochs, the rate, the time left, and the current and best value of the monitored metric.

    On a terminal and in a notebook it is one line that is updated. On a narrow terminal, what matters least is left out; the best value
    stays. Elsewhere, such as in a log file, a plain line is printed every ten seconds. A plain line with the last values stays when the
    run ends.

    Args:
      name: a name for the run, shown in front of the bar.
      file: the text stream to write to. By default it is standard error, or the output of the cell in a notebook.
    """

    reads_state = False

    def __init__(self, name: str = "training", file: TextIO | None = None):
        self.name, self._file, self.every_seconds = name, file, 0.25
        self._line: Line | None = None

    def on_train_begin(self, run: Run) -> None:
        self._best, self._last = "", ""
        self._line = Line(self._file)

    def on_chunk_end(self, progress: Progress) -> None:
        assert self._line is not None
        seconds, epochs, monitor = progress.seconds / progress.trained, progress.run.epochs, progress.run.monitor
        self._read(progress)
        best = f"best {self._best}" if self._best else ""
        full, nameless = (", ".join(filter(None, (last, best))) for last in (self._last and f"{monitor} {self._last}", self._last))
        values = (full, nameless, best or nameless, best.partition(" in ")[0] or nameless)
        early = " (stopped)" if progress.ended and progress.epoch < epochs else ""
        line = f"{self.name}: epoch {progress.epoch}/{epochs}{early}, {pace(seconds)}{full and ', ' + full}"
        if progress.ended:
            self._line.end(line)
        else:
            left = (epochs - progress.epoch) * seconds
            self._line.show(Status(self.name, progress.epoch, epochs, pace(seconds), left, values), line)

    def _read(self, progress: Progress) -> None:
        """Reads the last and the best value of the monitored metric."""
        new, monitor = progress.new, progress.run.monitor
        if not len(new.epochs):
            new = progress.history
        if not len(new.epochs):
            return
        best = new.best_epoch
        if best is not None and best >= new.epochs[0]:
            self._best = f"{new[monitor][best - new.epochs[0]]:.4g} in epoch {best}"
        known = np.flatnonzero(new.validated) if monitor.startswith("val_") else [-1]
        if len(known):
            self._last = f"{new[monitor][known[-1]]:.4g}"

    def on_train_end(self) -> None:
        if self._line is not None:
            self._line.end()
            self._line = None


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
