"""What a run gave."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from flaxfit.callbacks.base import StopReason
from flaxfit.history import History
from flaxfit.state import RunState, TrainState
from flaxfit.train.task import Task


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
      best: the evaluation state of the best epoch by the monitor (without early stopping: the data loss of the validation rows, or of
        the training rows where there are none); where the monitor was never a number, of the last epoch, or of the initial weights if
        the run ended on a value that is not finite.
      last: the state in which the run ended. If it ended on a loss or weight that is not finite, that is such a state.
      best_epoch: the best epoch, None where the monitor was never a number.
      stop_reason: "epochs", "early_stopping", "non_finite" or "callback".
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
        epochs, pace = len(self.history.epochs), f"{self.timing.epoch * 1e3:.3g} ms/epoch"
        end = {
            "epochs": "all that were asked for",
            "early_stopping": "stopped early",
            "non_finite": "ended by a value that is not finite",
            "callback": "stopped by a callback",
            "interrupted": "interrupted",
        }
        return f"Result({epochs} epochs, {end[self.stop_reason]}; best epoch {self.best_epoch}; {pace})"


def result_of(task: Task, state: RunState, history: History, reason: StopReason, timing: Timing, data: Mapping[str, Any]) -> Result:
    """What a run gave that ended in `state`."""
    # Before any best epoch, `state.best` is the initial state: finite, where the end is not.
    best = state.best if int(state.stopper.best_epoch) or reason == "non_finite" else task.evaluated(state.train)
    return Result(history, best, state.train, history.best_epoch, reason, timing, data)


def what_was_not_finite(history: History) -> str:
    """The warning of a run that ended on a value that is not finite."""
    epoch, values = history.epochs[-1], history.row(-1)
    names = [name for name in ("loss", "val_loss") if not math.isfinite(values.get(name, 0.0))]
    what = " and ".join(f"{name} is {values[name]}" for name in names) or "a weight or batch statistic is not finite"
    best = f"Result.best is of epoch {history.best_epoch}" if history.best_epoch else "no epoch before it was finite"
    return (
        f"training ended in epoch {epoch}: {what}. Result.last is that state; {best}. Lower the learning rate, clip the gradient "
        "(optax.clip_by_global_norm) or scale the inputs; fit(terminate_on_nan=False) continues regardless."
    )
