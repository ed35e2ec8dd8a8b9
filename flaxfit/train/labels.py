"""What labels mean: whether they fit the outputs, which of them count, and what weight their classes give them."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Literal

import jax
import numpy as np
import optax

from flaxfit import losses, metrics
from flaxfit.arguments import unknown, unwrapped
from flaxfit.data.dataset import Dataset
from flaxfit.train.task import Task

ClassWeight = Mapping[Any, float] | Literal["balanced"]
"""Class -> factor, by number or by name; or "balanced"."""

_BINARY = (losses.binary_crossentropy, optax.sigmoid_binary_cross_entropy)
_CLASSES = (losses.categorical_crossentropy, optax.softmax_cross_entropy_with_integer_labels, optax.softmax_cross_entropy)
_NUMBERED = (*_CLASSES, losses.hinge, losses.focal, metrics.categorical_accuracy)
"""Functions for which labels at each place of several logits are class numbers."""


def kind_of_loss(task: Task) -> Literal["binary", "classes"] | None:
    """What the logits of a loss mean, where it is one that is known: log-odds of label 1, or log-probabilities of classes."""
    function = unwrapped(task.loss)
    if any(function is known for known in _BINARY):
        return "binary"
    return "classes" if any(function is known for known in _CLASSES) else None


def check_labels(task: Task, name: str, data: Dataset, logits: Any, train: Dataset | None = None) -> None:
    """Checks that class labels fit the logits, for the losses that are known to take class labels.

    Args:
      task: whose loss it is.
      name: what to call the rows.
      data: the rows.
      logits: shapes of the outputs for any number of rows.
      train: the training rows, where these are others: labels that are not among those of training are suspicious.

    Raises:
      ValueError: labels that are no class numbers, or that the logits do not have; a fraction, where training has none.

    Warns:
      UserWarning: classes that no training row has.
    """
    if isinstance(data.y, dict | tuple) or isinstance(logits, dict | tuple):
        return
    y, numbered = np.asarray(data.y), _class_numbers(task, data.y, logits)
    labels = y if task.counted is None else y[y != task.counted.label]
    if not labels.size or (kind_of_loss(task) != "binary" and not numbered):
        return
    if numbered and (broken := _fractions(labels)).size:
        row = np.argwhere(y == broken[0])[0][0]
        raise ValueError(f"{name}.y has the label {broken[0]:g} in row {row}, but the numbers of classes are whole.")
    classes, least, most = logits.shape[-1] if numbered else 2, labels.min(), labels.max()
    if least < 0 or most > classes - 1:
        hint = " Where -1 stands for no label: Task(ignore_label=-1)." if least == -1 else ""
        shapes = str(("rows", *logits.shape[1:])).replace("'", "")
        raise ValueError(
            f"{name}.y has labels from {float(least):g} to {float(most):g}, but {task.loss_name} with logits {shapes} needs "
            f"labels from 0 to {classes - 1}: renumber the classes or widen the last layer.{hint}"
        )
    if train is None:
        return
    known = np.asarray(train.y)
    if numbered:
        seen, new = (np.bincount(a.astype(int).ravel(), minlength=classes) for a in (known[known >= 0], labels))
        if unseen := np.flatnonzero((new > 0) & (seen[:classes] == 0)).tolist():
            listed = ", ".join(data.classes[label] if data.classes else str(label) for label in unseen[:5])
            warnings.warn(
                f"{name}.y has {new[unseen].sum()} labels of classes that train.y does not have ({listed}): no model can learn them.",
                UserWarning,
                stacklevel=4,
            )
    elif (broken := _fractions(labels)).size and not _fractions(known).size:
        row = np.argwhere(y == broken[0])[0][0]
        raise ValueError(f"{name}.y has the label {broken[0]:g} in row {row}, where the labels of train.y are only 0 and 1.")


def _fractions(labels: np.ndarray) -> np.ndarray:
    return labels[labels % 1 != 0] if labels.dtype.kind == "f" else labels[:0]


def weighted(task: Task, data: Dataset, class_weight: ClassWeight, logits: Any, whole: bool = True) -> Dataset:
    """`data` with each weight multiplied by its class's (1 where that is not named, as in Keras).

    Labels at each position of an example, such as each time step, get a weight each.

    Args:
      task: what is trained.
      data: training rows.
      class_weight: class -> factor, by number or by name; or "balanced": rows / (classes * rows of the class), scikit-learn's formula.
      logits: shapes of the outputs for any number of rows.
      whole: whether these are all rows.

    Raises:
      ValueError, TypeError: labels that are no classes; factors that are none; classes that there are not.
    """
    labels = _classes(task, data, logits)
    counts = labels != (None if task.counted is None else task.counted.label)
    present, each = np.unique(labels[counts], return_counts=True)
    if isinstance(class_weight, str):
        if not whole:
            raise ValueError('class_weight="balanced" needs the labels of all rows in memory: of a Stream, give the factors.')
        factors = dict(zip(present.tolist(), each.sum() / (len(present) * each), strict=True))
    else:
        factors = {_number(label, data): factor for label, factor in class_weight.items()}
        absent = sorted(set(factors) - set(present.tolist()))
        if absent and whole:
            raise ValueError(f"class_weight names classes that train.y does not have: {absent}; it has {present.tolist()}.")
    weight = np.ones(labels.shape, np.float32)
    for label, factor in factors.items():
        if not 0 <= factor < np.inf:
            raise ValueError(f"class_weight must be finite and not negative, got {factor!r} for class {label!r}.")
        weight[labels == label] *= factor
    if data.sample_weight is not None:
        given = np.asarray(data.sample_weight)
        axes = max(given.ndim, weight.ndim)
        weight = np.prod(np.broadcast_arrays(*(a.reshape(*a.shape, *[1] * (axes - a.ndim)) for a in (given, weight))), 0, np.float32)
    return replace(data, sample_weight=weight)


def _number(label: Any, data: Dataset) -> int:
    if not isinstance(label, str):
        return label
    if data.classes is None or label not in data.classes:
        raise ValueError(f"class_weight: {unknown('class', label, data.classes or (), 'among the names of the classes')}")
    return data.classes.index(label)


def _class_numbers(task: Task, y: Any, logits: Any) -> bool:
    """Whether labels are numbers of classes, one at each place of logits of several classes, for a loss or metric that is known."""
    shape = logits.shape[1:-1]
    functions = [unwrapped(function) for function in (task.loss, *task.metrics.values())]
    known = any(function is each for function in functions for each in _NUMBERED)
    return known and logits.ndim > 1 and logits.shape[-1] > 1 and y.shape[1:] in (shape, (*shape, 1))


def _classes(task: Task, data: Dataset, logits: Any) -> np.ndarray:
    """The class of each row, or of each of its positions, as integers."""
    if isinstance(data.y, dict | tuple) or isinstance(logits, dict | tuple):
        raise TypeError("class_weight needs one output and class labels y of shape (rows,), got several: give Dataset(sample_weight=...).")
    y = np.asarray(data.y)
    several = logits.ndim > 1 and logits.shape[-1] > 1
    if several and y.shape[1:] == logits.shape[1:] and kind_of_loss(task) != "binary":
        if not (np.isin(y, (0, 1)).all() and (y.sum(-1) == 1).all()):
            raise TypeError("class_weight needs class labels: train.y has the outputs' shape, but its rows are not one-hot.")
        return y.argmax(-1)
    y = y[..., 0] if y.ndim > 1 and y.shape[-1] == 1 else y
    if y.dtype.kind not in "iubf" or (y % 1 != 0).any() or y.shape[1:] != logits.shape[1 : y.ndim]:
        raise TypeError(
            f"class_weight needs integer class labels y of shape (rows,), one at each position of the outputs, or one-hot; got {y.dtype} "
            f"of shape {jax.tree.map(np.shape, data.y)}."
        )
    return y.astype(np.int64)
