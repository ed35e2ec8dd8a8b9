"""Batch order: which row stands at which position of an epoch.

`jax.random.permutation` sorts twice, which on a CPU takes longer than a small model's whole epoch. A Feistel network is a bijection
for any round function: it needs no sort and no table, and gives the row at any position alone, so a batch's rows are computed where
they are used. Luby and Rackoff (1988) show that four rounds with random round functions cannot be told from a random
permutation when the halves are large; how many rounds small data sets need was measured (tests/data/test_order.py repeats it).
"""

from __future__ import annotations

import math
from types import ModuleType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from flaxfit.rng import mix32, stream
from flaxfit.shapes import Key, Positions, RoundKeys, Step


def _rounds(rows: int) -> int:
    """Fewer than 24 rounds are measurably uneven on 6 and 7 rows, fewer than 12 on 13, and 8 are even from 17 rows on."""
    return 24 if rows < 32 else 8


def round_keys(root: Key, epoch: Step, rows: int) -> RoundKeys:
    """The key words of one epoch's order of `rows` rows: uint32, shape (rounds, 2)."""
    return jax.random.bits(jax.random.fold_in(stream(root, "order"), epoch), (_rounds(rows), 2), jnp.uint32)


def _halves(rows: int) -> tuple[int, int]:
    """Two near-equal factors whose product is at least `rows`, by as little as possible (0: no position is ever walked)."""
    root = math.isqrt(rows - 1) + 1
    lowest = -(-2 * root // 3) if rows > 3 else root  # a half of one value would only rotate the other
    return min(((a, -(-rows // a)) for a in range(lowest, root + 1)), key=lambda f: (f[0] * f[1], -f[0]))


def _permute(index: Any, keys: Any, halves: tuple[int, int], xp: ModuleType) -> Any:
    """One pass of the Feistel network over `range(a * b)`; additions modulo a half's size keep it a bijection."""
    left, right = index // xp.uint32(halves[1]), index % xp.uint32(halves[1])
    for number in range(len(keys)):
        size = halves[number % 2]
        # The high 16 bits, scaled: a division would cost more than the whole round.
        shift = ((mix32(right, keys[number, 0], keys[number, 1], xp) >> xp.uint32(16)) * xp.uint32(size)) >> xp.uint32(16)
        moved = left + shift
        left, right = right, xp.where(moved >= size, moved - xp.uint32(size), moved)
    return left * xp.uint32(halves[1]) + right


def shuffled(positions: Positions, keys: RoundKeys, rows: int) -> Positions:
    """The rows at `positions` of the epoch whose `round_keys` are `keys`.

    Args:
      positions: integers in [0, rows), any shape; NumPy or JAX.
      keys: what `round_keys` returned; a NumPy array for NumPy positions.
      rows: how many rows the data set has, at most 2**32.

    Returns:
      Row numbers, int32 for JAX and int64 for NumPy, of the same shape. Over all positions each row comes once.

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
        if walks:  # cycle walking (Black and Rogaway 2002): go on from a position that is no row until one is
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
    """`batch` rows drawn with replacement at the run's step `step`: int32, shape (batch,)."""
    return jax.random.randint(jax.random.fold_in(stream(key, "draw"), step), (batch,), 0, rows)
