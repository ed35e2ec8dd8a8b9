"""Sonar: 208 echoes of 60 frequency bands, from a rock or from a mine."""

from __future__ import annotations

from collections.abc import Callable
from typing import BinaryIO

import numpy as np

from flaxfit.data.sources.source import File, Parts, Source

_ORIGINAL = "sonar/sonar.all-data"


def _read(open_: Callable[[str], BinaryIO], rows: int | None) -> Parts:
    with open_(_ORIGINAL) as file:
        values = np.loadtxt(file, delimiter=",", dtype=np.float32, converters={60: {"R": 0, "M": 1}.__getitem__})
    return {"all": {"x": values[:, :60].copy(), "y": values[:, 60].astype(np.int32)}}


SONAR = Source(
    "sonar",
    "1.0.0",
    description="208 sonar echoes: the energy in 60 frequency bands, bounced off a rock (97) or a metal cylinder, a mine (111).",
    citation="R. P. Gorman, T. J. Sejnowski: Analysis of hidden units in a layered network trained to classify sonar targets. Neural Networks 1 (1988).",  # noqa: E501
    licence="CC BY 4.0",
    homepage="https://archive.ics.uci.edu/dataset/151",
    originals=(
        File(
            _ORIGINAL,
            "e90434cdbf00fcf93ffa911fe447ae25606979658e60f1d32e155c3b5240234d",
            "https://archive.ics.uci.edu/ml/machine-learning-databases/undocumented/connectionist-bench/sonar/sonar.all-data",
            87776,
        ),
    ),
    read=_read,
    x=((60,), np.float32),
    features=tuple(f"band {band}" for band in range(1, 61)),
    classes=("rock", "mine"),
)
