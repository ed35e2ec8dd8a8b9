"""What a source of data says of itself. A source is plain data and one function, so that it is cheap to import."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

Parts = dict[str, dict[str, np.ndarray]]
"""The source's own split ("train", "test", or "all" where it has none) -> array name -> array, as kept in the cache."""


@dataclass(frozen=True)
class File:
    """A file that rows are read from: its path below a directory of originals, and where it is published.

    A substitute has no URL, but the path of the original that it `stands_for`, and a `note` of what it is.
    """

    path: str
    sha256: str
    url: str = ""
    stands_for: str = ""
    note: str = ""


@dataclass(frozen=True)
class Source:
    """A published data set.

    Attributes:
      name: what `flaxfit.data.load` calls it.
      version: of our reading of it; another version is prepared anew.
      citation, license, homepage: for people; they are kept beside the prepared arrays.
      originals: the files as published.
      read: (path of an original -> the file to read, how many rows are wanted or None for all) -> the arrays.
      substitutes: files that may stand in for an original, the default first.
      features, classes: names of columns and of classes.
      first_rows: how many rows to read by default from a source too large to be fetched whole; None: all.
      assemble: (arrays of one part, all arrays, options) -> x and the names of its columns; None: x is kept as it is.
      options: the options of `load` for this source, with their defaults; `assemble` takes all but `rows` and `original`.
    """

    name: str
    version: str
    citation: str
    license: str
    homepage: str
    originals: tuple[File, ...]
    read: Callable[[Mapping[str, Path], int | None], Parts]
    substitutes: tuple[File, ...] = ()
    features: tuple[str, ...] | None = None
    classes: tuple[str, ...] | None = None
    first_rows: int | None = None
    assemble: Callable[..., tuple[Any, tuple[str, ...] | None]] | None = None
    options: Mapping[str, Any] = field(default_factory=dict)


def sha256(path: Path) -> str:
    """The SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
