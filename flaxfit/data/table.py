"""Tables as people have them: text, gaps, dates and labels of any kind, encoded by what is learned from training rows."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any

import numpy as np

from flaxfit.arguments import unknown
from flaxfit.data import parsing
from flaxfit.data.dataset import Dataset
from flaxfit.data.encoding import Encoding, Kind, check_kinds, learn
from flaxfit.data.frames import Cells, cells_of
from flaxfit.data.provenance import Provenance
from flaxfit.sections import Section, Shown

_MOST_CLASSES = 20  # a target of whole numbers is taken for classes if it has at most so many different ones


class Table(Shown):
    """Rows of a table with a column to predict. Its text says what is done to each column.

    `flaxfit.data.split`, `folds` and `hold_outs`, `fit_many` and `cross_validate` take a table as they take a `Dataset`. What is learned
    from a table to encode it is learned from training rows only: by `split` from those to train on, by `cross_validate` fold by fold.

    Args:
      frame: a data frame of pandas, Polars or Arrow, or a dict of columns.
      target: the column to predict, by name; or an array of targets, one a row. Text, booleans, categories, two different numbers and at
        most 20 different whole numbers are classes, numbered in their order; other numbers are predicted as such.
      kinds: column -> "number", "boolean", "datetime", "category" (one-hot), "embedding" (numbers for `flax.linen.Embed`) or "drop",
        instead of what the values suggest; of the target, "number" or "category".
      sample_weight: how much each row counts, shape (rows,), or None for all alike.

    Attributes:
      cells: the columns to predict from, by name.
      y: the targets, shape (rows,): classes as int32, or float32.
      classes: the names of the classes, or None.
      target: the name of the target.

    Raises:
      ValueError: no such column, no rows, a row without a number in a target that is numbers.
      TypeError: no data frame, or cells that are no single values.

    Warns:
      UserWarning: rows without a target are left out; a column tells the target exactly.

    Example:
      >>> table = Table({"age": ["20", "?", "41,5"], "city": ["Rome", "Oslo", "Rome"], "sold": ["yes", "no", "no"]}, "sold")
      >>> table.classes, table.y
      (('no', 'yes'), array([1, 0, 0], dtype=int32))
      >>> table.dataset().features
      ('age', 'age is missing', 'city=Oslo', 'city=Rome')
    """

    def __init__(
        self,
        frame: Any,
        target: str | int | Any,
        *,
        kinds: Mapping[str, Kind] | None = None,
        sample_weight: Any = None,
        provenance: Provenance | None = None,
        decimal_comma: bool = False,
    ):
        cells = cells_of(frame)
        self._decimal_comma = decimal_comma
        if isinstance(target, str | int):
            self.target = str(target)
            if self.target not in cells:
                raise ValueError(f"Table(target=...): {unknown('column', self.target, cells)}")
            labels = cells.pop(self.target)
        else:
            self.target = "target"
            labels = cells_of({self.target: target}, "target")[self.target]
        if not cells:
            raise ValueError(f"Table: there is no column besides the target, {self.target!r}.")
        rows = len(labels)
        if not rows or len(next(iter(cells.values()))) != rows:
            raise ValueError(f"Table: the frame has {len(next(iter(cells.values())))} rows, the target {rows}.")
        asked = check_kinds(kinds or {}, {**cells, self.target: labels})
        kind = asked.pop(self.target, None)
        if kind not in (None, "number", "category"):
            raise ValueError(f"kinds={{{self.target!r}: {kind!r}}}: the target is a number or a category.")
        self.cells, self.kinds, self.provenance = cells, asked, provenance
        self.sample_weight = None if sample_weight is None else np.asarray(sample_weight, np.float32)
        self.y, self.classes, present = _targets(self.target, labels, kind, decimal_comma)
        if not present.all():
            warnings.warn(
                f"Table: {rows - present.sum()} of {rows} rows have no {self.target} and are left out, the first is row "
                f"{np.argmin(present)}.",
                UserWarning,
                stacklevel=2,
            )
            self._take(present)
        self.tells = [] if self.classes is None else [column for column, c in self.cells.items() if _tells(c, self.y)]
        for column in self.tells:
            if self.kinds.get(column) != "drop":
                warnings.warn(
                    f"Table: the column {column!r} tells {self.target!r} exactly, as a column made from it would: if so, leave it out with "
                    f'kinds={{"{column}": "drop"}}.',
                    UserWarning,
                    stacklevel=2,
                )

    def __len__(self) -> int:
        return len(self.y)

    def __getitem__(self, rows: Any) -> Table:
        """The rows of a slice, an index array or a boolean mask, as a table from which an encoding has yet to be learned."""
        part = self._with()
        part._take(rows)
        return part

    def without(self, columns: Sequence[str]) -> Table:
        """Returns the same rows, with some columns left out of the encoding."""
        return self._with(kinds={**self.kinds, **dict.fromkeys(columns, "drop")})

    def weighted(self, sample_weight: Any) -> Table:
        """Returns the same rows with other weights, shape (rows,)."""
        return self._with(sample_weight=np.asarray(sample_weight, np.float32))

    def with_targets(self, y: np.ndarray) -> Table:
        """Returns the same rows with other targets, shape (rows,)."""
        return self._with(y=y)

    def _with(self, **changed: Any) -> Table:
        """Returns a copy with other attributes, which learns an encoding of its own."""
        part = copy.copy(self)
        vars(part).pop("encoding", None)
        vars(part).update(changed)
        return part

    @cached_property
    def encoding(self) -> Encoding:
        """What is learned from these rows, all of them."""
        return learn(self.cells, self.kinds, sample_weight=self.sample_weight, decimal_comma=self._decimal_comma)

    def dataset(self, encoding: Encoding | None = None, classes: tuple[str, ...] | None = None) -> Dataset:
        """The rows as numbers.

        Args:
          encoding: what was learned from training rows, such as `train.encoding`; by default it is learned from these rows.
          classes: the names of the classes in their order, such as `train.classes`; by default those of these rows.

        Raises:
          ValueError: a class of these rows that `classes` does not name.
        """
        encoding = self.encoding if encoding is None else encoding
        x = encoding.encode(self.cells)
        features = None if isinstance(x, dict) else encoding.features
        y, names = self.y, self.classes
        if names is not None and classes not in (None, names):
            if unknown_names := [name for name in np.array(names)[np.unique(y)] if name not in classes]:
                raise ValueError(f"Table: the target {self.target!r} has the class {unknown_names[0]!r}, expected {', '.join(classes)}.")
            y, names = np.array([classes.index(name) if name in classes else 0 for name in names], np.int32)[y], tuple(classes)
        return Dataset(x, y, self.sample_weight, features, names, self.provenance, encoding)

    def __array__(self, *_: Any, **__: Any) -> np.ndarray:
        """No: NumPy would make something of the columns.

        Raises:
          TypeError: always.
        """
        raise TypeError("a Table is not an array: pass its encoded numbers, table.dataset(train.encoding).x.")

    def __repr__(self) -> str:
        return f"Table({len(self)} rows, {len(self.cells)} columns, target {self.target!r}: {self._target()})"

    def __str__(self) -> str:
        first, *told = self._told()
        return "\n".join([first, str(self.encoding), *told])

    def sections(self) -> list[Section]:
        """Returns what is done to each column as a section of a report."""
        return [replace(section, title="Table", paragraphs=self._told()) for section in self.encoding.sections()]

    def _told(self) -> list[str]:
        told = [
            f"{column} determines {self.target} exactly: a study leaves it out, unless its type is given."
            for column in self.tells
            if self.kinds.get(column) != "drop"
        ]
        return [f"{len(self)} rows to predict {self.target}: {self._target()}", *told]

    def _target(self) -> str:
        if self.classes is None:
            return f"a number from {self.y.min():.6g} to {self.y.max():.6g}"
        counts = np.bincount(self.y, minlength=len(self.classes))
        return f"{len(self.classes)} classes, " + ", ".join(f"{name} ({n})" for name, n in zip(self.classes, counts, strict=True))

    def _take(self, rows: Any) -> None:
        self.cells = {column: cells[rows] for column, cells in self.cells.items()}
        self.y = self.y[rows]
        self.sample_weight = None if self.sample_weight is None else self.sample_weight[rows]
        self.provenance = None if self.provenance is None else self.provenance[rows]


def encoded(train: Any, *others: Any) -> tuple[Any, ...]:
    """Tables as `Dataset`s, by what is learned from the rows of the first, or was when they were encoded; other data as they are."""
    if not isinstance(train, Table | Dataset) or train.encoding is None:
        return train, *others
    return tuple(rows.dataset(train.encoding, train.classes) if isinstance(rows, Table) else rows for rows in (train, *others))


def _targets(name: str, labels: Cells, kind: str | None, decimal_comma: bool) -> tuple[np.ndarray, tuple[str, ...] | None, np.ndarray]:
    """Targets, the names of the classes, and which rows have a target."""
    missing = np.array([v is None or v in ("", "?") for v in labels.values]) if labels.values.dtype == object else np.isnan(labels.values)
    if missing.all():
        raise ValueError(f"Table: the target {name!r} has no values.")
    taken, written = parsing.meaning(labels[~missing], decimal_comma)
    values = parsing.numbers(labels, written) if taken == "number" else None
    if kind == "number" and values is None:
        raise ValueError(f"Table: the target {name!r} must be numbers, but has the text {labels.values[~missing][0]!r}.")
    if kind is None and values is not None:
        different = np.unique(values[~missing])
        whole = bool((different % 1 == 0).all())
        kind = "category" if len(different) == 2 or (whole and len(different) <= _MOST_CLASSES) else "number"
    if kind == "number":
        assert values is not None
        if labels.values.dtype == object:  # such as "NA", which is a class of its own in a target of classes
            missing |= np.array([value is None or value.lower() in parsing.MISSING for value in labels.values])
        if (wrong := np.isnan(values) & ~missing).any():
            raise ValueError(f"Table: the target {name!r} is {labels.values[wrong][0]!r} in row {np.argmax(wrong)}, no finite number.")
        return values.astype(np.float32), None, ~missing
    if labels.values.dtype == object:
        texts = labels.values
    elif labels.holds == "boolean":
        texts = np.array([None if v != v else str(bool(v)) for v in labels.values], object)
    else:
        texts = parsing.levels(labels)
    present = {text for text, gone in zip(texts, missing, strict=True) if not gone}
    order = {text: place for place, text in enumerate(sorted(present, key=parsing.by_value))}
    return np.array([order.get(text, 0) for text in texts], np.int32), tuple(order), ~missing


def _tells(cells: Cells, y: np.ndarray) -> bool:
    """Whether each level of a column is of one class, and each class of one level."""
    if len(y) < 50:
        return False
    if cells.values.dtype != object and len(np.unique(cells.values[:50])) > _MOST_CLASSES:
        return False
    pairs = set(zip(parsing.levels(cells).tolist(), y.tolist(), strict=True))
    return len(pairs) == len({level for level, _ in pairs}) == len({label for _, label in pairs}) > 1
