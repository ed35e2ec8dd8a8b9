"""The door: every input is checked before anything compiles, and each message says what was wrong, what was expected and what to do."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import errors as flax_errors

from flaxfit import losses
from flaxfit.data.dataset import Dataset
from flaxfit.state import TrainState, for_evaluation, initialise
from flaxfit.steps import train_step
from flaxfit.suggest import unknown
from flaxfit.task import Task

_BINARY = {losses.binary_crossentropy, optax.sigmoid_binary_cross_entropy}


def check_count(name: str, value: Any, least: int, unit: str) -> int:
    """`value` as an integer of at least `least`."""
    if isinstance(value, bool) or not isinstance(value, int | np.integer):
        raise TypeError(f"{name} must be an integer ({unit}), got {value!r}.")
    if value < least:
        raise ValueError(f"{name} must be at least {least} ({unit}), got {value}.")
    return int(value)


def check_data(name: str, data: Any) -> None:
    """That `data` is a Dataset with rows whose numbers are all finite."""
    if not isinstance(data, Dataset):
        raise TypeError(f"{name} must be a flaxfit.Dataset, got {type(data).__name__}: wrap the arrays as ff.Dataset(x, y).")
    if len(data) == 0:
        raise ValueError(f"{name} has no rows: its arrays are {', '.join(f'{path} {leaf.shape}' for path, leaf in data.leaves())}.")
    for path, leaf in data.leaves():
        if jnp.issubdtype(leaf.dtype, jnp.inexact):
            finite = np.isfinite(np.asarray(leaf))
            if not finite.all():
                rows = np.unique(np.nonzero(~finite)[0])
                raise ValueError(
                    f"{name}.{path} has NaN or infinity in {len(rows)} of {len(data)} rows, first in row {rows[0]}: "
                    "remove these rows or fill the values."
                )


def check_alike(data: Dataset, validation: Dataset) -> None:
    """That validation rows look like training rows."""
    shapes = [jax.tree.map(lambda a: a.shape[1:], {"x": part.x, "y": part.y}) for part in (data, validation)]
    if shapes[0] != shapes[1]:
        raise ValueError(f"validation rows differ from training rows: train has rows of {shapes[0]}, validation of {shapes[1]}.")


def check_task(task: Any) -> None:
    """That `task` is a Task whose model can be told whether it trains."""
    if not isinstance(task, Task):
        raise TypeError(f"task must be a flaxfit.Task, got {type(task).__name__}.")
    accepted = inspect.signature(type(task.model).__call__).parameters.values()
    if not any(p.name == "train" or p.kind is p.VAR_KEYWORD for p in accepted):
        raise TypeError(
            f"{type(task.model).__name__}.__call__ must take a keyword argument `train`, as in `def __call__(self, x, *, train)`: "
            "dropout and batch norm need to know."
        )


def check_program(task: Task, data: Dataset) -> tuple[TrainState, Any]:
    """Traces one training step without compiling it.

    Returns:
      Shapes of the fresh state, and of the logits of two rows.

    Raises:
      ValueError, TypeError: the model refuses the rows; the loss or a metric is not one number a row; the penalty is no scalar; a
        collection changes its shape from step to step.
    """
    rows = 2
    x, y, weight = (
        jax.tree.map(lambda a: jax.ShapeDtypeStruct((rows, *a.shape[1:]), a.dtype), part) for part in (data.x, data.y, data.sample_weight)
    )
    key = jax.eval_shape(lambda: jax.random.key(0))
    shapes = f"x of shape {jax.tree.map(lambda a: ('rows', *a.shape[1:]), data.x)}".replace("'", "")
    try:
        state = jax.eval_shape(lambda k, x: initialise(task, k, x), key, x)
        rngs = dict.fromkeys(task.rngs, key)
        logits, _ = jax.eval_shape(lambda s, x, r: task.apply(s.params, s.collections, task.prepared(x), r), state, x, rngs)
    except flax_errors.InvalidRngError as error:
        raise ValueError(f"the model draws from a random stream that Task(rngs={task.rngs!r}) does not name: {error}") from error
    except Exception as error:
        raise ValueError(f"{type(task.model).__name__} refuses {shapes}: {error}") from error
    if not jax.tree.leaves(state.params):
        raise ValueError(f"{type(task.model).__name__} has no parameters to train.")
    _check_rows(f"the loss {task.loss_name}", task.loss, logits, y, rows)
    for name, metric in task.metrics.items():
        _check_rows(f"the metric {name!r}", metric, logits, y, rows)
    penalty = jax.eval_shape(task.penalised, state.params)
    if getattr(penalty, "shape", None) != ():
        raise ValueError(f"the penalty must be one number for all parameters, got {penalty}.")
    after, _ = jax.eval_shape(lambda s, k, x, y, w: train_step(task, s, k, x, y, w), state, key, x, y, weight)
    check_same("a training step", after, "the fresh state", state)
    jax.eval_shape(lambda s: for_evaluation(task, s), state)
    return state, logits


def _check_rows(what: str, function: Any, logits: Any, y: Any, rows: int) -> None:
    try:
        result = jax.eval_shape(function, logits, y)
    except Exception as error:
        shapes = jax.tree.map(lambda a: ("rows", *a.shape[1:]), (logits, y))
        raise ValueError(
            f"{what} refuses logits of shape {shapes[0]} with y of shape {shapes[1]}: {error}".replace("'rows'", "rows")
        ) from error
    shape = getattr(result, "shape", None)
    if shape == ():
        raise ValueError(
            f"{what} returns one number for the whole batch; it must return one number a row, shape (rows,): leave out the mean."
        )
    if shape != (rows,):
        raise ValueError(f"{what} must return one number a row, shape (rows,), got {result} for {rows} rows.")


def check_same(what: str, new: Any, than: str, old: Any) -> None:
    """That two states have the same structure, shapes and types."""

    def described(tree: Any) -> dict[str, str]:
        return {jax.tree_util.keystr(path): f"{a.dtype}{list(a.shape)}" for path, a in jax.tree_util.tree_leaves_with_path(tree)}

    before, after = described(old), described(new)
    changed = sorted(path for path in before.keys() | after.keys() if before.get(path) != after.get(path))
    if changed:
        path = changed[0]
        raise ValueError(
            f"{what} does not fit {than}: {path} is {after.get(path, 'missing')}, expected {before.get(path, 'nothing')}"
            + (f" (and {len(changed) - 1} more)." if len(changed) > 1 else ".")
        )


def check_labels(task: Task, name: str, data: Dataset, logits: Any) -> None:
    """That class labels fit the logits, where both are single arrays."""
    if isinstance(data.y, dict | tuple) or not hasattr(logits, "shape") or data.y.ndim != 1:
        return
    y = np.asarray(data.y)
    function = task.loss
    while hasattr(function, "func"):
        function = function.func
    binary = function in _BINARY
    classes = 2 if binary else logits.shape[-1] if len(logits.shape) == 2 and y.dtype.kind in "iu" else None
    if classes is None or (classes == 1 and not binary):
        return
    if y.min() < 0 or y.max() > classes - 1:
        raise ValueError(
            f"{name}.y has labels from {y.min():g} to {y.max():g}, but {task.loss_name} with logits of shape (rows, "
            f"{', '.join(map(str, logits.shape[1:]))}) needs labels from 0 to {classes - 1}: renumber the classes or widen the last layer."
        )


def check_monitor(monitor: str, logged: tuple[str, ...]) -> None:
    """That the monitored metric will be logged."""
    if monitor not in logged:
        needs = (
            " (a val_ metric needs fit(validation=...))"
            if monitor.startswith("val_") and not any(n.startswith("val_") for n in logged)
            else ""
        )
        raise ValueError(unknown("metric", monitor, logged, "to monitor" + needs))


def class_weighted(data: Dataset, class_weight: Mapping[int, float]) -> Dataset:
    """`data` with each row's weight multiplied by its class's (1 where the class is not named, as in Keras)."""
    y = np.asarray(data.y) if not isinstance(data.y, dict | tuple) else np.zeros((0, 0))
    if y.ndim != 1 or y.dtype.kind not in "iub":
        raise TypeError("class_weight needs integer class labels y of shape (rows,).")
    absent = sorted(set(class_weight) - set(np.unique(y).tolist()))
    if absent:
        raise ValueError(f"class_weight names classes that train.y does not have: {absent}; it has {np.unique(y).tolist()}.")
    weight = np.ones(len(data), np.float32) if data.sample_weight is None else np.array(data.sample_weight)
    for label, factor in class_weight.items():
        if not 0 <= factor < np.inf:
            raise ValueError(f"class_weight must be finite and not negative, got {factor!r} for class {label!r}.")
        weight[y == label] *= factor
    return Dataset(data.x, data.y, weight)
