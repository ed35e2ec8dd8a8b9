"""The base class of callbacks, and what a callback is given."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from flaxfit.arguments import check_count
from flaxfit.devices.distributed import ALONE, Team
from flaxfit.history import History
from flaxfit.state import RunState
from flaxfit.storage.directory import RunDirectory

StopReason = Literal["epochs", "early_stopping", "non_finite", "callback", "interrupted"]
"""Why a run ended: it trained all epochs, it stopped early, a value was not finite, a callback stopped it, or a signal arrived."""


@dataclass(frozen=True)
class Run:
    """Describes a run to its callbacks before the run starts.

    Attributes:
      task: the `Task` that is trained.
      columns: the names of the metrics that each epoch logs, in order.
      monitor: the name of the metric that decides which epoch is best.
      mode: "min" or "max": whether that metric is best when it is small or large.
      rows: the number of training examples.
      validation_rows: the number of validation examples, or None.
      steps_per_epoch: the number of steps in an epoch.
      epochs: the number of epochs that the run trains at most.
      data: "train" and, if there is one, "validation" -> where the examples come from, as plain values.
      directory: the run's directory, or None.
      history: the epochs that were trained before, if the run is resumed; else None.
      validation_every: the run validates in the epochs that are multiples of this number.
      writers: the processes that save its state together. If it is spread over none, that is the first one alone.
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
    validation_every: int = 1
    writers: Team = ALONE

    @property
    def facts(self) -> dict[str, Any]:
        """The keyword arguments of a `History` of this run, besides its columns."""
        modes = {self.monitor.removeprefix("val_"): self.mode, **self.task.modes}  # early stopping may have been told its monitor's mode
        sizes = {"rows": self.rows, "validation_rows": self.validation_rows, "validation_every": self.validation_every}
        return {"data_loss": self.task.loss_name, "modes": modes, **sizes}

    def default(self, what: str) -> Path:
        """Returns the path of `what`, such as "checkpoints", in the run's directory.

        Raises:
          ValueError: the run has no directory.
        """
        if self.directory is None:
            raise ValueError(f"the run has no directory for {what}: pass fit(run_dir=...), or a path to a callback that takes one.")
        return getattr(self.directory, what)


class Progress:
    """Tells a callback where the run is.

    Attributes:
      run: the description of the run.
      epoch: the number of finished epochs.
      step: the number of finished steps in the current epoch.
      seconds: wall time in seconds since the run began in this process.
      trained: the number of epochs that this process has trained in that time, with a fraction for the current one.
      stop_reason: why the run has ended, or None while it is training.
    """

    def __init__(
        self,
        run: Run,
        epoch: int,
        step: int,
        seconds: float,
        trained: float,
        stop_reason: StopReason | None,
        *,
        new: Callable[[], History],
        history: Callable[[], History],
        state: Callable[[], RunState],
        stop: Callable[[], None],
        notes: Callable[[], Mapping[str, Any]],
    ):
        self.run, self.epoch, self.step, self.stop_reason = run, epoch, step, stop_reason
        self.seconds, self.trained = seconds, trained
        self._new, self._history, self._state, self._stop, self._notes = new, history, state, stop, notes

    @property
    def ended(self) -> bool:
        """Whether the run has ended, so that this is the callback's last call."""
        return self.stop_reason is not None

    @property
    def new(self) -> History:
        """The epochs that have finished since this callback's last call. It is empty if the callback is called inside an epoch."""
        return self._new()

    @property
    def history(self) -> History:
        """All epochs of the run so far."""
        return self._history()

    @property
    def state(self) -> RunState:
        """The state of the run. Its arrays are valid only during the call, because their memory is used again; copy what you keep."""
        return self._state()

    @property
    def notes(self) -> Mapping[str, Any]:
        """What a checkpoint keeps besides the state, as plain values: the states of the callbacks, and whether one stopped the run."""
        return self._notes()

    def stop(self) -> None:
        """Ends the run here. Its `stop_reason` is then "callback".

        Raises:
          ValueError: the callback sets `every_seconds`. The result of the run would then depend on the clock.
        """
        self._stop()


