"""Where rows come from, for the record of a run."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np


@dataclass(frozen=True, eq=False)
class Provenance:
    """Where the rows of a `Dataset` come from.

    Attributes:
      source: the data set's name, or the file's.
      rows: which of the source's rows, in order: a range or an integer array.
      part: the source's own split that the rows are from, such as "train"; "" where it has none.
      version: of the source.
      checksums: file -> SHA-256 of what was read.
      note: what else a reader must know, such as that a file stands in for the original.

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

    def __getitem__(self, rows: Any) -> Provenance:
        """The same of a slice, an index array or a boolean mask of the rows."""
        return replace(self, rows=self.rows[rows] if isinstance(rows, slice) else np.asarray(self.rows)[np.asarray(rows)])

    def record(self) -> dict[str, Any]:
        """All of it as plain values, for JSON: rows as `start:stop`, or their number and the SHA-256 of their int64 numbers."""
        if isinstance(self.rows, range) and self.rows.step == 1:
            rows = f"{self.rows.start}:{self.rows.stop}"
        else:
            digest = hashlib.sha256(np.asarray(self.rows, np.int64).tobytes()).hexdigest()
            rows = f"{len(self.rows)} rows, sha256 {digest}"
        values = {"source": self.source, "version": self.version, "part": self.part, "rows": rows}
        values |= {"checksums": dict(self.checksums), "note": self.note}
        return {name: value for name, value in values.items() if value}
