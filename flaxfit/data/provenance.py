"""Where examples come from, for the record of a run."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np


@dataclass(frozen=True, eq=False)
class Provenance:
    """Where the examples of a `Dataset` come from.

    Attributes:
      source: the name of the data set or of the file.
      rows: which rows of the source, in order: a range or an integer array.
      part: the split of the source that the rows are from, such as "train", or "" if the source has no splits.
      version: the version of the source.
      checksums: name of a file -> SHA-256 of what was read.
      target: the column to predict, or "" if the source has no columns.
      note: what else a reader should know, such as that a file stands in for the original.

    Example:
      >>> rows = Provenance("higgs", range(11_000), version="1.0.0")[1_000:]
      >>> rows.record()["rows"]
      '1000:11000'
    """

    source: str
    rows: range | np.ndarray
    part: str = ""
    version: str = ""
    checksums: Mapping[str, str] = field(default_factory=dict)
    note: str = ""
    target: str = ""

    def __getitem__(self, rows: Any) -> Provenance:
        """Returns the provenance of a slice, an index array or a boolean mask of the rows."""
        return replace(self, rows=self.rows[rows] if isinstance(rows, slice) else np.asarray(self.rows)[np.asarray(rows)])

    def record(self) -> dict[str, Any]:
        """Returns everything as plain values for JSON. Rows are `start:stop`, or how many there are and a SHA-256 of their numbers."""
        if isinstance(self.rows, range) and self.rows.step == 1:
            rows = f"{self.rows.start}:{self.rows.stop}"
        else:
            digest = hashlib.sha256(np.asarray(self.rows, np.int64).tobytes()).hexdigest()
            rows = f"{len(self.rows)} rows, sha256 {digest}"
        values = {"source": self.source, "version": self.version, "part": self.part, "rows": rows}
        values |= {"checksums": dict(self.checksums), "note": self.note, "target": self.target}
        return {name: value for name, value in values.items() if value}
