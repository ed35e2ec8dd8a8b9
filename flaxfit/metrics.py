"""Metrics: (logits, y) -> one number a row, shape (rows,); and two that need a whole set, for evaluation only."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from flaxfit.arguments import Mode
from flaxfit.losses import aligned, has_mode, is_class_number, row_means
from flaxfit.shapes import Outputs, Rows, Targets


@dataclass(frozen=True)
class Metric:
    """A metric of your own that says whether it is best when small or large.

    Attributes:
      function: (logits, y) -> one number a row, shape (rows,).
      mode: "min" or "max".

    Raises:
      ValueError: another mode.

    Example:
      >>> margin = Metric(lambda logits, y: logits[:, 0] * (2 * y - 1), mode="max")
      >>> margin(jnp.array([[2.0], [-1.0]]), jnp.array([1, 1]))
      Array([ 2., -1.], dtype=float32)
    """

    function: Callable[[Any, Any], Any]
    mode: Mode

    def __post_init__(self) -> None:
        if self.mode not in ("min", "max"):
            raise ValueError(f'Metric(mode=...) is "min" or "max", got {self.mode!r}.')

    def __call__(self, logits: Any, y: Any) -> Any:
        """The function's numbers."""
        return self.function(logits, y)


@has_mode("max")
def binary_accuracy(logits: Outputs, y: Targets) -> Rows:
    """Whether the logit's sign tells the label: logit > 0 for label 1, else 0. Shapes as `flaxfit.losses.binary_crossentropy`.

    Example:
      >>> binary_accuracy(jnp.array([[2.0], [2.0], [-1.0]]), jnp.array([1, 0, 0]))
      Array([1., 0., 1.], dtype=float32)
    """
    logits, y = aligned(logits, y)
    return row_means(((logits > 0) == (y > 0.5)).astype(jnp.float32))


@has_mode("max")
def categorical_accuracy(logits: Outputs, y: Targets) -> Rows:
    """Whether the largest logit is the label's. Shapes as `flaxfit.losses.categorical_crossentropy`.

    Example:
      >>> categorical_accuracy(jnp.array([[0.0, 5.0, 1.0], [3.0, 2.0, 1.0]]), jnp.array([1, 2]))
      Array([1., 0.], dtype=float32)
    """
    return row_means((logits.argmax(-1) == _classes(logits, y)).astype(jnp.float32))


def top_k(k: int) -> Callable[[Outputs, Targets], Rows]:
    """A metric: whether the label is among the `k` largest logits. Of equal logits the first counts as larger, so a model
    whose logits are all the same scores k / classes, not 1.

    Args:
      k: 1 or more.

    Returns:
      A function called `top_{k}_accuracy`, with arguments as `categorical_accuracy`.

    Raises:
      ValueError: k below 1; when called, k above the number of classes.

    Example:
      >>> top_k(2)(jnp.array([[0.0, 5.0, 1.0], [3.0, 2.0, 1.0]]), jnp.array([2, 2]))
      Array([1., 0.], dtype=float32)
    """
    if k < 1:
        raise ValueError(f"top_k(k) needs k of 1 or more, got {k!r}.")

    @has_mode("max")
    def metric(logits: Outputs, y: Targets) -> Rows:
        classes = _classes(logits, y)
        if k > logits.shape[-1]:
            raise ValueError(f"top_k({k}) needs {k} classes or more, the logits have {logits.shape[-1]}.")
        best = jax.lax.top_k(logits, k)[1]
        return row_means((best == classes[..., None]).any(-1).astype(jnp.float32))

    metric.__name__ = metric.__qualname__ = f"top_{k}_accuracy"
    return metric


@has_mode("min")
def mae(logits: Outputs, y: Targets) -> Rows:
    """Absolute error, averaged over a row's outputs. Shapes as `flaxfit.losses.mse`.

    Example:
      >>> mae(jnp.array([[1.0], [3.0]]), jnp.array([0.0, 5.0]))
      Array([1., 2.], dtype=float32)
    """
    logits, y = aligned(logits, y)
    return row_means(jnp.abs(logits - y))


