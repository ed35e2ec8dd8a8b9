"""Rows to train on, to validate on and to test on; and cross-validation."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import jax
import numpy as np

from flaxfit.arguments import check_count
from flaxfit.data.dataset import Dataset
from flaxfit.data.table import Table, encoded


@dataclass(frozen=True, eq=False)
class Splits:
    """Rows for three purposes: what `split` returns, or a source's own parts."""

    train: Dataset
    validation: Dataset | Any = None  # or None: Any, so that type checkers let a user pass on what was asked for
    test: Dataset | Any = None

    def items(self) -> list[tuple[str, Dataset]]:
        """Names and rows of those that are there."""
        return [(name, data) for name, data in vars(self).items() if data is not None]

    def __repr__(self) -> str:
        return f"Splits({', '.join(f'{name}: {len(data)} rows' for name, data in self.items())})"


def split(
    data: Dataset | Table,
    *,
    train: float | None = None,
    validation: float | None = None,
    test: float | None = None,
    stratified: bool = False,
    seed: int | None = None,
    one_row: float = 0.01,
) -> Splits:
    """Training, validation and test rows, none in two of them.

    Args:
      data: the rows. Those of a table come back encoded, by what is learned from the rows to train on.
      train: a count (an integer), or a share of all rows between 0 and 1; None: what is left. Shares are rounded up, as scikit-learn
        does for a test set, but a share to train takes no more than is left: shares that sum to 1 use each row once.
      validation: likewise; None: none.
      test: likewise.
      stratified: each class has about the same share in each piece, by scikit-learn's `train_test_split`, which draws the validation
        rows, then the test rows, then those to train. Needs integer class labels, shape (rows,), and a seed.
      seed: rows are drawn at random, in random order; None: the first rows validate, the next train, the next test.
      one_row: warn of a validation or test set in which one row moves an accuracy by more than this; 1.0 never warns.

    Raises:
      ValueError, TypeError: neither count nor share, more rows than there are, none left to train; stratified without a seed or
        class labels, with fewer rows in a piece than there are classes, or a class with a single row to draw from.

    Example:
      >>> data = Dataset(np.arange(1000.0), np.arange(1000) % 2)
      >>> split(data, validation=100, train=300)
      Splits(train: 300 rows, validation: 100 rows)
      >>> parts = split(data, validation=0.2, test=0.2, stratified=True, seed=0)
      >>> len(parts.train), int(parts.test.y.sum())
      (600, 100)
    """
    labels, rows = _labels("split", data, stratified), len(data)
    asked = {"validation": validation, "train": train, "test": test}
    sizes = {name: 0 if value is None else _size(name, value, rows) for name, value in asked.items()}
    left = rows - sizes["validation"] - sizes["test"]
    exact = sum(value * rows if value < 1 else value for value in asked.values() if value is not None)
    if train is None or (train < 1 and exact < rows + 1e-6):
        sizes["train"] = min(left, sizes["train"] or left)
    if sizes["train"] < 1 or sum(sizes.values()) > rows:
        taken = " and ".join(f"{name} {sizes[name]}" for name, value in asked.items() if value is not None)
        why = "nothing is left to train" if sizes["train"] < 1 else "these are more than there are"
        raise ValueError(f"split: of {rows} rows {taken}: {why}; ask for less.")
    if seed is not None:
        check_count("split(seed=...)", seed, 0, "the same seed, the same split")
    elif stratified:
        raise ValueError("split(stratified=True) draws rows at random: give a seed.")
    for message in small(sizes, one_row):
        warnings.warn(message, stacklevel=2)
    places: dict[str, Any] = {
        name: slice(end - size, end) for (name, size), end in zip(sizes.items(), accumulate(sizes.values()), strict=True)
    }
    if seed is not None:
        order = np.random.default_rng(seed).permutation(rows)
        places = _stratified(labels, sizes, seed) if stratified else {name: order[place] for name, place in places.items()}
    parts = {name: data[places[name]] for name in ("train", "validation", "test") if sizes[name]}
    return Splits(**dict(zip(parts, encoded(*parts.values()), strict=True)))


