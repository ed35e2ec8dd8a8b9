"""What the studies' figures have in common."""

from __future__ import annotations

from typing import Any

import numpy as np

import flaxfit as ff


def band(ax: Any, x: Any, runs: Any, label: str, color: int, style: str = "-") -> None:
    """Draws the mean of runs with its 95% interval.

    Args:
      ax: the axes.
      x: shape (points,).
      runs: shape (points, runs).
      label: for the legend.
      color: its place in the palette.
      style: of the line.
    """
    found = [ff.statistics.interval(np.asarray(values)) for values in runs]
    shade = ff.plots.PALETTE[color]
    ax.plot(x, [each.mean for each in found], style, color=shade, label=label)
    ax.fill_between(x, [each.low for each in found], [each.high for each in found], color=shade, alpha=0.2, linewidth=0)
