"""Scaling of inputs, a value for `Task(preprocess=...)`. Fit it on training rows only: validation and test rows must not leak into it."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from flaxfit.data.dataset import arrays


@jax.tree_util.register_pytree_node_class
@dataclass(frozen=True, eq=False)
class Scaling:
    """`(x - offset) / divisor` as float32. Of NumPy arrays it is computed in float64, of JAX arrays on the device in float32.

    Attributes:
      offset: a float64 array like one row of x, or a number for all; or a dict or tuple of these, as x is.
      divisor: likewise.

    Raises:
      ValueError: a divisor that is 0, or not finite; when called, x of other shapes.

    Example:
      >>> scaling = Scaling([1.0, 2.0], 2)
      >>> scaling(np.array([[5, 6]]))
      array([[2., 2.]], dtype=float32)
      >>> scaling.inverse(np.array([[2.0, 2.0]]))
      array([[5., 6.]], dtype=float32)
    """

    offset: Any
    divisor: Any

    def __post_init__(self) -> None:
        for name in ("offset", "divisor"):
            numbers = jax.tree.map(np.float64, getattr(self, name), is_leaf=lambda a: not isinstance(a, dict | tuple))
            object.__setattr__(self, name, numbers)
        if not all(np.all(np.isfinite(a)) for a in jax.tree.leaves((self.offset, self.divisor))):
            raise ValueError("a Scaling's offset and divisor must be finite.")
        if not all(np.all(a != 0) for a in jax.tree.leaves(self.divisor)):
            raise ValueError("Scaling(divisor=...) must not be 0.")

    def tree_flatten(self) -> tuple[Any, None]:
        """For JAX: a scaling may be an argument of a compiled program."""
        return (self.offset, self.divisor), None

    @classmethod
    def tree_unflatten(cls, _: None, children: Any) -> Scaling:
        """For JAX: unchecked, since the leaves may be anything."""
        scaling = object.__new__(cls)
        vars(scaling).update(zip(("offset", "divisor"), children, strict=True))
        return scaling

    def __call__(self, x: Any) -> Any:
        """`x` scaled."""
        return self._rowwise(lambda a, offset, divisor: (a - offset) / divisor, x)

    def inverse(self, x: Any) -> Any:
        """What was scaled to `x`."""
        return self._rowwise(lambda a, offset, divisor: a * divisor + offset, x)

    def _rowwise(self, function: Callable[..., Any], x: Any) -> Any:
        def one(a: Any, offset: np.ndarray, divisor: np.ndarray) -> Any:
            if jnp.broadcast_shapes(a.shape, offset.shape, divisor.shape) != a.shape:
                raise ValueError(f"x of shape {a.shape} meets a scaling of rows of shape {offset.shape}.")
            if isinstance(a, np.ndarray):  # a large offset, as of Unix seconds, leaves a float32 no digits for the rest
                return function(a.astype(np.float64), offset, divisor).astype(np.float32)
            return function(a.astype(np.float32), *(jnp.asarray(b, jnp.float32) for b in (offset, divisor)))

        # A single number is for all arrays of x, hence the map in a map.
        return jax.tree.map(lambda o, d, part: jax.tree.map(lambda a: one(a, o, d), part), self.offset, self.divisor, x)


def standardize(x: Any, axis: int | tuple[int, ...] = 0) -> Scaling:
    """To mean 0 and standard deviation 1, scikit-learn's StandardScaler: that of the population; a constant feature is only shifted.

    Args:
      x: training rows, such as `train.x`: an array, or a dict or tuple of arrays. It is read in chunks, so it may be memory-mapped.
      axis: what is averaged over, as in NumPy (Keras's Normalization names the axis that is kept): 0 scales each feature, or pixel, by
        its own numbers; `(0, 1, 2)` each channel of images.

    Raises:
      ValueError: no rows, an entry that is not finite, or axes without the rows.
      TypeError: a `Dataset`, or values that are no numbers.

    Example:
      >>> standardize(np.array([[0.0, 5.0], [2.0, 5.0]]))
      Scaling(offset=array([1., 5.]), divisor=array([1., 1.]))
    """

    def fit(size: int, reduced: Callable[..., Any]) -> tuple[Any, Any, Any]:
        total: Any = sum(reduced(np.sum))
        count = size // total.size
        mean = total / count
        variance = sum(reduced(lambda chunk, **over: np.square(chunk - mean).sum(**over))) / count
        return mean, np.sqrt(variance), abs(mean) * count * np.finfo(float).eps  # how far a constant's mean is off

    return _fitted("standardize", fit, x, axis)


def min_max(x: Any, axis: int | tuple[int, ...] = 0) -> Scaling:
    """From the least and greatest value to [0, 1], scikit-learn's MinMaxScaler; a constant feature is only shifted. As `standardize`.

    Example:
      >>> min_max(np.array([[1, 5], [3, 5]]))
      Scaling(offset=array([1., 5.]), divisor=array([2., 1.]))
    """

    def fit(size: int, reduced: Callable[..., Any]) -> tuple[Any, Any, Any]:
        least = np.min(reduced(np.min), 0)
        return least, np.max(reduced(np.max), 0) - least, 0.0

    return _fitted("min_max", fit, x, axis)


def rescale(by: float = 255) -> Scaling:
    """`x / by`, nothing fitted: bytes to [0, 1]. Keras's Rescaling multiplies instead.

    Raises:
      ValueError: 0, or not finite.

    Example:
      >>> rescale()(np.array([[0, 255]], np.uint8))
      array([[0., 1.]], dtype=float32)
    """
    return Scaling(0, by)


def _fitted(name: str, fit: Callable[..., Any], x: Any, axis: int | tuple[int, ...]) -> Scaling:
    axes = axis if isinstance(axis, tuple) else (axis,)
    if 0 not in axes:
        raise ValueError(f"{name}(axis=...) must hold 0, the rows, got {axis!r}.")
    leaves, tree = jax.tree_util.tree_flatten_with_path(arrays(x, "x", narrow=False))
    offsets, divisors = [], []
    for path, leaf in leaves:
        offset, divisor, error = fit(leaf.size, functools.partial(_reduced, f"x{jax.tree_util.keystr(path)}", np.asarray(leaf), axes))
        offsets.append(offset)
        divisors.append(np.where(divisor > np.maximum(error, np.finfo(np.float32).tiny), divisor, 1))
    return Scaling(tree.unflatten(offsets), tree.unflatten(divisors))


def _reduced(name: str, x: np.ndarray, axes: tuple[int, ...], function: Callable[..., Any]) -> list[Any]:
    """`function` of each chunk of rows, 16 MB in float64, over the axes; with the shape of a row, 1 on the other axes reduced."""
    if not x.size:
        raise ValueError(f"{name} of shape {x.shape} has no rows.")
    parts, step = [], max(1, 2**21 // x[0].size)
    for first in range(0, len(x), step):
        chunk = x[first : first + step].astype(np.float64)
        if not np.isfinite(chunk).all():
            row, *feature = (int(i) for i in np.argwhere(~np.isfinite(chunk))[0])
            raise ValueError(f"{name} is not finite in row {first + row}, feature {', '.join(map(str, feature)) or 0}.")
        parts.append(function(chunk, axis=axes, keepdims=True)[0])
    return parts
