"""Does a noisy learning curve end above its lowest part? A test that runs in NumPy after a run and in JAX inside it.

A curve is cut into fewer than 128 blocks of equally many epochs and judged by the blocks' means. Two windows are compared: the last
few blocks, and earlier ones. Their difference is divided by its standard error, and the largest such ratio over several widths and all
places of the earlier window is the statistic. Selecting the lowest window is what fools the eye; here it is part of the null
distribution, from which the critical values were taken by simulation (`experiments/diagnosis.py` measures what they give).

The standard error is taken near the two windows, because noise grows in some runs and falls where the learning rate does. It has two parts:
the spread of blocks around local lines, and a factor for correlation between neighboring blocks. Noise with correlation p has means
that vary sqrt((1 + p) / (1 - p)) times as much as those of white noise. p is taken from the residuals of a line with one bend, with a
margin for its bias, which shrinks as 1 / blocks. A curve is also judged without its first eighths, because a jump, such as that of a
learning rate that is lowered, would otherwise count as noise and as correlation. Each way to look that is likely to be fooled (narrow
windows, short pieces) has a price: a factor on the critical value. Prices and critical values were searched for with simulated curves
(noise that is white, correlated, growing or heavy-tailed; rises of two standard deviations; rises after drops).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

CAPACITY = 128
"""Blocks are merged in pairs when there are this many."""

_PRICES = {2: 1.0, 3: 1.0, 4: 1.0, 8: 1.4, 16: 1.8, 32: 2.4}  # a window is this part of the curve -> its price
_FIRST, _LAST = np.array([(a, b) for a in _PRICES for b in _PRICES if b > 2]).T[..., None]
_PAIR_PRICE = np.vectorize(_PRICES.get)(np.maximum(_FIRST, _LAST))
_LOOKS = ((0, 1.0), (2, 2.3), (4, 2.0), (5, 1.95), (6, 1.5))  # eighths left out at the start, the price of looking so
# Blocks -> what 2% of flat curves exceed, 5% of those of fewer than 100 epochs whose noise correlates by 0.9.
_CRITICAL = ((16, 20, 30, 50, 80, 100), (6.6, 5.6, 5.0, 3.55, 3.65, 3.8))


def blocks(values: np.ndarray) -> tuple[np.ndarray, int]:
    """Means of blocks that end with the last epoch, and how many epochs a block has.

    Args:
      values: one number an epoch, shape (..., epochs).

    Returns:
      Fewer than `CAPACITY` means, shape (..., blocks), and a power of two. The first epochs that fill no block are left out.

    Example:
      >>> blocks(np.arange(257.0))[0][:3].tolist(), blocks(np.arange(257.0))[1]
      ([2.5, 6.5, 10.5], 4)
    """
    size = 1
    while values.shape[-1] // size >= CAPACITY:
        size *= 2
    count = values.shape[-1] // size
    return values[..., values.shape[-1] - count * size :].reshape(*values.shape[:-1], count, size).mean(-1), size


def rise(levels: Any, count: Any, xp: Any = np, over: Callable[..., Any] | None = None) -> tuple[Any, Any, Any, Any]:
    """Whether the end of a curve lies above its lowest part, beyond noise. Smaller is better.

    Args:
      levels: the curve or its blocks, shape (..., capacity), of which the first `count` are filled.
      count: how many, a number; traced or not.
      xp: numpy or jax.numpy.
      over: `jax.vmap`, which makes a smaller program of the looks than writing them one after the other.

    Returns:
      The statistic over its critical value: more than 1 is beyond noise. The first block of the lowest window, its width, and by what
      factor correlation widens the standard error of a mean. Shape (...) each.

    Example:
      >>> noise = np.random.default_rng(0).normal(size=60)
      >>> bool(rise(noise, 60)[0] > 1), bool(rise(noise + 0.1 * np.arange(60), 60)[0] > 1)
      (False, True)
    """
    levels = standardized(levels, count, xp)

    def look(skip: Any, price: Any) -> tuple[Any, ...]:
        first = count * skip // 8
        rest, piece = count - first, _after(levels, count, first, xp)
        ratio, start, width = _largest(piece, rest, xp)
        wider = widening(piece, rest, start, width, xp)
        ratio = ratio / (wider * price * critical(rest, xp))
        return xp.where((rest >= 8) | (skip == 0), ratio, -xp.inf), start + first, width, wider

    skips, prices = zip(*_LOOKS, strict=True)
    if over is not None:
        found = over(look)(xp.asarray(skips), xp.asarray(prices, levels.dtype))
    else:
        found = [xp.stack(each) for each in zip(*map(look, skips, prices), strict=True)]
    best = xp.argmax(found[0], 0)[None]
    return tuple(xp.take_along_axis(each, best, 0)[0] for each in found)  # pyright: ignore[reportReturnType]


def tamed(levels: Any) -> Any:
    """A whole curve, each value clipped to the range of its four nearest, widened by half on both sides: one wild epoch is no rise."""
    return _after(levels, levels.shape[-1], 0, np)


def change(levels: np.ndarray, width: int, earlier: int) -> float:
    """The level of the last `width` blocks above that of those from `earlier` on, in standard errors: `rise` for one given pair."""
    piece = tamed(levels[earlier:])
    first, spread = np.zeros((), int), errors(piece, width)
    wider = widening(piece, len(piece), first, np.asarray(width))
    difference = piece[-width:].mean() - piece[:width].mean()
    return float(difference / (np.sqrt(spread[0] ** 2 + spread[-1] ** 2 + _floor(levels)) * wider))


def lowest_and_last(levels: Any, count: Any, xp: Any = np) -> tuple[Any, Any, Any]:
    """The lowest mean of a sixteenth of the curve, where it begins, and the mean of the last sixteenth. Shape (...) each."""
    place, width = np.arange(levels.shape[-1]), xp.maximum(1, count // 16)
    first = levels[..., :1]  # small numbers, so that sums are exact enough in float32
    means = _mean(_sums(xp.where(place < count, levels - first, 0.0), xp), xp.minimum(place, count - width), width) + first
    start = xp.argmin(means, -1)
    return xp.take_along_axis(means, start[..., None], -1)[..., 0], start, means[..., -1]


def bottom(levels: np.ndarray, wider: float) -> tuple[int, int]:
    """The first and the last block where the lowest point of a curve that falls and then rises may be, given its noise.

    Each block is tried: the best curve that falls until there and rises from there on (isotonic regression, weighted by the noise
    near each block) may fit worse than the best of all by two, in units of the variance that `wider` tells. In the simulations of
    `experiments/diagnosis.py` the range holds the lowest point in at least nine of ten runs.
    """
    from scipy.optimize import isotonic_regression

    count = len(levels)
    around = int(_around(count, np))
    near = np.clip(np.arange(count) - around // 2, 0, count - around)[:, None] + np.arange(around)
    # The median, so that a steep fall beside it does not count as noise; that of a square of a normal variable is 0.455.
    weights = 1 / (np.median(_scatter(levels, count, 6, np)[near], 1) / 0.455 + _floor(levels))

    def misfit(piece: slice, rises: bool) -> float:
        fit = isotonic_regression(levels[piece], weights=weights[piece], increasing=rises).x
        return float((weights[piece] * (levels[piece] - fit) ** 2).sum())

    worse = np.array([misfit(slice(at), False) + misfit(slice(at, None), True) for at in range(1, count)])
    possible = np.flatnonzero(worse <= worse.min() + 2 * wider**2)
    return int(possible[0]), int(possible[-1])


def large(rise: Any, gain: Any, training_gain: Any = 0.0) -> Any:
    """Whether a rise of validation is large: more than 5% of the gain from its first epoch to its best.

    No shift of the metric's origin changes that. Where validation gained less than a tenth of what training did, as at a start that has not
    left the plateau of a constant predictor yet, that share is no measure: then the rise must be a quarter of what training gained.

    Example:
      >>> bool(large(0.1, 1.0)), bool(large(0.04, 1.0)), bool(large(0.1, 0.001, 1.0))
      (True, False, False)
    """
    return (rise > gain / 20) & ((gain >= training_gain / 10) | (rise > training_gain / 4))


def errors(levels: np.ndarray, width: int) -> np.ndarray:
    """The standard error of the mean of `width` blocks from each place on, in the curve's unit, as of noise without correlation."""
    count = len(levels)
    around = int(_around(count, np))
    squares = _mean(
        _sums(_scatter(levels, count, 6, np), np), np.clip(np.arange(count - width + 1) - around // 2, 0, count - around), around
    )
    return np.sqrt(squares / width)


def critical(count: Any, xp: Any = np) -> Any:
    """What the ratio of the largest difference to its standard error exceeds by chance."""
    return xp.interp(xp.asarray(count, float), *(xp.asarray(values, float) for values in _CRITICAL))


def standardized(levels: Any, count: Any, xp: Any = np) -> Any:
    """Less the median, over the median distance from it, so that the arithmetic is the same in all units and exact enough in float32."""
    valid = np.arange(levels.shape[-1]) < count

    def median(values: Any) -> Any:
        return xp.sort(xp.where(valid, values, xp.inf), -1)[..., count // 2, None]

    centered = xp.where(valid, levels - median(levels), 0.0)
    spread = median(abs(centered))
    mean = abs(centered).sum(-1, keepdims=True) / count
    spread = xp.where(spread > 1e-3 * mean, spread, mean)  # the median distance of a quantized score may be zero
    return xp.clip(centered / xp.where(spread > 0, spread, 1.0), -30.0, 30.0)


def _after(levels: Any, count: Any, first: Any, xp: Any) -> Any:
    """The curve from `first` on, tamed."""
    place = np.arange(levels.shape[-1])
    rest = count - first
    near = xp.clip(place - 2, 0, xp.maximum(rest - 5, 0)) + np.arange(5)[:, None]
    values = levels[..., xp.minimum(near + first, levels.shape[-1] - 1)]
    left_out = (near == place) | (near >= rest)
    low, high = xp.where(left_out, xp.inf, values).min(-2), xp.where(left_out, -xp.inf, values).max(-2)
    wider = (high - low) / xp.where(place < rest - 1, 2, 4)  # the last has no later ones to agree with
    piece = xp.clip(levels[..., xp.minimum(place + first, levels.shape[-1] - 1)], low - wider, high + wider)
    return xp.where(place < rest, piece, 0.0)


def _largest(levels: Any, count: Any, xp: Any) -> tuple[Any, Any, Any]:
    """The largest difference of the last window and an earlier one over its standard error and price; where that begins, how wide it is."""
    place = np.arange(levels.shape[-1])
    sums, squares = _sums(levels, xp), _sums(_scatter(levels, count, 3, xp), xp)
    earlier, last = xp.maximum(1, count // _FIRST), xp.maximum(1, count // _LAST)  # one row a pair of widths
    around = _around(count, xp)
    start = xp.clip(place, 0, xp.maximum(count - earlier - last, 0))
    at_end = xp.maximum(around, last)
    noise = _mean(squares, xp.clip(start - around // 8, 0, count - around), around) / earlier
    noise = noise + _mean(squares, count - at_end, at_end) / last
    difference = _mean(sums, count - last, last) - _mean(sums, start, earlier)
    ratio = xp.where(place <= count - earlier - last, difference / xp.sqrt(noise + _floor(levels)) / _PAIR_PRICE, -xp.inf)
    flat = ratio.reshape(*ratio.shape[:-2], -1)
    best = xp.argmax(flat, -1)
    width = xp.broadcast_to(earlier, ratio.shape[-2:]).reshape(-1)[best]
    return xp.take_along_axis(flat, best[..., None], -1)[..., 0], best % levels.shape[-1], width


def widening(levels: Any, count: Any, start: Any, width: Any, xp: Any = np) -> Any:
    """By what factor correlation widens the standard error of a mean, given the lowest window, where a line through the curve may bend."""
    place = np.arange(levels.shape[-1])
    bend = place - (start + 0.75 * width)[..., None]
    inside = ((place < count) & (place >= xp.minimum(start, count // 5)[..., None])).astype(levels.dtype)
    columns = [inside * xp.ones_like(levels), inside * bend, inside * xp.maximum(bend, 0)]
    residual, directions = inside * levels, []
    for column in columns:  # Gram and Schmidt
        for other in directions:
            column = column - _dot(column, other) * other
        length = _dot(column, column)
        directions.append(xp.where(length > 1e-4, column / xp.sqrt(xp.maximum(length, 1e-4)), 0.0))
        residual = residual - _dot(residual, directions[-1]) * directions[-1]
    ones = (residual[..., 1:] * residual[..., :-1]).sum(-1) / xp.maximum((residual**2).sum(-1), 1e-20)
    correlation = xp.clip(1.8 * ones - 0.35 + 12.5 / xp.maximum(count, 10), 0.0, 0.975)
    return xp.sqrt((1 + correlation) / (1 - correlation))


def _scatter(levels: Any, count: Any, part: Any, xp: Any) -> Any:
    """The squared distances from local lines, each through what follows a block, so that a jump before it does not count."""
    place = np.arange(levels.shape[-1])
    span = xp.minimum(xp.maximum(5, count // part), count)
    start = xp.clip(place, 0, count - span)
    middle = start + (span - 1) / 2
    center = (levels.shape[-1] - 1) / 2
    mean, moment = (_mean(_sums(values, xp), start, span) for values in (levels, levels * (place - center)))
    spread = xp.maximum((span**2 - 1) / 12, 1e-6)
    slope = (moment - (middle - center) * mean) / spread
    distance = levels - mean - slope * (place - middle)
    freedom = 1 - 1 / span - (place - middle) ** 2 / (spread * span)
    return xp.where(place < count, distance**2 / xp.maximum(freedom, 0.1), 0.0)


def _around(count: Any, xp: Any) -> Any:
    """How many blocks tell the noise near a window."""
    return xp.minimum(xp.maximum(4, 2 * count // 5), count)


def _floor(levels: Any) -> float:
    """The variance that rounding alone may leave of squares that are sums' differences."""
    return 1e3 * float(np.finfo(levels.dtype).eps)


def _sums(values: Any, xp: Any) -> Any:
    return xp.concatenate([xp.zeros_like(values[..., :1]), xp.cumsum(values, -1)], -1)


def _mean(sums: Any, start: Any, width: Any) -> Any:
    return (sums[..., start + width] - sums[..., start]) / width


def _dot(a: Any, b: Any) -> Any:
    return (a * b).sum(-1)[..., None]
