"""Simulated validation curves, with and without a rise, for the study of how often a diagnosis is wrong.

The unit is the standard deviation of white noise.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

Curve = np.ndarray


@dataclass(frozen=True)
class Family:
    """Simulated validation curves of one kind."""

    curve: Callable[[Curve], Any]
    """The time of each epoch, from 0 to 1 -> the loss without its noise."""
    correlation: float = 0.0
    """Between the noise of neighboring epochs, which is AR(1)."""
    spread: Callable[[Curve], Any] | float = 1.0
    """The standard deviation of the noise, or what gives it for each time."""
    change: Callable[[Curve, np.random.Generator], Curve] = lambda values, rng: values
    """What happens to the curve with its noise."""
    rows: int | None = None
    """It is an accuracy, from 0 down to -1, on so many rows."""

    def draw(self, rng: np.random.Generator, length: int) -> Curve:
        """One curve."""
        t = np.linspace(0, 1, length)
        spread = self.spread(t) if callable(self.spread) else self.spread
        return self.change(self.curve(t) + spread * noise(rng, length, self.correlation), rng)

    def lowest(self, length: int) -> Curve:
        """The epochs at which the curve without its noise is lowest, to a fiftieth of its rise; none where it does not rise."""
        levels = self.curve(np.linspace(0, 1, length)) + np.zeros(length)
        rise = levels[-1] - levels.min()
        return 1 + np.flatnonzero(levels <= levels.min() + rise / 50) if rise > 0 else np.array([])


def noise(rng: np.random.Generator, count: int, correlation: float = 0.0) -> Curve:
    """AR(1) of unit variance."""
    from scipy.signal import lfilter

    return np.asarray(lfilter([1], [1, -correlation], rng.standard_normal(count + 200)))[200:] * (1 - correlation**2) ** 0.5


def flat(t: Curve) -> Curve:
    return 0 * t


def fall(t: Curve) -> Curve:
    """Most of it in the first tenth."""
    return 10 * np.exp(-20 * t)


def after(t: Curve, start: float) -> Curve:
    """From 0 at a time to 1 at the end."""
    return np.maximum(t - start, 0) / (1 - start)


def growing(t: Curve) -> Curve:
    """A standard deviation."""
    return 0.3 + 1.4 * t


def drop(at: float, rise: float) -> Family:
    """The learning rate falls: the loss by 10 with it, and the noise to 0.3. From then on the loss rises by so many times 0.3."""
    return Family(lambda t: np.where(t < at, 10, 0.3 * rise * after(t, at)), spread=lambda t: np.where(t < at, 1, 0.3))


def impatient(values: Curve, rng: np.random.Generator) -> Curve:
    """Ended by a patience of a tenth of the epochs, so that it ends above its lowest."""
    patience = len(values) // 10
    best = np.flatnonzero(values == np.minimum.accumulate(values))
    late = np.flatnonzero(np.diff(best, append=len(values)) > patience)
    return values[: best[late[0]] + patience + 1] if len(late) else values


def right(rows: int) -> Family:
    """The accuracy on some rows, whose margins wander from epoch to epoch."""

    def change(values: Curve, rng: np.random.Generator) -> Curve:
        margins = 1 + rng.standard_normal((rows, 1)) + np.stack([noise(rng, len(values), 0.9) for _ in range(rows)])
        return -(margins > 0).mean(0)

    return Family(flat, change=change, rows=rows)


FAMILIES = {
    "white noise": Family(flat),
    "AR(1) noise, 0.5": Family(flat, 0.5),
    "AR(1) noise, 0.9": Family(flat, 0.9),
    "noise that grows, from 0.3 to 1.7": Family(flat, spread=growing),
    "Student's t with 2 degrees": Family(flat, change=lambda values, rng: rng.standard_t(2, len(values))),
    "rounded AR(1) noise, 0.5": Family(flat, 0.5, change=lambda values, rng: np.round(values)),
    "falls, then flat": Family(fall, 0.3),
    "falls as a power": Family(lambda t: 30 * (5 + 100 * t) ** -0.3, 0.3),
    "rate drops at 0.5, then flat": drop(0.5, 0),
    "four warm restarts": Family(lambda t: 5 * np.exp(-5 * t) + 2 * (1 - 3.999 * t % 1), spread=0.3),
    "double descent": Family(lambda t: np.interp(t, [0, 0.15, 0.4, 1], [10, 0, 5, -3]), spread=0.3),
    "a wild last epoch": Family(fall, 0.3, change=lambda values, rng: np.append(values[:-1], 20)),
    "ended by a patience of a tenth": Family(fall, 0.3, change=impatient),
    "accuracy of 42 rows": right(42),
    "accuracy of 100 rows": right(100),
    "2 sd over the last half": Family(lambda t: 2 * after(t, 0.5)),
    "the same, AR(1) 0.3": Family(lambda t: 2 * after(t, 0.5), 0.3),
    "4 sd from 0.4 on, after a fall": Family(lambda t: fall(t) + 4 * after(t, 0.4), 0.3),
    "broad minimum, 4 sd": Family(lambda t: 20 * np.exp(-8 * t) + 9.4 * t, 0.3),
    "30 sd from 0.1 on, after a fall": Family(lambda t: 100 * np.maximum(0.1 - t, 0) + 30 * after(t, 0.1), 0.3),
    "5 sd from 0.5 on, noise that grows": Family(lambda t: fall(t) + 5 * after(t, 0.5), spread=growing),
    "rate drops at 0.5, then 16 sd": drop(0.5, 16),
    "rate drops at 0.8, then 16 sd": drop(0.8, 16),
    "accuracy from 0.995 to 0.987": Family(lambda t: 0.03 * fall(t) + 0.008 * after(t, 0.4) - 0.995, spread=5e-4, rows=10_000),
}
