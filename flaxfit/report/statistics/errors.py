"""Standard errors of means, from which intervals and tests are made."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from flaxfit.arguments import unknown

Bounds = tuple[float, float]
"""The least and the largest value that a metric can have."""
Errors = tuple[tuple[float, float], ...]
"""(standard error, degrees of freedom) of a mean. Of several the one that gives the widest interval counts."""
Width = Callable[[int | None], Errors]
"""A number of runs (None: as many as there are) -> the errors of their mean."""
UNBOUNDED = (-math.inf, math.inf)
MOST_RUNS = 10**6
RESOLUTION = 2.5e-7  # of the largest value: what rounding to float32, in which scores are computed, makes of equal differences


def as_numbers(name: str, values: Any, method: str, axes: Sequence[int] = (1,)) -> np.ndarray:
    """Returns finite numbers of an expected shape. Raises ValueError for others, which it calls `name`."""
    numbers = np.asarray(values, float)
    if numbers.ndim not in axes or not numbers.size:
        whole = "(splits,) or (splits, seeds)" if method == "corrected" else "(runs,) or (runs, rows)" if len(axes) > 1 else "(runs,)"
        expected = f"one number a {'split' if method == 'corrected' else 'run'}, shape {whole}" if 1 in axes else "of shape (seeds, rows)"
        raise ValueError(f"{name} must be {expected}, got shape {numbers.shape}.")
    wrong = int(np.count_nonzero(~np.isfinite(numbers)))
    if wrong:
        raise ValueError(f"{wrong} of {numbers.size} {name} are NaN or infinite: leave out runs that diverged, and say how many did.")
    return numbers


def check_options(level: float, method: str, methods: Sequence[str], test_ratio: float | None) -> None:
    """Raises ValueError if a level, a method or a ratio is not possible."""
    if not 0 < level < 1:
        raise ValueError(f"level must lie between 0 and 1, got {level!r}.")
    if method not in methods:
        raise ValueError(unknown("method", method, methods))
    if (test_ratio is None) == (method == "corrected"):
        raise ValueError('method="corrected" needs test_ratio=, test rows / training rows of a fold; no other method takes it.')
    if test_ratio is not None and not 0 < test_ratio < math.inf:
        raise ValueError(f"test_ratio, test rows / training rows, must be more than 0, got {test_ratio!r}.")


def scale_of(values: np.ndarray) -> float:
    """A power of two that brings the values to at most 1, so that no square overflows and no bit is lost."""
    most = float(np.abs(values).max())
    return 2.0 ** min(math.frexp(most)[1], 1023) if most else 2.0**-1000


def moments(values: np.ndarray) -> tuple[float, float]:
    """Mean and standard deviation of numbers of at most 1; none of values that are equal but for rounding, which is no spread."""
    mean = float(values.mean())
    if len(values) == 1 or np.ptp(values) <= RESOLUTION:
        return mean, 0.0 if len(values) > 1 else math.nan
    return 0.0 if abs(mean) < 1e-13 else mean, float(values.std(ddof=1))


def paired_width(values: np.ndarray, test_ratio: float | None = None) -> Width:
    """Of the mean of independent values, or of splits that share rows."""
    _, sd = moments(values)
    return lambda runs: error_of(sd**2, (runs or len(values)), test_ratio or 0.0)


def welch_width(a: np.ndarray, b: np.ndarray) -> Width:
    """Of the difference of two means of independent values (Welch 1947)."""
    (_, sd_a), (_, sd_b) = moments(a), moments(b)
    if min(len(a), len(b)) < 2:
        return lambda _: ()
    return lambda runs: sum_of(error_of(sd_a**2, runs or len(a)), error_of(sd_b**2, runs or len(b)))


def crossed_width(*arms: np.ndarray) -> Width:
    """Of the mean of values of shape (seeds, rows), or of the difference of two arms of unlike seeds and the same rows."""
    rows = arms[0].shape[1]
    each_row = arms[-1].mean(0) - (arms[0].mean(0) if len(arms) == 2 else 0.0)
    by_row = float(each_row.var(ddof=1)) / rows if rows > 1 else 0.0
    if any(len(arm) < 2 for arm in arms) or rows < 2:
        return lambda _: error_of(by_row * rows, rows) if rows > 1 else ()
    seeds = [float(arm.mean(1).var(ddof=1)) for arm in arms]
    residuals = [arm - arm.mean(1, keepdims=True) - arm.mean(0) + arm.mean() for arm in arms]
    # The part of a seed's mean, and of a row's, that is the interaction of both.
    shared = [float((part**2).sum()) / ((len(part) - 1) * (rows - 1) * rows) for part in residuals]

    def width(runs: int | None) -> Errors:
        by_seed = sum_of(*(error_of(part, runs or len(arm)) for part, arm in zip(seeds, arms, strict=True)))
        interaction = sum(part / (runs or len(arm)) for part, arm in zip(shared, arms, strict=True))
        now = sum(part / len(arm) for part, arm in zip(shared, arms, strict=True))
        rowwise = max(0.0, by_row - now) + interaction if runs else by_row
        square, df = (by_seed[0][0] ** 2, by_seed[0][1]) if by_seed else (0.0, 1.0)
        both = max(square + rowwise - interaction, square, rowwise)
        if not both > 1e-30:
            return ()
        return ((math.sqrt(both), both**2 / (square**2 / df + rowwise**2 / (rows - 1))), *by_seed)

    return width


def error_of(variance: float, count: int, test_ratio: float = 0.0) -> Errors:
    """Of the mean of `count` values; none where they do not vary, or are too few to tell."""
    return ((math.sqrt(variance * (1 / count + test_ratio)), count - 1.0),) if variance > 0 and count > 1 else ()


def sum_of(*parts: Errors) -> Errors:
    """Of the sum of independent means (Welch 1947)."""
    each = [part[0] for part in parts if part]
    total = sum(error**2 for error, _ in each)
    return ((math.sqrt(total), total**2 / sum(error**4 / df for error, df in each)),) if total > 0 else ()


def half_width(errors: Errors, level: float) -> float:
    """Half the width of the interval; NaN where nothing is known of the spread."""
    from scipy.stats import t

    return max((float(t.isf((1 - level) / 2, df)) * error for error, df in errors), default=math.nan)


def tail(distance: float, errors: Errors, equal: float = math.nan) -> float:
    """The one-sided p-value of a distance from what is tested; `equal` where all differences are the same."""
    from scipy.stats import t

    if math.isnan(distance) or (not errors and math.isnan(equal)):
        return math.nan
    if not errors:
        return equal if distance > 0 else 1.0
    return max(float(t.sf(distance / error, df)) for error, df in errors)


def runs_needed(width: Width, margin: float, level: float) -> float:
    """How many runs give an interval as narrow as the margin."""
    low, high = 2, MOST_RUNS
    if half_width(width(high), level) > margin:
        return math.inf
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if half_width(width(middle), level) <= margin else (middle + 1, high)
    return float(low)
