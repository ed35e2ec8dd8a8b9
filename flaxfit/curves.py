"""Does a noisy learning curve end above its lowest part? A test that runs in NumPy after a run and in JAX inside it.

A curve is divided into fewer than 128 blocks of equal length, and the means of the blocks are tested. Two windows are compared: the last
blocks, and earlier ones. Their difference is divided by its standard error. The statistic is the largest such ratio over several widths
and all places of the earlier window. Because the lowest window is selected, critical values come from simulations in which it is selected
in the same way (`experiments/diagnosis.py` measures the resulting error rates).

The standard error is estimated near the two windows, because noise may grow during a run, and shrinks when the learning rate is lowered.
It has two parts: the spread of blocks around local lines, and a factor for the correlation of neighboring blocks. With a correlation of
p, means vary sqrt((1 + p) / (1 - p)) times as much as those of white noise. p is estimated from the residuals of a line with one bend,
with a margin for its bias, which is proportional to 1 / blocks. The curve is also tested without its first eighths, because a jump, such
as after a lower learning rate, would otherwise count as noise and as correlation. Tests with more false alarms (narrow windows, short
pieces) have a higher threshold: a factor on the critical value. Factors and critical values were fitted to simulated curves (white,
correlated, growing and heavy-tailed noise; rises of two standard deviations; rises after drops).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

CAPACITY = 128  # blocks are merged in pairs when there are this many

_FACTORS = {2: 1.0, 3: 1.0, 4: 1.0, 8: 1.4, 16: 1.8, 32: 2.4}  # width of a window as a part of the curve -> factor on the threshold
_FIRST, _LAST = np.array([(a, b) for a in _FACTORS for b in _FACTORS if b > 2]).T[..., None]
_PAIR_FACTOR = np.vectorize(_FACTORS.get)(np.maximum(_FIRST, _LAST))
_PIECES = ((0, 1.0), (2, 2.3), (4, 2.0), (5, 1.95), (6, 1.5))  # eighths left out at the start, factor on the threshold
# Blocks -> the value that 2% of flat curves exceed (5% with fewer than 100 epochs and noise with a correlation of 0.9).
_CRITICAL = ((16, 20, 30, 50, 80, 100), (6.6, 5.6, 5.0, 3.55, 3.65, 3.8))
_MISFIT = ((50, 100), (1.1, 1.7))  # blocks -> the misfit, in units of the variance, up to which a block may be the lowest


def blocks(values: np.ndarray) -> tuple[np.ndarray, int]:
    """Returns the means of blocks that end with the last epoch, and the number of epochs in a block.

    Args:
      values: one number for each epoch, shape (..., epochs).

    Returns:
      Fewer than `CAPACITY` means, shape (..., blocks), and a power of two. The first epochs that do not fill a block are left out.

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
    """Tests whether the end of a curve lies above its lowest part, beyond noise. Smaller is better.

    Args:
      levels: the curve or its blocks, shape (..., capacity), of which the first `count` are filled.
      count: the number of filled blocks, which may be traced.
      xp: numpy or jax.numpy.
      over: `jax.vmap`, to make a smaller program of the tests of several pieces; None to test them one after the other.

    Returns:
      The statistic divided by its critical value, which is beyond noise if it is more than 1; the first block of the lowest window; its
      width; and the factor of correlation on the standard error of a mean. Shape (...) each.

    Example:
      >>> noise = np.random.default_rng(0).normal(size=60)
      >>> bool(rise(noise, 60)[0] > 1), bool(rise(noise + 0.1 * np.arange(60), 60)[0] > 1)
      (False, True)
    """
    levels = standardized(levels, count, xp)

    def tested(skip: Any, factor: Any) -> tuple[Any, ...]:
        first = count * skip // 8
        rest, piece = count - first, _after(levels, count, first, xp)
        ratio, start, width = _largest(piece, rest, xp)
        wider = widening(piece, rest, start, width, xp)
        ratio = ratio / (wider * factor * critical(rest, xp))
        return xp.where((rest >= 8) | (skip == 0), ratio, -xp.inf), start + first, width, wider

    skips, factors = zip(*_PIECES, strict=True)
    if over is not None:
        found = over(tested)(xp.asarray(skips), xp.asarray(factors, levels.dtype))
    else:
        found = [xp.stack(each) for each in zip(*map(tested, skips, factors), strict=True)]
    best = xp.argmax(found[0], 0)[None]
    return tuple(xp.take_along_axis(each, best, 0)[0] for each in found)  # pyright: ignore[reportReturnType]


