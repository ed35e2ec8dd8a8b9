"""Callbacks that save checkpoints and weights during a run."""

from __future__ import annotations

import math
from string import Formatter
from typing import Any, Literal

import numpy as np

from flaxfit.arguments import mode_of, told_elsewhere, unknown
from flaxfit.callbacks.base import Callback, Progress, Run
from flaxfit.durable import warned
from flaxfit.history import History
from flaxfit.storage.checkpoints import Checkpoints
from flaxfit.storage.weights import save_weights

Mode = Literal["auto", "min", "max"]


class Checkpoint(Callback):
    """Saves checkpoints, from which a run can be resumed. It needs `fit(run_dir=...)`.

    A run with a directory that is given no `Checkpoint` uses `Checkpoint(every_seconds=60)`. A checkpoint is also saved at the end of
    the run, and when a signal ends it.

    Args:
      every_epochs: save after every so many epochs.
      every_steps: save after every so many steps, also inside an epoch.
      every_seconds: save about every so many seconds.
      keep: how many of the newest checkpoints to keep besides the best one. None keeps all.
      monitor: the metric that decides which checkpoint is best. By default it is the metric that the run monitors.
      mode: "min" if that metric is best when small, "max" if it is best when large, "auto" if the metric itself says so.
      verbose: whether to print a line for each checkpoint.

    Raises:
      ValueError: none of the three intervals is given; the monitor is not logged, or its mode is not known; a mode is given without a
        monitor.
    """

    every_epochs: int | None
    every_steps: int | None
    every_seconds: float | None
    saves = True

    def __init__(
        self,
        every_epochs: int | None = None,
        every_steps: int | None = None,
        every_seconds: float | None = None,
        *,
        keep: int | None = 1,
        monitor: str | None = None,
        mode: Mode = "auto",
        verbose: bool = False,
    ):
        if every_epochs is None and every_steps is None and every_seconds is None:
            raise ValueError("Checkpoint(...) must say how often to save: pass every_epochs, every_steps or every_seconds.")
        if monitor is None and mode != "auto":
            raise ValueError(f"Checkpoint(mode={mode!r}) needs monitor=..., because the metric that the run monitors has a mode already.")
        self.every_epochs, self.every_steps, self.every_seconds = every_epochs, every_steps, every_seconds
        self._keep, self._monitor, self._verbose = keep, monitor, verbose
        self._mode: Mode = mode
        self._checkpoints: Checkpoints | None = None

    def check(self, run: Run) -> None:
        """Checks that the monitored metric is logged."""
        _watched("Checkpoint", run, self._monitor, self._mode)

    def on_train_begin(self, run: Run) -> None:
        self._watched, sign = _watched("Checkpoint", run, self._monitor, self._mode)
        place, identity = run.default("checkpoints"), run.directory and run.directory.identity
        how: dict[str, Any] = {"mode": "min" if sign > 0 else "max", "run": identity, "team": run.writers}
        self._checkpoints = Checkpoints(place, keep=self._keep, **how)
        self._checkpoints.prepare()

    def on_chunk_end(self, progress: Progress) -> None:
        assert self._checkpoints is not None
        history = progress.history
        rows = np.stack([history[name] for name in progress.run.columns], axis=1)
        value = float(history[self._watched][-1]) if len(rows) else math.nan
        position = progress.epoch * progress.run.steps_per_epoch + progress.step
        self._checkpoints.save(position, progress.state, rows, value, progress.notes)
        if self._verbose and progress.run.writers.leads:
            print(f"epoch {progress.epoch}, step {progress.step}: saved a checkpoint")

    def on_train_end(self) -> None:
        if self._checkpoints is not None:
            self._checkpoints.close()
            self._checkpoints = None


