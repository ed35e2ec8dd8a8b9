"""The state of a run: everything that changes during training, as plain pytrees. A checkpoint holds a `RunState`."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import jax
from jax import Array


@jax.tree_util.register_dataclass
@dataclass(frozen=True, repr=False)
class TrainState:
    """The weights of a model and the state of its optimizer.

    Attributes:
      step: the number of optimizer steps taken, int32 scalar.
      params: the Linen collection "params".
      collections: the other Linen collections by name, such as "batch_stats".
      opt_state: the state of the optimizer. It is None in a state that is for evaluation only, such as `Result.best`; its `params` are
        then those that `Task.eval_params` returned.
    """

    step: Array
    params: Any
    collections: Any
    opt_state: Any

    def __repr__(self) -> str:
        weights = [math.prod(leaf.shape) for leaf in jax.tree.leaves(self.params)]
        return f"TrainState(step {self.step}: {sum(weights):,} weights in {len(weights)} arrays)"


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class CurveState:
    """A learning curve of any length as means over blocks of epochs, which are merged in pairs when there are too many."""

    levels: Array  # the mean of each block, float32, shape (`flaxfit.curves.CAPACITY`,)
    count: Array  # the number of complete blocks, int32 scalar
    size: Array  # the number of epochs in a block, int32 scalar
    sum: Array  # the sum over the epochs of the current block, float32 scalar
    filled: Array  # the number of these epochs, int32 scalar
    first: Array  # the value of the first epoch, float32 scalar
    training: Array  # the first and the best value of the training curve, float32, shape (2,); NaN if they are not known


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class StopperState:
    """The state of early stopping."""

    best: Array  # the best value of the monitored metric, float32 scalar
    best_epoch: Array  # the epoch of that value, from 1; 0 if there is none yet. int32 scalar.
    wait: Array  # the number of epochs since then without improvement, int32 scalar
    improved: Array  # whether the last epoch was the best so far, bool scalar
    stopped: Array  # whether training should stop, bool scalar
    curve: CurveState | None = None  # the monitored metric so far, with `patience="auto"`; else None


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class PlateauState:
    """The state of a `Plateau`."""

    scale: Array  # the factor that updates are multiplied by, float32 scalar
    best: Array  # the best value of the monitored metric, float32 scalar
    wait: Array  # the number of epochs since then without improvement, int32 scalar
    cooldown: Array  # the number of epochs that are still left out of the count after a reduction, int32 scalar


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class RunState:
    """The state of a run: everything that is needed to continue it, besides the task and the data.

    Attributes:
      train: the current weights and optimizer state. They may be those of a step inside an epoch.
      best: the weights of the best epoch, for evaluation.
      stopper: the best value and epoch, and the state of early stopping.
      plateau: how far the learning rate has been reduced, or None without `fit(plateau=...)`.
      sums: the sum of each training metric over the examples of the current epoch so far, float32, shape (metrics,).
      epoch: the number of finished epochs, int32 scalar.
      step: the number of finished steps in the current epoch, int32 scalar.
      diverged: whether the run ended because a loss or a weight was not finite, bool scalar.
      key: the root key of the run, from its seed.
    """

    train: TrainState
    best: TrainState
    stopper: StopperState
    plateau: PlateauState | None
    sums: Array
    epoch: Array
    step: Array
    diverged: Array
    key: Array


def by_path(tree: Any) -> dict[str, Any]:
    """Returns the leaves of a tree by path, such as `Dense_0/kernel`, in their order. The path of a single array is empty."""
    return {jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}


def paths(params: Any) -> list[str]:
    """Returns the path of each parameter, such as `Dense_0/kernel`, in the order of `jax.tree.leaves`."""
    return list(by_path(params))
