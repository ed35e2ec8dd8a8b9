"""Data sets of TensorFlow Datasets as arrays, without TensorFlow unless the builder needs it."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from flaxfit.data import cache
from flaxfit.data.dataset import Dataset
from flaxfit.data.provenance import Provenance

_BLOCK = 1000  # records a read: TFDS decodes blocks several times faster than one record after the other


def read(name: str) -> dict[str, Dataset] | None:
    """Returns all splits of a data set, as arrays from the cache, or None if TensorFlow Datasets does not have it.

    Raises:
      ValueError: it has no supervised pair, or the pair does not hold numbers of one shape.
      ImportError: its builder needs TensorFlow.
    """
    made: Any
    try:
        made = tfds.builder(name, file_format="array_record")
    except tfds.core.DatasetNotFoundError:
        return None
    except ImportError as error:
        raise _needs_tensorflow(name, error) from error
    keys: Any = made.info.supervised_keys
    features: Any = made.info.features
    if keys is None or len(keys) != 2 or not all(isinstance(key, str) for key in keys):
        raise ValueError(
            f"{name!r} of TensorFlow Datasets has no supervised pair: choose x and y with ff.data.Stream(tfds.data_source({name!r}, "
            f'split="train"), x=..., y=...). Its features are: {", ".join(features)}'
        )

    def make(_: Path) -> tuple[Any, dict[str, Any]]:
        try:
            made.download_and_prepare()
            parts = {split: _arrays(made.as_data_source(split), *keys) for split in made.info.splits}
        except ImportError as error:
            raise _needs_tensorflow(name, error) from error
        digest = hashlib.sha256()
        for arrays in parts.values():
            data = Dataset(arrays["x"], arrays["y"])  # Raises for numbers that the device cannot hold.
            arrays |= {"x": data.x, "y": data.y}
            digest.update(data.x.tobytes() + data.y.tobytes())
        return parts, {"checksums": {"arrays": digest.hexdigest()}}

    parts, about = cache.prepared(f"tfds-{made.info.full_name.replace('/', '-')}", make)
    label = features[keys[1]]
    classes = tuple(label.names) if isinstance(label, tfds.features.ClassLabel) and label.names else None
    datasets = {}
    for part, arrays in parts.items():
        rows, version = range(len(arrays["y"])), str(made.version)
        provenance = Provenance(name, rows, part, version, about["checksums"], "from TensorFlow Datasets")
        datasets[part] = Dataset(arrays["x"], arrays["y"], classes=classes, provenance=provenance)
    return datasets


def _needs_tensorflow(name: str, error: ImportError) -> ImportError:
    return ImportError(f"{name!r} of TensorFlow Datasets needs TensorFlow to be built or read ({error}): pip install tensorflow-cpu")


def _arrays(records: Any, x: str, y: str) -> dict[str, np.ndarray]:
    """Reads columns from records, block by block."""
    columns: dict[str, np.ndarray] = {}
    for first in range(0, len(records), _BLOCK):
        block = records.__getitems__(range(first, min(first + _BLOCK, len(records))))
        for column, key in (("x", x), ("y", y)):
            values = [np.asarray(record[key]) for record in block]
            if len({value.shape for value in values}) > 1 or values[0].dtype.kind not in "biuf":
                raise ValueError(
                    f"{key!r} does not hold numbers of one shape: use ff.data.Stream, with a function of the element that makes them so."
                )
            if column not in columns:
                columns[column] = np.empty((len(records), *values[0].shape), values[0].dtype)
            columns[column][first : first + len(block)] = values
    return columns
