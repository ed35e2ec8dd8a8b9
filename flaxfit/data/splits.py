"""Splits into training, validation and test examples, and folds for cross-validation."""

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
    """Training, validation and test examples, as `split` and `load` return them.

    Attributes:
      train: the training examples, a `Dataset`.
      validation: the validation examples, or None.
      test: the test examples, or None.
    """

    train: Dataset
    validation: Dataset | Any = None  # or None: Any, so that type checkers let a user pass on what was asked for
    test: Dataset | Any = None

    def items(self) -> list[tuple[str, Dataset]]:
        """Returns the name and the data set of each split that is not None."""
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
    groups: Any = None,
    times: Any = None,
    seed: int | None = None,
    one_row: float = 0.01,
) -> Splits:
    """Splits a data set into training, validation and test examples. No example is in two of them.

    Args:
      data: the examples. Those of a table come back encoded, by what is learned from the training examples.
      train: how many examples to train on: an integer, or a share of all examples between 0 and 1. None takes those that are left. Shares
        are rounded up, as scikit-learn does for a test set, but a share to train on takes no more than what is left. So shares that sum to
        1 use each example once.
      validation: how many examples to validate on, in the same forms, or None for none.
      test: how many examples to test on, in the same forms, or None for none.
      stratified: whether each class has about the same share in each split. scikit-learn's `train_test_split` draws the validation
        examples, then the test examples, then the training examples. It needs class labels, one for each example or one-hot, and a seed.
      groups: the group of each example, such as a patient, shape (rows,). All examples of a group go to the same split. Sizes must be
        fractions of the number of groups, which scikit-learn's `GroupShuffleSplit` draws. It needs a seed.
      times: the time of each example, shape (rows,), such as `np.arange(len(data))` for examples in order. The oldest examples go to
        training, the next ones to validation, and the newest ones to the test set.
      seed: the seed of a random split, whose examples are in random order. With None, the first examples validate, the next ones train,
        and the next ones test.
      one_row: the function warns if a single example changes the accuracy on a validation or test set by more than this. 1.0 never warns.

    Returns:
      `Splits`.

    Raises:
      ValueError, TypeError: a size is neither a count nor a share; more examples are asked for than there are; none are left to train on;
        `stratified` lacks a seed or class labels, or a split or a class has too few examples for it; `groups` or `times` do not have one
        value for each example, or are combined with an argument that they exclude.

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
        why = "none are left to train on" if sizes["train"] < 1 else "these are more than there are"
        raise ValueError(f"split of {rows} examples into {taken}: {why}. Ask for fewer.")
    if seed is not None:
        check_count("split(seed=...)", seed, 0, "the seed of a random split")
    elif stratified or groups is not None:
        raise ValueError(f"split({'stratified=True' if stratified else 'groups=...'}) draws examples at random: pass a seed.")
    if (groups is not None) + (times is not None) + stratified > 1 or (times is not None and seed is not None):
        raise ValueError("split takes only one of stratified=True, groups=... and times=..., and no seed with times=...")
    places: dict[str, Any]
    if groups is not None:
        assert seed is not None
        places = _grouped(column("split(groups=...)", groups, rows), asked, seed)
        sizes = {name: len(place) for name, place in places.items()}
    elif times is not None:
        order, ends = np.argsort(column("split(times=...)", times, rows), kind="stable"), sizes["train"] + sizes["validation"]
        pieces = np.split(order[: ends + sizes["test"]], [sizes["train"], ends])
        places = dict(zip(("train", "validation", "test"), pieces, strict=True))
    elif stratified:
        assert seed is not None
        places = _stratified(labels, sizes, seed)
    else:
        places = {name: slice(end - size, end) for (name, size), end in zip(sizes.items(), accumulate(sizes.values()), strict=True)}
        if seed is not None:
            order = np.random.default_rng(seed).permutation(rows)
            places = {name: order[place] for name, place in places.items()}
    for message in small(sizes, one_row):
        warnings.warn(message, stacklevel=2)
    parts = {name: data[places[name]] for name in ("train", "validation", "test") if sizes.get(name)}
    return Splits(**dict(zip(parts, encoded(*parts.values()), strict=True)))


def _grouped(groups: np.ndarray, asked: Mapping[str, float | None], seed: int) -> dict[str, np.ndarray]:
    """Returns the rows of each split, drawn by group."""
    from sklearn.model_selection import GroupShuffleSplit

    if asked["train"] is not None:
        raise ValueError("split(groups=...) uses all remaining groups for training: leave out train.")
    left, pieces, share = np.arange(len(groups)), {}, 1.0
    for index, name in enumerate(("validation", "test")):
        value = asked[name]
        if value is None:
            continue
        if not isinstance(value, float | np.floating):
            raise ValueError(f"split({name}=...) must be a fraction of the groups between 0 and 1, got {value!r}.")
        splitter = GroupShuffleSplit(1, test_size=float(value) / share, random_state=np.random.RandomState([seed % 2**32, index]))
        try:
            train, held = next(splitter.split(left, groups=groups[left]))
        except ValueError as error:
            raise ValueError(f"split({name}={value}) of {len(np.unique(groups[left]))} groups: {error}") from error
        left, pieces[name], share = left[train], left[held], share - float(value)
    return {**pieces, "train": left}


def column(name: str, values: Any, rows: int) -> np.ndarray:
    """Returns one value for each example as a NumPy array.

    Raises:
      ValueError: there is not one value for each example.
    """
    found = np.asarray(values)
    if found.shape != (rows,):
        raise ValueError(f"{name} must be one value for each of {rows} examples, shape ({rows},), got shape {found.shape}.")
    return found


def folds(
    data: Dataset | Table,
    k: int = 5,
    *,
    stratified: bool = False,
    groups: Any = None,
    times: Any = None,
    repeats: int = 1,
    seed: int | None = None,
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Returns the folds of cross-validation, which are those of scikit-learn's `KFold`, `StratifiedKFold`, `GroupKFold`,
    `StratifiedGroupKFold` and `TimeSeriesSplit`, and of their repeated kinds.

    Args:
      data: the examples.
      k: the number of folds. Each example is in the validation set of one of them.
      stratified: whether each class has about the same share in each fold. It needs class labels, one for each example or one-hot.
      groups: the group of each example, such as a patient, shape (rows,). All examples of a group are in one fold.
      times: the time of each example, shape (rows,). Each fold trains on what is older than its validation examples, which are therefore
        not all examples, and folds share most of what they train on. There is nothing to shuffle.
      repeats: how often to make `k` folds, shuffled anew each time.
      seed: the `random_state` of scikit-learn, or None to keep the order of the examples.

    Returns:
      For each of the `k * repeats` folds, the row numbers to train on and those to validate on, int64, for use as in `data[rows]`.

    Raises:
      ValueError, TypeError: `k` is below 2 or above the number of examples (if stratified, of a class; of groups); there are no class
        labels; repeats lack a seed; `times` go with what they exclude.

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
        check_count("folds(seed=...)", seed, 0, "the seed of the shuffle")
    elif repeats > 1:
        raise ValueError(f"folds(repeats={repeats}) without a seed would repeat the same folds: pass a seed to shuffle.")
    from sklearn import model_selection

    if times is not None:
        if stratified or groups is not None or seed is not None:
            raise ValueError("folds(times=...) are in the order of time: leave out stratified, groups and seed.")
        order = np.argsort(column("folds(times=...)", times, len(data)), kind="stable")
        if k >= len(data):
            raise ValueError(f"folds(k={k}, times=...) needs at least {k + 1} examples, but the data set has {len(data)}: use fewer folds.")
        return [(order[train], order[held]) for train, held in model_selection.TimeSeriesSplit(k).split(order)]
    if groups is not None:
        groups = column("folds(groups=...)", groups, len(data))
        if k > (count := len(np.unique(groups))):
            raise ValueError(f"folds(k={k}, groups=...) needs at least {k} groups, but there are {count}: use fewer folds.")
    values, counts = np.unique(labels, return_counts=True)
    if k > counts.min():
        needs, who = (" of each class", class_name(data, values[counts.argmin()])) if stratified else ("", "the data set")
        raise ValueError(f"folds(k={k}) needs at least {k} examples{needs}, but {who} has {counts.min()}: use fewer folds.")
    state = None if seed is None else np.random.RandomState(seed)  # one for all repeats, as in scikit-learn's RepeatedKFold
    kinds = {
        (False, False): model_selection.KFold,
        (True, False): model_selection.StratifiedKFold,
        (False, True): model_selection.GroupKFold,
        (True, True): model_selection.StratifiedGroupKFold,
    }
    splitter = kinds[stratified, groups is not None](k, shuffle=seed is not None, random_state=state)
    return [fold for _ in range(repeats) for fold in splitter.split(labels, labels, groups)]


def hold_outs(
    data: Dataset | Table, test: float, *, stratified: bool = False, groups: Any = None, repeats: int = 1, seed: int = 0
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Returns random splits for repeated hold-out, in which some examples test and all others train.

    Args:
      data: the examples.
      test: how many examples to test on, as for `split`.
      stratified: whether each class has about the same share in both parts, as for `split`.
      groups: the group of each example, as for `split`. `test` is then a fraction of the groups.
      repeats: the number of splits.
      seed: the seed of the first split. The others have the following numbers, so seeds that are less than `repeats` apart share splits.

    Returns:
      For each split, the row numbers to train on and those to test on, int64. They are those of `split` with that seed.

    Raises:
      ValueError, TypeError: as `split`.

    Example:
      >>> for train, test in hold_outs(Dataset(np.arange(4.0), np.arange(4)), 0.5, repeats=2):
      ...     print(train, test)
      [2 0] [1 3]
      [0 1] [2 3]
    """
    check_count("hold_outs(repeats=...)", repeats, 1, "splits")
    check_count("hold_outs(seed=...)", seed, 0, "the seed of the first split")
    _labels("hold_outs", data, stratified)
    rows = Dataset(np.arange(len(data)), data.y)
    drawn = [split(rows, test=test, stratified=stratified, groups=groups, seed=seed + index, one_row=1.0) for index in range(repeats)]
    return [(parts.train.x.astype(np.int64), parts.test.x.astype(np.int64)) for parts in drawn]


