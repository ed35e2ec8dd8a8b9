"""Everything that changes while a run trains, as plain pytrees: a checkpoint is a `RunState` and nothing else."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from flaxfit.rng import stream
from flaxfit.train.stopping import StopperState
from flaxfit.train.task import Task


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class TrainState:
    """A model under training.

    Attributes:
      step: optimiser steps taken, int32 scalar.
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
class RunState:
    """A run under way: all that going on from here needs, besides task and data.

    Attributes:
      train: the model as it is now, perhaps inside an epoch.
      finite: the model at the end of the last epoch whose losses and weights were all finite.
      best: the evaluation state of the best epoch.
      stopper: best value and epoch, checks since, whether to stop.
      sums: of each training metric, over the rows seen in this epoch: float32, shape (metrics,).
      epoch: finished epochs, int32 scalar.
      step: steps done in the epoch under way, int32 scalar.
      diverged: whether the run ended on a loss or a weight that is not finite.
      key: the run's root key.
    """

    train: TrainState
    finite: TrainState
    best: TrainState
    stopper: StopperState
    sums: Array
    epoch: Array
    step: Array
    diverged: Array
    key: Array


def initialise(task: Task, key: Array, x: Any) -> TrainState:
    """Fresh weights, collections and optimiser state.

    Args:
      task: what will be trained.
      key: the run's root key; weights come from its streams, each named after a Linen stream.
      x: a few rows; only shapes and types matter.
    """
    names = ("params", *task.rngs)
    variables: Any = task.model.init({name: stream(key, f"init/{name}") for name in names}, task.prepared(x), train=False)
    params = variables.get("params", {})
    collections = {name: value for name, value in variables.items() if name != "params"}
    return TrainState(jnp.zeros((), jnp.int32), params, collections, task.optimizer.init(params))


def for_evaluation(task: Task, state: TrainState) -> TrainState:
    """`state` as validation, best weights and prediction see it: `Task.eval_params` applied, no optimiser state."""
    if state.opt_state is None:
        return state
    params = state.params if task.eval_params is None else task.eval_params(state)
    return TrainState(state.step, params, state.collections, None)
