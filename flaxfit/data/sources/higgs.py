"""HIGGS: simulated collisions with 28 numbers each. It has 2.6 GB, but only the rows that are asked for are downloaded."""

from __future__ import annotations

import gzip
import itertools
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from flaxfit.data.sources.source import File, Parts, Source

_JETS = tuple(f"jet {jet} {what}" for jet in (1, 2, 3, 4) for what in ("pt", "eta", "phi", "b-tag"))
_LOW = ("lepton pT", "lepton eta", "lepton phi", "missing energy magnitude", "missing energy phi", *_JETS)
_ORIGINAL = "higgs/HIGGS.csv.gz"


def _read(paths: Mapping[str, Path], rows: int | None) -> Parts:
    with gzip.open(paths[_ORIGINAL]) as lines:  # The file may end after the rows that are wanted.
        values = np.loadtxt(itertools.islice(lines, rows), delimiter=",", dtype=np.float32, ndmin=2)
    return {"all": {"x": values[:, 1:].copy(), "y": values[:, 0].astype(np.int32)}}


HIGGS = Source(
    "higgs",
    "1.0.0",
    citation="P. Baldi, P. Sadowski, D. Whiteson: Searching for exotic particles in high-energy physics with deep learning. Nature Communications 5 (2014).",  # noqa: E501
    license="CC BY 4.0",
    homepage="https://archive.ics.uci.edu/dataset/280/higgs",
    originals=(
        File(
            _ORIGINAL,
            "ea302c18164d4e3d916a1e2e83a9a8d07069fa6ebc7771e4c0540d54e593b698",
            "https://archive.ics.uci.edu/ml/machine-learning-databases/00280/HIGGS.csv.gz",
        ),
    ),
    substitutes=(
        File(
            "higgs/HIGGS_sample_15978.csv.gz",
            "77f0f08639af674e776730d39fefcd3c2b24375c1090de71f4781453268a9806",
            stands_for=_ORIGINAL,
            note="15,978 rows sampled from all of HIGGS, not its first rows",
        ),
        File(
            "higgs/HIGGS_first10000_3sig.csv.gz",
            "df85a0b4f4c23b78c0db00c4646d383f85a2397aa73f5b7fbe14ceb46a9dd644",
            stands_for=_ORIGINAL,
            note="the first 10,000 rows of HIGGS at three significant digits",
        ),
    ),
    read=_read,
    features=(*_LOW, "m_jj", "m_jjj", "m_lv", "m_jlv", "m_bb", "m_wbb", "m_wwbb"),
    classes=("background", "signal"),
    first_rows=11_000,
    options={"rows": None, "original": None},
)
