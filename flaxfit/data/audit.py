"""Do the rows to evaluate on tell what they should? Duplicates, class shares, and how much one row counts."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import jax
import numpy as np

from flaxfit.data.dataset import Dataset
from flaxfit.data.splits import Splits, class_labels, class_name, small

_SHOWN = 10  # classes in a printed report


@dataclass(frozen=True)
class Duplicates:
    """Rows with the same x.

    Attributes:
      first: a split's name.
      second: another's, or the same.
      rows: how many rows of `second` occur in `first`; within one split, how many occur earlier.
      contradicting: how many of these have another y than some equal row of `first`.
      examples: up to five pairs of row numbers, in `first` and in `second`.
    """

    first: str
    second: str
    rows: int
    contradicting: int
    examples: tuple[tuple[int, int], ...]

    def __str__(self) -> str:
        pairs = [f"{self.first}[{one}] = {self.second}[{other}]" for one, other in self.examples]
        pairs += ["..."] * (self.rows > len(pairs))
        contradicting = f", {self.contradicting} of them with another y" if self.contradicting else ""
        return f"rows of {self.second} that are also in {self.first}: {self.rows}{contradicting} ({', '.join(pairs)})."


@dataclass(frozen=True)
class Leakage:
    """What `leakage` found; printed, a table.

    Attributes:
      rows: split -> how many rows.
      across: the pairs of splits that share rows.
      within: for each split, rows that occur more than once in it.
      shares: split -> class -> its share of the rows; empty where y is not class labels.
      differences: class -> the largest difference between two splits' shares.
      warnings: what may make an evaluation wrong; empty if nothing does.
    """

    rows: dict[str, int]
    across: tuple[Duplicates, ...]
    within: tuple[Duplicates, ...]
    shares: dict[str, dict[str, float]]
    differences: dict[str, float]
    warnings: tuple[str, ...]

    def __str__(self) -> str:
        table = [["", *self.rows, "difference" if self.differences else ""], ["rows", *self.rows.values(), ""]]
        table.append(["repeated rows", *(found.rows for found in self.within), ""])
        for name, difference in sorted(self.differences.items(), key=lambda item: -item[1])[:_SHOWN]:
            table.append([name, *(f"{shares[name]:.3f}" for shares in self.shares.values()), f"{difference:.3f}"])
        widths = [max(len(str(cell)) for cell in column) for column in zip(*table, strict=True)]
        lines = ["  ".join([f"{line[0]:<{widths[0]}}", *map("{:>{}}".format, line[1:], widths[1:])]).rstrip() for line in table]
        if len(self.differences) > _SHOWN:
            lines.append(f"({len(self.differences) - _SHOWN} more classes differ less.)")
        if not self.across:
            lines.append("No row is in two splits.")
        return "\n".join([*lines, *(f"Warning: {message}" for message in self.warnings)])


def leakage(splits: Splits | Mapping[str, Dataset], *, one_row: float = 0.01) -> Leakage:
    """Looks for what makes an evaluation too good, or meaningless.

    Args:
      splits: what `flaxfit.data.split` returned, or name -> rows, such as a fold's.
      one_row: warn of a split, other than "train", in which one row moves an accuracy by more than this; 1.0 never warns.

    Returns:
      A report; its `warnings` are empty if no row is in two splits, each class is in each split, and each is large enough.
      Rows are equal if their bits are (-0.0 counts as 0.0), which is told by a 64-bit BLAKE2b hash of each.

    Raises:
      ValueError, TypeError: not splits; splits without rows, or of different shapes or types.

    Example:
      >>> train = Dataset([[0.0], [1.0], [2.0], [2.0]], [0, 1, 0, 1])
      >>> leakage({"train": train, "test": Dataset([[2.0], [3.0]], [0, 1])}, one_row=1.0).warnings
      ('rows of test that are also in train: 1, 1 of them with another y (train[2] = test[0]).',)
    """
    parts = dict(splits.items()) if isinstance(splits, Splits | Mapping) else {}
    if not parts or not all(isinstance(data, Dataset) for data in parts.values()):
        raise TypeError(
            f"leakage takes what flaxfit.data.split returned, or a dict of name -> flaxfit.Dataset, got {type(splits).__name__}."
        )
    kinds = {name: str(jax.tree.map(lambda a: f"{a.dtype}{list(a.shape[1:])}", (data.x, data.y))) for name, data in parts.items()}
    rows = {name: len(data) for name, data in parts.items()}
    if len(set(kinds.values())) > 1 or not all(rows.values()):
        raise ValueError(f"leakage compares rows of the same shapes and types, got (x, y) {kinds}, rows {rows}.")
    warnings = small(rows, one_row)
    x = {name: _hashes(data.x) for name, data in parts.items()}
    xy = {name: list(zip(x[name], _hashes(data.y), strict=True)) for name, data in parts.items()}

    def duplicates(first: str, second: str) -> Duplicates:
        equal, alike = Counter(x[first]), Counter(xy[first])
        where = {hashed: row for row, hashed in reversed([*enumerate(x[first])])}  # the first row stays
        found = [row for row, hashed in enumerate(x[second]) if hashed in where and (first != second or where[hashed] < row)]
        contradicting = sum(equal[x[second][row]] > alike[xy[second][row]] for row in found)
        return Duplicates(first, second, len(found), contradicting, tuple((where[x[second][row]], row) for row in found[:5]))

    across = tuple(pair for names in combinations(parts, 2) if (pair := duplicates(*names)).rows)
    shares = _shares(parts)
    for name, of in shares.items():
        if absent := [label for label, share in of.items() if not share]:
            more = f" and {len(absent) - _SHOWN} more" if len(absent) > _SHOWN else ""
            warnings.append(f"{name} has no row of {', '.join(absent[:_SHOWN])}{more}, another split has.")
    differences = {label: float(np.ptp([of[label] for of in shares.values()])) for label in next(iter(shares.values()), ())}
    within = tuple(duplicates(name, name) for name in parts)
    return Leakage(rows, across, within, shares, differences, (*map(str, across), *warnings))


def _hashes(tree: Any) -> list[bytes]:
    """A hash of each row, computed a few MB at a time."""
    leaves = [np.asarray(leaf) for leaf in jax.tree.leaves(tree)]
    step = max(1, 2**22 // sum(leaf[:1].nbytes for leaf in leaves))
    digests = []
    for start in range(0, len(leaves[0]), step):
        parts = [leaf[start : start + step] for leaf in leaves]
        parts = [part if part.dtype.kind in "biu" else part + part.dtype.type(0) for part in parts]  # -0.0 + 0.0 is 0.0
        chunk = np.concatenate([np.ascontiguousarray(part).reshape(len(part), -1).view(np.uint8) for part in parts], axis=1)
        digests += [hashlib.blake2b(row, digest_size=8).digest() for row in chunk]
    return digests


def _shares(parts: Mapping[str, Dataset]) -> dict[str, dict[str, float]]:
    labels = {name: y for name, data in parts.items() if (y := class_labels(data)) is not None}
    classes = np.unique(np.concatenate([*labels.values()])) if labels else ()
    named = next(iter(parts.values()))
    return {name: {class_name(named, label): float((y == label).mean()) for label in classes} for name, y in labels.items()}
