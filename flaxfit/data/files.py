"""Tables of one's own: CSV and NPZ files."""

from __future__ import annotations

import csv
import gzip
import os
import zipfile
from collections.abc import Iterator
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from flaxfit.arguments import check_count, needed, unknown
from flaxfit.data.dataset import Dataset
from flaxfit.data.provenance import Provenance
from flaxfit.data.sources.source import sha256


def read_csv(
    path: str | os.PathLike[str], target: int | str = -1, *, header: bool | None = None, delimiter: str = ",", rows: int | None = None
) -> Dataset:
    """Reads a table of numbers, with one column to predict.

    Args:
      path: the file; `.gz` is unpacked on the way.
      target: the column to predict: its name, or its number from 0 (negative: from the end). Text there means classes, numbered in
        the order of their names.
      header: whether the first line names the columns; None: it does if the target is given by name, or if none of the columns to predict
        from holds a number there.
      delimiter: between cells.
      rows: read so many rows only.

    Returns:
      A `Dataset`: x float32 of shape (rows, columns - 1); y int32 where the target is whole numbers or text, else float32.

    Raises:
      ValueError: a row that is too short or too long, a cell that is missing or no finite number: names file, line and column.
      ImportError: pandas is not installed.

    Example:
      >>> import tempfile
      >>> file = Path(tempfile.mkdtemp()) / "flowers.csv"
      >>> _ = file.write_text("length,width,kind\\n5.1,3.5,setosa\\n6.7,3.0,virginica\\n")
      >>> flowers = read_csv(file, target="kind")
      >>> flowers.x.shape, flowers.y.tolist(), flowers.classes, flowers.features
      ((2, 2), [0, 1], ('setosa', 'virginica'), ('length', 'width'))
    """
    path = Path(path)
    if rows is not None:
        check_count("read_csv(rows=...)", rows, 1, "rows")
    pandas = needed("pandas", "read_csv")
    first, second, *_ = (*(cells for _, cells in islice(_records(path, delimiter), 2)), [], [])
    if not first:
        raise ValueError(f"{path} is empty.")
    if len(first) < 2:
        raise ValueError(
            f"{path} has one column when cells are parted by {delimiter!r}: give delimiter=... Its first line: {first[0][:60]!r}"
        )
    place = _position(target, len(first))
    named = header if header is not None else isinstance(target, str) or not any(_is_number(c) for i, c in enumerate(first) if i != place)
    numbers_begin = place is not None and len(second) == len(first) and not _is_number(first[place]) and _is_number(second[place])
    if numbers_begin and header is None and not named:
        raise ValueError(f"{path}: does its first line, {','.join(first)[:60]!r}, name the columns? Give header=True or header=False.")
    columns = tuple(cell.strip() for cell in first) if named else tuple(f"column {index}" for index in range(len(first)))
    if isinstance(target, str):
        if target not in columns:
            raise ValueError(f"{path}: {unknown('column', target, columns)}")
        target = columns.index(target)
    position = _position(target, len(first))
    if position is None:
        raise ValueError(f"{path} has {len(first)} columns, there is no column {target}.")
    sample = second if named else first
    if not sample:
        raise ValueError(f"{path} has no rows below its header.")
    text = None if position >= len(sample) or _is_number(sample[position]) else position
    kinds = {index: object if index == text else np.float32 for index in range(len(first))}
    how: dict[str, Any] = {"header": 0 if named else None, "names": list(kinds), "dtype": kinds, "index_col": False}
    how |= {"nrows": rows, "keep_default_na": False, "encoding": "utf-8-sig", "engine": "c"}
    try:
        if second and len(second) != len(first):  # pandas would take a long first row as it is
            raise ValueError("rows of unequal length")
        with np.errstate(over="ignore"):
            table = pandas.read_csv(path, sep=delimiter, **how)
        y, classes = table.pop(position).to_numpy(), None
        x = table.to_numpy()
        if text is not None:
            names, y = np.unique([label.strip() for label in y], return_inverse=True)
            y, classes = y.astype(np.int32), tuple(names.tolist())
        if not np.isfinite(x).all() or not np.isfinite(y).all() or "" in (classes or ()):
            raise ValueError("missing or not finite numbers")
    except ValueError as error:
        _blame(path, delimiter, columns, text, int(named), rows)
        raise ValueError(f"{path}: {error}") from error
    if text is None and (y == np.round(y)).all() and np.abs(y).max() < 2**24:
        y = y.astype(np.int32)
    about = Provenance(path.name, range(len(y)), checksums={path.name: sha256(path)})
    features = tuple(np.delete(columns, position).tolist()) if named else None
    return Dataset(x, y, features=features, classes=classes, provenance=about)


