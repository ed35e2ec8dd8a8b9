"""Readers of CSV and NPZ files."""

from __future__ import annotations

import csv
import gzip
import io
import math
import os
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from flaxfit.arguments import check_count, needed, unknown
from flaxfit.data.dataset import Dataset
from flaxfit.data.provenance import Provenance
from flaxfit.data.sources.source import sha256

LONGEST_LINE = 2**24
"""The largest number of bytes in a line of a table. A file without line ends would otherwise be read into memory as a whole."""
MOST_DEFLATED = 1032  # how many bytes one compressed byte of a zip can stand for at most


def read_csv(
    path: str | os.PathLike[str], target: int | str = -1, *, header: bool | None = None, delimiter: str = ",", rows: int | None = None
) -> Dataset:
    """Reads a table of numbers with one column to predict. It needs pandas (`pip install flaxfit[data]`).

    Args:
      path: the file. It may be compressed, with the suffix `.gz`.
      target: the column to predict: its name, or its number from 0, where a negative number counts from the end. If it holds text, each
        different text is a class, and classes are numbered in alphabetical order.
      header: whether the first line names the columns. By default it does if the target is given by name, or if no other column holds a
        number in that line.
      delimiter: the character between cells.
      rows: how many rows to read, or None for all.

    Returns:
      A `Dataset`. x is float32 of shape (rows, columns - 1). y is int32 if the target is whole numbers or text, else float32.

    Raises:
      ValueError: a row is too short or too long, or a cell is missing or not a finite number. The message names the file, the line and
        the column.
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
            f"{path} has one column if cells are separated by {delimiter!r}: pass delimiter=... Its first line is {first[0][:60]!r}."
        )
    place = _position(target, len(first))
    named = header if header is not None else isinstance(target, str) or not any(_is_number(c) for i, c in enumerate(first) if i != place)
    numbers_begin = place is not None and len(second) == len(first) and not _is_number(first[place]) and _is_number(second[place])
    if numbers_begin and header is None and not named:
        raise ValueError(
            f"{path}: it is not clear whether its first line names the columns, {','.join(first)[:60]!r}: pass header=True or False."
        )
    columns = tuple(cell.strip() for cell in first) if named else tuple(f"column {index}" for index in range(len(first)))
    if isinstance(target, str):
        if target not in columns:
            raise ValueError(f"{path}: {unknown('column', target, columns)}")
        target = columns.index(target)
    position = _position(target, len(first))
    if position is None:
        raise ValueError(f"{path} has {len(first)} columns, but no column {target}: pass another target.")
    sample = second if named else first
    if not sample:
        raise ValueError(f"{path} has a header, but no rows.")
    text = None if position >= len(sample) or _is_number(sample[position]) else position
    kinds = {index: object if index == text else np.float32 for index in range(len(first))}
    how: dict[str, Any] = {"header": 0 if named else None, "names": list(kinds), "dtype": kinds, "index_col": False}
    how |= {"nrows": rows, "keep_default_na": False, "engine": "c"}
    try:
        if second and len(second) != len(first):  # pandas would accept a first row that is too long
            raise ValueError("rows of unequal length")
        with np.errstate(over="ignore"), _opened(path) as file:
            table = pandas.read_csv(file, sep=delimiter, **how)
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
      x: the name of the array of inputs in the file.
      y: the name of the array of targets.
      sample_weight: the name of the array of sample weights, or None.

    Returns:
      A `Dataset`.

    Raises:
      ValueError: there is no such array, it holds Python objects, or the file is not an NPZ file.

    Example:
      >>> import tempfile
      >>> file = Path(tempfile.mkdtemp()) / "mine.npz"
      >>> np.savez(file, x_train=np.ones((3, 2)), y_train=np.arange(3))
      >>> len(read_npz(file, "x_train", "y_train"))
      3
    """
    path = Path(path)
    if not zipfile.is_zipfile(path):
        raise ValueError(f"{path} is not an NPZ file, which is what np.savez writes.")
    with np.load(path, allow_pickle=False) as arrays:
        for name in (x, y, sample_weight):
            if name is not None and name not in arrays:
                raise ValueError(f"{path}: {unknown('array', name, arrays)}")
        _check_sizes(path, [name for name in (x, y, sample_weight) if name is not None])
        try:
            found = [arrays[name] if name is not None else None for name in (x, y, sample_weight)]
        except ValueError as error:
            raise ValueError(f"{path} holds Python objects, which are never unpickled: save plain arrays instead. ({error})") from error
    data = Dataset(*found)
    return replace(data, provenance=Provenance(path.name, range(len(data)), checksums={path.name: sha256(path)}))


