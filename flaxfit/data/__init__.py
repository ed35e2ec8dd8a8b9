"""Data sets, their sources, splits, order and scaling."""

from __future__ import annotations

from typing import TYPE_CHECKING

from flaxfit import lazy

if TYPE_CHECKING:
    from flaxfit.data.audit import Leakage, leakage
    from flaxfit.data.dataset import Dataset
    from flaxfit.data.files import read_csv, read_npz
    from flaxfit.data.loading import builder, load, names
    from flaxfit.data.provenance import Provenance
    from flaxfit.data.scaling import Scaling, min_max, rescale, standardise
    from flaxfit.data.splits import Splits, folds, hold_outs, split
    from flaxfit.data.stream import Stream

_PLACES = {
    "Dataset": "dataset",
    "Leakage": "audit",
    "Provenance": "provenance",
    "Scaling": "scaling",
    "Splits": "splits",
    "Stream": "stream",
    "builder": "loading",
    "folds": "splits",
    "hold_outs": "splits",
    "leakage": "audit",
    "load": "loading",
    "min_max": "scaling",
    "names": "loading",
    "read_csv": "files",
    "read_npz": "files",
    "rescale": "scaling",
    "split": "splits",
    "standardise": "scaling",
}

__all__ = [*_PLACES]  # pyright: ignore[reportUnsupportedDunderAll]
__getattr__, __dir__ = lazy.names(__name__, _PLACES)
