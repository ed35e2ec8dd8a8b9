"""A workload's network, loss and optimizer in Flax and optax, which flaxfit and the programs written by hand share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax


def network(work: Any, dropout: Callable[..., Any]) -> nn.Module:
    """The layers in Linen.

    Args:
      work: the workload.
      dropout: a function of (rate, x, train) that applies dropout.
    """
    initializer = getattr(nn.initializers, work.initializer)()
    dtype = jnp.bfloat16 if work.precision == "bf16" else None
    options = {"kernel_init": initializer, "dtype": dtype}

    class Net(nn.Module):
        @nn.compact
        def __call__(self, x, *, train):
            for kind, *values in work.layers:
                if kind == "dense":
                    x = activated(nn.Dense(values[0], **options)(x), values[1])
                elif kind == "conv":
                    x = activated(nn.Conv(values[0], (3, 3), **options)(x), values[1])
                elif kind == "pool":
                    x = nn.max_pool(x, (2, 2), (2, 2))
                elif kind == "flatten":
                    x = x.reshape(x.shape[0], -1)
                elif kind == "batch_norm":
                    x = nn.BatchNorm(use_running_average=not train, momentum=0.99, epsilon=1e-3, dtype=dtype)(x)
                elif kind == "dropout":
                    x = dropout(values[0], x, train)
                elif kind == "lstm":
                    x = jnp.asarray(nn.RNN(nn.OptimizedLSTMCell(values[0], **options))(x))[:, -1]
                else:
                    raise ValueError(f"a network has no layer of the kind {kind!r}.")
            return x.astype(jnp.float32)

    return Net()


def activated(x: jax.Array, activation: str | None) -> jax.Array:
    return x if activation is None else getattr(jax.nn, activation)(x)


def optimizer(work: Any) -> optax.GradientTransformation:
    """The optimizer in optax."""
    rate = work.rate
    if work.decay_steps:
        rate = lambda step: work.rate / (1 + step / work.decay_steps)  # noqa: E731
    return {"adam": optax.adam, "sgd": optax.sgd}[work.optimizer](rate)
