"""What a run gave."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from flaxfit.history import History
from flaxfit.state import TrainState

StopReason = Literal["epochs", "early_stopping", "non_finite"]


@dataclass(frozen=True)
class Timing:
    """Where a fit's wall time went.

    Attributes:
      compile: seconds before the first step: checks, tracing and compiling, which a task and shapes seen before need not again, and
        moving the data to the device.
      train: seconds inside the compiled chunks.
      epoch: seconds an epoch, of `train`.
      chunks: compiled calls.
    """

    compile: float
    train: float
    epoch: float
    chunks: int


@dataclass(frozen=True)
class Result:
    """What a run gave.

    Attributes:
      history: every logged metric by epoch, from 1.
      best: the evaluation state of the best epoch by the monitor (without early stopping: `val_loss`, or `loss`); of the last epoch
        where the monitor was never a number.
      last: the state after the last epoch; if the run ended on a loss or weight that is not finite, after the last epoch before.
      best_epoch: the best epoch, None where the monitor was never a number.
      stop_reason: "epochs", "early_stopping" or "non_finite".
      timing: where the time went.
      data: "train" and, where there is one, "validation" -> where the rows come from, as plain values.
    """

    history: History
    best: TrainState
    last: TrainState
    best_epoch: int | None
    stop_reason: StopReason
    timing: Timing
    data: Mapping[str, Any]

    def __repr__(self) -> str:
        epochs, pace = len(self.history.epochs), f"{self.timing.epoch * 1e3:.3g} ms an epoch"
        end = {"epochs": "all that were asked for", "early_stopping": "stopped early", "non_finite": "ended by a value that is not finite"}
        return f"Result({epochs} epochs, {end[self.stop_reason]}; best epoch {self.best_epoch}; {pace})"
