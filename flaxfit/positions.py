"""Losses and metrics at each position of an example, such as each time step, for weights of positions and for labels to ignore."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from flaxfit.losses import Wrapper, row_means


def at_positions(function: Callable[[Any, Any], Any], logits: Any, y: Any, shape: tuple[int, ...]) -> Any:
    """Computes a loss or metric of examples at each position, as if each position were an example of its own.

    Args:
      function: (logits, y) -> one number for each example.
      logits, y: arrays whose first axes are those of `shape`.
      shape: (rows, ...), such as (rows, time steps).

    Returns:
      An array of that shape.
    """
    if len(shape) == 1:
        return function(logits, y)
    flat = [jax.tree.map(lambda a: a.reshape(math.prod(shape), *a.shape[len(shape) :]), tree) for tree in (logits, y)]
    return function(*flat).reshape(shape)


def positions(logits: Any, y: Any) -> tuple[int, ...]:
    """Returns the shape of the positions that have a label: that of `y`, without a last axis of size 1.

    Raises:
      ValueError: the outputs do not have these positions.
    """
    shape = y.shape[:-1] if y.ndim > 1 and y.shape[-1] == 1 else y.shape
    if logits.shape[: len(shape)] != shape:
        raise ValueError(f"y must have one label for each position of outputs of shape {logits.shape}, got shape {y.shape}.")
    return shape


@dataclass(frozen=True)
class Counted:
    """Which labels count: all but the one that stands for "no label"."""

    label: float  # the one that does not count

    def mask(self, logits: Any, y: Any) -> Any:
        """Returns whether each position counts, booleans of the shape that `positions` returns."""
        return (y != self.label).reshape(positions(logits, y))

    def shares(self, logits: Any, y: Any) -> Any:
        """Returns the fraction of the positions of each example that count, float32, shape (rows,)."""
        return row_means(self.mask(logits, y).astype(jnp.float32))

    def by_row(self, function: Callable[[Any, Any], Any]) -> CountedRows:
        """Returns a loss or metric that is 0 at positions that do not count."""
        return CountedRows(function, self)

    def of_set(self, function: Callable[[Any, Any], Any]) -> CountedSet:
        """Returns a metric of a whole set that is computed from the positions that count."""
        return CountedSet(function, self)

    def kept(self, logits: Any, y: Any) -> tuple[np.ndarray, np.ndarray]:
        """Returns the outputs and labels of the positions that count, as NumPy arrays with one row for each."""
        logits, y = np.asarray(logits), np.asarray(y)
        mask = np.asarray(self.mask(logits, y))
        return logits[mask], y.reshape(mask.shape)[mask]


@dataclass(frozen=True)
class _Counting(Wrapper):
    function: Callable[[Any, Any], Any]
    counted: Counted


class CountedRows(_Counting):
    """A loss or metric of examples that ignores positions, as `Counted.by_row` returns it."""

    def __call__(self, logits: Any, y: Any) -> Any:
        """Returns the mean over all positions, shape (rows,). `Counted.shares` turns it into the mean over those that count."""
        mask = self.counted.mask(logits, y)
        y = jnp.where(y == self.counted.label, jnp.zeros_like(y), y)  # a label for which a loss can be computed
        return row_means(jnp.where(mask, at_positions(self.function, logits, y, mask.shape), 0.0))


class CountedSet(_Counting):
    """A metric of a whole set that ignores positions, as `Counted.of_set` returns it."""

    def __call__(self, logits: Any, y: Any) -> Any:
        """Returns the metric of NumPy arrays."""
        return self.function(*self.counted.kept(logits, y))
