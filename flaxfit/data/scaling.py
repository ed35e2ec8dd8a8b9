"""Scaling of inputs, for `Task(preprocess=...)`. Fit it to the training examples only, so that no others leak into it."""

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
    """Computes `(x - offset) / divisor` as float32: for NumPy arrays in float64, for JAX arrays on the device in float32.

    Attributes:
      offset: what is subtracted: a float64 array of the shape of one row of x, or one number for all. If x is a dict or a tuple of
        arrays, so is the offset.
      divisor: what the difference is divided by, in the same form.

    Raises:
      ValueError: a number is not finite, or a divisor is 0. A call raises it if x has another shape.

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
            raise ValueError("Scaling(offset=..., divisor=...) must be finite.")
        if not all(np.all(a != 0) for a in jax.tree.leaves(self.divisor)):
            raise ValueError("Scaling(divisor=...) must not be 0.")

    def tree_flatten(self) -> tuple[Any, None]:
        """For JAX. A scaling may be an argument of a compiled program."""
        return (self.offset, self.divisor), None

    @classmethod
    def tree_unflatten(cls, _: None, children: Any) -> Scaling:
        """For JAX. Nothing is checked, because the leaves may be anything."""
        scaling = object.__new__(cls)
        vars(scaling).update(zip(("offset", "divisor"), children, strict=True))
        return scaling

    def __call__(self, x: Any) -> Any:
        """Returns the scaled `x`."""
        return self._rowwise(lambda a, offset, divisor: (a - offset) / divisor, x)

    def inverse(self, x: Any) -> Any:
        """Returns the values that are scaled to `x`."""
        return self._rowwise(lambda a, offset, divisor: a * divisor + offset, x)

    def _rowwise(self, function: Callable[..., Any], x: Any) -> Any:
        def one(a: Any, offset: np.ndarray, divisor: np.ndarray) -> Any:
            if jnp.broadcast_shapes(a.shape, offset.shape, divisor.shape) != a.shape:
                raise ValueError(f"x of shape {a.shape} does not fit a Scaling for rows of shape {offset.shape}.")
            if isinstance(a, np.ndarray):  # a large offset, such as that of Unix seconds, leaves a float32 no digits for the rest
                return function(a.astype(np.float64), offset, divisor).astype(np.float32)
            return function(a.astype(np.float32), *(jnp.asarray(b, jnp.float32) for b in (offset, divisor)))

        # A single number applies to all arrays of x, hence the nested map.
        return jax.tree.map(lambda o, d, part: jax.tree.map(lambda a: one(a, o, d), part), self.offset, self.divisor, x)


def standardize(x: Any, axis: int | tuple[int, ...] = 0) -> Scaling:
    """Returns the scaling to mean 0 and standard deviation 1, which is that of scikit-learn's `StandardScaler`.

    The standard deviation is that of the population, with divisor n. A constant feature is only shifted.

    Args:
      x: the inputs of the training examples, such as `train.x`: an array, or a dict or tuple of arrays. They are read piece by piece,
        so they may be memory-mapped.
      axis: the axes to average over, as in NumPy. 0 scales each feature, or each pixel, by numbers of its own; `(0, 1, 2)` scales each
        channel of images. (Keras's `Normalization` names the axes to keep instead.)

    Returns:
      A `Scaling`.

    Raises:
      ValueError: there are no rows, an entry is not finite, or `axis` does not include 0.
      TypeError: x is a `Dataset`, or its values are not numbers.

    Example:
      >>> standardize(np.array([[0.0, 5.0], [2.0, 5.0]]))
      Scaling(offset=array([1., 5.]), divisor=array([1., 1.]))
    """

    def fit(size: int, reduced: Callable[..., Any]) -> tuple[Any, Any, Any]:
        total: Any = sum(reduced(np.sum))
        count = size // total.size
        mean = total / count
        variance = sum(reduced(lambda chunk, **over: np.square(chunk - mean).sum(**over))) / count
        return mean, np.sqrt(variance), abs(mean) * count * np.finfo(float).eps  # the rounding error for a constant feature

    return _fitted("standardize", fit, x, axis)


def min_max(x: Any, axis: int | tuple[int, ...] = 0) -> Scaling:
    """Returns the scaling of the range from the smallest to the largest value to [0, 1], as scikit-learn's `MinMaxScaler` does.

    A constant feature is only shifted.

    Args:
      x: the inputs of the training examples, as for `standardize`.
      axis: the axes over which the smallest and the largest value are found, as for `standardize`.

    Returns:
      A `Scaling`.

    Raises:
      ValueError, TypeError: as `standardize`.

    Example:
      >>> min_max(np.array([[1, 5], [3, 5]]))
      Scaling(offset=array([1., 5.]), divisor=array([2., 1.]))
    """

    def fit(size: int, reduced: Callable[..., Any]) -> tuple[Any, Any, Any]:
        least = np.min(reduced(np.min), 0)
        return least, np.max(reduced(np.max), 0) - least, 0.0

    return _fitted("min_max", fit, x, axis)


def rescale(by: float = 255) -> Scaling:
    """Returns the scaling `x / by`, which needs no data. With 255, it maps bytes to [0, 1].

    Args:
      by: the divisor. (Keras's `Rescaling` takes a factor instead.)

    Returns:
      A `Scaling`.

    Raises:
      ValueError: the divisor is 0 or not finite.

    Example:
      >>> rescale()(np.array([[0, 255]], np.uint8))
      array([[0., 1.]], dtype=float32)
    """
    return Scaling(0, by)


def _fitted(name: str, fit: Callable[..., Any], x: Any, axis: int | tuple[int, ...]) -> Scaling:
    axes = axis if isinstance(axis, tuple) else (axis,)
    if 0 not in axes:
        raise ValueError(f"{name}(axis=...) must include 0, the axis of the examples, got {axis!r}.")
    leaves, tree = jax.tree_util.tree_flatten_with_path(arrays(x, "x", narrow=False))
    offsets, divisors = [], []
    for path, leaf in leaves:
        offset, divisor, error = fit(leaf.size, functools.partial(_reduced, f"x{jax.tree_util.keystr(path)}", np.asarray(leaf), axes))
        offsets.append(offset)
        divisors.append(np.where(divisor > np.maximum(error, np.finfo(np.float32).tiny), divisor, 1))
    return Scaling(tree.unflatten(offsets), tree.unflatten(divisors))


def _reduced(name: str, x: np.ndarray, axes: tuple[int, ...], function: Callable[..., Any]) -> list[Any]:
    """Applies `function` over the axes of each piece of 16 MB in float64. The results have as many axes as one row."""
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
