"""Penalties: functions from the parameters to a number that is added to the data loss."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.core import Tracer

from flaxfit.regularize.masks import Mask, resolve
from flaxfit.shapes import Scalar

Penalty = Callable[[Any], Scalar]
"""A function from params to a scalar."""


def l1(weight: Any, mask: Mask | None = None) -> Penalty:
    """Returns the penalty `weight * sum |w|`, which is Keras's `L1`.

    It makes weights small, but not exactly zero. For that, see `flaxfit.proximal.l1`.

    Args:
      weight: the strength of the penalty, 0 or more. It may be traced.
      mask: which parameters to penalize, see `flaxfit.masks.resolve`. None means the kernels.

    Returns:
      A function from params to a scalar, for `Task(penalty=...)`.

    Raises:
      ValueError: the weight is negative.

    Example:
      >>> float(l1(0.5)({"kernel": jnp.array([3.0, -1.0]), "bias": jnp.ones(2)}))
      2.0
    """
    return _sum("l1", weight, mask, lambda w: _abs(w).sum())


def l2(weight: Any, mask: Mask | None = None) -> Penalty:
    """Returns the penalty `weight * sum w^2`, which is Keras's `L2`: there is no factor 1/2, as weight decay often has.

    Arguments, result and errors are those of `l1`.

    Example:
      >>> float(l2(0.5)({"kernel": jnp.array([3.0, -1.0]), "bias": jnp.ones(2)}))
      5.0
    """
    return _sum("l2", weight, mask, lambda w: jnp.square(w).sum())


def elastic_net(l1: Any, l2: Any, mask: Mask | None = None) -> Penalty:
    """Returns the penalty `l1 * sum |w| + l2 * sum w^2`, which is Keras's `L1L2`.

    The source is Zou and Hastie (2005, "Regularization and variable selection via the elastic net").

    Args:
      l1: the strength of the L1 part, 0 or more. It may be traced.
      l2: that of the L2 part.
      mask: as for `flaxfit.penalties.l1`.

    Returns:
      A function from params to a scalar, for `Task(penalty=...)`.

    Raises:
      ValueError: a strength is negative.

    Example:
      >>> float(elastic_net(1.0, 0.5)({"kernel": jnp.array([3.0, -1.0])}))
      9.0
    """
    first, second = _sum("l1", l1, mask, lambda w: _abs(w).sum()), _sum("l2", l2, mask, lambda w: jnp.square(w).sum())
    return lambda params: first(params) + second(params)


def linf(weight: Any, mask: Mask | None = None) -> Penalty:
    """Returns the penalty `weight * sum over kernels of max |w|`: only the largest weight of each kernel is penalized.

    Arguments, result and errors are those of `l1`.

    Example:
      >>> float(linf(0.5)({"a": {"kernel": jnp.array([3.0, -1.0])}, "b": {"kernel": jnp.array([1.0])}}))
      2.0
    """
    return _sum("linf", weight, mask, lambda w: _abs(w).max())


def non_negative(name: str, value: Any) -> None:
    """Checks that a hyperparameter is not negative. A traced one has no value that could be checked.

    Raises:
      ValueError: it is negative or NaN.
    """
    if not isinstance(value, Tracer) and not np.all(np.asarray(value) >= 0):
        raise ValueError(f"{name} must be 0 or more, got {value!r}.")


def _abs(w: Array) -> Array:
    """Returns |w| with gradient 0 at 0. The gradient of `jnp.abs` is 1 there, and would drive a weight away from zero."""
    return w * jnp.sign(w)


def _sum(name: str, weight: Any, mask: Mask | None, norm: Callable[[Array], Array]) -> Penalty:
    non_negative(f"the weight of the {name} penalty", weight)

    def penalty(params: Any) -> Scalar:
        flags = jax.tree.leaves(resolve(mask, params))
        return weight * sum((norm(w) for w, chosen in zip(jax.tree.leaves(params), flags, strict=True) if chosen), jnp.zeros(()))

    return penalty
