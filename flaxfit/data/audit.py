"""Do the rows to evaluate on tell what they should? Copies, groups, order, features that give the label away, and shifts."""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import jax
import numpy as np

from flaxfit.data.dataset import Dataset
from flaxfit.data.near import near_copies
from flaxfit.data.shift import giveaways, shifts
from flaxfit.data.splits import Splits, class_labels, class_name, small
from flaxfit.sections import Section, Shown

_SHOWN = 10  # classes in a printed report


@dataclass(frozen=True)
class Duplicates:
    """Rows with the same x, or nearly the same.

    Attributes:
      first: a split's name.
      second: another's, or the same.
      rows: how many rows of `second` occur in `first`; within one split, how many occur earlier.
      contradicting: how many of these have another y than some equal row of `first`.
      examples: up to five pairs of row numbers, in `first` and in `second`.
      expected: how many rows of `second` would occur in `first` if they did as often as rows of `first` occur elsewhere in it. Features
        of few values repeat by chance: only more than that is a leak.
      spread: the standard deviation of that number.
    """

    first: str
    second: str
    rows: int
    contradicting: int
    examples: tuple[tuple[int, int], ...]
    expected: float = 0.0
    spread: float = 0.0

    @property
    def leaked(self) -> bool:
        """Whether there are more than what the rows of `first` repeat among themselves, beyond chance."""
        return self.first != self.second and self.rows > self.expected + 3 * self.spread

    def told(self, what: str = "that are also in") -> str:
        """A sentence."""
        pairs = [f"{self.first}[{one}] = {self.second}[{other}]" for one, other in self.examples]
        pairs += ["..."] * (self.rows > len(pairs))
        contradicting = f", {self.contradicting} of them with another y" if self.contradicting else ""
        expected = f", {self.expected:.3g} expected from repeated rows" if self.expected else ""
        return f"rows of {self.second} {what} {self.first}: {self.rows}{contradicting}{expected} ({', '.join(pairs)})."

    def __str__(self) -> str:
        return self.told()


@dataclass(frozen=True)
class Leakage(Shown):
    """What `leakage` found; printed, a table.

    Attributes:
      rows: split -> how many rows.
      across: the pairs of splits that share rows.
      within: for each split, rows that occur more than once in it.
      near: the pairs of splits with rows that are nearly the same, more often than within the first of them.
      shares: split -> class -> its share of the rows; empty where y is not class labels.
      differences: class -> the largest difference between two splits' shares.
      warnings: what may make an evaluation wrong; empty if nothing does.
    """

    rows: dict[str, int]
    across: tuple[Duplicates, ...]
    within: tuple[Duplicates, ...]
    near: tuple[Duplicates, ...]
    shares: dict[str, dict[str, float]]
    differences: dict[str, float]
    warnings: tuple[str, ...]

    def __str__(self) -> str:
        section = self.sections()[0]
        table = [section.columns, *section.rows]
        widths = [max(map(len, column)) for column in zip(*table, strict=True)]
        lines = ["  ".join([f"{line[0]:<{widths[0]}}", *map("{:>{}}".format, line[1:], widths[1:])]).rstrip() for line in table]
        return "\n".join([*lines, *section.paragraphs])

    def sections(self) -> list[Section]:
        """Returns the table and the warnings as a section of a report."""
        rows = [["rows", *map(str, self.rows.values()), ""], ["repeated rows", *(str(found.rows) for found in self.within), ""]]
        for name, difference in sorted(self.differences.items(), key=lambda item: -item[1])[:_SHOWN]:
            rows.append([name, *(f"{shares[name]:.3f}" for shares in self.shares.values()), f"{difference:.3f}"])
        notes = []
        if len(self.differences) > _SHOWN:
            notes.append(f"({len(self.differences) - _SHOWN} more classes differ less.)")
        if not self.across:
            notes.append("No row is in two splits.")
        notes += [f"No more often than by chance: {found}" for found in self.across if not found.leaked]
        notes += [f"Warning: {message}" for message in self.warnings]
        return [Section("Leakage", notes, ["", *self.rows, "difference" if self.differences else ""], rows)]


