"""Sonar: the energy in 60 frequency bands of 208 echoes from rocks (97) and from a metal cylinder, which stands for a mine (111)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from flaxfit.data.sources.source import File, Parts, Source

_ORIGINAL = "sonar/sonar.all-data"


def _read(paths: Mapping[str, Path], rows: int | None) -> Parts:
    values = np.loadtxt(paths[_ORIGINAL], delimiter=",", dtype=np.float32, converters={60: {"R": 0, "M": 1}.__getitem__})
    return {"all": {"x": values[:, :60].copy(), "y": values[:, 60].astype(np.int32)}}


SONAR = Source(
    "sonar",
    "1.0.0",
    citation="R. P. Gorman, T. J. Sejnowski: Analysis of hidden units in a layered network trained to classify sonar targets. Neural Networks 1 (1988).",  # noqa: E501
    license="CC BY 4.0",
    homepage="https://archive.ics.uci.edu/dataset/151",
    originals=(
        File(
            _ORIGINAL,
            "e90434cdbf00fcf93ffa911fe447ae25606979658e60f1d32e155c3b5240234d",
            "https://archive.ics.uci.edu/ml/machine-learning-databases/undocumented/connectionist-bench/sonar/sonar.all-data",
        ),
    ),
    read=_read,
    features=tuple(f"band {band}" for band in range(1, 61)),
    classes=("rock", "mine"),
)