def held_out(train: Any, validation: Any, share: float | None) -> tuple[Any, Any]:
    """Returns the training and the validation examples, after holding out the last fraction of the former for validation, as in Keras.

    Raises:
      ValueError: there are validation examples already, or one of the two parts would be empty.
      TypeError: the training examples are not in memory.
    """
    if share is None:
        return train, validation
    if validation is not None:
        raise ValueError("pass either validation_split or validation, not both.")
    if not isinstance(train, Dataset | Table):
        raise TypeError(f"validation_split needs a Dataset or a Table, got {type(train).__name__}: pass validation=... instead.")
    rows = math.floor(round(len(train) * (1 - share), 6))
    if not 0 < rows < len(train):
        raise ValueError(
            f"validation_split={share} of {len(train)} examples leaves {rows} for training and {len(train) - rows} for validation."
        )
    return train[:rows], train[rows:]


def small(sizes: Mapping[str, int], one_row: float) -> list[str]:
    """Returns warnings of splits, other than "train", in which one example changes an accuracy by more than `one_row`."""
    if not 0 < one_row <= 1:
        raise ValueError(f"one_row must be above 0 and at most 1, which never warns, got {one_row!r}.")
    return [
        f"{name} has only {rows} examples, so that one of them changes its accuracy by {1 / rows:#.2g}: use flaxfit.cross_validate instead."
        for name, rows in sizes.items()
        if name != "train" and rows and 1 / rows > one_row
    ]


