"""The result of a run."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from flaxfit.callbacks.base import StopReason
from flaxfit.callbacks.line import pace
from flaxfit.history import History
from flaxfit.sections import Section, Shown
from flaxfit.state import RunState, TrainState
from flaxfit.task.task import Task


@dataclass(frozen=True)
class Timing:
    """The wall time of a run by part.

    Attributes:
      compile: the seconds before the first step: checks, tracing, compiling (not needed again for the same task and shapes), and moving the
        data to the device.
      train: the seconds inside compiled chunks.
      epoch: the seconds of `train` for each epoch.
      chunks: the number of compiled calls.
    """

    compile: float
    train: float
    epoch: float
    chunks: int


@dataclass(frozen=True, repr=False)
class Result(Shown):
    """The result of a run.

    Attributes:
      history: all logged metrics by epoch, from 1.
      best: the weights of the best epoch, for evaluation. The best epoch is that of the monitored metric, which is the data loss of the
        validation examples (or of the training examples if there are no others) unless early stopping names another. If the metric was
        never finite, they are those of the last epoch, or the initial ones if the run ended on a value that is not finite.
      last: the state at the end of the run. It has values that are not finite if the run ended on one. If the run had several processes
        and `shard` spread its weights over them, they are still spread in both: `flaxfit.evaluate` and `flaxfit.predict`, which all
        processes must then call, gather them, and so does `flaxfit.sharding.gather`.
      best_epoch: the best epoch, or None if the metric was never finite.
      stop_reason: "epochs", "early_stopping", "non_finite", "callback" or "interrupted".
      timing: the wall time by part.
      data: "train" and, if there is one, "validation" -> where the examples come from, as plain values.
    """

    history: History
    best: TrainState
    last: TrainState
    best_epoch: int | None
    stop_reason: StopReason
    timing: Timing
    data: Mapping[str, Any]

    def __repr__(self) -> str:
        epochs = len(self.history.epochs)
        return f"Result({epochs} epochs, {self._end()}; best epoch {self.best_epoch}; {pace(self.timing.epoch)})"

    def sections(self) -> list[Section]:
        """Returns the metrics of the first, the best and the last epoch as a section of a report."""
        told = f"{len(self.history.epochs)} epochs ({self._end()}), {pace(self.timing.epoch)}."
        return [replace(section, title="Result", paragraphs=[told]) for section in self.history.sections()]

    def _end(self) -> str:
        end = {
            "epochs": "all that were asked for",
            "early_stopping": "stopped early",
            "non_finite": "ended by a value that is not finite",
            "callback": "stopped by a callback",
            "interrupted": "interrupted",
        }
        return end[self.stop_reason]


def result_of(task: Task, state: RunState, history: History, reason: StopReason, timing: Timing, data: Mapping[str, Any]) -> Result:
    """Returns the result of a run that ended in `state`."""
    # Before any best epoch, `state.best` is the initial state: finite, where the end is not.
    best = state.best if int(state.stopper.best_epoch) or reason == "non_finite" else task.evaluated(state.train)
    return Result(history, best, state.train, history.best_epoch, reason, timing, data)


def what_was_not_finite(history: History) -> str:
    """Returns the warning for a run that ended on a value that is not finite."""
    epoch, values = history.epochs[-1], history.row(-1)
    names = [name for name in ("loss", "val_loss")[: 1 + bool(history.validated[-1])] if not math.isfinite(values.get(name, 0.0))]
    what = " and ".join(f"{name} is {values[name]}" for name in names) or "a weight or batch statistic is not finite"
    best = f"Result.best is of epoch {history.best_epoch}" if history.best_epoch else "no epoch before it was finite"
    return (
        f"training ended in epoch {epoch}: {what}. Result.last is that state; {best}. Lower the learning rate, clip the gradient "
        "(optax.clip_by_global_norm) or scale the inputs; fit(terminate_on_nan=False) continues regardless."
    )


def what_never_changed(task: Task, history: History) -> str | None:
    """Returns the warning for metrics that had one value in all of at least 10 epochs, though not the best one, while the loss changed."""
    if len(history.epochs) < 10:
        return None
    stuck = []
    for name in (*task.metrics, *task.set_metrics):
        prefix = "" if name in history else "val_"  # metrics of whole sets are logged in validation only
        if prefix + name not in history:
            continue
        values, losses = (history[prefix + column] for column in (name, task.loss_name))
        values, losses = values[np.isfinite(values)], losses[np.isfinite(losses)]
        perfect = 0.0 if history.modes.get(name) == "min" else 1.0
        if len(values) >= 10 and np.ptp(values) == 0 and values[0] != perfect and np.ptp(losses) > 0.01 * np.abs(losses).max():
            stuck.append(f"{prefix}{name} was {values[0]:.6g}")
    if not stuck:
        return None
    return (
        f"{', '.join(stuck)} in all {len(history.epochs)} epochs, although the loss changed. Check that the metric takes outputs as the "
        "model gives them (logits, unless it ends in a sigmoid or softmax), and that the network does not predict a constant."
    )
