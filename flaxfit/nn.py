"""Linen modules: dropout whose rate may be traced, and two plain networks built with it. All are called as `module(x, train=...)`.

A module of Flax's newer NNX interface is trained through Flax's own bridge:

>>> import flaxfit as ff, numpy as np, optax
>>> from flax import nnx
>>> class Net(nnx.Module):
...     def __init__(self, rngs: nnx.Rngs):
...         self.hidden, self.last = nnx.Linear(2, 8, rngs=rngs), nnx.Linear(8, 1, rngs=rngs)
...     def __call__(self, x, *, train):
...         return self.last(nnx.relu(self.hidden(x)))
>>> task = ff.Task(model=nnx.bridge.ToLinen(Net), loss=ff.losses.mse, optimizer=optax.adam(1e-2))
>>> x = np.eye(2)[[0, 1] * 10]
>>> ff.fit(task, ff.Dataset(x, x[:, 0]), epochs=2, batch_size=10).stop_reason
'epochs'
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
    """Inverted dropout (Srivastava et al. 2014) whose rate may be traced, so that another rate compiles nothing.

    Each entry is zero with chance `rate`, the others are divided by 1 - rate. A traced rate of 0 gives its input bit for bit. The mask
    is a keyed hash of the entry's position, several times faster on a CPU than `jax.random.bernoulli`.

    Attributes:
      rate: the share that is dropped, in [0, 1).

    Raises:
      ValueError: a concrete rate outside [0, 1).

    Example:
      >>> dropped = Dropout(0.5).apply({}, jnp.ones((2, 4)), train=True, rngs={"dropout": jax.random.key(0)})
      >>> sorted(set(dropped.ravel().tolist()))
      [0.0, 2.0]
    """

    rate: Any

    def __post_init__(self) -> None:
        check_rate(self.rate)
        super().__post_init__()

    @nn.compact
    def __call__(self, x: Hidden, *, train: bool) -> Hidden:
        """`x` with entries dropped if `train`, else `x`; draws from the stream "dropout"."""
        if not train or (isinstance(self.rate, int | float) and self.rate == 0):
            return x
        rate = jnp.asarray(self.rate, jnp.float32)
        bits = random_bits(self.make_rng("dropout"), x.shape)
        return jnp.where(bits >= (rate * 2.0**32).astype(jnp.uint32), x * (1 / (1 - rate)), 0).astype(x.dtype)


class _Layers(nn.Module, kw_only=True):
    """What `MLP` and `CNN` share."""

    activation: str | Callable[[Array], Array] = "relu"
    dropout: Any = 0.0
    batch_norm: bool | Literal["before", "after"] = False
    initializer: str | Callable[..., Array] = "glorot_uniform"
    dtype: Any = None

    def __post_init__(self) -> None:
        check_rate(self.dropout)
        if isinstance(getattr(self, "hidden", ()), int):
            raise ValueError("hidden is a sequence of layer widths, such as (16,) for one layer of 16 units, got a number.")
        _named("activation", self.activation, _ACTIVATIONS, jax.nn)
        _named("initializer", self.initializer, _INITIALIZERS, nn.initializers)
        if self.batch_norm not in (False, True, "before", "after"):
            raise ValueError(f'batch_norm is False, True, "before" or "after" (the activation), got {self.batch_norm!r}.')
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
    """Dense layers: for each of `hidden` dense, activation and dropout, then a dense layer of `outputs` logits.

    Attributes:
      hidden: units of each hidden layer; may be empty.
      outputs: logits a row: 1 for two classes or one number, else the classes.
      activation: a name from `jax.nn`, or a function.
      dropout: rate after each hidden layer, in [0, 1), may be traced.
      batch_norm: False, "before" (or True) or "after" the activation; momentum 0.99 and epsilon 0.001, as in Keras.
      initializer: of kernels: "glorot_uniform" (Keras's default), "glorot_normal", "he_...", "lecun_...", or a function; biases start at 0.
      dtype: what is computed in, such as `jnp.bfloat16`; parameters stay float32.

    Raises:
      ValueError: a name that is not known, or a concrete rate outside [0, 1).

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
        """Logits of shape (rows, outputs); the axes of a row are flattened."""
        return self._dense(x, self.hidden, self.outputs, train)


class CNN(_Layers):
    """A small convolutional network: for each of `features` a 3 x 3 convolution, activation and 2 x 2 max pooling, then an `MLP`.

    Attributes:
      features: channels of each convolution.
      hidden: units of each hidden dense layer.
      outputs: logits a row.

    The other attributes are those of `MLP`; batch norm is in the convolutions as well, dropout after the hidden dense layers only.

    Raises:
      ValueError: as `MLP`; when called, images too small to be halved so often.

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
        """Logits of shape (rows, outputs), of images of shape (rows, height, width) or (rows, height, width, channels)."""
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
    """That a concrete dropout rate lies in [0, 1)."""
    if not isinstance(rate, Tracer) and not 0 <= rate < 1:
        raise ValueError(f"a dropout rate is the share that is dropped, from 0 to below 1, got {rate!r}.")


def _named(kind: str, value: Any, known: Sequence[str], home: Any) -> Callable[..., Any]:
    if callable(value):
        return value
    if value not in known:
        raise ValueError(unknown(kind, str(value), known))
    return getattr(home, value)
