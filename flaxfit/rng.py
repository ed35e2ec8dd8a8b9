"""Randomness as a function of position: named key streams and a 32-bit mixing hash.

Nothing random is ever stored. A key is the run's root folded with the CRC-32 of a stream's name, then with a position (a step,
an epoch), so a run that stops and goes on draws what it would have drawn.
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
    """The key of the stream called `name`.

    Args:
      root: the run's key, `jax.random.key(seed)`.
      name: any text, such as `"dropout"`.

    Returns:
      A key; fold the step or the epoch into it.

    Example:
      >>> import jax
      >>> root = jax.random.key(0)
      >>> bool(stream(root, "dropout") == stream(root, "dropout"))
      True
      >>> bool(stream(root, "dropout") == stream(root, "order"))
      False
    """
    return jax.random.fold_in(root, zlib.crc32(name.encode()))


def mix32(value: Any, first: Any, second: Any, xp: ModuleType = jnp) -> Any:
    """A keyed hash of 32-bit words: two multiplications and three shifts, the same in `jax.numpy` and NumPy.

    The multipliers and shifts are "lowbias32" of Wellons (2018, "Prospecting for hash functions"), whose measured avalanche bias is
    the lowest known of that form; the second key word enters between the multiplications, so that two keys give more than a
    re-numbering of the same words. Not for cryptography.

    Args:
      value: uint32 array, the counter.
      first: uint32 key word, broadcastable to `value`.
      second: uint32 key word, likewise.
      xp: `jax.numpy` or `numpy`.

    Returns:
      uint32 array of the broadcast shape.
    """
    value = value ^ first
    value = value ^ (value >> xp.uint32(16))
    value = value * xp.uint32(0x7FEB352D)
    value = value ^ second
    value = value ^ (value >> xp.uint32(15))
    value = value * xp.uint32(0x846CA68B)
    return value ^ (value >> xp.uint32(16))


def random_bits(key: Key, shape: tuple[int, ...]) -> Array:
    """Uniform 32-bit words, as a hash of the position: threefry takes as long as a matrix product on a CPU. Not for cryptography."""
    first, second, *rest = jax.random.key_data(key).ravel()
    for word in rest:  # keys of other kinds than threefry; "rbg" repeats its words, so xor would cancel them
        first, second = second, mix32(word, second, first)
    return mix32(jax.lax.iota(jnp.uint32, math.prod(shape)).reshape(shape), first, second)
