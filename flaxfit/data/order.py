"""The order of the examples: which row is at which position of an epoch.

`jax.random.permutation` sorts twice, which on a CPU takes longer than a whole epoch of a small model. A Feistel network is a bijection for
any round function. It needs no sort and no table, and computes the row at any position alone, so the rows of a batch are computed where
they are used. Luby and Rackoff (1988) show that four rounds with random round functions cannot be distinguished from a random
permutation if the halves are large. How many rounds small data sets need was measured; tests/data/test_order.py repeats that.
"""

from __future__ import annotations

import math
from types import ModuleType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from flaxfit.rng import bits, fold_in, mix32, stream
from flaxfit.shapes import Key, Positions, RoundKeys, Step


def _rounds(rows: int) -> int:
    """Returns the number of rounds. Fewer than 24 are measurably uneven for 6 and 7 rows, fewer than 12 for 13; 8 are even from 17 on."""
    return 24 if rows < 32 else 8


def round_keys(root: Key, epoch: Step, rows: int) -> RoundKeys:
    """Returns the key words of the order of `rows` rows in one epoch: uint32, shape (rounds, 2)."""
    return keys_of(stream(root, "order"), epoch, rows)


def keys_of(key: Key, epoch: Step, rows: int) -> RoundKeys:
    """Returns what `round_keys` does, for the key of the random stream "order"."""
    return bits(fold_in(key, epoch), (_rounds(rows), 2))


def _halves(rows: int) -> tuple[int, int]:
    """Returns two nearly equal factors whose product is at least `rows` and as close to it as possible."""
    root = math.isqrt(rows - 1) + 1
    lowest = -(-2 * root // 3) if rows > 3 else root  # A half of one value would only rotate the other half.
    return min(((a, -(-rows // a)) for a in range(lowest, root + 1)), key=lambda f: (f[0] * f[1], -f[0]))


def _permute(index: Any, keys: Any, halves: tuple[int, int], xp: ModuleType) -> Any:
    """Applies the Feistel network to `range(a * b)` once. Additions modulo the size of a half keep it a bijection."""

    def two_rounds(number: Any, pair: tuple[Any, Any]) -> tuple[Any, Any]:
        left, right = pair
        for add, size in enumerate(halves):
            first, second = keys[2 * number + add, 0], keys[2 * number + add, 1]
            # The high 16 bits, scaled: a division would cost more than the whole round.
            shift = ((mix32(right, first, second, xp) >> xp.uint32(16)) * xp.uint32(size)) >> xp.uint32(16)
            moved = left + shift
            left, right = right, xp.where(moved >= size, moved - xp.uint32(size), moved)
        return left, right

    pair = index // xp.uint32(halves[1]), index % xp.uint32(halves[1])
    if xp is jnp:  # on a CPU a loop, which is compiled in a fraction of the time and no slower; elsewhere each round would start kernels
        pair = jax.lax.fori_loop(0, len(keys) // 2, two_rounds, pair, unroll=jax.default_backend() != "cpu")
    else:
        for number in range(len(keys) // 2):
            pair = two_rounds(number, pair)
    return pair[0] * xp.uint32(halves[1]) + pair[1]


def shuffled(positions: Positions, keys: RoundKeys, rows: int) -> Positions:
    """Returns the rows at `positions` of the epoch whose round keys are `keys`.

    Args:
      positions: integers in [0, rows) of any shape, in NumPy or JAX.
      keys: what `round_keys` returned; a NumPy array for NumPy positions.
      rows: the number of rows of the data set, at most 2**32.

    Returns:
      Row numbers of the same shape, int32 for JAX and int64 for NumPy. All positions together have each row once.

    Example:
      >>> import jax, numpy as np
      >>> keys = round_keys(jax.random.key(0), epoch=3, rows=10)
      >>> order = shuffled(np.arange(10), np.asarray(keys), 10)
      >>> sorted(order.tolist()) == list(range(10))
      True
      >>> bool((shuffled(jax.numpy.arange(10), keys, 10) == order).all())
      True
    """
    halves = _halves(rows)
    walks = halves[0] * halves[1] > rows
    if isinstance(positions, Array):
        index = _permute(positions.astype(jnp.uint32), keys, halves, jnp)
        if walks:  # Cycle walking (Black and Rogaway 2002): permute again until the result is a row.
            index = jax.lax.while_loop(
                lambda at: jnp.any(at >= rows),
                lambda at: jnp.where(at >= rows, _permute(at, keys, halves, jnp), at),
                index,
            )
        return index.astype(jnp.int32)
    index = _permute(np.asarray(positions, np.uint32), keys, halves, np)
    while walks and np.any(index >= rows):
        index = np.where(index >= rows, _permute(index, keys, halves, np), index)
    return index.astype(np.int64)


def drawn(key: Key, step: Step, batch: int, rows: int) -> Positions:
    """Returns the rows that step `step` of a run draws with replacement: int32, shape (batch,)."""
    return jax.random.randint(fold_in(stream(key, "draw"), step), (batch,), 0, rows)
