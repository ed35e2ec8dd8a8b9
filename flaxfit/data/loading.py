"""Loads data sets by name."""

from __future__ import annotations

import os
import re
import warnings
from pathlib import Path
from typing import Any

import numpy as np

from flaxfit.arguments import check_count, needed, unknown
from flaxfit.data import cache
from flaxfit.data.dataset import Dataset
from flaxfit.data.originals import Originals, find
from flaxfit.data.provenance import Provenance
from flaxfit.data.sources import SOURCES, Source, bundled
from flaxfit.data.splits import Splits, small, split

_COMMON = ("train", "validation", "test", "stratified", "seed", "originals")


def names() -> list[str]:
    """Returns the names of the data sets that `load` knows without TensorFlow Datasets.

    Example:
      >>> names()
      ['breast_cancer', 'diabetes', 'digits', 'fashion_mnist', 'higgs', 'imdb', 'mnist', 'sonar', 'wine']
    """
    return sorted([*SOURCES, *bundled.BUNDLED])


def load(
    name: str,
    *,
    train: int | float | None = None,
    validation: int | float | None = None,
    test: int | float | None = None,
    stratified: bool = False,
    seed: int | None = None,
    originals: str | os.PathLike[str] | None = None,
    **options: Any,
) -> Splits:
    """Loads a data set by name. It is downloaded and prepared the first time, and read from the cache after that.

    The cache is the directory that the environment variable `FLAXFIT_CACHE` names, by default `~/.cache/flaxfit`.

    Args:
      name: one of `names()`, or any data set of TensorFlow Datasets that holds numbers and has a supervised pair.
      train: how many examples to train on, as in `flaxfit.data.split`. By default, the first examples validate and the next ones train.
      validation: how many examples to validate on. They are taken from the training set of the source, if it has one.
      test: how many examples to test on. They are taken from the test set of the source, if it has one.
      stratified: whether each class has about the same share in each split.
      seed: the seed of a random split, or None to split the examples in their order.
      originals: a directory of original files, which is searched before the network. By default it is the directory that the environment
        variable `FLAXFIT_ORIGINALS` names.
      **options: options of a data set. "imdb" takes `vocabulary` (10,000): how many of the most frequent words become columns; and
        `layout`: "words", or "keras" for the columns of Keras's `imdb.load_data(num_words=vocabulary)`, the first four of which do
        not stand for words: padding (always 0), start (always 1), whether the review has a word that is not among the others, and
        an unused one. "higgs" takes `rows`: how many of the first rows to use in all. By default that is the sum of `train`,
        `validation` and `test`, or else 11,000. If a file may stand in for an original, `original` names the file to use.

    Returns:
      `Splits`. Images are uint8 of shape (rows, height, width, 1), tables are float32, the multi-hot rows of IMDB are uint8, and class
      labels are int32.

    Raises:
      ValueError, TypeError: the name or an option is not known, the split is impossible, or the checksum of a file is not the published
        one.
      OSError: a download failed, or the disk is full. No partial files are left.

    Warns:
      UserWarning: a file stands in for the published original, or a split is very small.

    Example:
      >>> splits = load("digits", validation=300)
      >>> splits.train.x.shape, len(splits.validation), splits.train.classes[:3]
      ((1497, 8, 8, 1), 300, ('0', '1', '2'))
    """
    if not isinstance(name, str):
        raise TypeError(f"load needs the name of a data set, got {name!r}.")
    if name not in names() and (ours := re.sub("[- ]", "_", name.lower().partition(":")[0])) in names():
        raise ValueError(
            f"no data set {name!r}; did you mean {ours!r}? "
            f"For the one of TensorFlow Datasets, use ff.data.Stream(tfds.data_source({name!r}), ...)."
        )
    if not re.fullmatch(r"[\w./:=-]+", name) or name.endswith((".csv", ".npz", ".gz")):
        raise ValueError(f"load needs the name of a data set, got {name!r}: use ff.data.read_csv or ff.data.read_npz for files.")
    if name in SOURCES:
        parts = _published(SOURCES[name], originals, [train, validation, test], options)
    else:
        if options:
            raise TypeError(f"load({name!r}): {unknown('option', next(iter(options)), _COMMON)}")
        parts = {"all": bundled.read(name)} if name in bundled.BUNDLED else _of_tfds(name)
    pool = parts["train"] if "train" in parts else parts.get("all", next(iter(parts.values())))
    how: dict[str, Any] = {"stratified": stratified, "seed": seed}
    asked = {"validation": validation, "test": test}
    own_validation, own_test = parts.get("validation"), parts.get("test")
    if own_test is not None and test is not None:
        try:
            own_test, test = split(own_test, train=test, **how).train, None
        except ValueError as error:
            raise ValueError(f"load(test={test}) takes examples from the test set of {name}: {error}") from error
    if train is None and validation is None and test is None:
        made = Splits(pool, own_validation, own_test)
    else:
        made = split(pool, train=train, validation=validation, test=test, one_row=1.0, **how)
        made = Splits(made.train, made.validation or own_validation, made.test or own_test)
    for message in small({part: len(data) for part, data in made.items() if asked.get(part) is not None}, 0.01):
        warnings.warn(message, UserWarning, stacklevel=2)
    return made


