"""The examples of a study: those that test, the folds of the others, and what is fitted to the training examples of each fold."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np

from flaxfit.data.dataset import Dataset
from flaxfit.data.encoding import Encoding
from flaxfit.data.scaling import standardize
from flaxfit.data.splits import class_labels, folds, hold_outs
from flaxfit.data.table import Table

Rows = np.ndarray
STOP = 0.2
"""The share of the training examples on which early stopping is decided."""


@dataclass(frozen=True, eq=False)
class Part:
    """What one member trains on and is scored on.

    Attributes:
      train: the training examples.
      validation: the examples of the learning curves: those held out, or with early stopping those that decide it.
      held_out: the examples that score the member.
      fitted: what is fitted to the training examples for `make_task`.
      sizes: how many examples it learns from, and how many are held out.
    """

    train: Dataset
    validation: Dataset
    held_out: Dataset
    fitted: Mapping[str, Any] | None
    sizes: tuple[int, int]


@dataclass(eq=False)
class Problem:
    """The examples of a study, and how they are split.

    Attributes:
      data: all examples.
      pool: the numbers of the examples for training and validation.
      test: the numbers of the examples that only the final model sees.
      folds: the number of folds; 1 if the examples are in the order of time.
      groups: the group of each example, or None.
      times: the time of each example, or None.
      seed: the seed of all splits.
      scaled: whether inputs are standardized for the task with the training examples.
      center: what is subtracted from the targets before training.
      unit: what they are then divided by.
    """

    data: Dataset | Table
    pool: Rows
    test: Rows
    folds: int
    groups: Rows | None
    times: Rows | None
    seed: int
    scaled: bool
    center: float = 0.0
    unit: float = 1.0
    _parts: dict[Any, Part] = field(default_factory=dict, repr=False)

    @property
    def labels(self) -> np.ndarray | None:
        """The class of each example, or None."""
        return class_labels(self.data)

    @property
    def test_ratio(self) -> float:
        """Held-out examples for each training example of a fold."""
        return 1 / (self.folds - 1)

    def split(self, repeat: int) -> list[tuple[Rows, Rows]]:
        """Returns the training and the held-out examples of each fold of a repeat."""
        some = self.data[self.pool]
        if self.times is not None:
            order = self.pool[np.argsort(self.times[self.pool], kind="stable")]
            cut = round(0.75 * len(order))
            return [(order[:cut], order[cut:])]
        groups = None if self.groups is None else self.groups[self.pool]
        found = folds(some, self.folds, stratified=self.labels is not None, groups=groups, seed=self.seed + repeat)
        return [(self.pool[train], self.pool[held]) for train, held in found]

    def part(self, train: Rows, held_out: Rows, stops: bool, permuted: int | None = None) -> Part:
        """Returns the data of one member.

        Args:
          train: the numbers of the examples to learn from.
          held_out: the numbers of the examples to score.
          stops: whether some of the first decide early stopping.
          permuted: the seed of a permutation of the targets, or None for the true ones.
        """
        key = (train.tobytes(), held_out.tobytes(), stops, permuted)
        if key not in self._parts:
            rows, deciding = self._stopping(train) if stops else (train, held_out)
            made = self._datasets(rows, deciding, held_out, permuted=permuted)
            fitted = {"scaling": standardize(made[0].x)} if self.scaled else None
            self._parts[key] = Part(made[0], made[1], made[2], fitted, (len(train), len(held_out)))
        return self._parts[key]

    def forget(self) -> None:
        """Frees the data of the parts so far."""
        self._parts.clear()

    def final(self, stops: bool) -> tuple[Dataset, Dataset | None, Dataset, Mapping[str, Any] | None]:
        """Returns all examples of the pool to train on, those that decide early stopping, the test examples, and what is fitted."""
        rows, deciding = self._stopping(self.pool) if stops else (self.pool, self.test)
        train, validation, test = self._datasets(rows, deciding, self.test)
        return train, validation if stops else None, test, {"scaling": standardize(train.x)} if self.scaled else None

    def described(self) -> Dataset:
        """Returns a test example as the recommended network takes it, with its target in the unit of the data."""
        data = self.data[self.test[:1]]
        return data.dataset(self.encoding, self.data.classes) if isinstance(data, Table) else data

    def _stopping(self, rows: Rows) -> tuple[Rows, Rows]:
        if self.times is not None:
            order = rows[np.argsort(self.times[rows], kind="stable")]
            cut = round((1 - STOP) * len(order))
            return order[:cut], order[cut:]
        stratified, groups = self.labels is not None and self.groups is None, None if self.groups is None else self.groups[rows]
        if stratified:  # a class of one example cannot be drawn for both parts
            labels = np.asarray(self.labels)[rows]
            stratified = np.unique(labels, return_counts=True)[1].min() > 1 and round(STOP * len(rows)) >= len(np.unique(labels))
        keep, deciding = hold_outs(self.data[rows], STOP, stratified=stratified, groups=groups, seed=self.seed)[0]
        return rows[keep], rows[deciding]

    def _datasets(self, train: Rows, *others: Rows, permuted: int | None = None) -> list[Dataset]:
        data = self.data
        if permuted is not None:
            y = np.array(data.y)
            y[self.pool] = y[np.random.default_rng(permuted).permutation(self.pool)]
            data = data.with_targets(y) if isinstance(data, Table) else replace(data, y=y)
        if isinstance(data, Table) and self.encoding is not None:
            learned = self.encoding.refitted(data[train].cells, data[train].sample_weight)
            made = [data[rows].dataset(learned, data.classes) for rows in (train, *others)]
        else:
            made = [data[rows] for rows in (train, *others)]
        return [self.standardized(part) for part in made if isinstance(part, Dataset)]

    @cached_property
    def encoding(self) -> Encoding | None:
        """How the columns of the pool are encoded, or None for arrays. The numbers in it are learned anew from each training set."""
        return self.data[self.pool].encoding if isinstance(self.data, Table) else None

    def standardized(self, data: Dataset) -> Dataset:
        """Returns examples with their targets in the unit of training."""
        if self.unit == 1.0 and self.center == 0.0:
            return data
        return replace(data, y=((np.asarray(data.y, np.float64) - self.center) / self.unit).astype(np.float32))
