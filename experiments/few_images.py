"""The deep network of the studies of 300 images of MNIST, and how it is trained."""

from __future__ import annotations

import functools
from typing import Any, Literal

import flaxfit as ff

ROWS, BATCH, RATE = 300, 100, 0.01
Places = Literal["one layer", "all layers"]
"""Where dropout is: before the last dense layer only, or after each hidden layer."""


def deep(width: int = 100, rate: Any = 0.0, places: Places = "all layers", classic: bool = False) -> Any:
    """Returns a 784-(width x 6)-10 network with ReLU, He initialization and `flaxfit.nn.Dropout`."""
    return _module()(width, rate, places, classic)


def by_sgd(model: Any, **options: Any) -> ff.Task:
    """Returns the source's task, of which the first two steps change nothing.

    The source records after the first update and then after every third one, flaxfit at the end of an epoch of three steps.
    """
    import optax

    rate = optax.join_schedules([optax.constant_schedule(0.0), optax.constant_schedule(RATE)], [2])
    return _task(model, optax.sgd(rate), **options)


def by_adam(model: Any) -> ff.Task:
    """Returns the task of the studies that train to the end, with dropout too."""
    import optax

    return _task(model, optax.adam(1e-3, eps=1e-7))


def _task(model: Any, optimizer: Any, **options: Any) -> ff.Task:
    metrics, scale = {"accuracy": ff.metrics.categorical_accuracy}, ff.data.rescale(255)
    return ff.Task(model, ff.losses.categorical_crossentropy, optimizer, metrics=metrics, preprocess=scale, **options)


@functools.cache
def _module() -> Any:
    import flax.linen as nn

    class Deep(nn.Module):
        width: int
        rate: Any
        places: Places
        classic: bool

        @nn.compact
        def __call__(self, x, *, train):
            he, x = nn.initializers.he_normal(), x.reshape(len(x), -1)
            for layer in range(6):
                x = nn.relu(nn.Dense(self.width, kernel_init=he)(x))
                if self.places == "all layers" or layer == 5:
                    x = ff.nn.Dropout(self.rate, self.classic)(x, train=train)
            return nn.Dense(10, kernel_init=he)(x)

    return Deep
