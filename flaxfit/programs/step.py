"""One step of training and of evaluation, as pure functions of a batch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax import Array, lax

from flaxfit.losses import row_means
from flaxfit.positions import at_positions
from flaxfit.rng import fold_in, stream
from flaxfit.shapes import Key, Rows, Scalar, Weights
from flaxfit.state import TrainState
from flaxfit.storage.predictor import COUNTED, SOWN
from flaxfit.task import optimizers
from flaxfit.task.packing import Packing
from flaxfit.task.task import Task

Sums = dict[str, Scalar]
"""Metric name -> sum over the batch's rows; divide by the rows for the mean."""


_SMALL = 2**14


def joined(leaves: Sequence[Array]) -> list[Array]:
    """Returns the numbers of `leaves` with all small arrays of a type in one: each operation costs a small network a part of a step."""
    small: dict[Any, list[Array]] = {}
    for leaf in leaves:
        if leaf.size <= _SMALL:
            small.setdefault(leaf.dtype, []).append(leaf.ravel())
    return [*(jnp.concatenate(each) for each in small.values()), *(leaf for leaf in leaves if leaf.size > _SMALL)]


def row_losses(task: Task, logits: Any, y: Any, weight: Weights | None) -> Rows:
    """The data loss of each row times its weight; with a weight for each position, the mean of what these give."""
    if weight is None or weight.ndim == 1:
        losses = task.row_loss(logits, y)
        return losses if weight is None else losses * weight
    return row_means(at_positions(task.row_loss, logits, y, weight.shape) * weight)


def _row_sums(task: Task, logits: Any, y: Any, weight: Weights | None) -> Sums:
    """Sums over rows of the data loss (weighted, where rows have weights) and of the metrics (never weighted, as in Keras)."""
    by_row = weight if weight is not None and weight.ndim == 1 else None
    losses = row_losses(task, logits, y, weight if by_row is None else None)
    sums = {name: metric(logits, y).astype(jnp.float32).sum() for name, metric in task.row_metrics.items()}
    sums |= {} if task.counted is None else {COUNTED: task.counted.shares(logits, y).sum()}
    return sums | {task.loss_name: (losses if by_row is None else losses * by_row).sum()}


def train_step(
    task: Task,
    state: TrainState,
    key: Key,
    x: Any,
    y: Any,
    weight: Weights | None = None,
    scale: Scalar | None = None,
    platform: str | None = None,
    packing: Packing | None = None,
) -> tuple[TrainState, Sums]:
    """One update of the weights.

    The objective is the batch's data loss, `sum(weight * loss) / rows` as in Keras, plus the penalty.

    Args:
      task: what is trained.
      state: where training stands; `state.step` picks this step's random keys.
      key: the run's root key.
      x: inputs, a pytree of arrays with leading axis (rows,).
      y: targets, likewise.
      weight: of each row, shape (rows,), or of each of its positions, such as (rows, time steps); or None.
      scale: what the updates are multiplied by, as `flaxfit.Plateau` asks; None: nothing.
      platform: of the devices, such as "cpu", where the step is part of a compiled loop; else None. On a CPU, convolutions and pooling
        then take forms that are fast in a loop and equal to rounding.
      packing: how the weights and the state of the optimizer in `state` are joined, if they are.

    Returns:
      The state after the update, and sums over the rows of `loss` (the objective), the data loss, `penalty` where there is one,
      the metrics and `gradient_norm` (the L2 norm of the whole gradient). With `Task.ignore_label` the rows that count, and their number
      is among the sums.
    """
    x = task.prepared(x)
    rngs = {name: fold_in(stream(key, name), state.step) for name in task.rngs}
    if task.augment is not None:
        x, y = task.augment(fold_in(stream(key, "augment"), state.step), x, y)
    rows = jax.tree.leaves(x)[0].shape[0]
    params = state.params if packing is None else packing.unpacked(state.params)

    def objective(trained: Any) -> tuple[Scalar, tuple[Sums, Scalar, Any]]:
        weights = optimizers.completed(trained, params)
        logits, collections, sown = task.forward(weights, state.collections, x, rngs, platform)
        sums = _row_sums(task, logits, y, weight)
        penalty = task.penalized(weights)
        value = sums[task.loss_name] / _at_least_one(sums, rows) + penalty
        return value if sown is None else value + sown.mean(), (sums, penalty, collections)

    before = task.trained(params)
    (value, (sums, penalty, collections)), gradients = jax.value_and_grad(objective, has_aux=True)(before)
    if packing is not None:
        gradients, before = lax.optimization_barrier(packing.packed(gradients)), state.params  # else two kernels would join them
    updates, opt_state = optimizers.update(task.optimizer, gradients, state.opt_state, before, value, lambda trained: objective(trained)[0])
    if scale is not None:
        updates = jax.tree.map(lambda update: (update * scale).astype(update.dtype), updates)
    params = optimizers.completed(optax.apply_updates(before, updates), state.params)
    if task.constraint is not None:
        params = optimizers.completed(task.trained(task.constraint(params)), state.params)
    rows = sums.get(COUNTED, rows)
    sums["loss"] = value * rows
    # Kept apart from the update of the weights: without this, steps with large kernels take up to a fifth longer on CPUs.
    sums["gradient_norm"] = optax.tree.norm(lax.optimization_barrier(joined(jax.tree.leaves(gradients)))) * rows
    if task.penalty is not None:
        sums["penalty"] = penalty * rows
    return TrainState(state.step + 1, params, collections, opt_state), sums


def _at_least_one(sums: Sums, rows: int) -> Any:
    """How many rows count; of a batch in which none does, 1."""
    return jnp.where(sums[COUNTED] > 0, sums[COUNTED], 1.0) if COUNTED in sums else rows


def eval_step(task: Task, state: TrainState, x: Any, y: Any, weight: Weights | None = None) -> Sums:
    """Sums over the rows of the data loss and the metrics, with the model in evaluation mode. Arguments as `train_step`.

    If the model sows losses, their sum is among them as `SOWN`.

    `state` is used as it is: pass it through `Task.evaluated` first where `Task.eval_params` matters.
    """
    return scored(task, state, x, y, weight)[0]


def scored(task: Task, state: TrainState, x: Any, y: Any, weight: Weights | None = None, platform: str | None = None) -> tuple[Sums, Any]:
    """What `eval_step` returns, and the model's outputs. `platform` as for `train_step`."""
    logits, _, sown = task.forward(state.params, state.collections, task.prepared(x), platform=platform)
    sums = _row_sums(task, logits, y, weight)
    return (sums if sown is None else sums | {SOWN: sown.sum()}), logits
