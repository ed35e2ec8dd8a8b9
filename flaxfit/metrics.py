"""Metrics: (logits, y) -> one number a row, shape (rows,), for `Task(metrics=...)`; or one for a whole set of rows, for
`Task(set_metrics=...)` and `flaxfit.evaluate(metrics=...)`.

To set an argument: `functools.partial(f1, average="weighted")`.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from flaxfit.arguments import Mode, absent, in_order, unwrapped
from flaxfit.losses import aligned, class_numbers, has_mode, of_batch, row_means
from flaxfit.losses import mae as mae
from flaxfit.shapes import Outputs, Rows, Scalar, Targets


@dataclass(frozen=True)
class Metric:
    """A metric of your own that says whether it is best when small or large.

    Attributes:
      function: (logits, y) -> one number a row, shape (rows,), or for `Task(set_metrics=...)` one for all rows.
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
            raise ValueError(f'Metric(mode=...) must be "min" or "max", got {self.mode!r}.')
        object.__setattr__(self, "function", of_whole_set(self.function, "the function of a Metric"))

    def __call__(self, logits: Any, y: Any) -> Any:
        """The function's numbers."""
        return self.function(logits, y)


def declared_of_batch(function: Any) -> of_batch | None:
    """The `flaxfit.losses.of_batch` that a loss or metric is, perhaps inside a `functools.partial` or a `Metric`; None: it is none."""
    function = unwrapped(function)
    if isinstance(function, Metric):
        return declared_of_batch(function.function)
    return function if isinstance(function, of_batch) else None


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
def mape(logits: Outputs, y: Targets) -> Rows:
    """Absolute error as a share of the target's size, averaged over a row's outputs: 0.1 is ten percent, as in scikit-learn.

    Example:
      >>> mape(jnp.array([[1.1], [3.0]]), jnp.array([1.0, 4.0])).round(3)
      Array([0.1 , 0.25], dtype=float32)
    """
    logits, y = aligned(logits, y)
    return row_means(jnp.abs(logits - y) / jnp.maximum(jnp.abs(y), np.finfo(np.float64).eps))


@has_mode("min")
def rmse(logits: Outputs, y: Targets) -> Scalar:
    """The root of the mean squared error over a **whole set**, averaged over the outputs of a row.

    Example:
      >>> rmse(jnp.array([[1.0], [3.0]]), jnp.array([1.0, 1.0])).round(3)
      Array(1.414, dtype=float32)
    """
    logits, y = aligned(logits, y)
    return jnp.sqrt(jnp.square(logits - y).mean(0)).mean()


@has_mode("max")
def r2(logits: Outputs, y: Targets) -> Scalar:
    """The coefficient of determination over a **whole set**: 1 is perfect, 0 is what the mean of the targets gives.

    Averaged over the outputs of a row. Where all targets are the same it is 1 if they are met exactly, else 0, as in scikit-learn.

    Example:
      >>> r2(jnp.array([1.0, 2.0, 3.5]), jnp.array([1.0, 2.0, 4.0])).round(2)
      Array(0.95, dtype=float32)
    """
    logits, y = aligned(logits, y)
    left, spread = jnp.square(y - logits).sum(0), jnp.square(y - y.mean(0, keepdims=True)).sum(0)
    constant = (y == y[:1]).all(0)
    return jnp.where(constant, left == 0, 1 - left / jnp.where(constant, 1, spread)).mean()


@has_mode("max")
def precision(logits: Outputs, y: Targets, average: str | None = None) -> Scalar:
    """The share of the rows taken for a class that are of it, over a **whole set**. Arguments as `f1`.

    Example:
      >>> precision(jnp.array([2.0, 1.0, -1.0]), jnp.array([1, 0, 1]))
      Array(0.5, dtype=float32)
    """
    return _averaged(lambda hits, taken, true: (hits, taken), logits, y, average)


@has_mode("max")
def recall(logits: Outputs, y: Targets, average: str | None = None) -> Scalar:
    """The share of the rows of a class that are taken for it, over a **whole set**. Arguments as `f1`.

    Example:
      >>> recall(jnp.array([2.0, 1.0, -1.0]), jnp.array([1, 0, 1]))
      Array(0.5, dtype=float32)
    """
    return _averaged(lambda hits, taken, true: (hits, true), logits, y, average)


