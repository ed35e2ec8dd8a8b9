"""Linen modules: dropout whose rate may be traced, and two plain networks built with it.

They are called as `module(x, train=...)`. A `Task` also takes any other Linen or NNX module.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array
from jax.core import Tracer

from flaxfit.arguments import unknown
from flaxfit.rng import random_bits
from flaxfit.shapes import Batch, Hidden, Logits

# fmt: off
_ACTIVATIONS = (
    "celu", "elu", "gelu", "hard_sigmoid", "hard_silu", "hard_swish", "hard_tanh", "identity", "leaky_relu", "log_sigmoid", "mish",
    "relu", "relu6", "selu", "sigmoid", "silu", "soft_sign", "softplus", "squareplus", "swish", "tanh",
)
# fmt: on
_INITIALIZERS = ("glorot_normal", "glorot_uniform", "he_normal", "he_uniform", "lecun_normal", "lecun_uniform")


class Dropout(nn.Module):
    """Dropout (Srivastava et al. 2014) whose rate may be traced, so that a change of the rate does not cause another compilation.

    In training, each entry is set to zero with probability `rate`, and the others are divided by 1 - rate. With a traced rate of 0, the
    output equals the input to the bit. The mask is a keyed hash of each entry's position, which is several times faster on a CPU than
    `jax.random.bernoulli`.

    Attributes:
      rate: the fraction of entries that is dropped, in [0, 1).
      classic: whether to scale in evaluation instead, as in the paper: the entries that training keeps stay as they are, and evaluation
        multiplies all entries by the kept share, 1 - rate. The default is the inverted form of Keras and Flax, which leaves evaluation
        alone. The mean of an entry is the same in training as in evaluation with both, but the classic form's is 1 - rate times as large.

    Raises:
      ValueError: the rate is outside [0, 1). A traced rate is not checked.

    Example:
      >>> dropped = Dropout(0.5).apply({}, jnp.ones((2, 4)), train=True, rngs={"dropout": jax.random.key(0)})
      >>> sorted(set(dropped.ravel().tolist()))
      [0.0, 2.0]
    """

    rate: Any
    classic: bool = False

    def __post_init__(self) -> None:
        check_rate(self.rate)
        super().__post_init__()

    @nn.compact
    def __call__(self, x: Hidden, *, train: bool) -> Hidden:
        """Returns `x`, with entries dropped if `train` is true. The mask is drawn from the random stream "dropout"."""
        if (not train and not self.classic) or (isinstance(self.rate, int | float) and self.rate == 0):
            return x
        rate = jnp.asarray(self.rate, jnp.float32)
        if not train:
            return (x * (1 - rate)).astype(x.dtype)
        bits = random_bits(self.make_rng("dropout"), x.shape)
        kept = x if self.classic else x * (1 / (1 - rate))
        return jnp.where(bits >= (rate * 2.0**32).astype(jnp.uint32), kept, 0).astype(x.dtype)


class _Layers(nn.Module, kw_only=True):
    """The attributes and layers that `MLP` and `CNN` share."""

    activation: str | Callable[[Array], Array] = "relu"
    dropout: Any = 0.0
    batch_norm: bool | Literal["before", "after"] = False
    initializer: str | Callable[..., Array] = "glorot_uniform"
    dtype: Any = None

    def __post_init__(self) -> None:
        check_rate(self.dropout)
        if isinstance(getattr(self, "hidden", ()), int):
            raise ValueError("hidden must be a sequence of layer widths, such as (16,) for one layer of 16 units, got a number.")
        _named("activation", self.activation, _ACTIVATIONS, jax.nn)
        _named("initializer", self.initializer, _INITIALIZERS, nn.initializers)
        if self.batch_norm not in (False, True, "before", "after"):
            raise ValueError(f'batch_norm must be False, True, "before" or "after" (the activation), got {self.batch_norm!r}.')
        super().__post_init__()

    def _activated(self, x: Hidden, train: bool) -> Hidden:
        def normalized(x: Array) -> Array:  # Keras's defaults
            return nn.BatchNorm(use_running_average=not train, momentum=0.99, epsilon=1e-3, dtype=self.dtype)(x)

        x = normalized(x) if self.batch_norm in (True, "before") else x
        x = _named("activation", self.activation, _ACTIVATIONS, jax.nn)(x)
        return normalized(x) if self.batch_norm == "after" else x

    def _options(self) -> dict[str, Any]:
        initializer = _named("initializer", self.initializer, _INITIALIZERS, nn.initializers)
        return {"kernel_init": initializer() if isinstance(self.initializer, str) else initializer, "dtype": self.dtype}

    def _dense(self, x: Batch, hidden: Sequence[int], outputs: int, train: bool) -> Logits:
        x = x.reshape(x.shape[0], math.prod(x.shape[1:]))
        for width in hidden:
            x = self._activated(nn.Dense(width, **self._options())(x), train)
            x = Dropout(self.dropout)(x, train=train)
        return nn.Dense(outputs, **self._options())(x)


class MLP(_Layers):
    """A multilayer perceptron: dense layers with activation and dropout, then a dense layer that returns the logits.

    Attributes:
      hidden: the number of units of each hidden layer. It may be empty.
      outputs: the number of logits for each example: 1 for two classes or for regression, else the number of classes.
      activation: the name of a function of `jax.nn`, or a function.
      dropout: the dropout rate after each hidden layer, in [0, 1). It may be traced.
      batch_norm: False for none, or where batch norm is applied: "before" (or True) or "after" the activation. Its momentum is 0.99 and its
        epsilon 0.001, as in Keras.
      initializer: how kernels are initialized: "glorot_uniform" (Keras's default), "glorot_normal", "he_...", "lecun_...", or a function.
        Biases start at 0.
      dtype: the type of the computations, such as `jnp.bfloat16`. Parameters are always float32.

    Raises:
      ValueError: an activation or initializer is unknown, or the dropout rate is outside [0, 1).

    Example:
      >>> model = MLP((16, 16), 1, activation="elu", dropout=0.5)
      >>> variables = model.init(jax.random.key(0), jnp.ones((5, 28)), train=False)
      >>> model.apply(variables, jnp.ones((5, 28)), train=False).shape
      (5, 1)
    """

    hidden: Sequence[int]
    outputs: int

    @nn.compact
    def __call__(self, x: Batch, *, train: bool) -> Logits:
        """Returns logits of shape (rows, outputs). All axes of x but the first are flattened."""
        return self._dense(x, self.hidden, self.outputs, train)


class CNN(_Layers):
    """A small convolutional network: 3 x 3 convolutions, each with activation and 2 x 2 max pooling, then dense layers as in `MLP`.

    Attributes:
      features: the number of channels of each convolution.
      hidden: the number of units of each hidden dense layer.
      outputs: the number of logits for each example.

    The other attributes are those of `MLP`. Batch norm is applied to the convolutions as well, dropout only after hidden dense layers.

    Raises:
      ValueError: as `MLP`; and when it is called, the images are too small for so many poolings.

    Example:
      >>> model = CNN((8, 16), (32,), 10)
      >>> shapes = jax.eval_shape(lambda: model.init(jax.random.key(0), jnp.ones((1, 28, 28)), train=False))
      >>> shapes["params"]["Dense_0"]["kernel"].shape  # 7 x 7 pixels of 16 channels
      (784, 32)
    """

    features: Sequence[int]
    hidden: Sequence[int]
    outputs: int

    @nn.compact
    def __call__(self, x: Batch, *, train: bool) -> Logits:
        """Returns logits of shape (rows, outputs) for images of shape (rows, height, width) or (rows, height, width, channels)."""
        x = x[..., None] if x.ndim == 3 else x
        if x.ndim != 4 or min(x.shape[1:3]) < 2 ** len(self.features):
            raise ValueError(
                f"CNN needs images (rows, height, width[, channels]) that can be halved {len(self.features)} times, got shape {x.shape}."
            )
        for channels in self.features:
            x = self._activated(nn.Conv(channels, (3, 3), **self._options())(x), train)
            x = nn.max_pool(x, (2, 2), (2, 2))
        return self._dense(x, self.hidden, self.outputs, train)


def check_rate(rate: Any) -> None:
    """Checks that a dropout rate lies in [0, 1). A traced rate is not checked."""
    if not isinstance(rate, Tracer) and not 0 <= rate < 1:
        raise ValueError(f"a dropout rate must be at least 0 and below 1, got {rate!r}.")


def _named(kind: str, value: Any, known: Sequence[str], home: Any) -> Callable[..., Any]:
    if callable(value):
        return value
    if value not in known:
        raise ValueError(unknown(kind, str(value), known))
    return getattr(home, value)
