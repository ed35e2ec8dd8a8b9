"""What a callback is, and what it is told."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from flaxfit.arguments import check_count
from flaxfit.history import History
from flaxfit.state import RunState
from flaxfit.storage.directory import RunDirectory

StopReason = Literal["epochs", "early_stopping", "non_finite", "callback", "interrupted"]
"""Why a run ended: all epochs done, a metric, a value that is not finite, a callback, or a signal."""


@dataclass(frozen=True)
class Run:
    """A run, as callbacks are told of it before it starts.

    Attributes:
      task: the `Task` that is trained.
      columns: the names that each epoch logs, in order.
      monitor: the metric that decides which epoch is best.
      mode: "min" or "max": whether it is best when small or large.
      rows: training rows.
      validation_rows: validation rows, or None.
      steps_per_epoch: steps of an epoch.
      epochs: the most epochs it will train.
      data: "train" and, where there is one, "validation" -> where the rows come from, as plain values.
      directory: the run's directory, or None.
      history: the epochs that were trained before, of a run that is resumed; else None.
    """

    task: Any
    columns: tuple[str, ...]
    monitor: str
    mode: Literal["min", "max"]
    rows: int
    validation_rows: int | None
    steps_per_epoch: int
    epochs: int
    data: Mapping[str, Any]
    directory: RunDirectory | None = None
    history: History | None = None

    @property
    def facts(self) -> dict[str, Any]:
        """What a `History` of the run knows besides its columns."""
        modes = {self.monitor.removeprefix("val_"): self.mode, **self.task.modes}  # early stopping may have been told its monitor's mode
        return {"data_loss": self.task.loss_name, "modes": modes, "rows": self.rows, "validation_rows": self.validation_rows}

    def default(self, what: str) -> Path:
        """The place of `what` in the run's directory.

        Raises:
          ValueError: the run has none.
        """
        if self.directory is None:
            raise ValueError(f"callbacks need a place for their files: give the callback a path, or fit(run_dir=...) for {what}.")
        return getattr(self.directory, what)


class Progress:
    """Where a run is when a callback is called.

    Attributes:
      run: the run.
      epoch: finished epochs.
      step: steps done in the epoch under way.
      seconds: wall time since the run began, in this process.
      stop_reason: why the run has ended; None while it goes on.
    """

    def __init__(
        self,
        run: Run,
        epoch: int,
        step: int,
        seconds: float,
        stop_reason: StopReason | None,
        *,
        new: Callable[[], History],
        history: Callable[[], History],
        state: Callable[[], RunState],
        stop: Callable[[], None],
        notes: Callable[[], Mapping[str, Any]],
    ):
        self.run, self.epoch, self.step, self.seconds, self.stop_reason = run, epoch, step, seconds, stop_reason
        self._new, self._history, self._state, self._stop, self._notes = new, history, state, stop, notes

    @property
    def ended(self) -> bool:
        """Whether this is the last call."""
        return self.stop_reason is not None

    @property
    def new(self) -> History:
        """The epochs since this callback's last call; none where it is called inside an epoch."""
        return self._new()

    @property
    def history(self) -> History:
        """All epochs so far."""
        return self._history()

    @property
    def state(self) -> RunState:
        """The run's state. Its arrays are valid during the call only, since their buffers are used again."""
        return self._state()

    @property
    def notes(self) -> Mapping[str, Any]:
        """What a checkpoint keeps besides the state, as plain values: the callbacks' states, and whether one stopped the run."""
        return self._notes()

    def stop(self) -> None:
        """Ends the run here; its `stop_reason` is then "callback".

        Raises:
          ValueError: the callback is called by the clock, so that the result would depend on it.
        """
        self._stop()


class Callback:
    """Is called between chunks of a run. Override what you need, and set how often it is called.

    `on_chunk_end` is called after the epochs, steps or seconds that the callback asks for, and always once at the end, with
    `progress.ended`; with all three unset that is its only call. A callback that changes what the run does, by `progress.stop()`, asks for
    epochs or steps, never for seconds, and gives its own state to checkpoints by `state_dict`.

    Attributes:
      every_epochs: call after each so many epochs, 1 or more.
      every_steps: call after each so many steps, inside epochs too, 1 or more.
      every_seconds: call about this often, more than 0.
      reads_state: whether it reads `progress.state`; if not, a run of several processes need not gather it.

    Example:
      >>> class StopBelow(Callback):
      ...     every_epochs = 1
      ...     def __init__(self, loss):
      ...         self.loss = loss
      ...     def on_chunk_end(self, progress):
      ...         if not progress.ended and progress.new["loss"][-1] < self.loss:
      ...             progress.stop()
    """

    every_epochs: int | None = None
    every_steps: int | None = None
    every_seconds: float | None = None
    reads_state: bool = True
    saves: bool = False  # called after all others, so that it keeps what they did

    def due(self, old_epoch: int, epoch: int, old_step: int, step: int, seconds: float) -> bool:
        """Whether to be called: given finished epochs and steps of the run, then and now, and seconds since the last call."""
        return bool(
            (self.every_epochs and epoch // self.every_epochs > old_epoch // self.every_epochs)
            or (self.every_steps and step // self.every_steps > old_step // self.every_steps)
            or (self.every_seconds and seconds >= self.every_seconds)
        )

    def check(self, run: Run) -> None:
        """Raises, before anything compiles, where the callback cannot work with this run."""

    def on_train_begin(self, run: Run) -> None:
        """Called once before training."""

    def on_chunk_end(self, progress: Progress) -> None:
        """Called between chunks."""

    def on_train_end(self) -> None:
        """Called once at the end, also when training was interrupted or failed."""

    def state_dict(self) -> Mapping[str, Any] | None:
        """What a checkpoint keeps of this callback, as plain values for JSON; None: nothing."""

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Takes back what `state_dict` gave, after `on_train_begin` of a run that is resumed."""


def check_callbacks(callbacks: Any, run: Run) -> list[Callback]:
    """`callbacks` as a list of Callbacks that ask for possible times and for metrics that are logged."""
    if isinstance(callbacks, Callback) or not hasattr(callbacks, "__iter__"):
        raise TypeError(f"callbacks must be a list of flaxfit.callbacks.Callback objects, got {callbacks!r}: put it in brackets.")
    callbacks = list(callbacks)
    for callback in callbacks:
        if not isinstance(callback, Callback):
            cure = "call it" if isinstance(callback, type) else "derive its class from Callback"
            raise TypeError(f"callbacks must be flaxfit.callbacks.Callback objects, got {callback!r}: {cure}.")
        for name in ("every_epochs", "every_steps"):
            if getattr(callback, name) is not None:
                check_count(f"{type(callback).__name__}.{name}", getattr(callback, name), 1, "or None")
        if callback.every_seconds is not None and not callback.every_seconds > 0:
            raise ValueError(f"{type(callback).__name__}.every_seconds must be more than 0, or None, got {callback.every_seconds!r}.")
        callback.check(run)
    return callbacks
