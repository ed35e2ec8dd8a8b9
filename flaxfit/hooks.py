"""What happens between chunks: progress, logs.

The driver stops the compiled run where some hook wants to look, and hands it what has been logged since it last looked. A hook never
touches the device by itself: the metrics it gets have been fetched, once for all hooks.
"""

from __future__ import annotations

import math
import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from string import Formatter
from typing import TYPE_CHECKING, Any, Literal, TextIO

import numpy as np

from flaxfit.arguments import unknown
from flaxfit.report.history import History
from flaxfit.state import RunState, for_evaluation
from flaxfit.stopping import EarlyStopping
from flaxfit.storage.checkpoints import Checkpoints
from flaxfit.storage.directory import RunDirectory
from flaxfit.storage.weights import save_weights
from flaxfit.task import Task

if TYPE_CHECKING:
    from rich.progress import Progress as Bar


@dataclass(frozen=True)
class Run:
    """A run, as hooks see it before it starts.

    Attributes:
      task: what is trained.
      columns: the names that each epoch logs, in order.
      stopping: which metric is monitored, and how.
      rows: training rows.
      steps_per_epoch: steps an epoch.
      epochs: the most epochs it will train.
      data: "train" and, where there is one, "validation" -> where the rows come from, as plain values.
      directory: the run's directory, or None.
      history: the epochs that were trained before, of a run that goes on.
    """

    task: Task
    columns: tuple[str, ...]
    stopping: EarlyStopping
    rows: int
    steps_per_epoch: int
    epochs: int
    data: Mapping[str, Any]
    directory: RunDirectory | None = None
    history: History | None = None

    def default(self, what: str) -> Path:
        """The place of `what` in the run's directory.

        Raises:
          ValueError: the run has none.
        """
        if self.directory is None:
            raise ValueError(f"hooks need a place for their files: give the hook a path, or fit(run_dir=...) for {what}.")
        return getattr(self.directory, what)


@dataclass(frozen=True)
class Look:
    """What a hook gets to see.

    Attributes:
      run: the run it is about.
      state: where the run stands, on the device. It is valid during the look only: its buffers are used again.
      epoch: finished epochs.
      step: steps done in the epoch under way.
      seconds: wall time since the run began.
      ended: whether this is the last look.
    """

    run: Run
    _new: Callable[[], History]
    _all: Callable[[], History]
    state: RunState
    epoch: int
    step: int
    seconds: float
    ended: bool

    @property
    def new(self) -> History:
        """The epochs since this hook last looked; none where it looks inside an epoch."""
        return self._new()

    @property
    def history(self) -> History:
        """All epochs so far."""
        return self._all()