class Callback:
    """The base class of callbacks, which are called between the chunks of a run.

    Override the methods that you need, and set how often `on_chunk_end` is called. It is always called once more at the end of the run,
    with `progress.ended` true. If none of the three intervals is set, that is its only call.

    A callback that stops the run with `progress.stop()` must ask for epochs or steps and not for seconds. If it has a state of its own
    that decides, it should return that state from `state_dict`, so that a resumed run stops at the same epoch.

    Attributes:
      every_epochs: call after every so many epochs, 1 or more.
      every_steps: call after every so many steps, 1 or more, also inside an epoch.
      every_seconds: call about every so many seconds, more than 0.
      reads_state: whether the callback reads `progress.state`. If it does not, a run of several processes need not gather the state in the
        memory of the first one.

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
    # Callbacks that save are called last, so that they keep what the others did. If they read the state and it is spread over processes,
    # they are called in all of these, with the state where it is.
    saves: bool = False

    def due(self, old_epoch: int, epoch: int, old_step: int, step: int, seconds: float) -> bool:
        """Whether the callback is to be called now.

        Args:
          old_epoch: the number of finished epochs at the last call.
          epoch: the number of finished epochs now.
          old_step: the number of finished steps of the run at the last call.
          step: the number of finished steps of the run now.
          seconds: the seconds since the last call.
        """
        return bool(
            (self.every_epochs and epoch // self.every_epochs > old_epoch // self.every_epochs)
            or (self.every_steps and step // self.every_steps > old_step // self.every_steps)
            or (self.every_seconds and seconds >= self.every_seconds)
        )

    def check(self, run: Run) -> None:
        """Raises an error if the callback cannot work with this run. It is called before anything compiles."""

    def on_train_begin(self, run: Run) -> None:
        """Called once, before training."""

    def on_chunk_end(self, progress: Progress) -> None:
        """Called between chunks, as often as the callback asks, and at the end of the run."""

    def on_train_end(self) -> None:
        """Called once, at the end, even if training was interrupted or failed."""

    def state_dict(self) -> Mapping[str, Any] | None:
        """Returns what a checkpoint keeps of this callback, as plain values for JSON, or None for nothing."""

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Takes back what `state_dict` returned. It is called after `on_train_begin` if the run is resumed."""


def check_callbacks(callbacks: Any, run: Run) -> list[Callback]:
    """Returns `callbacks` as a list, after checking that they are callbacks and fit the run."""
    if isinstance(callbacks, Callback) or not hasattr(callbacks, "__iter__"):
        raise TypeError(f"callbacks must be a list of flaxfit.callbacks.Callback objects, got {callbacks!r}: put it into brackets.")
    callbacks = list(callbacks)
    for callback in callbacks:
        if not isinstance(callback, Callback):
            fix = "pass an instance, not the class" if isinstance(callback, type) else "derive its class from Callback"
            kind = (callback if isinstance(callback, type) else type(callback)).__name__
            if (argument := {"EarlyStopping": "early_stopping", "Plateau": "plateau"}.get(kind)) is not None:
                fix = f"pass it as fit({argument}=...)"
            raise TypeError(f"callbacks must be flaxfit.callbacks.Callback objects, got {callback!r}: {fix}.")
        for name in ("every_epochs", "every_steps"):
            if getattr(callback, name) is not None:
                check_count(f"{type(callback).__name__}.{name}", getattr(callback, name), 1, "or None")
        if callback.every_seconds is not None and not callback.every_seconds > 0:
            raise ValueError(f"{type(callback).__name__}.every_seconds must be more than 0 or None, got {callback.every_seconds!r}.")
        callback.check(run)
    return callbacks
