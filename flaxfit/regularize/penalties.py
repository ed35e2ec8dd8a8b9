"""Penalties: params -> a number that is added to the data loss. Each takes kernels, or what its mask picks; weights may be traced."""

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
"""params -> scalar."""


def l1(weight: Any, mask: Mask | None = None) -> Penalty:
    """`weight * sum |w|`, Keras's L1. It makes weights small, not exactly zero: for that see `flaxfit.proximal.l1`.

    Args:
      weight: 0 or more.
      mask: which parameters, see `flaxfit.masks.resolve`; kernels where None.

    Raises:
      ValueError: a negative weight.

    Example:
      >>> float(l1(0.5)({"kernel": jnp.array([3.0, -1.0]), "bias": jnp.ones(2)}))
      2.0
    """
    return _sum("l1", weight, mask, lambda w: _abs(w).sum())


def l2(weight: Any, mask: Mask | None = None) -> Penalty:
    """`weight * sum w^2`, Keras's L2: without the factor 1/2 that "weight decay" often has. Arguments as `l1`.

    Example:
      >>> float(l2(0.5)({"kernel": jnp.array([3.0, -1.0]), "bias": jnp.ones(2)}))
      5.0
    """
    return _sum("l2", weight, mask, lambda w: jnp.square(w).sum())


def elastic_net(l1: Any, l2: Any, mask: Mask | None = None) -> Penalty:
    """`l1 * sum |w| + l2 * sum w^2`, Keras's L1L2 (Zou and Hastie 2005, "Regularization and variable selection via the elastic net").

    Example:
      >>> float(elastic_net(1.0, 0.5)({"kernel": jnp.array([3.0, -1.0])}))
      9.0
    """
    first, second = _sum("l1", l1, mask, lambda w: _abs(w).sum()), _sum("l2", l2, mask, lambda w: jnp.square(w).sum())
    return lambda params: first(params) + second(params)


def linf(weight: Any, mask: Mask | None = None) -> Penalty:
    """`weight * sum over kernels of max |w|`: each kernel pays for its largest weight alone. Arguments as `l1`.

    Example:
      >>> float(linf(0.5)({"a": {"kernel": jnp.array([3.0, -1.0])}, "b": {"kernel": jnp.array([1.0])}}))
      2.0
    """
    return _sum("linf", weight, mask, lambda w: _abs(w).max())


def non_negative(name: str, value: Any) -> None:
    """Checks a hyper-parameter; a traced one has no value to check.

    Raises:
      ValueError: it is negative or NaN.
    """
    if not isinstance(value, Tracer) and not np.all(np.asarray(value) >= 0):
        raise ValueError(f"{name} must be 0 or more, got {value!r}.")


def _abs(w: Array) -> Array:
    """|w| with the gradient 0 at 0, where that of `jnp.abs` is 1 and would drive a weight away from zero."""
    return w * jnp.sign(w)


def _sum(name: str, weight: Any, mask: Mask | None, norm: Callable[[Array], Array]) -> Penalty:
    non_negative(f"the {name} penalty's weight", weight)

    def penalty(params: Any) -> Scalar:
        flags = jax.tree.leaves(resolve(mask, params))
        return weight * sum((norm(w) for w, chosen in zip(jax.tree.leaves(params), flags, strict=True) if chosen), jnp.zeros(()))

    return penalty