def leakage(
    splits: Splits | Mapping[str, Dataset],
    *,
    groups: Mapping[str, Any] | None = None,
    times: Mapping[str, Any] | None = None,
    one_row: float = 0.01,
) -> Leakage:
    """Looks for what makes an evaluation too good, or meaningless.

    It warns of
      - rows in two splits, where there are more than rows that repeat within the first of them;
      - rows that are nearly in two splits: rounded, changed by a little, scaled separately, images moved by a pixel;
      - a feature that is the label, or that alone tells it as well as all features together;
      - classes and features that are distributed differently in two splits, or a class that one lacks;
      - groups, such as patients, in two splits, and rows to evaluate on from before the last training row, if it is told them;
      - fewer rows to train on than to evaluate on, and so few of these that one moves an accuracy.

    Args:
      splits: what `flaxfit.data.split` returned, or name -> rows, such as a fold's. The rows to train on come first.
      groups: split -> the group of each of its rows, shape (rows,).
      times: split -> when each of its rows was taken, shape (rows,), numbers or dates.
      one_row: warn of a split, other than "train", in which one row moves an accuracy by more than this; 1.0 never warns.

    Returns:
      A report; its `warnings` are empty if nothing was found. Rows are equal if their bits are (-0.0 counts as 0.0), which is told by a
      64-bit BLAKE2b hash of each. Near copies and features are looked for among 1,000 rows of a split, drawn at random.

    Raises:
      ValueError, TypeError: not splits; splits without rows, or of different shapes or types; groups or times of other splits or rows.

    Example:
      >>> train = Dataset([[0.0], [1.0], [2.0], [3.0]], [0, 1, 0, 1])
      >>> leakage({"train": train, "test": Dataset([[2.0], [4.0]], [1, 0])}, one_row=1.0).warnings
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
    x = {name: _hashes(data.x) for name, data in parts.items()}
    xy = {name: list(zip(x[name], _hashes(data.y), strict=True)) for name, data in parts.items()}

    def duplicates(first: str, second: str) -> Duplicates:
        equal, alike = Counter(x[first]), Counter(xy[first])
        where = {hashed: row for row, hashed in reversed([*enumerate(x[first])])}  # the first row stays
        found = [row for row, hashed in enumerate(x[second]) if hashed in where and (first != second or where[hashed] < row)]
        contradicting = sum(equal[x[second][row]] > alike[xy[second][row]] for row in found)
        examples = tuple((where[x[second][row]], row) for row in found[:5])
        twins = 0 if first == second else sum(number for number in equal.values() if number > 1)
        return Duplicates(first, second, len(found), contradicting, examples, *_by_chance(twins, rows[first], rows[second]))

    pairs = list(combinations(parts, 2))
    across = tuple(pair for names in pairs if (pair := duplicates(*names)).rows)
    near = []
    for first, second in pairs:
        copies = near_copies(parts[first].x, parts[second].x)
        examples = tuple(pair for pair in copies.pairs if x[first][pair[0]] != x[second][pair[1]])
        found = Duplicates(first, second, len(examples), 0, examples[:5], *_by_chance(copies.own + 1, copies.own_of + 1, copies.of))
        near += [found] if found.leaked else []
    warnings = [*(str(found) for found in across if found.leaked), *(found.told("that are nearly in") for found in near)]
    warnings += _told_groups(parts, groups) + _told_times(parts, times)
    train, *others = parts
    warnings += [f"{rows[train]} rows in {train}, {rows[name]} in {name}: are they swapped?" for name in others if rows[name] > rows[train]]
    shares = _shares(parts)
    for name, of in shares.items():
        if absent := [label for label, share in of.items() if not share]:
            more = f" and {len(absent) - _SHOWN} more" if len(absent) > _SHOWN else ""
            warnings.append(f"{name} has no row of {', '.join(absent[:_SHOWN])}{more}, another split has.")
    warnings += [message for name in others for message in shifts(train, parts[train], name, parts[name])]
    warnings += giveaways(parts[train]) + small(rows, one_row)
    differences = {label: float(np.ptp([of[label] for of in shares.values()])) for label in next(iter(shares.values()), ())}
    within = tuple(duplicates(name, name) for name in parts)
    return Leakage(rows, across, within, tuple(near), shares, differences, tuple(warnings))


def _by_chance(twins: int, rows: int, others: int) -> tuple[float, float]:
    """How many of `others` rows occur among `rows`, of which `twins` occur elsewhere among them, and the standard deviation."""
    rate = twins / rows
    return rate * others, math.sqrt(rate * (1 - rate) * others * (1 + others / rows))


def _told_groups(parts: Mapping[str, Dataset], groups: Mapping[str, Any] | None) -> list[str]:
    found = {name: set(np.asarray(of).tolist()) for name, of in _each("groups", parts, groups).items()}
    told = []
    for first, second in combinations(found, 2):
        if shared := found[first] & found[second]:
            some = ", ".join(map(str, sorted(shared, key=str)[:5])) + (", ..." if len(shared) > 5 else "")
            told.append(f"groups of {second} that are also in {first}: {len(shared)} of {len(found[second])} ({some}).")
    return told


def _told_times(parts: Mapping[str, Dataset], times: Mapping[str, Any] | None) -> list[str]:
    found, (train, *others) = _each("times", parts, times), parts
    earlier = {name: int((found[name] < found[train].max()).sum()) for name in others if found}
    return [
        f"rows of {name} from before the last row of {train}: {count} of {len(found[name])}." for name, count in earlier.items() if count
    ]


def _each(argument: str, parts: Mapping[str, Dataset], given: Mapping[str, Any] | None) -> dict[str, np.ndarray]:
    if given is None:
        return {}
    arrays = {name: np.asarray(of) for name, of in given.items()}
    shapes, expected = {name: array.shape for name, array in arrays.items()}, {name: (len(data),) for name, data in parts.items()}
    if shapes != expected:
        raise ValueError(f"leakage({argument}=...) needs one value for each row of each split, shapes {expected}, got {shapes}.")
    return arrays


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
