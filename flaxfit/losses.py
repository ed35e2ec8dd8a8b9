"""Losses: (logits, y) -> one number a row, shape (rows,). Axes beyond the loss's own are averaged.

To set an argument: `functools.partial(categorical_crossentropy, label_smoothing=0.1)`, which keeps the name in the logs.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any, TypeVar

import jax.numpy as jnp
import optax
from jax.core import Tracer

from flaxfit.arguments import Mode
from flaxfit.shapes import Outputs, Rows, Targets

_Function = TypeVar("_Function", bound=Callable[..., Any])


def has_mode(mode: Mode) -> Callable[[_Function], _Function]:
    """A decorator with which a loss or metric says whether it is best when small or large, by an attribute `mode`."""

    def decorate(function: Any) -> Any:
        function.mode = mode
        return function

    return decorate


@has_mode("min")
def binary_crossentropy(logits: Outputs, y: Targets, label_smoothing: Any = 0.0) -> Rows:
    """Cross-entropy between labels 0 and 1, or probabilities, and the sigmoid of logits.

    Args:
      logits: shape (n,), (n, 1) or (n, ...).
      y: the same shape, or (n,) against (n, 1).
      label_smoothing: from 0 to 1, may be traced: labels become `y * (1 - label_smoothing) + label_smoothing / 2`, as in Keras.

    Raises:
      ValueError: shapes that do not match, or a smoothing outside [0, 1].

    Example:
      >>> binary_crossentropy(jnp.array([[0.0], [2.0]]), jnp.array([1, 0])).round(3)
      Array([0.693, 2.127], dtype=float32)
    """
    logits, y = aligned(logits, y)
    if _smooths(label_smoothing):
        y = y * (1 - label_smoothing) + label_smoothing / 2
    return row_means(optax.sigmoid_binary_cross_entropy(logits, y))


@has_mode("min")
def categorical_crossentropy(logits: Outputs, y: Targets, label_smoothing: Any = 0.0) -> Rows:
    """Cross-entropy between classes and the softmax of logits.

    Args:
      logits: shape (n, classes) or (n, ..., classes).
      y: class numbers, integers of shape (n,) or (n, ...), or a probability of each class, shape as `logits`.
      label_smoothing: from 0 to 1, may be traced: the labels' share that is spread evenly over all classes, as in Keras.

    Raises:
      ValueError: shapes that do not match, a single class, or a smoothing outside [0, 1].

    Example:
      >>> categorical_crossentropy(jnp.zeros((2, 4)), jnp.array([3, 0])).round(3)
      Array([1.386, 1.386], dtype=float32)
    """
    if is_class_number(logits, y):
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, y)
    else:
        losses = optax.softmax_cross_entropy(logits, y)
    if _smooths(label_smoothing):  # cross-entropy is linear in the labels
        uniform = jnp.full_like(logits, 1 / logits.shape[-1])
        losses = (1 - label_smoothing) * losses + label_smoothing * optax.softmax_cross_entropy(logits, uniform)
    return row_means(losses)


@has_mode("min")
def mse(logits: Outputs, y: Targets) -> Rows:
    """Squared error, averaged over a row's outputs. Shapes as `binary_crossentropy`.

    Raises:
      ValueError: shapes that do not match.

    Example:
      >>> mse(jnp.array([[1.0], [3.0]]), jnp.array([0.0, 1.0]))
      Array([1., 4.], dtype=float32)
    """
    return row_means(optax.squared_error(*aligned(logits, y)))


def aligned(logits: Outputs, y: Targets) -> tuple[Any, Any]:
    """Both in one shape and floating type: (n, 1) meets (n,).

    Raises:
      ValueError: shapes that differ by more; broadcasting them would compare every row with every other.
    """
    shapes = jnp.shape(logits), jnp.shape(y)
    if shapes[0] != shapes[1]:
        logits, y = (a[..., 0] if a.ndim > 1 and a.shape[-1] == 1 else a for a in (logits, y))
    if logits.shape != y.shape:
        raise ValueError(
            f"logits {shapes[0]} and labels {shapes[1]} must have one shape, or (n, 1) and (n,). "
            "For class numbers against (n, classes) use categorical_crossentropy and categorical_accuracy."
        )
    return logits, y.astype(jnp.promote_types(logits.dtype, jnp.float32))


def is_class_number(logits: Outputs, y: Targets) -> bool:
    """Whether `y` holds class numbers; otherwise it holds a probability of each class.

    Raises:
      ValueError: neither fits the logits.
    """
    if logits.ndim < 2 or logits.shape[-1] < 2:
        raise ValueError(f"logits (n, classes) need two classes or more, got {logits.shape}: for one logit a row use the binary functions.")
    if y.shape == logits.shape:
        return False
    if y.shape != logits.shape[:-1] or not jnp.issubdtype(y.dtype, jnp.integer):
        raise ValueError(
            f"against logits {logits.shape}, labels are integers of shape {logits.shape[:-1]} or probabilities of shape {logits.shape}; "
            f"got {y.dtype} of shape {y.shape}."
        )
    return True


def row_means(values: Any) -> Rows:
    """The mean of each row, shape (rows,)."""
    return values.reshape(values.shape[0], math.prod(values.shape[1:])).mean(1) if values.ndim > 1 else values


def _smooths(label_smoothing: Any) -> bool:
    """Whether there is anything to do: no for a plain 0, so that it costs nothing."""
    if isinstance(label_smoothing, Tracer):
        return True
    if not 0 <= label_smoothing <= 1:
        raise ValueError(f"label_smoothing must lie from 0 to 1, got {label_smoothing!r}.")
    return bool(label_smoothing)


def mode_of_function(function: Any) -> Mode | None:
    """Whether a loss or metric is best when small or large, as it says itself; None where it does not.

    A function says it by an attribute `mode`, as those of `flaxfit.losses` and `flaxfit.metrics` and every `flaxfit.Metric` do. The losses
    of optax are best when small. A `functools.partial` says what its function says.

    Example:
      >>> mode_of_function(functools.partial(mse)), mode_of_function(optax.squared_error), mode_of_function(jnp.add)
      ('min', 'min', None)
    """
    while isinstance(function, functools.partial):
        function = function.func
    if (mode := getattr(function, "mode", None)) is not None:
        return mode
    return "min" if (getattr(function, "__module__", None) or "").split(".")[0] == "optax" else None
