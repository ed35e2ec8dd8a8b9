"""Runs that learned nothing: no better than the best constant prediction, beyond what the rows' noise explains."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np

from flaxfit.history import History
from flaxfit.task.labels import kind_of_loss
from flaxfit.task.task import Task

_REGRESSION = ("mse", "mae", "huber", "log_cosh")
_ERRORS = 1.645  # one-sided, 5%


def by_rows(task: Task, scores: Mapping[str, np.ndarray], y: Any) -> bool:
    """Whether a model is no better than a constant on rows, by its loss and by its accuracies.

    Args:
      task: what was trained.
      scores: name -> its score on each row, shape (rows,).
      y: the rows' targets.
    """
    constant = _constant(task, y)
    if constant is None:
        return False
    losses, right = constant
    gains = [losses - scores[task.loss_name], *(scores[name] - right for name in _accuracies(task) if right is not None)]
    return all(gain.mean() <= _ERRORS * gain.std() / math.sqrt(len(gain)) for gain in gains)


def by_history(task: Task, history: History, y: Any) -> bool:
    """The same of the best validation epochs, from the targets of the validation rows; the noise is that of the constant's scores."""
    name = f"val_{task.loss_name}"
    constant = None if y is None or name not in history else _constant(task, y)
    if constant is None or not np.isfinite(history[name]).any():
        return False
    losses, right = constant
    rows = math.sqrt(len(losses))
    beaten = [np.nanmin(history[name]) < losses.mean() - _ERRORS * losses.std() / rows]
    if right is not None:
        beaten += [np.nanmax(history[f"val_{each}"]) > right.mean() + _ERRORS * right.std() / rows for each in _accuracies(task)]
    return not any(beaten)


def _constant(task: Task, y: Any) -> tuple[np.ndarray, np.ndarray | None] | None:
    """The loss of the best constant on each row, and whether its class is right; None of losses that are not known."""
    kind = kind_of_loss(task)
    if isinstance(y, dict | tuple) or (kind is None and task.loss_name not in _REGRESSION):
        return None
    y, right = np.asarray(y), None
    if task.counted is not None:
        if y.ndim > 2 or (y.ndim == 2 and y.shape[1] > 1):
            return None
        y = y[y != task.counted.label]
    if kind == "binary":
        if y.ndim > 2 or (y.ndim == 2 and y.shape[1] > 1):
            return None
        share = float(y.mean())
        logits = np.full(y.shape, np.log(max(share, 1e-7)) - np.log(max(1 - share, 1e-7)))
        right = (np.ravel(y > 0.5) == (share > 0.5)).astype(float)
    elif kind == "classes":
        if y.ndim == 2 and y.shape[1] == 1:
            y = y[:, 0]
        if y.ndim != 1:
            return None
        y = y.astype(int)
        shares = np.bincount(y, minlength=2) / len(y)
        logits = np.broadcast_to(np.log(np.maximum(shares, 1e-7)), (len(y), len(shares)))
        right = (y == shares.argmax()).astype(float)
    else:
        logits = np.broadcast_to(y.mean(0), y.shape)
    losses = np.asarray(task.loss(jnp.asarray(logits, jnp.float32), jnp.asarray(y)), float)
    return (losses, right) if losses.shape == (len(y),) else None


def _accuracies(task: Task) -> list[str]:
    return [
        name for name, function in task.metrics.items() if getattr(function, "__name__", "") in ("binary_accuracy", "categorical_accuracy")
    ]
