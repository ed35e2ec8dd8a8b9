"""Proximal steps, as optax transformations that make weights exactly zero."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import Array

from flaxfit.regularize.masks import Mask, resolve
from flaxfit.regularize.penalties import non_negative


class ProximalState(NamedTuple):
    """The number of updates so far, for the schedule."""

    count: Any  # int32 scalar


def l1(weight: Any, learning_rate: Any, mask: Mask | None = None) -> optax.GradientTransformation:
    """Moves the updated weights toward zero by `learning_rate * weight`, so that small ones become exactly zero.

    It must be **last in a chain**. With plain gradient descent this is ISTA (Beck and Teboulle 2009, "A fast iterative
    shrinkage-thresholding algorithm"), which minimizes the data loss + `weight * sum |w|`. With momentum m in `optax.sgd`, pass
    `learning_rate / (1 - m)` to converge to the same minimum. With an adaptive optimizer, the threshold is not scaled by the size of the
    gradients, as the weight decay of AdamW is not. The logged `loss` does not include the L1 term.

    Args:
      weight: the strength, 0 or more. It may be traced.
      learning_rate: the learning rate of the optimizer: a number, which may be traced, or a schedule.
      mask: which parameters, see `flaxfit.masks.resolve`. None means the kernels.

    Returns:
      An optax transformation.

    Raises:
      ValueError: the weight is negative.

    Example:
      >>> optimizer = optax.chain(optax.sgd(0.1), l1(1.0, 0.1))
      >>> params = {"kernel": jnp.array([0.05, 0.5])}
      >>> updates, _ = optimizer.update({"kernel": jnp.zeros(2)}, optimizer.init(params), params)
      >>> optax.apply_updates(params, updates)["kernel"]
      Array([0. , 0.4], dtype=float32)
    """
    non_negative("proximal.l1(weight=...)", weight)
    rate: Callable[[Array], Any] = learning_rate if callable(learning_rate) else lambda _: learning_rate

    def init(params: Any) -> ProximalState:
        resolve(mask, params)  # Raises for a mask that matches nothing, now and not at the first step.
        return ProximalState(jnp.zeros((), jnp.int32))

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, ProximalState]:
        threshold = rate(state.count) * weight

        def shrunk(chosen: bool, update: Array, w: Array) -> Array:
            new = w + update
            return (jnp.sign(new) * jnp.maximum(jnp.abs(new) - threshold, 0) - w).astype(update.dtype) if chosen else update

        updates = jax.tree.map(shrunk, resolve(mask, params), updates, params)
        return updates, ProximalState(optax.safe_increment(state.count))

    return optax.GradientTransformation(init, update)
