"""Labels: whether they fit the outputs, and the weights of their classes."""

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
from flaxfit.task.task import Task

ClassWeight = Mapping[Any, float] | Literal["balanced"]
"""A mapping of classes, by number or by name, to factors; or "balanced"."""

_BINARY = (losses.binary_crossentropy, optax.sigmoid_binary_cross_entropy)
_CLASSES = (losses.categorical_crossentropy, optax.softmax_cross_entropy_with_integer_labels, optax.softmax_cross_entropy)
_NUMBERS = (losses.mse, losses.mae, losses.huber, losses.pinball, optax.squared_error, optax.l2_loss, optax.huber_loss)
"""Losses of numbers, to which class numbers mean nothing."""
_NUMBERED = (*_CLASSES, losses.hinge, losses.focal, metrics.categorical_accuracy)
"""Functions for which labels are class numbers if there are several logits for each."""


def kind_of_loss(task: Task) -> Literal["binary", "classes"] | None:
    """Returns whether the logits of a known loss are those of label 1 ("binary") or of classes; None for other losses."""
    function = unwrapped(task.loss)
    if any(function is known for known in _BINARY):
        return "binary"
    return "classes" if any(function is known for known in _CLASSES) else None


def check_labels(task: Task, name: str, data: Dataset, logits: Any, train: Dataset | None = None) -> None:
    """Checks that class labels fit the logits, for losses that are known to take class labels.

    Args:
      task: the task with the loss.
      name: what to call the examples in errors.
      data: the examples.
      logits: the shapes of the outputs for any number of examples.
      train: the training examples if `data` are others, to find labels that training does not have.

    Raises:
      ValueError: labels are not class numbers, or the logits do not have these classes; a label is a fraction and training has none; the
        loss takes the numbers of more than two classes for quantities.

    Warns:
      UserWarning: no training example has the class.
    """
    if isinstance(data.y, dict | tuple) or isinstance(logits, dict | tuple):
        return
    y, numbered = np.asarray(data.y), _class_numbers(task, data.y, logits)
    if data.classes is not None and len(data.classes) > 2 and y.size == len(y) and any(unwrapped(task.loss) is each for each in _NUMBERS):
        some = ", ".join([*data.classes[:3], *["..."] * (len(data.classes) > 3)])
        raise ValueError(
            f"{name}.y has {len(data.classes)} classes ({some}) numbered from 0, which {task.loss_name} would take for numbers. To predict "
            'numbers, read them as such: Table(kinds={TARGET: "number"}), or --type TARGET=number. Classes need categorical_crossentropy.'
        )
    labels = y if task.counted is None else y[y != task.counted.label]
    if not labels.size or (kind_of_loss(task) != "binary" and not numbered):
        return
    if numbered and (broken := _fractions(labels)).size:
        row = np.argwhere(y == broken[0])[0][0]
        raise ValueError(f"{name}.y has the label {broken[0]:g} in row {row}, but class numbers must be whole.")
    classes, least, most = logits.shape[-1] if numbered else 2, labels.min(), labels.max()
    if least < 0 or most > classes - 1:
        hint = " If -1 stands for no label, pass Task(ignore_label=-1)." if least == -1 else ""
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
                f"{name}.y has {new[unseen].sum()} labels of classes that train.y does not have ({listed}), which the model cannot learn.",
                UserWarning,
                stacklevel=4,
            )
    elif (broken := _fractions(labels)).size and not _fractions(known).size:
        row = np.argwhere(y == broken[0])[0][0]
        raise ValueError(f"{name}.y has the label {broken[0]:g} in row {row}, but the labels of train.y are 0 and 1.")


def _fractions(labels: np.ndarray) -> np.ndarray:
    return labels[labels % 1 != 0] if labels.dtype.kind == "f" else labels[:0]


def weighted(task: Task, data: Dataset, class_weight: ClassWeight, logits: Any, whole: bool = True) -> Dataset:
    """Returns `data` with each weight multiplied by the factor of its class, which is 1 for classes that are not named, as in Keras.

    If examples have a label at each position, such as each time step, each position gets a weight.

    Args:
      task: the task.
      data: training examples.
      class_weight: class -> factor, by number or by name; or "balanced" for n / (classes * n of the class), as in scikit-learn.
      logits: the shapes of the outputs for any number of examples.
      whole: whether these are all training examples.

    Raises:
      ValueError: a factor is negative or not finite; there is no such class.
      TypeError: the labels are not classes.
    """
    labels = _classes(task, data, logits)
    counts = labels != (None if task.counted is None else task.counted.label)
    present, each = np.unique(labels[counts], return_counts=True)
    if isinstance(class_weight, str):
        if not whole:
            raise ValueError('class_weight="balanced" needs all labels in memory: with a Stream, pass the factors.')
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
    """Whether labels are class numbers: one for several logits each, for a loss or metric that is known."""
    shape = logits.shape[1:-1]
    functions = [unwrapped(function) for function in (task.loss, *task.metrics.values())]
    known = any(function is each for function in functions for each in _NUMBERED)
    return known and logits.ndim > 1 and logits.shape[-1] > 1 and y.shape[1:] in (shape, (*shape, 1))


def _classes(task: Task, data: Dataset, logits: Any) -> np.ndarray:
    """Returns the class of each example, or of each of its positions, as integers."""
    if isinstance(data.y, dict | tuple) or isinstance(logits, dict | tuple):
        raise TypeError(
            "class_weight needs a single output and class labels y of shape (rows,), got several: pass Dataset(sample_weight=...) instead."
        )
    y = np.asarray(data.y)
    several = logits.ndim > 1 and logits.shape[-1] > 1
    if several and y.shape[1:] == logits.shape[1:] and kind_of_loss(task) != "binary":
        if not (np.isin(y, (0, 1)).all() and (y.sum(-1) == 1).all()):
            raise TypeError("class_weight needs class labels, but train.y has the shape of the outputs and is not one-hot.")
        return y.argmax(-1)
    y = y[..., 0] if y.ndim > 1 and y.shape[-1] == 1 else y
    if y.dtype.kind not in "iubf" or (y % 1 != 0).any() or y.shape[1:] != logits.shape[1 : y.ndim]:
        raise TypeError(
            f"class_weight needs integer class labels y of shape (rows,), one at each position of the outputs, or one-hot; got {y.dtype} "
            f"of shape {jax.tree.map(np.shape, data.y)}."
        )
    return y.astype(np.int64)