def _check_sizes(path: Path, names: Sequence[str]) -> None:
    """Checks what the headers of arrays claim before memory is taken for them.

    Raises:
      ValueError: an array is larger than its file can hold, or the arrays have different numbers of rows.
    """
    rows = {}
    with zipfile.ZipFile(path) as archive:
        for name in names:
            part = archive.getinfo(name if name in archive.namelist() else f"{name}.npy")
            with archive.open(part) as file:
                version = np.lib.format.read_magic(file)
                read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
                shape, _, dtype = read(file)
                claimed, there = math.prod(shape) * dtype.itemsize, part.file_size - file.tell()
            rows[name] = shape[0] if shape else 0
            most = part.compress_size * (1 if part.compress_type == zipfile.ZIP_STORED else MOST_DEFLATED)
            if not dtype.hasobject and (claimed != there or part.file_size > most):
                raise ValueError(f"{path} is damaged: the array {name!r} claims {claimed:,} bytes, which the file cannot hold.")
    if len(set(rows.values())) > 1:
        raise ValueError(f"{path}: the arrays must have the same number of rows, got {', '.join(f'{n} {r:,}' for n, r in rows.items())}.")


class _Lines(io.RawIOBase):
    """A binary file whose lines are checked to be no longer than `LONGEST_LINE` while it is read."""

    def __init__(self, path: Path):
        self._path, self._line = path, 0
        self._file = gzip.open(path) if path.suffix == ".gz" else path.open("rb")  # noqa: SIM115  (close closes it)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        content = self._file.read(len(buffer))
        first, last = content.find(b"\n"), content.rfind(b"\n")
        self._line, longest = (
            (self._line + len(content), self._line + len(content)) if first < 0 else (len(content) - last - 1, self._line + first)
        )
        if longest > LONGEST_LINE:
            raise ValueError(f"{self._path} has a line of more than {LONGEST_LINE:,} bytes: it is not a table.")
        buffer[: len(content)] = content
        return len(content)

    def close(self) -> None:
        self._file.close()
        super().close()


def _opened(path: Path) -> io.TextIOWrapper:
    return io.TextIOWrapper(io.BufferedReader(_Lines(path), 2**16), encoding="utf-8-sig", newline="")


def _records(path: Path, delimiter: str) -> Iterator[tuple[int, list[str]]]:
    """Yields for each row the number of the line on which it ends, and its cells."""
    with _opened(path) as file:
        reader = csv.reader(file, delimiter=delimiter)
        try:
            for cells in reader:
                if len(cells) > 1 or "".join(cells).strip():
                    yield reader.line_num, cells
        except UnicodeDecodeError as error:
            raise ValueError(f"{path} is not a text file in UTF-8: {error}.") from error
        except csv.Error as error:
            raise ValueError(f"{path}, line {reader.line_num}: {error}. It is not a table.") from error


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return not cell.strip()  # A missing number is not a name.
    return True


def _position(target: int | str, width: int) -> int | None:
    """Returns the number of a column from 0, or None for a name and for a number that no column has."""
    return target % width if isinstance(target, int) and -width <= target < width else None


def _blame(path: Path, delimiter: str, columns: tuple[str, ...], text: int | None, start: int, rows: int | None) -> None:
    """Looks for the first bad cell, which is slow, and raises the error that names it."""
    for line, cells in islice(_records(path, delimiter), start, None if rows is None else start + rows):
        if len(cells) != len(columns):
            raise ValueError(f"{path}, line {line}: the row has {len(cells)} cells, expected {len(columns)}, as in the first line.")
        for index, (cell, column) in enumerate(zip(cells, columns, strict=True)):
            if not cell.strip() or (index != text and not _is_finite(cell)):
                what = f"is {cell!r}, which is not a finite number" if cell.strip() else "is missing: fill it, or remove the row"
                raise ValueError(f"{path}, line {line}, column {column!r}: the value {what}.")


def _is_finite(cell: str) -> bool:
    with np.errstate(over="ignore"):
        return _is_number(cell) and bool(np.isfinite(np.float32(cell)))