def folds(
    data: Dataset | Table, k: int = 5, *, stratified: bool = False, repeats: int = 1, seed: int | None = None
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Rows for cross-validation, those of scikit-learn's `KFold`, `StratifiedKFold` and their `Repeated` kinds.

    Args:
      data: the rows.
      k: how many folds; each row validates in one of them.
      stratified: each class has about the same share in each fold; needs integer class labels, shape (rows,).
      repeats: `k` folds so many times, shuffled anew.
      seed: scikit-learn's `random_state`; None: not shuffled.

    Returns:
      Row numbers, int64, for each of the `k * repeats` folds: those to train on and those to validate on, as in `data[rows]`.

    Raises:
      ValueError, TypeError: `k` below 2, or above the rows (if stratified, of any class); no class labels; repeats without a seed.

    Example:
      >>> for train, validation in folds(Dataset(np.arange(4.0), np.arange(4)), k=2):
      ...     print(train, validation)
      [2 3] [0 1]
      [0 1] [2 3]
    """
    labels = _labels("folds", data, stratified)
    check_count("folds(k=...)", k, 2, "folds")
    check_count("folds(repeats=...)", repeats, 1, "times k folds")
    if seed is not None:
        check_count("folds(seed=...)", seed, 0, "the same seed, the same folds")
    elif repeats > 1:
        raise ValueError(f"folds(repeats={repeats}) without shuffling are the same folds again: give a seed.")
    values, counts = np.unique(labels, return_counts=True)
    if k > counts.min():
        needs, who = (" of each class", class_name(data, values[counts.argmin()])) if stratified else ("", "the data set")
        raise ValueError(f"folds(k={k}) needs at least {k} rows{needs}, {who} has {counts.min()}: use fewer folds.")
    from sklearn import model_selection

    state = None if seed is None else np.random.RandomState(seed)  # one for all repeats, as in scikit-learn's RepeatedKFold
    splitter = (model_selection.StratifiedKFold if stratified else model_selection.KFold)(k, shuffle=seed is not None, random_state=state)
    return [fold for _ in range(repeats) for fold in splitter.split(labels, labels)]


def hold_outs(
    data: Dataset | Table, test: float, *, stratified: bool = False, repeats: int = 1, seed: int = 0
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Rows for repeated hold-out: each time some are drawn to test, and the others train.

    Args:
      data: the rows.
      test: how many test, as for `split`.
      stratified: as for `split`.
      repeats: so many times.
      seed: of the first draw; the next have the next numbers, so that seeds less than `repeats` apart have draws in common.

    Returns:
      Row numbers, int64, for each time: those to train on and those to test on, `split`'s of that seed.

    Raises:
      ValueError, TypeError: as `split`.

    Example:
      >>> for train, test in hold_outs(Dataset(np.arange(4.0), np.arange(4)), 0.5, repeats=2):
      ...     print(train, test)
      [2 0] [1 3]
      [0 1] [2 3]
    """
    check_count("hold_outs(repeats=...)", repeats, 1, "draws")
    check_count("hold_outs(seed=...)", seed, 0, "the same seed, the same draws")
    _labels("hold_outs", data, stratified)
    rows = Dataset(np.arange(len(data)), data.y)
    drawn = [split(rows, test=test, stratified=stratified, seed=seed + index, one_row=1.0) for index in range(repeats)]
    return [(parts.train.x.astype(np.int64), parts.test.x.astype(np.int64)) for parts in drawn]


def small(sizes: Mapping[str, int], one_row: float) -> list[str]:
    """Warns of sets in which one row moves an accuracy by more than `one_row`; "train" may be of any size."""
    if not 0 < one_row <= 1:
        raise ValueError(f"one_row is a share of an accuracy, above 0 and at most 1 (never warn), got {one_row!r}.")
    return [
        f"{name} has {rows} rows: one row moves its accuracy by {1 / rows:#.2g}; cross-validate instead (flaxfit.data.folds)."
        for name, rows in sizes.items()
        if name != "train" and rows and 1 / rows > one_row
    ]


def class_labels(data: Dataset | Table) -> np.ndarray | None:
    """y if it is integer class labels, shape (rows,)."""
    labeled = not isinstance(data.y, dict | tuple) and data.y.ndim == 1 and data.y.dtype.kind in "iub"
    return np.asarray(data.y) if labeled else None


def class_name(data: Dataset | Table, label: int) -> str:
    """Such as "class 3", by its name where `data.classes` has one."""
    names = data.classes or ()
    return f"class {names[label] if 0 <= label < len(names) else int(label)}"


def _labels(function: str, data: Dataset | Table, stratified: bool) -> np.ndarray:
    """The rows' classes; all rows are of one class if not stratified."""
    if not isinstance(data, Dataset | Table):
        raise TypeError(f"{function} takes a flaxfit.Dataset, got {type(data).__name__}: wrap the arrays as ff.Dataset(x, y).")
    labels = class_labels(data) if stratified else np.zeros(len(data), np.int64)
    if labels is None:
        got = jax.tree.map(lambda a: f"{a.dtype}{list(a.shape)}", data.y)
        raise ValueError(f"{function}(stratified=True) needs integer class labels y, shape (rows,), got {got}: y.ravel().astype(int)?")
    return labels


def _size(name: str, value: float, rows: int) -> int:
    if not isinstance(value, float | np.floating):
        return check_count(f"split({name}=...)", value, 1, "rows, or a float between 0 and 1 for a share of them")
    if not 0 < value < 1:
        raise ValueError(f"split({name}=...) as a share of the rows is between 0 and 1, got {value}; a count is an integer.")
    return max(1, math.ceil(round(float(value) * rows, 6)))  # 0.07 * 100 is 7.000000000000001


def _stratified(labels: np.ndarray, sizes: Mapping[str, int], seed: int) -> dict[str, np.ndarray]:
    """The rows of each piece in random order, drawn by scikit-learn, one piece after the other."""
    from sklearn.model_selection import train_test_split

    state = np.random.RandomState(np.random.MT19937(seed))  # a seed of any size: scikit-learn itself takes 32 bits
    left, pieces = state.permutation(len(labels)), {}
    for name in ("validation", "test", "train"):
        size = sizes[name]
        if name == "train" and len(left) - size < len(np.unique(labels[left])):  # scikit-learn would leave no piece so small
            pieces[name] = left[:size]
        elif size:
            try:
                left, pieces[name] = train_test_split(left, test_size=size, random_state=state, stratify=labels[left])
            except ValueError as error:
                raise ValueError(f"split(stratified=True): {size} rows for {name}, of {len(left)}: {error}") from error
    return pieces
