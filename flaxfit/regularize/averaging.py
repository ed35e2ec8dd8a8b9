"""Averages of weights along the way: Keras's `use_ema`, as an optax transformation."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import Array
from jax.core import Tracer

from flaxfit.state import TrainState


class WeightEmaState(NamedTuple):
    """What `weight_ema` keeps."""

    weight_average: Any  # as params
    started: Array  # bool scalar: whether an update has been seen


def weight_ema(decay: Any) -> optax.GradientTransformation:
    """Keeps an exponential moving average of the updated weights; updates pass unchanged. **Last in a chain.**

    Keras's `use_ema`: `average = decay * average + (1 - decay) * weights` after each update, and the weights themselves after the first,
    so that the random initial ones have no part in it. A `Task.constraint` acts after it and is not seen.

    Args:
      decay: Keras's `ema_momentum`, from 0 to 1, may be traced.

    Raises:
      ValueError: a decay outside [0, 1].

    Example:
      >>> optimizer = optax.chain(optax.adam(1e-3), weight_ema(0.99))
      >>> float(optimizer.init({"kernel": jnp.ones(())})[1].weight_average["kernel"])
      1.0
    """
    if not isinstance(decay, Tracer) and not 0 <= decay <= 1:
        raise ValueError(f"weight_ema(decay) must lie from 0 to 1, got {decay!r}.")

    def init(params: Any) -> WeightEmaState:
        copies = jax.tree.map(jnp.array, params)  # own buffers: a state that holds one twice cannot be donated
        return WeightEmaState(copies, jnp.zeros((), bool))

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, WeightEmaState]:
        new = optax.apply_updates(params, updates)
        kept = jnp.where(state.started, decay, 0)
        average = jax.tree.map(lambda a, w: (kept * a + (1 - kept) * w).astype(w.dtype), state.weight_average, new)
        return updates, WeightEmaState(average, jnp.ones((), bool))

    return optax.GradientTransformation(init, update)


def averaged(state: TrainState) -> Any:
    """The average that `weight_ema` keeps, for `Task(eval_params=averaged)`.

    Raises:
      ValueError: there is none in the optimizer.

    Example:
    >>> optimizer, params = weight_ema(0.99), {"kernel": jnp.ones(())}
    >>> float(averaged(TrainState(jnp.zeros((), jnp.int32), params, {}, optimizer.init(params)))["kernel"])
    1.0
    """
    average = optax.tree.get(state.opt_state, "weight_average")
    if average is None:
        raise ValueError(
            "eval_params=averaged needs weight_ema in the optimizer: optax.chain(optax.adam(1e-3), ff.averaging.weight_ema(0.99))."
        )
    return average
