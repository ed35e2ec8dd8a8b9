"""Losses and metrics at each position of an example, such as each time step: for weights per position, and labels that do not count."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from flaxfit.arguments import Mode, unwrapped
from flaxfit.losses import mode_of_function, row_means


def at_positions(function: Callable[[Any, Any], Any], logits: Any, y: Any, shape: tuple[int, ...]) -> Any:
    """What a loss or metric of examples gives at each position of each example, taking each position for an example of its own.

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
    """The shape of the positions that have a label: that of `y`, without a last axis of size 1.

    Raises:
      ValueError: the outputs do not have these positions.
    """
    shape = y.shape[:-1] if y.ndim > 1 and y.shape[-1] == 1 else y.shape
    if logits.shape[: len(shape)] != shape:
        raise ValueError(f"labels of shape {y.shape} are not one for each position of outputs of shape {logits.shape}.")
    return shape


@dataclass(frozen=True)
class Counted:
    """Which labels count: all but one, which stands for "no label".

    Attributes:
      label: the label that does not count.
    """

    label: float

    def mask(self, logits: Any, y: Any) -> Any:
        """Whether each position counts: booleans of the shape of `positions`."""
        return (y != self.label).reshape(positions(logits, y))

    def shares(self, logits: Any, y: Any) -> Any:
        """The share of each example's positions that count: float32, shape (rows,)."""
        return row_means(self.mask(logits, y).astype(jnp.float32))

    def by_row(self, function: Callable[[Any, Any], Any]) -> CountedRows:
        """A loss or metric in which positions that do not count are 0."""
        return CountedRows(function, self)

    def of_set(self, function: Callable[[Any, Any], Any]) -> CountedSet:
        """A metric of a whole set that sees only the positions that count."""
        return CountedSet(function, self)

    def kept(self, logits: Any, y: Any) -> tuple[np.ndarray, np.ndarray]:
        """The outputs and labels of the positions that count, on the host: an example for each."""
        logits, y = np.asarray(logits), np.asarray(y)
        mask = np.asarray(self.mask(logits, y))
        return logits[mask], y.reshape(mask.shape)[mask]


@dataclass(frozen=True)
class _Wrapped:
    function: Callable[[Any, Any], Any]
    counted: Counted

    @property
    def __name__(self) -> str:
        return getattr(unwrapped(self.function), "__name__", "<lambda>")

    @property
    def mode(self) -> Mode | None:
        """Whether it is best when small or large, as the function says."""
        return mode_of_function(self.function)


class CountedRows(_Wrapped):
    """`Counted.by_row`."""

    def __call__(self, logits: Any, y: Any) -> Any:
        """The mean over each example's positions, shape (rows,); divide by `Counted.shares` for that over those that count."""
        mask = self.counted.mask(logits, y)
        y = jnp.where(y == self.counted.label, jnp.zeros_like(y), y)  # a label that a loss can be computed of
        return row_means(jnp.where(mask, at_positions(self.function, logits, y, mask.shape), 0.0))


class CountedSet(_Wrapped):
    """`Counted.of_set`, of NumPy arrays."""

    def __call__(self, logits: Any, y: Any) -> Any:
        """What the function gives."""
        return self.function(*self.counted.kept(logits, y))
