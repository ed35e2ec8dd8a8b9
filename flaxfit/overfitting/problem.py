"""The examples of a study: those that test, the folds of the others, and what is fitted to the training examples of each fold."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import jax
import numpy as np

from flaxfit.arguments import check_count
from flaxfit.data.audit import leakage
from flaxfit.data.dataset import Dataset
from flaxfit.data.encoding import Encoding
from flaxfit.data.scaling import Scaling, standardize
from flaxfit.data.splits import Splits, class_labels, class_name, column, folds, hold_outs
from flaxfit.data.table import Table

Rows = np.ndarray
LEAST = 50  # the fewest examples of a study
STOP = 0.2  # the share of the training examples on which early stopping is decided


@dataclass(frozen=True, eq=False)
class Part:
    """What one member trains on and is scored on."""

    train: Dataset
    validation: Dataset  # the examples of the learning curves: those held out, or with early stopping those that decide it
    held_out: Dataset  # the examples that score the member
    fitted: Mapping[str, Any] | None  # what is fitted to the training examples for `make_task`
    sizes: tuple[int, int]  # how many examples it learns from, and how many are held out


@dataclass(eq=False)
class Problem:
    """The examples of a study, and how they are split."""

    data: Dataset | Table
    pool: Rows  # the numbers of the examples for training and validation
    test: Rows  # the numbers of the examples that only the final model sees
    folds: int  # the number of folds; 1 if the examples are in the order of time
    groups: Rows | None  # the group of each example, or None
    times: Rows | None  # the time of each example, or None
    seed: int  # the seed of all splits
    scaled: bool = False  # whether the task is given a scaling that standardizes the inputs with the training examples
    _parts: dict[Any, Part] = field(default_factory=dict, repr=False)

    @property
    def labels(self) -> np.ndarray | None:
        """The class of each example, or None."""
        return class_labels(self.data)

    @property
    def how(self) -> dict[str, Any]:
        """How the scores of folds are averaged and compared: corrected for the examples that the folds share, if there are several."""
        return {"method": "corrected", "test_ratio": 1 / (self.folds - 1)} if self.folds > 1 else {}

    def split(self, repeat: int) -> list[tuple[Rows, Rows]]:
        """Returns the training and the held-out examples of each fold of a repeat."""
        some = self.data[self.pool]
        if self.times is not None:
            return [self._in_time(self.pool, 0.75)]
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
            fitted = {"scaling": scaling_of(made[0].x)} if self.scaled else None
            self._parts[key] = Part(made[0], made[1], made[2], fitted, (len(train), len(held_out)))
        return self._parts[key]

    def final(self, stops: bool) -> tuple[Dataset, Dataset | None, Dataset, Mapping[str, Any] | None]:
        """Returns all examples of the pool to train on, those that decide early stopping, the test examples, and what is fitted."""
        rows, deciding = self._stopping(self.pool) if stops else (self.pool, self.test)
        train, validation, test = self._datasets(rows, deciding, self.test)
        return train, validation if stops else None, test, {"scaling": scaling_of(train.x)} if self.scaled else None

    def pooled(self) -> Dataset:
        """Returns all examples of the pool."""
        data = self.data[self.pool]
        return data.dataset(self.encoding, self.data.classes) if isinstance(data, Table) else data

    def _stopping(self, rows: Rows) -> tuple[Rows, Rows]:
        if self.times is not None:
            return self._in_time(rows, 1 - STOP)
        stratified, groups = self.labels is not None and self.groups is None, None if self.groups is None else self.groups[rows]
        if stratified:  # a class of one example cannot be drawn for both parts
            labels = np.asarray(self.labels)[rows]
            stratified = np.unique(labels, return_counts=True)[1].min() > 1 and round(STOP * len(rows)) >= len(np.unique(labels))
        keep, deciding = hold_outs(self.data[rows], STOP, stratified=stratified, groups=groups, seed=self.seed)[0]
        return rows[keep], rows[deciding]

    def _in_time(self, rows: Rows, share: float) -> tuple[Rows, Rows]:
        """The oldest of some examples, so large a share of them, and the newest."""
        assert self.times is not None
        order = rows[np.argsort(self.times[rows], kind="stable")]
        cut = round(share * len(order))
        return order[:cut], order[cut:]

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
        return [part for part in made if isinstance(part, Dataset)]

    @cached_property
    def encoding(self) -> Encoding | None:
        """How the columns of the pool are encoded, or None for arrays. The numbers in it are learned anew from each training set."""
        return self.data[self.pool].encoding if isinstance(self.data, Table) else None

    def leaks(self) -> list[str]:
        """Returns what the leakage report warns of, between the pool and the test examples."""
        train, _, test, _ = self.final(False)
        parts = {"training": train, "test": test}
        rows = {"training": self.pool, "test": self.test}

        def told(values: np.ndarray | None) -> dict[str, np.ndarray] | None:
            return None if values is None else {name: values[place] for name, place in rows.items()}

        return list(leakage(parts, groups=told(self.groups), times=told(self.times), one_row=1.0).warnings)

    def checksum(self) -> str:
        """Returns a checksum of the examples."""
        digest, data = hashlib.sha256(), self.data
        arrays: Mapping[str, Any] = {"y": data.y}
        if isinstance(data, Table):
            arrays = {**{name: cells.values for name, cells in data.cells.items()}, **arrays}
        else:
            arrays = {**dict(data.leaves()), **arrays}
        for name, array in arrays.items():
            array = np.asarray(array)
            digest.update(f"{name} {array.shape} ".encode())
            digest.update("\x1f".join(map(str, array)).encode() if array.dtype == object else np.ascontiguousarray(array).tobytes())
        return digest.hexdigest()


def scaling_of(x: Any) -> Scaling:
    """Returns the scaling that standardizes inputs: each feature, or each channel of images."""
    axis = 0 if getattr(x, "ndim", 0) < 3 else tuple(range(3))
    return standardize(x, axis)


def problem_of(data: Any, groups: Any, times: Any, test: float, folds: int | None, seed: int) -> tuple[Problem, list[str]]:
    """Returns the examples and their splits, and what to warn of. The arguments are those of `overfitting_study`."""
    warnings: list[str] = []
    held = None
    if isinstance(data, Splits):
        held = None if data.test is None else len(data.test)
        data = _joined([part for _, part in data.items()])
    if not isinstance(data, Dataset | Table):
        raise TypeError(f"overfitting_study needs a Dataset, a Table or Splits, got {type(data).__name__}.")
    rows = len(data)
    if rows < LEAST:
        raise ValueError(f"at least {LEAST} examples are needed to tell anything, but there are {rows}.")
    chosen = 10 if folds is None else check_count("folds", folds, 2, "folds")
    check_count("seed", seed, 0, "the seed of splits and runs")
    if not 0 < test < 1:
        raise ValueError(f"the share of the examples to set aside must be above 0 and below 1, got {test!r}.")
    groups, times = (
        None if v is None else column(f"overfitting_study({n}=...)", v, rows) for n, v in (("groups", groups), ("times", times))
    )
    if groups is not None and times is not None:
        raise ValueError("pass groups=... or times=..., not both.")
    if isinstance(data, Table):
        telling = [name for name in data.tells if name not in data.kinds]
        if telling:
            listed = ", ".join(map(repr, telling))
            first, kind = telling[0], data.encoding.columns[telling[0]].kind
            warnings.append(
                f"the column {listed} determines {data.target!r} exactly, and is left out. If it will be known before {data.target!r} is, "
                f"keep it by giving its type: --type {first}={kind}, or in Python kinds={{{first!r}: {kind!r}}}."
            )
            data = data.without(telling)
        dates = [name for name, how in data.encoding.columns.items() if how.kind == "datetime"]
        if dates and times is None:
            warnings.append(
                f"{dates[0]} is a date, but examples are split at random. If the model will predict the future, split by time: "
                f"--time {dates[0]}, or times=... in Python."
            )
    labels = class_labels(data)
    if not isinstance(data.y, dict | tuple) and (np.asarray(data.y) == np.asarray(data.y)[0]).all():
        value = repr(data.classes[0]) if data.classes else str(data.y[0])
        raise ValueError(f"all {rows} examples have the same target, {value}: there is nothing to predict.")
    if held is not None:
        pool, tested = np.arange(rows - held), np.arange(rows - held, rows)
    elif times is not None:
        order = np.argsort(times, kind="stable")
        cut = rows - round(test * rows)
        pool, tested = order[:cut], order[cut:]
    elif groups is not None:
        pool, tested = hold_outs(data, float(test), groups=groups, seed=seed)[0]
    else:
        keep = chosen * math.floor((1 - test) * rows / chosen)  # so that all folds have the same size, and share their programs
        stratified = labels is not None and np.unique(labels, return_counts=True)[1].min() > 1
        pool, tested = hold_outs(data, rows - keep, stratified=stratified, seed=seed)[0]
    pool, tested = np.sort(pool), np.sort(tested)
    if times is not None:
        return Problem(data, pool, tested, 1, groups, times, seed), warnings
    fewest: dict[str, tuple[int, str]] = {}
    if labels is not None:
        classes, counts = np.unique(labels[pool], return_counts=True)
        rarest = class_name(data, classes[counts.argmin()]).removeprefix("class ")
        fewest[f"the target has {len(classes)} classes, and {rarest!r}"] = int(counts.min()), "example"
    if groups is not None:
        fewest["the data"] = len(np.unique(groups[pool])), "group"
    for who, (count, unit) in fewest.items():
        chosen = 5 if folds is None and count < chosen else chosen
        if count < chosen:
            raise ValueError(
                f"{who} has only {count} {unit}{'s' * (count != 1)} to train and validate on, but at least {chosen} are needed."
            )
    return Problem(data, pool, tested, chosen, groups, times, seed), warnings


def _joined(parts: Sequence[Any]) -> Dataset:
    """Several data sets as one."""
    if not all(isinstance(part, Dataset) for part in parts):
        raise TypeError("overfitting_study takes Splits of Datasets.")
    first = parts[0]
    joined = jax.tree.map(lambda *arrays: np.concatenate([np.asarray(a) for a in arrays]), *parts)
    return Dataset(joined.x, joined.y, joined.sample_weight, first.features, first.classes)
