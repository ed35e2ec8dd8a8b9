"""What a callback is, and what it gets to see."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flaxfit.history import History
from flaxfit.state import RunState
from flaxfit.storage.directory import RunDirectory
from flaxfit.train.stopping import EarlyStopping
from flaxfit.train.task import Task


@dataclass(frozen=True)
class Run:
    """A run, as callbacks see it before it starts.

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
            raise ValueError(f"callbacks need a place for their files: give the callback a path, or fit(run_dir=...) for {what}.")
        return getattr(self.directory, what)


@dataclass(frozen=True)
class Progress:
    """What a callback gets to see.

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
        """The epochs since this callback last looked; none where it looks inside an epoch."""
        return self._new()

    @property
    def history(self) -> History:
        """All epochs so far."""
        return self._all()


class Callback:
    """Looks on between chunks. Override what you need; set how often it wants to look.

    The last look, with `look.ended`, comes always. With all three unset it is the only one.

    Attributes:
      every_epochs: look after each so many epochs, 1 or more.
      every_steps: look after each so many steps, inside epochs too, 1 or more.
      every_seconds: look about this often, more than 0.
      reads_state: whether it reads `look.state`; if not, a run of several processes need not gather it.

    Example:
      >>> class PrintLoss(Callback):
      ...     every_epochs = 10
      ...     def on_chunk_end(self, progress):
      ...         print(progress.epoch, progress.new["loss"].mean())
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

    def on_train_begin(self, run: Run) -> None:
        """Called once before training."""

    def on_chunk_end(self, progress: Progress) -> None:
        """Called between chunks."""

    def on_train_end(self) -> None:
        """Called at the end, also when training was interrupted or failed."""
