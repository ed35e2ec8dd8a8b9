"""Constraints on the parameters, which are applied after each update."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from flaxfit.regularize.masks import Mask, resolve
from flaxfit.regularize.penalties import non_negative


def max_norm(limit: Any, mask: Mask | None = None) -> Callable[[Any], Any]:
    """Scales the incoming weights of each unit so that their L2 norm is at most `limit`.

    The norm is over all axes but the last. That is Keras's `MaxNorm` with axis 0 for dense kernels and [0, 1, 2] for convolutional ones.
    Weights within the limit are not changed. The source is Srivastava et al. (2014, "Dropout", section 5.1).

    Args:
      limit: the largest norm, 0 or more. It may be traced.
      mask: which parameters to constrain, see `flaxfit.masks.resolve`. None means the kernels.

    Returns:
      A function from params to params, for `Task(constraint=...)`.

    Raises:
      ValueError: the limit is negative.

    Example:
      >>> max_norm(1.0)({"kernel": jnp.array([[3.0, 0.0], [4.0, 0.5]])})["kernel"].round(3)
      Array([[0.6, 0. ],
             [0.8, 0.5]], dtype=float32)
    """
    non_negative("max_norm(limit=...)", limit)

    def scaled(w: Array) -> Array:
        norm = jnp.sqrt(jnp.square(w).sum(tuple(range(w.ndim - 1)), keepdims=True))
        return (w * jnp.minimum(1, limit / jnp.maximum(norm, jnp.finfo(w.dtype).tiny))).astype(w.dtype)

    return lambda params: jax.tree.map(lambda chosen, w: scaled(w) if chosen else w, resolve(mask, params), params)
