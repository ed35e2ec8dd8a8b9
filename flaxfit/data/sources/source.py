"""What a source of data says of itself. A source is plain data and one function, so that it is cheap to import."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

Parts = dict[str, dict[str, np.ndarray]]
"""The source's own split ("train", "test", or "all" where it has none) -> array name -> array, as kept in the cache."""


@dataclass(frozen=True)
class File:
    """A file that rows are read from.

    Attributes:
      path: where it lies below a directory of originals.
      sha256: of its bytes.
      url: where it is published; "" for a substitute.
      size: in bytes.
      stands_for: the path of the original that this file is a substitute for, "" for an original.
      note: what a substitute is.
    """

    path: str
    sha256: str
    url: str = ""
    size: int = 0
    stands_for: str = ""
    note: str = ""


@dataclass(frozen=True)
class Source:
    """A published data set.

    Attributes:
      name: what `flaxfit.data.load` calls it.
      version: of our reading of it; another version is prepared anew.
      description, citation, licence, homepage: for people.
      originals: the files as published.
      read: (open, rows) -> parts; `open` gives the binary file for an original's path, `rows` is how many rows are wanted, None for all.
      x: shape and type of one row as TFDS stores it.
      substitutes: files that may stand in for an original, the default first.
      features, classes: names of columns and of classes.
      first_rows: the rows to read where nothing is said, of a source too large to be fetched whole; None: all.
      assemble: (arrays of one part, the source's meta data, options) -> x and the names of its columns.
      options: the options of `load` that `assemble` takes, with their defaults.
    """

    name: str
    version: str
    description: str
    citation: str
    licence: str
    homepage: str
    originals: tuple[File, ...]
    read: Callable[[Callable[[str], BinaryIO], int | None], Parts]
    x: tuple[tuple[int | None, ...], Any]
    substitutes: tuple[File, ...] = ()
    features: tuple[str, ...] | None = None
    classes: tuple[str, ...] | None = None
    first_rows: int | None = None
    assemble: Callable[..., tuple[Any, tuple[str, ...] | None]] | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    row: Callable[[Mapping[str, np.ndarray], int], Any] = lambda arrays, index: arrays["x"][index]

    def rows(self, arrays: Mapping[str, np.ndarray]) -> Iterator[tuple[Any, int]]:
        """(x, label) of each row of a part, as TFDS stores them."""
        for index, label in enumerate(arrays["y"]):
            yield self.row(arrays, index), int(label)


def sha256(path: Path) -> str:
    """The SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