@has_mode("max")
def f1(logits: Outputs, y: Targets, average: str | None = None) -> Scalar:
    """The harmonic mean of precision and recall over a **whole set**, as scikit-learn's `f1_score` computes it.

    Args:
      logits: shape (n,) or (n, 1) for two classes, (n, classes) for more. The class taken is that of the largest logit, or 1 of a single
        logit above 0.
      y: class numbers, or 0 and 1, or a probability of each class.
      average: "binary": of class 1, which needs one logit a row; "macro": the mean over classes that are in `y` or taken; "weighted": that
        mean with each class's rows in `y` as weights; "micro": of all rows together. None: "binary" of one logit a row, else "macro".

    Returns:
      From 0 to 1; 0 where nothing is to be divided by.

    Raises:
      ValueError: shapes that do not match, or an average that is not known.

    Example:
      >>> f1(jnp.array([2.0, 1.0, -1.0, -2.0]), jnp.array([1, 0, 1, 0]))
      Array(0.5, dtype=float32)
    """
    return _averaged(lambda hits, taken, true: (2 * hits, taken + true), logits, y, average)


@has_mode("max")
def balanced_accuracy(logits: Outputs, y: Targets) -> Scalar:
    """The mean recall of the classes that are in `y`, over a **whole set**. Arguments as `f1`.

    Example:
      >>> balanced_accuracy(jnp.array([2.0, 1.0, -1.0, 3.0]), jnp.array([1, 1, 0, 0]))
      Array(0.75, dtype=float32)
    """
    hits, _, true = _counted(logits, y)
    return (hits / jnp.maximum(true, 1)).sum() / (true > 0).sum()


@has_mode("min")
def ece(logits: Outputs, y: Targets, bins: int = 15) -> Scalar:
    """The expected calibration error over a **whole set**: how far confidence is from accuracy.

    Rows are sorted into bins of equal width by the probability of the class taken; the error is the mean over rows of the difference
    between a bin's mean probability and its accuracy (Guo et al. 2017, "On calibration of modern neural networks").

    Args:
      logits, y: as `f1`.
      bins: how many there are between 0 and 1.

    Returns:
      From 0 to 1.

    Raises:
      ValueError: fewer bins than 1.

    Example:
      >>> ece(jnp.array([[0.0, 100.0], [100.0, 0.0]]), jnp.array([1, 1]))
      Array(0.5, dtype=float32)
    """
    confidence, hit, places = _by_confidence(logits, y, bins)
    return jnp.abs(jax.ops.segment_sum(hit - confidence, places, bins)).sum() / len(hit)


