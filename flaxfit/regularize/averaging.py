"""Moving averages of the weights, as Keras's `use_ema`, in the form of an optax transformation."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import Array
from jax.core import Tracer

from flaxfit.state import TrainState


class WeightEmaState(NamedTuple):
    """The optimizer state of `weight_ema`."""

    weight_average: Any  # as params
    started: Array  # bool scalar: whether an update has been seen


def weight_ema(decay: Any) -> optax.GradientTransformation:
    """Keeps an exponential moving average of the updated weights, and leaves the updates as they are. It must be **last in a chain**.

    After each update, `average = decay * average + (1 - decay) * weights`, as Keras's `use_ema` does. After the first update the average
    is the weights themselves, so that the random initial weights have no part in it. A `Task.constraint` acts later and is not
    included. Use `averaged` to validate and predict with the average.

    Args:
      decay: the weight of the old average, from 0 to 1, which is Keras's `ema_momentum`. It may be traced.

    Returns:
      An optax transformation.

    Raises:
      ValueError: the decay is outside [0, 1].

    Example:
      >>> optimizer = optax.chain(optax.adam(1e-3), weight_ema(0.99))
      >>> float(optimizer.init({"kernel": jnp.ones(())})[1].weight_average["kernel"])
      1.0
    """
    if not isinstance(decay, Tracer) and not 0 <= decay <= 1:
        raise ValueError(f"weight_ema(decay=...) must be from 0 to 1, got {decay!r}.")

    def init(params: Any) -> WeightEmaState:
        copies = jax.tree.map(jnp.array, params)  # A state that held one buffer twice could not be donated.
        return WeightEmaState(copies, jnp.zeros((), bool))

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, WeightEmaState]:
        new = optax.apply_updates(params, updates)
        kept = jnp.where(state.started, decay, 0)
        average = jax.tree.map(lambda a, w: (kept * a + (1 - kept) * w).astype(w.dtype), state.weight_average, new)
        return updates, WeightEmaState(average, jnp.ones((), bool))

    return optax.GradientTransformation(init, update)


def averaged(state: TrainState) -> Any:
    """Returns the average that `weight_ema` keeps. Pass the function itself as `Task(eval_params=averaged)`.

    Args:
      state: a state whose optimizer contains `weight_ema`.

    Raises:
      ValueError: the optimizer does not contain `weight_ema`.

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
