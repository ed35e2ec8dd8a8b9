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
    """A file that examples are read from."""

    path: str  # its path in a directory of originals
    sha256: str
    url: str = ""  # where it is published; "" for a substitute
    stands_for: str = ""  # the path of the original that a substitute stands for
    note: str = ""  # what a substitute holds


@dataclass(frozen=True)
class Source:
    """A published data set."""

    name: str  # its name in `flaxfit.data.load`
    version: str  # the version of the code that reads it. A new version prepares the arrays anew.
    citation: str  # how to cite it. This and the next two are kept beside the prepared arrays.
    license: str
    homepage: str
    originals: tuple[File, ...]  # the published files
    # a function (path of an original -> the file to read, how many rows are wanted or None for all) -> the arrays
    read: Callable[[Mapping[str, Path], int | None], Parts]
    substitutes: tuple[File, ...] = ()  # files that may stand in for an original. The first one is the default.
    features: tuple[str, ...] | None = None  # the names of the columns of x, or None
    classes: tuple[str, ...] | None = None  # the names of the classes, or None
    first_rows: int | None = None  # how many rows to read by default, if the source is too large to be downloaded whole, or None for all
    # a function (arrays of one split, all arrays, options) -> x and the names of its columns. None keeps x as it is.
    assemble: Callable[..., tuple[Any, tuple[str, ...] | None]] | None = None
    # the options of `load` for this source, with their defaults. `assemble` takes all but `rows` and `original`.
    options: Mapping[str, Any] = field(default_factory=dict)


def sha256(path: Path) -> str:
    """Returns the SHA-256 checksum of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