def reliability(logits: Any, y: Any, bins: int = 15) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The reliability diagram of a **whole set**, in the bins of `ece`.

    Args:
      logits, y, bins: as `ece`.

    Returns:
      Of each bin that has rows: the mean probability of the class taken, the share of these classes that are right, and the number of
      rows.

    Example:
      >>> confidence, right, rows = reliability(jnp.array([[0.0, 100.0], [100.0, 0.0]]), jnp.array([1, 1]))
      >>> confidence.tolist(), right.tolist(), rows.tolist()
      ([1.0], [0.5], [2])
    """
    confidence, hit, places = (np.asarray(each) for each in _by_confidence(logits, y, bins))
    counts = np.bincount(places, minlength=bins)
    sums = [np.bincount(places, each, minlength=bins)[counts > 0] / counts[counts > 0] for each in (confidence, hit)]
    return sums[0], sums[1], counts[counts > 0]


def _by_confidence(logits: Any, y: Any, bins: int) -> tuple[Any, Any, Any]:
    """Of each row: the probability of the class taken, whether it is right, and the bin."""
    if bins < 1:
        raise ValueError(f"ece(bins=...) must be at least 1, got {bins!r}.")
    scores, true = _classified(logits, y)
    confidence = jax.nn.softmax(scores).max(-1)
    hit = (scores.argmax(-1) == true).astype(jnp.float32)
    return confidence, hit, jnp.clip(jnp.ceil(confidence * bins).astype(jnp.int32) - 1, 0, bins - 1)


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
    scores, labels = (scores, labels) if several else (scores.ravel(), labels.ravel())
    counted = labels[weights > 0].ravel() if average == "micro" else labels[weights > 0]
    if np.isnan(scores).any() or not counted.size or (counted.min(0) == counted.max(0)).any():
        return float("nan")
    finite = np.nan_to_num(scores)  # scikit-learn takes no infinity
    return float(roc_auc_score(labels, finite, average=average or "macro", sample_weight=weights))


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
        raise ValueError(f"logits {scores.shape} and labels {labels.shape} have different numbers of rows.")
    if true.size and not 0 <= true.min() <= true.max() < classes:
        raise ValueError(f"labels run from {true.min()} to {true.max()}, logits {scores.shape} tell {classes} classes apart.")
    return metrics.confusion_matrix(true, predicted, labels=np.arange(classes))


@dataclass(frozen=True)
class from_sklearn:
    """A metric of scikit-learn, of (y_true, y_pred), as a metric of (logits, y) of a whole set.

    A bare function of `sklearn.metrics` in `Task(set_metrics=...)` or `evaluate(metrics=...)` is taken as this with what its kind needs.

    Attributes:
      function: such as `sklearn.metrics.f1_score`, or a `functools.partial` of it.
      needs: what it is given besides the targets. "classes": the class of the largest logit, or whether a single one is above 0.
        "probabilities": the softmax of the logits, or the sigmoid of a single one. "values": the outputs as they are. With targets of the
        outputs' shape whose rows do not add up to 1 each output is a label of its own. None: as a function of `sklearn.metrics` needs.

    Raises:
      ValueError: `needs` is missing or not known.
      TypeError: the function does not compare targets with outputs.

    Example:
      >>> from sklearn.metrics import f1_score
      >>> from_sklearn(f1_score)(np.array([[2.0], [-1.0], [1.0]]), np.array([1, 1, 0]))
      0.5
    """

    function: Callable[..., Any]
    needs: str | None = None

    def __post_init__(self) -> None:
        needs = self.needs
        if needs is None:
            if not is_sklearn(self.function):
                raise ValueError('from_sklearn(function, needs=...): say "classes", "probabilities" or "values".')
            needs = _needs(unwrapped(self.function))
            object.__setattr__(self, "needs", needs)
        if needs not in ("classes", "probabilities", "values"):
            raise ValueError(f'from_sklearn(needs=...) must be "classes", "probabilities" or "values", got {needs!r}.')

    @property
    def mode(self) -> Mode | None:
        """Whether it is best when small or large, as scikit-learn says by the last part of a function's name."""
        last = getattr(unwrapped(self.function), "__name__", "").rpartition("_")[2]
        return {"score": "max", "corrcoef": "max", "error": "min", "loss": "min", "deviance": "min"}.get(last)  # pyright: ignore[reportReturnType]

    def __call__(self, logits: Any, y: Any) -> Any:
        """What the function returns; NaN where an output is."""
        outputs, targets = _whole(f"from_sklearn({getattr(unwrapped(self.function), '__name__', '...')})", logits, y)
        if np.isnan(outputs).any():
            return float("nan")
        if outputs.ndim > 1 and outputs.shape[-1] == 1:
            outputs, targets = outputs[..., 0], targets[..., 0] if targets.ndim == outputs.ndim else targets
        if self.needs == "values":
            return self.function(targets, outputs)
        from scipy.special import expit, softmax

        several = outputs.ndim > 1 and not (outputs.shape == targets.shape and not np.allclose(targets.sum(-1), 1))
        if several and outputs.shape == targets.shape:
            targets = targets.argmax(-1)
        elif several:
            targets = targets.reshape(outputs.shape[:-1])  # of a column of classes, too
        if several and outputs.ndim > 2:  # such as a class at each place of a row
            outputs, targets = outputs.reshape(-1, outputs.shape[-1]), targets.ravel()
        if self.needs == "probabilities":
            return self.function(targets, softmax(outputs, -1) if several else expit(outputs))
        return self.function(targets, outputs.argmax(-1) if several else (outputs > 0).astype(int))


