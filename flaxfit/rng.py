"""Random numbers as functions of the seed and the position: named streams of keys, and a 32-bit hash.

Nothing random is stored. A key is the run's root key, folded with the CRC-32 of the stream's name and then with the step or the epoch. So
a run that is resumed draws the same numbers as a run that was never interrupted.
"""

from __future__ import annotations

import math
import zlib
from types import ModuleType
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from flaxfit.shapes import Key


def stream(root: Key, name: str) -> Key:
    """Returns the key of the random stream called `name`.

    Args:
      root: the root key of the run, `jax.random.key(seed)`.
      name: any text, such as `"dropout"`.

    Returns:
      A key. Fold the step or the epoch into it.

    Example:
      >>> import jax
      >>> root = jax.random.key(0)
      >>> bool(stream(root, "dropout") == stream(root, "dropout"))
      True
      >>> bool(stream(root, "dropout") == stream(root, "order"))
      False
    """
    return jax.random.fold_in(root, zlib.crc32(name.encode()))


def key_shape() -> Any:
    """Returns the shape and type of a root key, for programs that are traced."""
    return _root.eval_shape()  # JAX traces one function once


@jax.jit
def _root() -> Key:
    return jax.random.key(0)


def mix32(value: Any, first: Any, second: Any, xp: ModuleType = jnp) -> Any:
    """Computes a keyed hash of 32-bit words, with the same result in `jax.numpy` and NumPy.

    The multipliers and shifts are those of "lowbias32" by Wellons (2018, "Prospecting for hash functions"), which has the lowest known
    avalanche bias of its form. The second key word enters between the multiplications. Otherwise another key would only give the same
    words in another order. The hash is not for cryptography.

    Args:
      value: the counters, uint32 array.
      first: the first key word, uint32, broadcastable to `value`.
      second: the second key word, uint32, broadcastable to `value`.
      xp: `jax.numpy` or `numpy`.

    Returns:
      A uint32 array of the broadcast shape.
    """
    value = value ^ first
    value = value ^ (value >> xp.uint32(16))
    value = value * xp.uint32(0x7FEB352D)
    value = value ^ second
    value = value ^ (value >> xp.uint32(15))
    value = value * xp.uint32(0x846CA68B)
    return value ^ (value >> xp.uint32(16))


def random_bits(key: Key, shape: tuple[int, ...]) -> Array:
    """Returns uniform 32-bit words as a hash of the position, which on a CPU is several times faster than JAX's threefry."""
    first, second, *rest = jax.random.key_data(key).ravel()
    for word in rest:  # Keys of other kinds than threefry are longer. "rbg" repeats its words, so that xor would cancel them.
        first, second = second, mix32(word, second, first)
    return mix32(jax.lax.iota(jnp.uint32, math.prod(shape)).reshape(shape), first, second)
