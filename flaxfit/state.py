"""Everything that changes while a run trains, as plain pytrees: a checkpoint is a `RunState` and nothing else."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import jax
from jax import Array


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class TrainState:
    """A model under training.

    Attributes:
      step: optimizer steps taken, int32 scalar.
      params: the model's "params" collection.
      collections: every other Linen collection, by name ("batch_stats", ...).
      opt_state: what the optax chain keeps; None in a state that is for evaluation only, whose `params` are what
        `Task.eval_params` gave.
    """

    step: Array
    params: Any
    collections: Any
    opt_state: Any


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class CurveState:
    """A curve of any length in few numbers: means of blocks of equally many epochs, merged in pairs when there are too many.

    Attributes:
      levels: the blocks' means, float32, shape (`flaxfit.curves.CAPACITY`,).
      count: how many blocks are filled, int32 scalar.
      size: epochs a block.
      sum: of the block under way.
      filled: its epochs so far.
      first: the first value.
      training: the first and the best value of the training curve, shape (2,); NaN where there is none.
    """

    levels: Array
    count: Array
    size: Array
    sum: Array
    filled: Array
    first: Array
    training: Array


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class StopperState:
    """What early stopping remembers.

    Attributes:
      best: the best value of the monitor, float32 scalar.
      best_epoch: its epoch, from 1; 0 while there is none.
      wait: checks since then without improvement, int32 scalar.
      improved: whether the last check was the best so far.
      stopped: whether training should stop.
      curve: the monitor so far, for `patience="auto"`; else None.
    """

    best: Array
    best_epoch: Array
    wait: Array
    improved: Array
    stopped: Array
    curve: CurveState | None = None


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class PlateauState:
    """What a plateau schedule remembers.

    Attributes:
      scale: what updates are multiplied by, float32 scalar.
      best: the best value of the monitor, float32 scalar.
      wait: checks since then without improvement, int32 scalar.
      cooldown: checks for which none is counted after a reduction, int32 scalar.
    """

    scale: Array
    best: Array
    wait: Array
    cooldown: Array


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class RunState:
    """A run under way: everything that is needed to continue it, besides task and data.

    Attributes:
      train: the model as it is now, perhaps inside an epoch.
      best: the evaluation state of the best epoch.
      stopper: best value and epoch, checks since, whether to stop.
      plateau: how far the learning rate has been reduced; None without `fit(plateau=...)`.
      sums: of each training metric, over the rows seen in this epoch: float32, shape (metrics,).
      epoch: finished epochs, int32 scalar.
      step: steps done in the epoch under way, int32 scalar.
      diverged: whether the run ended on a loss or a weight that is not finite.
      key: the run's root key.
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


def paths(params: Any) -> list[str]:
    """The path of each parameter, such as `Dense_0/kernel`, in the order of `jax.tree.leaves`."""
    return [
        "/".join(str(getattr(k, "key", getattr(k, "name", getattr(k, "idx", k)))) for k in path)
        for path, _ in jax.tree_util.tree_flatten_with_path(params)[0]
    ]