@told_elsewhere(
    {
        "filepath": 'a name, such as "{epoch:02d}-{val_loss:.3f}", of files in the directory weights of fit(run_dir=...)',
        "save_best_only": "best_only",
        "save_weights_only": "fit(run_dir=...), which saves the model as well",
        "save_freq": "every_epochs",
    }
)
class SaveWeights(Callback):
    """Writes the weights to a file with a name of your choice, as Keras's `ModelCheckpoint(save_weights_only=True)` does.

    The files are for evaluation, in the format safetensors, and lie in the directory `weights` of the run. To resume a run, use
    `Checkpoint`.

    Args:
      name: a template of the file's name, such as `"{epoch:02d}-{val_loss:.5f}"`.
      every_epochs: how often to write, in epochs.
      best_only: whether to write only if the monitored metric has improved.
      monitor, mode, verbose: as for `Checkpoint`.

    Raises:
      ValueError: the template or the monitor names a metric that is not logged; the mode of the monitor is not known; a mode is given
        without a monitor.
    """

    every_epochs: int | None

    def __init__(
        self,
        name: str,
        every_epochs: int = 1,
        *,
        best_only: bool = True,
        monitor: str | None = None,
        mode: Mode = "auto",
        verbose: bool = False,
    ):
        if monitor is None and mode != "auto":
            raise ValueError(f"SaveWeights(mode={mode!r}) needs monitor=..., because the metric that the run monitors has a mode already.")
        self.every_epochs, self._name, self._best_only, self._verbose = every_epochs, name, best_only, verbose
        self._monitor = monitor
        self._mode: Mode = mode

    def check(self, run: Run) -> None:
        """Checks that the template and the monitor name logged metrics."""
        for _, name, _, _ in Formatter().parse(self._name):
            if name is not None and name not in ("epoch", *run.columns):
                raise ValueError(f"SaveWeights({self._name!r}): {unknown('metric', name, ('epoch', *run.columns))}")
        _watched("SaveWeights", run, self._monitor, self._mode)

    def on_train_begin(self, run: Run) -> None:
        self._directory, self._written = run.default("weights"), None
        self._watched, self._sign = _watched("SaveWeights", run, self._monitor, self._mode)
        self._best = math.inf if run.history is None else float(self._scores(run.history).min(initial=math.inf))

    def on_chunk_end(self, progress: Progress) -> None:
        if not len(progress.new.epochs):
            return
        state, task = progress.state, progress.run.task
        if not self._best_only:
            epoch, chosen = progress.epoch, None if progress.step else state.train
        elif self._monitor is None:  # the best weights by the run's own rules are in its state
            epoch, chosen = progress.history.best_epoch, state.best
        else:
            scores = self._scores(progress.new)
            newest = not progress.step and not bool(state.diverged) and scores[-1] < min(self._best, scores[:-1].min(initial=math.inf))
            epoch, chosen, self._best = progress.epoch, state.train if newest else None, min(self._best, scores.min())
        if epoch is None or chosen is None or epoch == self._written:
            return
        self._written = epoch
        name = self._name.format(epoch=epoch, **{k: float(v) for k, v in progress.history.row(epoch - 1).items()})
        path = self._directory / f"{name}.safetensors"
        with warned(path):
            save_weights(path, task.evaluated(chosen))
        if self._verbose:
            print(f"epoch {progress.epoch}: saved {name}.safetensors")

    def _scores(self, history: History) -> np.ndarray:
        """Returns the monitored metric of each epoch, signed so that smaller is better; infinity for an epoch that is not finite."""
        names = {"loss", "val_loss"} & set(history)
        finite = np.logical_and.reduce([np.isfinite(history[name]) | (name == "val_loss") & ~history.validated for name in names])
        finite &= np.isfinite(history[self._watched])
        return np.where(finite, self._sign * history[self._watched], math.inf)


def _watched(kind: str, run: Run, monitor: str | None, mode: Mode) -> tuple[str, int]:
    """Returns the metric that decides, and a sign: 1 if smaller is better, else -1."""
    if monitor is None:
        return run.monitor, 1 if run.mode == "min" else -1
    if monitor not in run.columns[:-1]:  # the last is the best epoch
        raise ValueError(f"{kind}(monitor=...): {unknown('metric', monitor, run.columns[:-1])}")
    return monitor, 1 if (mode_of(monitor, run.task.modes) if mode == "auto" else mode) == "min" else -1
