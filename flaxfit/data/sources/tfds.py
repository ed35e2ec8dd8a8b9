"""TensorFlow Datasets: our sources as its builders, and any builder of its own as arrays. Neither needs TensorFlow."""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import tensorflow_datasets as tfds

from flaxfit.arguments import unknown
from flaxfit.data import cache
from flaxfit.data.dataset import Dataset
from flaxfit.data.originals import Originals, url_infos
from flaxfit.data.provenance import Provenance

_BLOCK = 1000  # records a read: TFDS decodes blocks several times faster than one record after the other


def make_builder(found: Originals, rows: int | None, options: dict[str, Any]) -> tfds.core.GeneratorBasedBuilder:
    """A source as a builder of records that keep the rows' order."""
    source = found.source
    shape, dtype = source.x
    if rows is not None and source.first_rows is None:
        raise TypeError(f"builder({source.name!r}) takes no rows: it is read whole.")
    rows = rows or source.first_rows
    read = f"{found.digest}-{rows}" if rows else found.digest  # TFDS tells what it has prepared by the builder's names

    class Builder(tfds.core.GeneratorBasedBuilder, skip_registration=True):
        name = source.name
        VERSION = tfds.core.Version(source.version)
        BUILDER_CONFIGS: ClassVar = [tfds.core.BuilderConfig(name=read, description=f"from {', '.join(found.checksums)}")]

        def _info(self) -> tfds.core.DatasetInfo:
            features = {
                "x": tfds.features.Tensor(shape=shape, dtype=dtype),
                "y": tfds.features.ClassLabel(names=list(source.classes or ())),
            }
            return tfds.core.DatasetInfo(
                builder=self,
                description=source.description,
                features=tfds.features.FeaturesDict(features),
                supervised_keys=("x", "y"),
                homepage=source.homepage,
                citation=source.citation,
                license=source.licence,
                disable_shuffling=True,
            )

        def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict[str, Any]:
            with tempfile.TemporaryDirectory() as scratch:
                parts, _ = found.read(rows, Path(scratch))
            named = {"train" if part == "all" else part: arrays for part, arrays in parts.items() if "y" in arrays}  # TFDS reserves "all"
            return {part: self._generate_examples(arrays) for part, arrays in named.items()}

        def _generate_examples(self, arrays: dict[str, np.ndarray]) -> Iterator[tuple[int, dict[str, Any]]]:
            for index, (x, y) in enumerate(source.rows(arrays)):
                yield index, {"x": x, "y": y}

    Builder.url_infos = url_infos(source)
    return Builder(file_format="array_record", **options)


def read(name: str) -> dict[str, Dataset]:
    """All splits of a TFDS data set, as arrays from the cache.

    Raises:
      ValueError: there is no such data set; it has no supervised pair, or not of numbers of one shape.
      ImportError: its builder needs TensorFlow.
    """
    made: Any
    try:
        made = tfds.builder(name, file_format="array_record")
    except tfds.core.DatasetNotFoundError as error:
        from flaxfit.data.loading import names

        raise ValueError(f"{unknown('data set', name, names())}; nor does TensorFlow Datasets know it.") from error
    except ImportError as error:
        raise _needs_tensorflow(name, error) from error
    keys: Any = made.info.supervised_keys
    features: Any = made.info.features
    if keys is None or len(keys) != 2 or not all(isinstance(key, str) for key in keys):
        raise ValueError(
            f"the TFDS data set {name!r} has no supervised pair: choose x and y with ff.data.Stream(tfds.data_source({name!r}, "
            f'split="train"), x=..., y=...). Its features: {", ".join(features)}'
        )

    def make(_: Path) -> tuple[Any, dict[str, Any]]:
        try:
            made.download_and_prepare()
            parts = {split: _arrays(made.as_data_source(split), *keys) for split in made.info.splits}
        except ImportError as error:
            raise _needs_tensorflow(name, error) from error
        digest = hashlib.sha256()
        for arrays in parts.values():
            data = Dataset(arrays["x"], arrays["y"])  # raises for numbers that the device cannot hold
            arrays |= {"x": data.x, "y": data.y}
            digest.update(data.x.tobytes() + data.y.tobytes())
        return parts, {"checksums": {"arrays": digest.hexdigest()}}

    parts, about = cache.prepared(f"tfds-{made.info.full_name.replace('/', '-')}", make)
    label = features[keys[1]]
    classes = tuple(label.names) if isinstance(label, tfds.features.ClassLabel) and label.names else None
    return {
        part: Dataset(
            arrays["x"], arrays["y"], classes=classes,
            provenance=Provenance(name, range(len(arrays["y"])), part, str(made.version), about["checksums"], "from TensorFlow Datasets"),
        )
        for part, arrays in parts.items()
    }  # fmt: skip


def _needs_tensorflow(name: str, error: ImportError) -> ImportError:
    return ImportError(f"the TFDS data set {name!r} needs TensorFlow to be built or read ({error}): pip install tensorflow-cpu")


def _arrays(records: Any, x: str, y: str) -> dict[str, np.ndarray]:
    """Columns from records, block by block."""
    columns: dict[str, np.ndarray] = {}
    for first in range(0, len(records), _BLOCK):
        block = records.__getitems__(range(first, min(first + _BLOCK, len(records))))
        for column, key in (("x", x), ("y", y)):
            values = [np.asarray(record[key]) for record in block]
            if len({value.shape for value in values}) > 1 or values[0].dtype.kind not in "biuf":
                raise ValueError(f"the records' {key!r} are not numbers of one shape: use ff.data.Stream with functions that make them so.")
            if column not in columns:
                columns[column] = np.empty((len(records), *values[0].shape), values[0].dtype)
            columns[column][first : first + len(block)] = values
    return columns