def _published(source: Source, directory: Any, counts: list[int | float | None], options: dict[str, Any]) -> dict[str, Dataset]:
    """Returns the examples of a published source as "train" and "test", or as "all"."""
    for option, value in options.items():
        if option not in source.options:
            raise TypeError(f"load({source.name!r}): {unknown('option', option, (*source.options, *_COMMON))}")
        if option in ("vocabulary", "rows") and value != source.options[option]:
            check_count(f"load({source.name!r}, {option}=...)", value, 1, "a count")
    options = {**source.options, **options}
    rows, original = options.pop("rows", None), options.pop("original", None)
    if source.first_rows and rows is None:
        needed = sum(count for count in counts if isinstance(count, int))
        enough = isinstance(counts[0], int) and not any(isinstance(count, float) for count in counts)
        rows = needed if enough else max(source.first_rows, needed)
    directory = directory or os.environ.get("FLAXFIT_ORIGINALS")
    found = find(source, Path(directory).expanduser() if directory else None, original)
    if found.note:
        warnings.warn(f"{source.name} is not read from the published original file: {found.note}.", UserWarning, stacklevel=3)
    parts, about = _arrays(found, rows)
    datasets = {}
    for part, arrays in parts.items():
        if "y" in arrays:
            name = "" if part == "all" else part
            made = Provenance(source.name, range(len(arrays["y"])), name, source.version, about["checksums"], found.note)
            x, features = source.assemble(arrays, parts, **options) if source.assemble else (arrays["x"], source.features)
            y = np.asarray(arrays["y"], np.int32)
            datasets[part] = Dataset(x, y, features=features, classes=source.classes, provenance=made)
    if source.first_rows:
        if rows is not None and rows > len(datasets["all"]):
            raise ValueError(f"{source.name} has {len(datasets['all'])} rows in this file, but {rows} were requested: ask for fewer.")
        datasets["all"] = datasets["all"][:rows]
    return datasets


def _of_tfds(name: str) -> dict[str, Dataset]:
    """Returns the splits of a data set of TensorFlow Datasets, whose import takes a second."""
    nowhere = unknown("data set", name, names())
    needed("tensorflow_datasets", f"{nowhere}. Any other data set")
    from flaxfit.data.sources import tfds

    if (parts := tfds.read(name)) is None:
        raise ValueError(f"{nowhere}. TensorFlow Datasets does not have it, either.")
    return parts


def _arrays(found: Originals, rows: int | None) -> tuple[Any, dict[str, Any]]:
    """Returns the arrays of a source from the cache, and prepares them if they are not there."""
    source = found.source
    key = f"{source.name}-{source.version}-{found.digest}"
    if source.first_rows and not found.note:  # More rows that were fetched before will do.
        had = sorted(int(path.name.rsplit("-", 1)[1]) for path in cache.directory().glob(f"{key}-*"))
        key = f"{key}-{next((count for count in had if rows is not None and count >= rows), rows)}"
    else:
        rows = None

    def make(scratch: Path) -> tuple[Any, dict[str, Any]]:
        parts, checksums = found.read(rows, scratch)
        about = {what: getattr(source, what) for what in ("name", "version", "citation", "license", "homepage")}
        return parts, {**about, "checksums": checksums}

    return cache.prepared(key, make)