class Hook:
    """Looks on between chunks. Override what you need; set how often it wants to look.

    The last look, with `look.ended`, comes always. With all three unset it is the only one.

    Attributes:
      every_epochs: look after each so many epochs, 1 or more.
      every_steps: look after each so many steps, inside epochs too, 1 or more.
      every_seconds: look about this often, more than 0.
      reads_state: whether it reads `look.state`; if not, a run of several processes need not gather it.

    Example:
      >>> class PrintLoss(Hook):
      ...     every_epochs = 10
      ...     def look(self, look):
      ...         print(look.epoch, look.new["loss"].mean())
    """

    every_epochs: int | None = None
    every_steps: int | None = None
    every_seconds: float | None = None
    reads_state: bool = True

    def due(self, old_epoch: int, epoch: int, old_step: int, step: int, seconds: float) -> bool:
        """Whether to look: given finished epochs and steps of the run, then and now, and seconds since the last look."""
        return bool(
            (self.every_epochs and epoch // self.every_epochs > old_epoch // self.every_epochs)
            or (self.every_steps and step // self.every_steps > old_step // self.every_steps)
            or (self.every_seconds and seconds >= self.every_seconds)
        )

    def begin(self, run: Run) -> None:
        """Called once before training."""

    def look(self, look: Look) -> None:
        """Called between chunks."""

    def close(self) -> None:
        """Called at the end, also when training was interrupted or failed."""


def _line(names: Mapping[str, float]) -> str:
    return ", ".join(f"{name}: {value:.4f}" for name, value in names.items())


class Progress(Hook):
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

    def begin(self, run: Run) -> None:
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

    def look(self, look: Look) -> None:
        rate = f"{look.seconds / (look.epoch + look.step / look.run.steps_per_epoch) * 1e3:.3g} ms/epoch"
        values = self._values(look)
        if self._bar is not None and not look.ended:
            self._bar.update(self._bar.task_ids[0], completed=look.epoch, rate=rate, values=values)
        elif look.ended or time.monotonic() - self._printed > 10:
            self.close()
            self._printed = time.monotonic()
            early = " (stopped)" if look.ended and look.epoch < look.run.epochs else ""
            line = f"{self.name}: epoch {look.epoch}/{look.run.epochs}{early}, {rate}{values and ', ' + values}"
            self._console.print(line, markup=False, highlight=False, soft_wrap=True)

    def _values(self, look: Look) -> str:
        new, monitor = look.new, look.run.stopping.monitor
        if not len(new.epochs):
            new = look.history
        if not len(new.epochs):
            return ""
        best = new.best_epoch
        if best is not None and best >= new.epochs[0]:
            self._best = f", best {new[monitor][best - new.epochs[0]]:.4g} in epoch {best}"
        return f"{monitor} {new[monitor][-1]:.4g}{self._best}"

    def close(self) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = None


class Dots(Hook):
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

    def look(self, look: Look) -> None:
        file, new = self._file or sys.stdout, look.new
        for index, epoch in enumerate(new.epochs):
            if (epoch - 1) % self.report_every == 0:
                values = {name: value for name, value in new.row(index).items() if name != "best_epoch"}
                file.write(f"\nEpoch {epoch}: {_line(values)}\n")
            file.write(".")
        if look.ended:
            file.write("\n")
        file.flush()


class TensorBoard(Hook):
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

    def begin(self, run: Run) -> None:
        try:
            from tensorboardX import SummaryWriter
        except ImportError as error:
            raise ImportError("hooks.TensorBoard needs tensorboardX: pip install flaxfit[tensorboard]") from error
        parts = ["train", "validation"] if any(name.startswith("val_") for name in run.columns) else ["train"]
        directory = self._directory or run.default("tensorboard")
        first = None if run.history is None else len(run.history.epochs) + 1  # what is logged from there on will be logged again
        self._writers = {part: SummaryWriter(str(directory / part), purge_step=first) for part in parts}

    def look(self, look: Look) -> None:
        new = look.new
        for name, values in new.items():
            writer = self._writers["validation" if name.startswith("val_") else "train"]
            for epoch, value in zip(new.epochs, values, strict=True):
                writer.add_scalar(f"epoch_{name.removeprefix('val_')}", value, int(epoch))
        for writer in self._writers.values():
            writer.flush()

    def close(self) -> None:
        for writer in self._writers.values():
            writer.close()
        self._writers = {}


class Metrics(Hook):
    """One line of JSON an epoch, which `History.from_jsonl` and any other reader of JSON lines reads.

    Args:
      path: the file; an older one is replaced, as by Keras's `CSVLogger`. In a run directory `metrics.jsonl` is written anyway.
    """

    reads_state = False

    def __init__(self, path: str | os.PathLike[str] | None = None):
        self._path = None if path is None else Path(path).resolve()
        self._file: TextIO | None = None
        self.every_seconds = 1.0

    def begin(self, run: Run) -> None:
        path = self._path or run.default("metrics_path")
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = path.open("w", encoding="utf-8")
        if run.history is not None:
            self._file.writelines(line + "\n" for line in run.history.lines())

    def look(self, look: Look) -> None:
        assert self._file is not None
        self._file.writelines(line + "\n" for line in look.new.lines())
        self._file.flush()

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None


class Checkpoint(Hook):
    """Saves the run, so that it goes on where it stopped; and weights by name, as Keras's `ModelCheckpoint` does. Needs `fit(run_dir=...)`.

    A run with a directory has `Checkpoint(every_seconds=60)` anyway. The end of a run, and a signal, always save.

    Args:
      every_epochs: save after each so many epochs.
      every_steps: save after each so many steps, inside epochs too.
      every_seconds: save about this often.
      keep: how many of the newest checkpoints to keep besides the best; None: all.
      weights: a template for files of weights in the run's `weights` directory, such as `"{epoch:02d}-{val_loss:.5f}"`: for evaluation,
        in safetensors. None: none.
      best_only: write weights when the monitor has improved, and not at each look.
      weights_only: write `weights` and no checkpoints; a run with a directory then has its own.
      monitor: the metric that decides which checkpoint and weights are best; by default the run's, with its mode and rules. By another
        one, weights are written at a look whose newest finished epoch is the best so far: for the best of all, `every_epochs=1`.
      mode: whether that metric is best when small or large; "auto" goes by its name, as in `EarlyStopping`.

    Raises:
      ValueError: nothing says when to save; a name that is not logged, or does not tell its mode; `weights_only` or a mode alone.
    """

    def __init__(
        self,
        every_epochs: int | None = None,
        every_steps: int | None = None,
        every_seconds: float | None = None,
        *,
        keep: int | None = 1,
        weights: str | None = None,
        best_only: bool = True,
        weights_only: bool = False,
        monitor: str | None = None,
        mode: Literal["auto", "min", "max"] = "auto",
    ):
        if every_epochs is None and every_steps is None and every_seconds is None:
            raise ValueError("Checkpoint needs every_epochs, every_steps or every_seconds.")
        if weights_only and weights is None:
            raise ValueError('Checkpoint(weights_only=True) needs names for the weights: weights="{epoch:02d}".')
        if monitor is None and mode != "auto":
            raise ValueError(f"Checkpoint(mode={mode!r}) needs monitor=...: the run's monitor has its own mode.")
        self.every_epochs, self.every_steps, self.every_seconds = every_epochs, every_steps, every_seconds
        self.keep, self._weights, self._best_only, self.weights_only = keep, weights, best_only, weights_only
        self._own = None if monitor is None else EarlyStopping(monitor, mode=mode)
        self._checkpoints: Checkpoints | None = None

    def check(self, columns: Sequence[str]) -> None:
        """That the template and the monitor name what is logged.

        Raises:
          ValueError: they do not, or the monitor's name does not tell its mode.
        """
        for _, name, _, _ in Formatter().parse(self._weights or ""):
            if name is not None and name not in ("epoch", *columns):
                raise ValueError(f"Checkpoint(weights={self._weights!r}): {unknown('metric', name, ('epoch', *columns))}")
        if self._own is not None:
            if self._own.monitor not in columns[:-1]:  # the last is the best epoch
                raise ValueError(f"Checkpoint(monitor=...): {unknown('metric', self._own.monitor, columns[:-1])}")
            self._own.direction  # noqa: B018  (raises for a name that does not tell)

    def begin(self, run: Run) -> None:
        self._written: int | None = None  # the epoch whose weights were written last
        if self.weights_only:
            run.default("weights")  # raises where there is no directory
        else:
            self._checkpoints = Checkpoints(run.default("checkpoints"), keep=self.keep, mode=(self._own or run.stopping).direction)
            self._checkpoints.prepare()

    def look(self, look: Look) -> None:
        history, state = look.history, look.state
        if self._checkpoints is not None:
            rows = np.stack([history[name] for name in look.run.columns], axis=1)
            value = history[(self._own or look.run.stopping).monitor][-1] if len(rows) else math.nan
            self._checkpoints.save(look.epoch * look.run.steps_per_epoch + look.step, state, rows, value)
        if self._weights is None or not look.epoch:
            return
        if not self._best_only:
            epoch, chosen = look.epoch, for_evaluation(look.run.task, state.train)
        elif self._own is None:
            epoch, chosen = history.best_epoch, state.best
        else:  # `finite` is of the newest epoch's end, unless that was not finite
            newest = _best_epoch(history, self._own) == look.epoch and int(state.finite.step) + look.step == int(state.train.step)
            epoch, chosen = look.epoch if newest else None, for_evaluation(look.run.task, state.finite)
        if epoch is not None and epoch != self._written:
            self._written = epoch
            name = self._weights.format(epoch=epoch, **{k: float(v) for k, v in history.row(epoch - 1).items()})
            save_weights(look.run.default("weights") / f"{name}.safetensors", chosen)

    def close(self) -> None:
        if self._checkpoints is not None:
            self._checkpoints.close()
            self._checkpoints = None


def _best_epoch(history: History, stopping: EarlyStopping) -> int | None:
    """The first of the best epochs by a metric, None where there is none; epochs that were not finite do not count."""
    finite = np.logical_and.reduce([np.isfinite(history[name]) for name in {stopping.monitor, "loss", "val_loss"} & set(history)])
    values = np.where(finite, history[stopping.monitor] * (1 if stopping.direction == "min" else -1), math.inf)
    return int(values.argmin()) + 1 if finite.any() else None