@has_mode("max")
def auc(logits: Any, y: Any, *, average: Literal["macro", "micro"] | None = None, weight: Any = None) -> float:
    """Area under the ROC curve. **Needs the whole set: for evaluation only**, not for `Task(metrics=...)`.

    The chance that a row labeled 1 has a larger logit than a row labeled 0, ties counted half; computed by scikit-learn's
    `roc_auc_score`.

    Args:
      logits: of label 1, shape (n,) or (n, 1); of several labels (n, labels).
      y: 0 or 1, of the same shape, or (n,) against (n, 1).
      average: for several labels: "macro", the mean of the labels' areas, or "micro", the area of all (row, label) together.
        `functools.partial(auc, average="macro")` is a metric.
      weight: of each row, shape (n,), or None for all alike.

    Returns:
      From 0 to 1; NaN where a logit is NaN, or where all labels are the same (for "macro": of any label).

    Raises:
      ValueError: shapes that do not match, labels other than 0 and 1, several labels without an average, a negative weight.

    Example:
      >>> auc([0.1, 0.4, 0.35, 0.8], [0, 0, 1, 1])
      0.75
      >>> auc([[0.1, 0.9], [0.4, 0.2], [0.3, 0.8]], [[0, 1], [0, 0], [1, 1]], average="macro")
      0.75
    """
    from sklearn.metrics import roc_auc_score

    scores, labels = _whole("auc", logits, y)
    several = scores.ndim == 2 and scores.shape[1] > 1
    if scores.size != labels.size or (several and scores.shape != labels.shape):
        raise ValueError(f"auc needs a logit for each label 0 or 1: got logits {scores.shape} for labels {labels.shape}.")
    if not np.isin(labels, (0, 1)).all():
        wrong = labels.ravel()[~np.isin(labels.ravel(), (0, 1))][0]
        raise ValueError(f"auc needs labels 0 and 1, got {wrong}: pass y == label for the label that counts as 1.")
    if several and average not in ("macro", "micro"):
        raise ValueError(f'auc of {scores.shape[1]} labels needs average="macro" or average="micro", got {average!r}.')
    rows = scores.shape[0]
    weights = np.ones(rows) if weight is None else np.asarray(weight, np.float64)
    if weights.shape != (rows,) or not (weights >= 0).all():
        raise ValueError(f"auc(weight=...) is one number of 0 or more for each of {rows} rows, got shape {weights.shape}.")
    columns = scores.shape[1] if several else 1
    scores, labels = scores.reshape(rows, columns), labels.reshape(rows, columns)
    if columns > 1 and average == "micro":
        weights, scores, labels = weights.repeat(columns), scores.reshape(-1, 1), labels.reshape(-1, 1)

    def area(scores: np.ndarray, labels: np.ndarray) -> float:
        counted = labels[weights > 0]
        if np.isnan(scores).any() or not counted.size or counted.min() == counted.max():
            return float("nan")
        return float(roc_auc_score(labels, np.nan_to_num(scores), sample_weight=weights))  # which takes no infinity

    return float(np.mean([area(*column) for column in zip(scores.T, labels.T, strict=True)]))


def confusion_matrix(logits: Any, y: Any) -> np.ndarray:
    """How often each class was taken for which. **Needs the whole set: for evaluation only**, not for `Task(metrics=...)`.

    Args:
      logits: shape (n,) or (n, 1) for two classes, (n, classes) for more.
      y: class numbers, shape (n,), or one-hot rows.

    Returns:
      Counts, shape (classes, classes), by scikit-learn: the row is the true class, the column the predicted one.

    Raises:
      ValueError: other rows in `y` than in `logits`, or a class that the logits do not have.

    Example:
      >>> confusion_matrix([[2.0], [-1.0], [1.0]], [1, 1, 0])
      array([[0, 1],
             [1, 1]])
    """
    from sklearn import metrics

    scores, labels = _whole("confusion_matrix", logits, y)
    binary = scores.ndim == 1 or scores.shape[1] == 1
    classes = 2 if binary else scores.shape[1]
    predicted = (scores.ravel() > 0).astype(int) if binary else scores.argmax(1)
    true = labels.argmax(1) if labels.ndim == 2 and labels.shape[1] > 1 else labels.ravel().astype(int)
    if predicted.shape != true.shape:
        raise ValueError(f"logits {scores.shape} and labels {labels.shape} differ in rows.")
    if true.size and not 0 <= true.min() <= true.max() < classes:
        raise ValueError(f"labels run from {true.min()} to {true.max()}, logits {scores.shape} tell {classes} classes apart.")
    return metrics.confusion_matrix(true, predicted, labels=np.arange(classes))


def _classes(logits: Outputs, y: Targets) -> Any:
    return y if is_class_number(logits, y) else y.argmax(-1)


def _whole(name: str, logits: Any, y: Any) -> tuple[np.ndarray, np.ndarray]:
    if isinstance(logits, Tracer) or isinstance(y, Tracer):
        raise TypeError(f"{name} needs the whole set at once: it is for evaluation, not for Task(metrics=...), which sees batches.")
    return np.asarray(logits, np.float64), np.asarray(y)
