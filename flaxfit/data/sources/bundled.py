"""The small data sets that come with scikit-learn, which need neither a network nor files."""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np

from flaxfit.data.dataset import Dataset
from flaxfit.data.provenance import Provenance

BUNDLED = ("breast_cancer", "diabetes", "digits", "wine")


def read(name: str) -> Dataset:
    """Reads one of `BUNDLED`. The inputs of digits are images; the target of diabetes is a number, those of the others are classes."""
    import sklearn
    from sklearn import datasets

    bunch: Any = getattr(datasets, f"load_{name}")()
    x = bunch.images[..., None].astype(np.uint8) if name == "digits" else bunch.data.astype(np.float32)
    y = bunch.target.astype(np.float32 if name == "diabetes" else np.int32)
    digest = hashlib.sha256(x.tobytes() + y.tobytes()).hexdigest()
    about = Provenance(name, range(len(y)), version=f"scikit-learn {sklearn.__version__}", checksums={"arrays": digest})
    features = None if name == "digits" else tuple(map(str, bunch.feature_names))
    classes = None if name == "diabetes" else tuple(map(str, bunch.target_names))
    return Dataset(x, y, features=features, classes=classes, provenance=about)
