"""Proximal steps: optax transformations that do to the updated weights what a gradient cannot."""

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
    """The updates so far, for the schedule."""

    count: Any  # int32 scalar


def l1(weight: Any, learning_rate: Any, mask: Mask | None = None) -> optax.GradientTransformation:
    """Soft-thresholds the updated weights by `learning_rate * weight`, so that they become exactly zero. **Last in a chain.**

    With plain gradient descent it is ISTA (Beck and Teboulle 2009, "A fast iterative shrinkage-thresholding algorithm") and minimizes
    data loss + `weight * sum |w|`. With `optax.sgd`'s momentum m the minimum is where it comes to rest if it gets
    `learning_rate / (1 - m)`. With an adaptive optimizer the threshold is not scaled by the gradients' size, as AdamW's weight decay is
    not. The history's `loss` knows nothing of it.

    Args:
      weight: 0 or more, may be traced.
      learning_rate: the optimizer's: a number, perhaps traced, or a schedule.
      mask: which parameters, see `flaxfit.masks.resolve`; kernels where None.

    Raises:
      ValueError: a negative weight.

    Example:
      >>> optimizer = optax.chain(optax.sgd(0.1), l1(1.0, 0.1))
      >>> params = {"kernel": jnp.array([0.05, 0.5])}
      >>> updates, _ = optimizer.update({"kernel": jnp.zeros(2)}, optimizer.init(params), params)
      >>> optax.apply_updates(params, updates)["kernel"]
      Array([0. , 0.4], dtype=float32)
    """
    non_negative("the proximal l1 weight", weight)
    rate: Callable[[Array], Any] = learning_rate if callable(learning_rate) else lambda _: learning_rate

    def init(params: Any) -> ProximalState:
        resolve(mask, params)  # a mask that matches nothing is an error now, not at the first step
        return ProximalState(jnp.zeros((), jnp.int32))

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, ProximalState]:
        threshold = rate(state.count) * weight

        def shrunk(chosen: bool, update: Array, w: Array) -> Array:
            new = w + update
            return (jnp.sign(new) * jnp.maximum(jnp.abs(new) - threshold, 0) - w).astype(update.dtype) if chosen else update

        updates = jax.tree.map(shrunk, resolve(mask, params), updates, params)
        return updates, ProximalState(optax.safe_increment(state.count))

    return optax.GradientTransformation(init, update)
