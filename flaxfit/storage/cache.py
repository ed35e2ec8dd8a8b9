"""Where flaxfit keeps what it can make again: prepared data sets and compiled programs."""

from __future__ import annotations

import os
from pathlib import Path


def home() -> Path:
    """Returns the directory that `FLAXFIT_CACHE` names, or `flaxfit` in the user's cache directory if that variable is not set."""
    if named := os.environ.get("FLAXFIT_CACHE"):
        return Path(named).expanduser().resolve()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "flaxfit"