def tamed(levels: Any) -> Any:
    """Clips each value to the range of its four neighbors, widened by half on both sides, so that a single outlier is not a rise."""
    return _after(levels, levels.shape[-1], 0, np)


def change(levels: np.ndarray, width: int, earlier: int) -> float:
    """Returns how far the last `width` blocks lie above the `width` blocks from `earlier` on, in standard errors."""
    piece = tamed(levels[earlier:])
    first, spread = np.zeros((), int), errors(piece, width)
    wider = widening(piece, len(piece), first, np.asarray(width))
    difference = piece[-width:].mean() - piece[:width].mean()
    return float(difference / (np.sqrt(spread[0] ** 2 + spread[-1] ** 2 + _floor(levels)) * wider))


def lowest_and_last(levels: Any, count: Any, xp: Any = np) -> tuple[Any, Any, Any]:
    """Returns the lowest mean of a sixteenth of the curve, its first block, and the mean of the last sixteenth, shape (...) each."""
    place, width = np.arange(levels.shape[-1]), xp.maximum(1, count // 16)
    first = levels[..., :1]  # small numbers, so that sums are exact enough in float32
    means = _mean(_sums(xp.where(place < count, levels - first, 0.0), xp), xp.minimum(place, count - width), width) + first
    start = xp.argmin(means, -1)
    return xp.take_along_axis(means, start[..., None], -1)[..., 0], start, means[..., -1]


def bottom(levels: np.ndarray, wider: float) -> tuple[int, int]:
    """Returns the first and the last block in which the lowest point of a curve that falls and then rises may be, given its noise.

    For each block, the best curve that falls until it and rises after it is fitted (isotonic regression, weighted by the noise near each
    block). A block is in the range if its curve fits worse than the best one by at most 1.1 (50 blocks) to 1.7 (100) in units of the
    variance, which `wider` scales. These limits were chosen in simulations such as those of `experiments/diagnosis.py`: the range contains
    the lowest point in about 90% of runs if the minimum is broad, and in more if it is sharp.
    """
    from scipy.optimize import isotonic_regression

    count = len(levels)
    around = int(_around(count, np))
    near = np.clip(np.arange(count) - around // 2, 0, count - around)[:, None] + np.arange(around)
    # The median, so that a steep fall nearby does not count as noise. The median of a squared normal variable is 0.455.
    weights = 1 / (np.median(_scatter(levels, count, 6, np)[near], 1) / 0.455 + _floor(levels))

    def misfit(piece: slice, rises: bool) -> float:
        fit = isotonic_regression(levels[piece], weights=weights[piece], increasing=rises).x
        return float((weights[piece] * (levels[piece] - fit) ** 2).sum())

    worse = np.array([misfit(slice(at), False) + misfit(slice(at, None), True) for at in range(1, count)])
    possible = np.flatnonzero(worse <= worse.min() + np.interp(count, *_MISFIT) * wider**2)
    return int(possible[0]), int(possible[-1])


def large(rise: Any, gain: Any, training_gain: Any = 0.0) -> Any:
    """Whether a rise of validation is large: more than 5% of the gain from its first epoch to its best.

    This does not depend on the origin of the metric. If validation gained less than 10% of what training gained, as in a run that has not
    left the plateau of a constant predictor yet, the rise must be more than 25% of the gain of training instead.

    Example:
      >>> bool(large(0.1, 1.0)), bool(large(0.04, 1.0)), bool(large(0.1, 0.001, 1.0))
      (True, False, False)
    """
    return (rise > gain / 20) & ((gain >= training_gain / 10) | (rise > training_gain / 4))


def errors(levels: np.ndarray, width: int) -> np.ndarray:
    """Returns the standard error of the mean of `width` blocks from each place on, for noise without correlation."""
    count = len(levels)
    around = int(_around(count, np))
    squares = _mean(
        _sums(_scatter(levels, count, 6, np), np), np.clip(np.arange(count - width + 1) - around // 2, 0, count - around), around
    )
    return np.sqrt(squares / width)


def critical(count: Any, xp: Any = np) -> Any:
    """Returns the critical value of the largest ratio of a difference to its standard error."""
    return xp.interp(xp.asarray(count, float), *(xp.asarray(values, float) for values in _CRITICAL))


def standardized(levels: Any, count: Any, xp: Any = np) -> Any:
    """Subtracts the median and divides by the median distance from it, so that float32 is exact enough in all units."""
    valid = np.arange(levels.shape[-1]) < count

    def median(values: Any) -> Any:
        return xp.sort(xp.where(valid, values, xp.inf), -1)[..., count // 2, None]

    centered = xp.where(valid, levels - median(levels), 0.0)
    spread = median(abs(centered))
    mean = abs(centered).sum(-1, keepdims=True) / count
    spread = xp.where(spread > 1e-3 * mean, spread, mean)  # the median distance of a quantized score may be zero
    return xp.clip(centered / xp.where(spread > 0, spread, 1.0), -30.0, 30.0)


def _after(levels: Any, count: Any, first: Any, xp: Any) -> Any:
    """Returns the curve from `first` on, clipped as by `tamed`."""
    place = np.arange(levels.shape[-1])
    rest = count - first
    near = xp.clip(place - 2, 0, xp.maximum(rest - 5, 0)) + np.arange(5)[:, None]
    values = levels[..., xp.minimum(near + first, levels.shape[-1] - 1)]
    left_out = (near == place) | (near >= rest)
    low, high = xp.where(left_out, xp.inf, values).min(-2), xp.where(left_out, -xp.inf, values).max(-2)
    wider = (high - low) / xp.where(place < rest - 1, 2, 4)  # the last has no later neighbors
    piece = xp.clip(levels[..., xp.minimum(place + first, levels.shape[-1] - 1)], low - wider, high + wider)
    return xp.where(place < rest, piece, 0.0)


def _largest(levels: Any, count: Any, xp: Any) -> tuple[Any, Any, Any]:
    """Returns the largest difference of the last and an earlier window over its standard error and factor; its first block and width."""
    place = np.arange(levels.shape[-1])
    sums, squares = _sums(levels, xp), _sums(_scatter(levels, count, 3, xp), xp)
    earlier, last = xp.maximum(1, count // _FIRST), xp.maximum(1, count // _LAST)  # one row for each pair of widths
    around = _around(count, xp)
    start = xp.clip(place, 0, xp.maximum(count - earlier - last, 0))
    at_end = xp.maximum(around, last)
    noise = _mean(squares, xp.clip(start - around // 8, 0, count - around), around) / earlier
    noise = noise + _mean(squares, count - at_end, at_end) / last
    difference = _mean(sums, count - last, last) - _mean(sums, start, earlier)
    ratio = xp.where(place <= count - earlier - last, difference / xp.sqrt(noise + _floor(levels)) / _PAIR_FACTOR, -xp.inf)
    flat = ratio.reshape(*ratio.shape[:-2], -1)
    best = xp.argmax(flat, -1)
    width = xp.broadcast_to(earlier, ratio.shape[-2:]).reshape(-1)[best]
    return xp.take_along_axis(flat, best[..., None], -1)[..., 0], best % levels.shape[-1], width


def widening(levels: Any, count: Any, start: Any, width: Any, xp: Any = np) -> Any:
    """Returns the factor of correlation on the standard error of a mean, given the lowest window, at which a line may bend."""
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
    """Returns the squared distances from local lines through the following blocks, so that a jump before them does not count."""
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
    """Returns the number of blocks from which the noise near a window is estimated."""
    return xp.minimum(xp.maximum(4, 2 * count // 5), count)


def _floor(levels: Any) -> float:
    """Returns the variance that rounding may leave in differences of cumulative sums of squares."""
    return 1e3 * float(np.finfo(levels.dtype).eps)


def _sums(values: Any, xp: Any) -> Any:
    return xp.concatenate([xp.zeros_like(values[..., :1]), xp.cumsum(values, -1)], -1)


def _mean(sums: Any, start: Any, width: Any) -> Any:
    return (sums[..., start + width] - sums[..., start]) / width


def _dot(a: Any, b: Any) -> Any:
    return (a * b).sum(-1)[..., None]
