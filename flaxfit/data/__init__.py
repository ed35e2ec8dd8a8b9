"""Data sets, their sources, splits, order and scaling."""

from __future__ import annotations

from typing import TYPE_CHECKING

from flaxfit import lazy

if TYPE_CHECKING:
    from flaxfit.data.dataset import Dataset
    from flaxfit.data.provenance import Provenance

_PLACES = {
    "Dataset": "dataset",
    "Provenance": "provenance",
}

__all__ = [*_PLACES]  # pyright: ignore[reportUnsupportedDunderAll]
__getattr__, __dir__ = lazy.names(__name__, _PLACES)