def is_sklearn(function: Any) -> bool:
    """Whether a function is one of `sklearn.metrics`, or made of one by `functools.partial`, `Metric` or `from_sklearn`."""
    function = unwrapped(function)
    if isinstance(function, Metric):
        return is_sklearn(function.function)
    module = getattr(function, "__module__", None) or ""
    return isinstance(function, from_sklearn) or (inspect.isfunction(function) and module.startswith("sklearn.metrics."))


def of_whole_set(function: Any, what: str) -> Any:
    """A metric as a function of (logits, y): scikit-learn's by `from_sklearn`, others by the names of their parameters."""
    known = isinstance(unwrapped(function), from_sklearn | Metric)
    return from_sklearn(function) if is_sklearn(function) and not known else in_order(function, what)


def _needs(function: Any) -> str:
    first, second = list(inspect.signature(function).parameters)[:2]
    if first not in ("y_true", "labels_true", "y1"):
        raise TypeError(f"scikit-learn's {function.__name__}({first}, {second}, ...) does not compare targets with outputs.")
    if "regression" in function.__module__ or second == "pred_decision":
        return "values"
    name = function.__name__
    return "probabilities" if second in ("y_score", "y_prob", "y_proba") or name in ("log_loss", "d2_log_loss_score") else "classes"


def _classified(logits: Any, y: Any) -> tuple[Any, Any]:
    """The logits of two classes or more, shape (n, classes), and the class numbers, shape (n,), of all places of all rows."""
    logits, y = jnp.asarray(logits), jnp.asarray(y)
    if logits.ndim < 2 or logits.shape[-1] == 1:
        logits, y = aligned(logits, y)
        return jnp.stack([jnp.zeros(logits.size), logits.ravel()], -1), (y.ravel() > 0.5).astype(jnp.int32)
    return logits.reshape(-1, logits.shape[-1]), _classes(logits, y).ravel()


def _counted(logits: Any, y: Any) -> tuple[Any, Any, Any]:
    """Of each class: the rows of it that are taken for it, all that are taken for it, and all of it."""
    scores, true = _classified(logits, y)
    taken, true = (jax.nn.one_hot(each, scores.shape[-1], dtype=jnp.int32) for each in (scores.argmax(-1), true))
    return (taken * true).sum(0), taken.sum(0), true.sum(0)


def _averaged(share: Callable[..., Any], logits: Any, y: Any, average: str | None) -> Any:
    """A score of each class, which is a share of two counts, as one number."""
    counts = _counted(logits, y)
    single = jnp.ndim(logits) < 2 or jnp.shape(logits)[-1] == 1
    average = average or ("binary" if single else "macro")
    if average not in ("binary", "macro", "micro", "weighted"):
        raise ValueError(f'average=... must be "binary", "macro", "micro" or "weighted", got {average!r}.')
    if average == "binary" and not single:
        raise ValueError(f'average="binary" needs one logit for each example, got logits of shape {jnp.shape(logits)}: use "macro".')
    if average == "micro":
        counts = tuple(count.sum(keepdims=True) for count in counts)
    above, below = share(*counts)
    scores = above / jnp.maximum(below, 1)
    if average == "binary":
        return scores[1]
    weights = counts[2] if average == "weighted" else (counts[1] + counts[2] > 0)
    return (scores * weights).sum() / weights.sum()


def _classes(logits: Outputs, y: Targets) -> Any:
    classes = class_numbers(logits, y)
    return y.argmax(-1) if classes is None else classes


def _whole(name: str, logits: Any, y: Any) -> tuple[np.ndarray, np.ndarray]:
    if isinstance(logits, Tracer) or isinstance(y, Tracer):
        raise TypeError(f"{name} needs the whole set: Task(set_metrics=...) or evaluate(metrics=...), not Task(metrics=...), takes it.")
    return np.asarray(logits, np.float64), np.asarray(y)


_KERAS = {
    "accuracy": "binary_accuracy or categorical_accuracy",
    "sparse_categorical_accuracy": "categorical_accuracy",
    "AUC": "auc, in set_metrics",
    "Precision": "precision, in set_metrics",
    "Recall": "recall, in set_metrics",
    "F1Score": "f1, in set_metrics",
    "mean_absolute_error": "mae",
}

if not TYPE_CHECKING:  # a type checker finds unknown names itself

    def __getattr__(name: str) -> Any:
        raise absent(__name__, name, [each for each in globals() if each.islower()], _KERAS)