def read_npz(path: str | os.PathLike[str], x: str = "x", y: str = "y", sample_weight: str | None = None) -> Dataset:
    """Reads arrays from an NPZ file. Nothing in it is unpickled.

    Args:
      path: the file.
      x, y, sample_weight: the arrays' names in it.

    Raises:
      ValueError: there is no such array, or it holds Python objects.

    Example:
      >>> import tempfile
      >>> file = Path(tempfile.mkdtemp()) / "mine.npz"
      >>> np.savez(file, x_train=np.ones((3, 2)), y_train=np.arange(3))
      >>> len(read_npz(file, "x_train", "y_train"))
      3
    """
    path = Path(path)
    if not zipfile.is_zipfile(path):
        raise ValueError(f"{path} is no NPZ file, a zip of arrays, such as np.savez writes.")
    with np.load(path, allow_pickle=False) as arrays:
        for name in (x, y, sample_weight):
            if name is not None and name not in arrays:
                raise ValueError(f"{path}: {unknown('array', name, arrays)}")
        try:
            found = [arrays[name] if name is not None else None for name in (x, y, sample_weight)]
        except ValueError as error:
            raise ValueError(f"{path} holds Python objects, which are never unpickled here: save plain arrays. ({error})") from error
    data = Dataset(*found)
    return replace(data, provenance=Provenance(path.name, range(len(data)), checksums={path.name: sha256(path)}))


def _records(path: Path, delimiter: str) -> Iterator[tuple[int, list[str]]]:
    """The line on which each row ends, and the row's cells."""
    with gzip.open(path, "rt", encoding="utf-8-sig") if path.suffix == ".gz" else path.open(encoding="utf-8-sig") as file:
        reader = csv.reader(file, delimiter=delimiter)
        try:
            for cells in reader:
                if len(cells) > 1 or "".join(cells).strip():
                    yield reader.line_num, cells
        except UnicodeDecodeError as error:
            raise ValueError(f"{path} is not text in UTF-8: {error}.") from error


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return not cell.strip()  # a missing number is no name
    return True


def _position(target: int | str, width: int) -> int | None:
    """A column's number from 0; None for a name, or a number that no column has."""
    return target % width if isinstance(target, int) and -width <= target < width else None


def _blame(path: Path, delimiter: str, columns: tuple[str, ...], text: int | None, start: int, rows: int | None) -> None:
    """Looks for the first bad cell in so many rows from `start`, slowly, and raises the error that names it."""
    for line, cells in islice(_records(path, delimiter), start, None if rows is None else start + rows):
        if len(cells) != len(columns):
            raise ValueError(f"{path}, line {line}: {len(cells)} cells, expected {len(columns)}, as in the first line.")
        for index, (cell, column) in enumerate(zip(cells, columns, strict=True)):
            if not cell.strip() or (index != text and not _is_finite(cell)):
                what = f"is {cell!r}, not a finite number" if cell.strip() else "is missing: fill it, or remove the row"
                raise ValueError(f"{path}, line {line}, column {column!r}: the value {what}.")


def _is_finite(cell: str) -> bool:
    with np.errstate(over="ignore"):
        return _is_number(cell) and bool(np.isfinite(np.float32(cell)))
