"""Command-line options that several studies share."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class WithOriginals:
    """The option of studies whose data sets are read from original files."""

    originals: Path | None = None
    """Directory of original data files, searched before the network; by default what FLAXFIT_ORIGINALS names."""
