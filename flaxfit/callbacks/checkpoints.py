"""Saving while a run goes on."""

from __future__ import annotations

import math
from collections.abc import Sequence
from string import Formatter
from typing import Literal

import numpy as np

from flaxfit.arguments import unknown
from flaxfit.callbacks.base import Callback, Progress, Run
from flaxfit.history import History
from flaxfit.state import for_evaluation
from flaxfit.storage.checkpoints import Checkpoints
from flaxfit.storage.weights import save_weights
from flaxfit.train.stopping import EarlyStopping


class Checkpoint(Callback):
    """Saves the run, so that it goes on where it stopped; and weights by name, as Keras's `ModelCheckpoint` does. Needs `fit(run_dir=...)`.

    A run with a directory has `Checkpoint(every_seconds=60)` anyway. The end of a run, and a signal, always save.

    Args:
      every_epochs: save after each so many epochs.
      every_steps: save after each so many steps, inside epochs too.
      every_seconds: save about this often.
      keep: how many of the newest checkpoints to keep besides the best; None: all.
      weights: a template for files of weights in the run's `weights` directory, such as `"{epoch:02d}-{val_loss:.5f}"`: for evaluation,
        in safetensors. None: none.
      best_only: write weights when the monitor has improved, and not at each progress.
      weights_only: write `weights` and no checkpoints; a run with a directory then has its own.
      monitor: the metric that decides which checkpoint and weights are best; by default the run's, with its mode and rules. By another
        one, weights are written at a look whose newest finished epoch is the best so far: for the best of all, `every_epochs=1`.
      verbose: print a line for each checkpoint and each file of weights.
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
        verbose: bool = False,
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
        self._verbose, self._checkpoints = verbose, None

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

    def on_train_begin(self, run: Run) -> None:
        self._written: int | None = None  # the epoch whose weights were written last
        if self.weights_only:
            run.default("weights")  # raises where there is no directory
        else:
            self._checkpoints = Checkpoints(run.default("checkpoints"), keep=self.keep, mode=(self._own or run.stopping).direction)
            self._checkpoints.prepare()

    def on_chunk_end(self, progress: Progress) -> None:
        history, state = progress.history, progress.state
        if self._checkpoints is not None:
            rows = np.stack([history[name] for name in progress.run.columns], axis=1)
            value = history[(self._own or progress.run.stopping).monitor][-1] if len(rows) else math.nan
            self._checkpoints.save(progress.epoch * progress.run.steps_per_epoch + progress.step, state, rows, value)
            self._say(progress, "checkpoint")
        if self._weights is None or not progress.epoch:
            return
        if not self._best_only:
            epoch, chosen = progress.epoch, for_evaluation(progress.run.task, state.train)
        elif self._own is None:
            epoch, chosen = history.best_epoch, state.best
        else:  # `finite` is of the newest epoch's end, unless that was not finite
            newest = _best_epoch(history, self._own) == progress.epoch and int(state.finite.step) + progress.step == int(state.train.step)
            epoch, chosen = progress.epoch if newest else None, for_evaluation(progress.run.task, state.finite)
        if epoch is not None and epoch != self._written:
            self._written = epoch
            name = self._weights.format(epoch=epoch, **{k: float(v) for k, v in history.row(epoch - 1).items()})
            save_weights(progress.run.default("weights") / f"{name}.safetensors", chosen)
            self._say(progress, f"{name}.safetensors")

    def _say(self, progress: Progress, what: str) -> None:
        if self._verbose:
            print(f"epoch {progress.epoch}, step {progress.step}: saved {what}")

    def on_train_end(self) -> None:
        if self._checkpoints is not None:
            self._checkpoints.close()
            self._checkpoints = None


def _best_epoch(history: History, stopping: EarlyStopping) -> int | None:
    """The first of the best epochs by a metric, None where there is none; epochs that were not finite do not count."""
    finite = np.logical_and.reduce([np.isfinite(history[name]) for name in {stopping.monitor, "loss", "val_loss"} & set(history)])
    values = np.where(finite, history[stopping.monitor] * (1 if stopping.direction == "min" else -1), math.inf)
    return int(values.argmin()) + 1 if finite.any() else None
