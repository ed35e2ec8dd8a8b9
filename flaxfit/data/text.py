"""Files of columns as they are: text and gaps, with or without a header, in any common notation."""

from __future__ import annotations

import csv
import gzip
import io
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from flaxfit.arguments import check_count, needed, unknown
from flaxfit.data import parsing
from flaxfit.data.encoding import Kind
from flaxfit.data.frames import Cells
from flaxfit.data.provenance import Provenance
from flaxfit.data.sources.source import sha256
from flaxfit.data.table import Table


def read_table(
    path: str | os.PathLike[str],
    target: int | str = -1,
    *,
    header: bool | None = None,
    delimiter: str | None = None,
    kinds: Mapping[str, Kind] | None = None,
    rows: int | None = None,
) -> Table:
    """Reads a text file of columns, or a Parquet file, as a table with a column to predict.

    `read_csv` is for tables of numbers, in which any other cell is an error.

    Args:
      path: the file, as for `read_frame`.
      target: the column to predict: its name, or its number from 0 (negative: from the end).
      header: whether the first line names the columns; None: what the lines below it suggest. A name as `target` means that it does.
      delimiter, rows: as for `read_frame`.
      kinds: as for `Table`.

    Raises:
      ValueError: as `read_frame`; an unknown column.

    Example:
      >>> import tempfile
      >>> file = Path(tempfile.mkdtemp()) / "people.csv"
      >>> _ = file.write_text("age;city;sold\\n20,5;Rome;yes\\n?;Oslo;no\\n31;Rome;no\\n")
      >>> read_table(file, "sold")
      Table(3 rows, 2 columns, target 'sold': 2 classes, no (2), yes (1))
    """
    path = Path(path)
    header = True if header is None and isinstance(target, str) else header
    columns, semicolons = _read(path, header, delimiter, rows)
    names = list(columns) if isinstance(columns, dict) else list(columns.column_names)
    if isinstance(target, int):
        if not -len(names) <= target < len(names):
            raise ValueError(f"{path} has {len(names)} columns, there is no column {target}.")
        target = names[target]
    elif target not in names:
        raise ValueError(f"{path}: {unknown('column', target, names)}")
    count = len(columns[target])
    about = Provenance(path.name, range(count), checksums={path.name: sha256(path)}, target=str(target))
    return Table(columns, target, kinds=kinds, provenance=about, decimal_comma=semicolons)


def read_frame(
    path: str | os.PathLike[str], *, header: bool | None = None, delimiter: str | None = None, rows: int | None = None
) -> dict[str, list[str]] | Any:
    """Reads the columns of a text file as text, or those of a Parquet file.

    Args:
      path: the file, in UTF-8 or Latin-1. `.gz` is unpacked on the way; `.parquet` is read with PyArrow.
      header: whether the first line names the columns; None: what the lines below it suggest. Without, columns are called "column 0", ...
      delimiter: between cells; None: a comma, semicolon, tab, bar or space, whichever parts the lines evenly.
      rows: read so many rows only.

    Returns:
      name -> cells; for Parquet a PyArrow table. Both are frames for `Table` and for the encoding of a model.

    Raises:
      ValueError: an empty file, a line with too few or too many cells; a damaged Parquet file.
      ImportError: PyArrow is not installed.
    """
    return _read(Path(path), header, delimiter, rows)[0]


def _read(path: Path, header: bool | None, delimiter: str | None, rows: int | None) -> tuple[Any, bool]:
    """The columns of a file, and whether its cells are parted by semicolons, so that a comma is rather a decimal one."""
    if rows is not None:
        check_count("rows", rows, 1, "rows")
    if path.suffix == ".parquet":
        try:
            found = needed("pyarrow.parquet", f"reading {path.name}", "parquet").read_table(path)
        except (ValueError, OSError) as error:
            if isinstance(error, FileNotFoundError):
                raise
            raise ValueError(f"{path} cannot be read as Parquet: {error}") from error
        return (found if rows is None else found.slice(0, rows)), False
    content = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError:
        text = content.decode("cp1252", "replace")
    if "\0" in text[:10_000]:
        raise ValueError(f"{path} is not a text file of columns.")
    lines = list(io.StringIO(text, newline=""))
    delimiter = delimiter or _delimiter(lines)
    records = _records(lines, delimiter)
    if not records:
        raise ValueError(f"{path} is empty.")
    first = records[0][1]
    if len(first) < 2:
        raise ValueError(f"{path} has one column, {first[0][:60]!r}, when cells are parted by {delimiter!r}: give delimiter=...")
    for line, cells in records:
        if len(cells) != len(first):
            raise ValueError(f"{path}, line {line}: {len(cells)} cells, expected {len(first)}, as in the first line.")
    named = header if header is not None else _names(first, [cells for _, cells in records[1:1001]])
    names = [cell or f"column {place}" for place, cell in enumerate(first)] if named else [f"column {i}" for i in range(len(first))]
    names = [name if names.index(name) == place else f"{name}.{names[:place].count(name)}" for place, name in enumerate(names)]
    body = [cells for _, cells in records[named:]][:rows]
    if not body:
        raise ValueError(f"{path} has no rows below its header.")
    return dict(zip(names, map(list, zip(*body, strict=True)), strict=True)), delimiter == ";"


def _delimiter(lines: list[str]) -> str:
    """The first delimiter that parts the first lines into equally many cells, two or more."""
    some = [line for line in lines[:200] if line.strip()]
    aligned = any("  " in line.strip() for line in some)  # tabs among them are blanks too
    for delimiter in (";", "|", ",", " ", "\t") if aligned else (";", "\t", "|", ",", " "):  # the comma late: it may be decimal
        widths = [len(cells) for _, cells in _records(some, delimiter)]
        if widths and widths[0] > 1 and widths.count(widths[0]) >= 0.9 * len(widths):
            return delimiter
    return ","


def _records(lines: list[str], delimiter: str) -> list[tuple[int, list[str]]]:
    """The line on which each row ends, and the row's cells, without blanks around them."""
    if delimiter == " ":
        lines = [line.replace("\t", " ").strip() + "\n" for line in lines]
    reader = csv.reader(lines, delimiter=delimiter, skipinitialspace=True)
    return [(reader.line_num, [cell.strip() for cell in cells]) for cells in reader if len(cells) > 1 or "".join(cells).strip()]


def _names(first: list[str], below: list[list[str]]) -> bool:
    """Whether the first line names the columns: it has words above numbers, or words that are not seen below."""
    columns = [Cells("text", np.array([*cells, None], object)) for cells in zip(*below, strict=True)]
    numeric = [cell for cell, column in zip(first, columns, strict=True) if parsing.meaning(column)[0] in ("number", "datetime")]
    if numeric:
        words = [cell for cell in numeric if parsing.meaning(Cells("text", np.array([cell], object)))[0] == "category" and cell]
        return 2 * len(words) > len(numeric)
    return bool(columns) and len(set(first)) == len(first) and not any(c in column.values for c, column in zip(first, columns, strict=True))
