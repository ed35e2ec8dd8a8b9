"""The description of a published data set: plain data and one function, so that it is cheap to import."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

Parts = dict[str, dict[str, np.ndarray]]
"""Split of the source ("train" and "test", or "all" if it has none) -> name of an array -> array, as kept in the cache."""


@dataclass(frozen=True)
class File:
    """A file that examples are read from.

    Attributes:
      path: its path in a directory of originals.
      sha256: its checksum.
      url: where it is published; "" for a substitute.
      stands_for: the path of the original that a substitute stands for.
      note: what a substitute holds.
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
      name: its name in `flaxfit.data.load`.
      version: the version of the code that reads it. A new version prepares the arrays anew.
      citation: how to cite it. This and the next two are kept beside the prepared arrays.
      license: the license of the data.
      homepage: the web page of the data.
      originals: the published files.
      read: a function (path of an original -> the file to read, how many rows are wanted or None for all) -> the arrays.
      substitutes: files that may stand in for an original. The first one is the default.
      features: the names of the columns of x, or None.
      classes: the names of the classes, or None.
      first_rows: how many rows to read by default, if the source is too large to be downloaded whole, or None for all.
      assemble: a function (arrays of one split, all arrays, options) -> x and the names of its columns. None keeps x as it is.
      options: the options of `load` for this source, with their defaults. `assemble` takes all but `rows` and `original`.
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
    """Returns the SHA-256 checksum of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
