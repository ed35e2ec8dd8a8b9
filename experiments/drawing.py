"""What the studies' figures have in common."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

import flaxfit as ff


def band(ax: Any, x: Any, runs: Any, label: str, color: int, style: str = "-", **how: Any) -> None:
    """Draws the mean of runs with its 95% interval.

    Args:
      ax: the axes.
      x: shape (points,).
      runs: shape (points, runs).
      label: for the legend.
      color: its place in the palette.
      style: of the line.
      how: for `flaxfit.statistics.interval`.
    """
    found = [ff.statistics.interval(np.asarray(values), **how) for values in runs]
    shade = ff.plots.PALETTE[color]
    ax.plot(x, [each.mean for each in found], style, color=shade, label=label)
    ax.fill_between(x, [each.low for each in found], [each.high for each in found], color=shade, alpha=0.2, linewidth=0)


def histogram(ax: Any, weights: Mapping[str, np.ndarray], mark: float) -> None:
    """Draws histograms of the sizes of weights on a logarithmic axis. The first bin also has the smaller ones.

    Args:
      ax: the axes.
      weights: name -> all weights.
      mark: the size that a dotted line marks.
    """
    bins = np.logspace(-6, 0.5, 66).tolist()
    for name, color in zip(weights, ff.plots.PALETTE, strict=False):
        size = np.clip(np.abs(weights[name]).astype(float), bins[0], bins[-1])  # as float32 the edges themselves would lie outside
        ax.hist(size, bins, weights=np.full(len(size), 100 / len(size)), histtype="step", color=color, label=name)
    ax.axvline(mark, color="0.6", linewidth=1, linestyle=":")
    ax.set(xscale="log", xlabel=f"|w| (smaller ones in the first bin; dotted: {mark:g})", ylabel="share of the weights (%)")