def class_labels(data: Dataset | Table) -> np.ndarray | None:
    """Returns y if it holds integer class labels of shape (rows,), else None."""
    labeled = not isinstance(data.y, dict | tuple) and data.y.ndim == 1 and data.y.dtype.kind in "iub"
    return np.asarray(data.y) if labeled else None


def class_name(data: Dataset | Table, label: int) -> str:
    """Returns a name such as "class 3", with the name of the class if `data.classes` has one."""
    names = data.classes or ()
    return f"class {names[label] if 0 <= label < len(names) else int(label)}"


def _labels(function: str, data: Dataset | Table, stratified: bool) -> np.ndarray:
    """Returns the classes of the examples, or one class for all if not stratified."""
    if not isinstance(data, Dataset | Table):
        raise TypeError(f"{function} needs a flaxfit.Dataset, got {type(data).__name__}: wrap the arrays as ff.Dataset(x, y).")
    labels = _strata(data) if stratified else np.zeros(len(data), np.int64)
    if labels is None:
        got = jax.tree.map(lambda a: f"{a.dtype}{list(a.shape)}", data.y)
        raise ValueError(f"{function}(stratified=True) needs class labels y, integers of shape (rows,) or (rows, 1) or one-hot, got {got}.")
    return labels


def _strata(data: Dataset | Table) -> np.ndarray | None:
    """The class of each example, or None where y holds no classes of examples."""
    if isinstance(data.y, dict | tuple) or data.y.ndim > 2:
        return None
    y = np.asarray(data.y)
    if y.ndim == 2 and y.shape[1] > 1:
        return y.argmax(1) if np.isin(y, (0, 1)).all() and (y.sum(1) == 1).all() else None
    return y.ravel().astype(np.int64) if y.dtype.kind in "iub" or (y % 1 == 0).all() else None


def _size(name: str, value: float, rows: int) -> int:
    if not isinstance(value, float | np.floating):
        return check_count(f"split({name}=...)", value, 1, "a number of examples; a float between 0 and 1 is a share of them")
    if not 0 < value < 1:
        raise ValueError(f"split({name}=...) must be a share between 0 and 1, or an integer, got {value}.")
    return max(1, math.ceil(round(float(value) * rows, 6)))  # 0.07 * 100 is 7.000000000000001


def _stratified(labels: np.ndarray, sizes: Mapping[str, int], seed: int) -> dict[str, np.ndarray]:
    """Returns the rows of each split in random order. scikit-learn draws one split after the other."""
    from sklearn.model_selection import train_test_split

    state = np.random.RandomState(np.random.MT19937(seed))  # takes seeds of any size; scikit-learn itself takes 32 bits
    left, pieces = state.permutation(len(labels)), {}
    for name in ("validation", "test", "train"):
        size = sizes[name]
        if name == "train" and len(left) - size < len(np.unique(labels[left])):  # scikit-learn refuses so small a rest
            pieces[name] = left[:size]
        elif size:
            try:
                left, pieces[name] = train_test_split(left, test_size=size, random_state=state, stratify=labels[left])
            except ValueError as error:
                raise ValueError(f"split(stratified=True) cannot draw {size} of {len(left)} examples for {name}: {error}") from error
    return pieces
