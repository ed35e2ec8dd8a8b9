"""Colors for the runs and settings of one picture, no two of them the same."""

from __future__ import annotations

from functools import cache

import numpy as np
from matplotlib.colors import to_hex, to_rgb

PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000")
"""Okabe and Ito's (2008), told apart with any color vision, without their yellow, which vanishes on white."""


@cache
def distinct(count: int, first: tuple[str, ...] = PALETTE) -> tuple[str, ...]:
    """Returns different colors: the first ones, and then those that differ most from all before them.

    Distances are those of the color space OKLab (Ottosson 2020, "A perceptual color space for image processing"). The colors that are
    added have a contrast of at least 2 with white and with the dark background of a report.

    Example:
      >>> distinct(2), len(set(distinct(40)))
      (('#0072B2', '#D55E00'), 40)
    """
    chosen = list(first[:count])
    if len(chosen) == count:
        return tuple(chosen)
    grid = np.stack(np.meshgrid(*[np.linspace(0, 1, 17)] * 3), -1).reshape(-1, 3)
    luminance = _linear(grid) @ (0.2126, 0.7152, 0.0722)
    grid = grid[(luminance > 0.1) & (luminance < 0.45)]
    places, taken = _oklab(grid), _oklab(np.array([to_rgb(color) for color in chosen]))
    nearest = np.linalg.norm(places[:, None] - taken, axis=-1).min(1)
    while len(chosen) < count:
        new = nearest.argmax()
        chosen.append(to_hex(grid[new].tolist()))
        nearest = np.minimum(nearest, np.linalg.norm(places - places[new], axis=-1))
    return tuple(chosen)


def _linear(rgb: np.ndarray) -> np.ndarray:
    return np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)


def _oklab(rgb: np.ndarray) -> np.ndarray:
    cones = [
        [0.4122214708, 0.5363325363, 0.0514459929],
        [0.2119034982, 0.6806995451, 0.1073969566],
        [0.0883024619, 0.2817188376, 0.6299787005],
    ]
    axes = [
        [0.2104542553, 0.793617785, -0.0040720468],
        [1.9779984951, -2.428592205, 0.4505937099],
        [0.0259040371, 0.7827717662, -0.808675766],
    ]
    return np.cbrt(_linear(rgb) @ np.transpose(cones)) @ np.transpose(axes)
