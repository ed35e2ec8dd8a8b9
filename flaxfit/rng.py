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
    return fold_in(root, zlib.crc32(name.encode()))


def fold_in(key: Key, number: Any) -> Key:
    """Returns what `jax.random.fold_in` does, faster in a loop and compiled sooner on a CPU, where JAX loops over the rounds of threefry.

    Args:
      key: a key of any kind. Those of other kinds than JAX's default are left to JAX.
      number: an integer, which may be traced.
    """
    if not _is_threefry(key):
        return jax.random.fold_in(key, number)
    words = _threefry(*jax.random.key_data(key), jnp.zeros((), jnp.uint32), jnp.asarray(number, dtype=jnp.uint32))
    return jax.random.wrap_key_data(jnp.stack(words), impl=jax.random.key_impl(key))


def bits(key: Key, shape: tuple[int, ...]) -> Array:
    """Returns what `jax.random.bits` does for 32-bit words, as `fold_in`."""
    size = math.prod(shape)
    if not _is_threefry(key) or size >= 2**32 or not jax.config.values["jax_threefry_partitionable"]:
        return jax.random.bits(key, shape, jnp.uint32)
    counts = jax.lax.iota(jnp.uint32, size).reshape(shape)
    first, second = _threefry(*jax.random.key_data(key), jnp.zeros_like(counts), counts)
    return first ^ second


def _is_threefry(key: Key) -> bool:
    return jnp.issubdtype(key.dtype, jax.dtypes.prng_key) and str(jax.random.key_impl(key)) == "threefry2x32"


@jax.jit
def _threefry(key_first: Array, key_second: Array, first: Array, second: Array) -> tuple[Array, Array]:
    """Computes the block cipher Threefry-2x32 with 20 rounds (Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3")."""
    keys = key_first, key_second, key_first ^ key_second ^ jnp.uint32(0x1BD11BDA)
    first, second = first + keys[0], second + keys[1]
    for group in range(5):
        for left in ((13, 15, 26, 6), (17, 29, 16, 24))[group % 2]:
            first = first + second
            second = first ^ (second << jnp.uint32(left) | second >> jnp.uint32(32 - left))
        first, second = first + keys[(group + 1) % 3], second + keys[(group + 2) % 3] + jnp.uint32(group + 1)
    return jax.lax.optimization_barrier((first, second))  # else each kernel that uses a word computes it anew


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
