"""Losses: (logits, y) -> one number a row, shape (rows,). Axes beyond the loss's own are averaged.

To set an argument: `functools.partial(categorical_crossentropy, label_smoothing=0.1)`, which keeps the name in the logs.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.core import Tracer

from flaxfit.arguments import Mode, absent, check_count, in_order, targets_first, unwrapped
from flaxfit.shapes import Outputs, Rows, Targets

_Function = TypeVar("_Function", bound=Callable[..., Any])


def has_mode(mode: Mode) -> Callable[[_Function], _Function]:
    """A decorator with which a loss or metric says whether it is best when small or large, by an attribute `mode`."""

    def decorate(function: Any) -> Any:
        function.mode = mode
        return function

    return decorate


@has_mode("min")
def binary_crossentropy(logits: Outputs, y: Targets, label_smoothing: Any = 0.0) -> Rows:
    """Cross-entropy between labels 0 and 1, or probabilities, and the sigmoid of logits.

    Args:
      logits: shape (n,), (n, 1) or (n, ...).
      y: the same shape, or (n,) against (n, 1).
      label_smoothing: from 0 to 1, may be traced: labels become `y * (1 - label_smoothing) + label_smoothing / 2`, as in Keras.

    Raises:
      ValueError: shapes that do not match, or a smoothing outside [0, 1].

    Example:
      >>> binary_crossentropy(jnp.array([[0.0], [2.0]]), jnp.array([1, 0])).round(3)
      Array([0.693, 2.127], dtype=float32)
    """
    logits, y = aligned(logits, y)
    if _smooths(label_smoothing):
        y = y * (1 - label_smoothing) + label_smoothing / 2
    return row_means(optax.sigmoid_binary_cross_entropy(logits, y))


@has_mode("min")
def categorical_crossentropy(logits: Outputs, y: Targets, label_smoothing: Any = 0.0) -> Rows:
    """Cross-entropy between classes and the softmax of logits.

    Args:
      logits: shape (n, classes) or (n, ..., classes).
      y: class numbers of shape (n,), (n, 1) or (n, ...), which are whole numbers of any type; or a probability of each class, shape as
        `logits`.
      label_smoothing: from 0 to 1, may be traced: the labels' share that is spread evenly over all classes, as in Keras.

    Raises:
      ValueError: shapes that do not match, a single class, or a smoothing outside [0, 1].

    Example:
      >>> categorical_crossentropy(jnp.zeros((2, 4)), jnp.array([3, 0])).round(3)
      Array([1.386, 1.386], dtype=float32)
    """
    if (classes := class_numbers(logits, y)) is None:
        losses = optax.softmax_cross_entropy(logits, y)
    else:
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, classes)
    if _smooths(label_smoothing):  # cross-entropy is linear in the labels
        uniform = jnp.full_like(logits, 1 / logits.shape[-1])
        losses = (1 - label_smoothing) * losses + label_smoothing * optax.softmax_cross_entropy(logits, uniform)
    return row_means(losses)


@has_mode("min")
def mse(logits: Outputs, y: Targets) -> Rows:
    """Squared error, averaged over a row's outputs. Shapes as `binary_crossentropy`.

    Raises:
      ValueError: shapes that do not match.

    Example:
      >>> mse(jnp.array([[1.0], [3.0]]), jnp.array([0.0, 1.0]))
      Array([1., 4.], dtype=float32)
    """
    return row_means(optax.squared_error(*aligned(logits, y)))


@has_mode("min")
def mae(logits: Outputs, y: Targets) -> Rows:
    """Absolute error, averaged over a row's outputs. Shapes as `mse`.

    Example:
      >>> mae(jnp.array([[1.0], [3.0]]), jnp.array([0.0, 5.0]))
      Array([1., 2.], dtype=float32)
    """
    logits, y = aligned(logits, y)
    return row_means(jnp.abs(logits - y))


@has_mode("min")
def huber(logits: Outputs, y: Targets, delta: Any = 1.0) -> Rows:
    """Half the squared error up to `delta`, and beyond it linear (Huber 1964, "Robust estimation of a location parameter"); by optax.

    Args:
      logits, y: as `mse`.
      delta: above 0, in the unit of the targets; may be traced.

    Example:
      >>> huber(jnp.array([0.5, 3.0]), jnp.zeros(2))
      Array([0.125, 2.5  ], dtype=float32)
    """
    return row_means(optax.huber_loss(*aligned(logits, y), delta=delta))


@has_mode("min")
def pinball(logits: Outputs, y: Targets, quantile: Any = 0.5) -> Rows:
    """The loss whose minimum is a quantile of the targets, with half the absolute error for the median (Koenker and Bassett 1978,
    "Regression quantiles").

    Args:
      logits, y: as `mse`; or logits of shape (n, quantiles) with `y` of shape (n,) or (n, 1).
      quantile: between 0 and 1, or one for each output of a row; may be traced.

    Raises:
      ValueError: shapes that do not match, or a quantile outside (0, 1).

    Example:
      >>> pinball(jnp.array([0.0, 0.0]), jnp.array([1.0, -1.0]), quantile=0.75)
      Array([0.75, 0.25], dtype=float32)
    """
    if not isinstance(quantile, Tracer) and not all(0 < each < 1 for each in np.ravel(quantile)):
        raise ValueError(f"pinball(quantile=...) must lie between 0 and 1, got {quantile!r}.")
    quantiles = jnp.asarray(quantile, jnp.float32)
    if quantiles.ndim == 1 and logits.shape[-1:] == quantiles.shape and logits.ndim == 2 and y.size == y.shape[0]:
        y = jnp.broadcast_to(y.reshape(-1, 1), logits.shape)
    logits, y = aligned(logits, y)
    quantiles = jnp.broadcast_to(quantiles, logits.shape)
    return row_means(jnp.where(y > logits, quantiles, 1 - quantiles) * jnp.abs(y - logits))


@has_mode("min")
def poisson_nll(logits: Outputs, y: Targets) -> Rows:
    """The negative log-likelihood of counts under a Poisson distribution whose log rate is the output, without its constant log(y!).

    Args:
      logits: logarithms of rates, shapes as `mse`.
      y: counts, 0 or more.

    Example:
      >>> poisson_nll(jnp.log(jnp.array([1.0, 2.0])), jnp.array([0, 2])).round(3)
      Array([1.   , 0.614], dtype=float32)
    """
    logits, y = aligned(logits, y)
    return row_means(jnp.exp(logits) - y * logits)


@has_mode("min")
def hinge(logits: Outputs, y: Targets) -> Rows:
    """The hinge loss of a support vector machine, for labels 0 and 1 or class numbers; by optax.

    Args:
      logits: shapes as `binary_crossentropy` for two classes; (n, classes) or (n, ..., classes) for more.
      y: 0 and 1, in the first case; class numbers of shape (n,), (n, 1) or (n, ...) in the second, where the label's logit is to be above
        the largest other by 1 (Crammer and Singer 2001).

    Example:
      >>> hinge(jnp.array([0.25, 3.0]), jnp.array([1, 0]))
      Array([0.75, 4.  ], dtype=float32)
      >>> hinge(jnp.array([[0.0, 0.5, 2.0]]), jnp.array([2]))
      Array([0.], dtype=float32)
    """
    if _has_classes(logits, y):
        return row_means(optax.losses.multiclass_hinge_loss(logits, class_numbers(logits, y)))
    logits, y = aligned(logits, y)
    return row_means(optax.losses.hinge_loss(logits, 2 * y - 1))


@has_mode("min")
def focal(logits: Outputs, y: Targets, gamma: Any = 2.0, alpha: Any = None) -> Rows:
    """Cross-entropy times (1 - p)**gamma, p being the probability of the label, so that easy rows count less (Lin et al. 2017, "Focal
    loss for dense object detection").

    Args:
      logits: shapes as `binary_crossentropy` for labels 0 and 1; (n, classes) or (n, ..., classes) for class numbers.
      y: 0 and 1, or probabilities, in the first case, which is optax's; class numbers of shape (n,), (n, 1) or (n, ...) in the second.
      gamma: 0 or more, 0 being plain cross-entropy; may be traced.
      alpha: the weight of label 1, that of label 0 being 1 - alpha; or a weight for each class. None: no weights.

    Raises:
      ValueError: shapes that do not match.

    Example:
      >>> focal(jnp.array([0.0, 2.0]), jnp.array([1, 1])).round(4)
      Array([0.1733, 0.0018], dtype=float32)
    """
    if not _has_classes(logits, y):
        return row_means(optax.losses.sigmoid_focal_loss(*aligned(logits, y), alpha=alpha, gamma=gamma))
    y = class_numbers(logits, y)
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, y)
    weights = 1.0 if alpha is None else jnp.asarray(alpha)[y]
    return row_means(weights * (-jnp.expm1(-losses)) ** gamma * losses)


@has_mode("min")
def kl(logits: Outputs, y: Targets) -> Rows:
    """The Kullback-Leibler divergence of the softmax of logits from the probabilities in `y`, as when a network learns from another's;
    by optax.

    Args:
      logits: shape (n, classes) or (n, ..., classes).
      y: a probability of each class, the same shape.

    Raises:
      ValueError: shapes that do not match.

    Example:
      >>> kl(jnp.zeros((1, 2)), jnp.array([[1.0, 0.0]])).round(3)
      Array([0.693], dtype=float32)
    """
    if logits.shape != y.shape or logits.ndim < 2:
        raise ValueError(f"kl compares logits (n, classes) with probabilities of the same shape, got {logits.shape} and {y.shape}.")
    return row_means(optax.losses.kl_divergence(jax.nn.log_softmax(logits), y))


class Wrapper:
    """The base of losses and metrics that are made of another one. They have its name and its mode."""

    function: Callable[..., Any]

    @property
    def __name__(self) -> str:
        return getattr(unwrapped(self.function), "__name__", "<lambda>")

    @property
    def mode(self) -> Mode | None:
        """Whether it is best when small or large, as the function says."""
        return mode_of_function(self.function)


@dataclass(frozen=True)
class of_batch(Wrapper):
    """A loss or metric of a whole batch, in which rows meet: a contrastive loss such as InfoNCE, a loss of pairs, a soft F1.

    Its value depends on how rows are batched. In training a batch is what `fit(batch_size=...)` makes of it. Validation in `fit` and
    `flaxfit.evaluate` both take `batch_size` rows at a time in the order of the data, whatever their own batch size, and give the mean over
    batches weighted by their rows; the last batch has the rows that are left. Rows cannot have weights.

    Attributes:
      function: (logits, y) -> one number for the batch, or one a row, of which the mean is taken.
      batch_size: rows of a batch in validation and evaluation. For values comparable to those of training give `fit`'s.

    Raises:
      ValueError, TypeError: a batch size below 1.

    Example:
      >>> def variance(logits, y):
      ...     return logits.var()
      >>> of_batch(variance, batch_size=64)(jnp.array([1.0, 3.0]), jnp.zeros(2))
      Array([1., 1.], dtype=float32)
    """

    function: Callable[..., Any]
    batch_size: int = 32

    def __post_init__(self) -> None:
        check_count("of_batch(batch_size=...)", self.batch_size, 1, "rows of a batch")
        object.__setattr__(self, "function", in_order(self.function, "of_batch's function"))

    def __call__(self, logits: Any, y: Any, **options: Any) -> Rows:
        """The number for the batch, once a row."""
        rows = jax.tree.leaves(y)[0].shape[0]
        value = jnp.asarray(self.function(logits, y, **options))
        if value.shape not in ((), (rows,)):
            raise ValueError(
                f"of_batch({self.__name__}) must return one number for the batch, or one for each example, got shape {value.shape}."
            )
        return jnp.broadcast_to(value.mean(), (rows,))


def aligned(logits: Outputs, y: Targets) -> tuple[Any, Any]:
    """Both in one shape and floating type: (n, 1) meets (n,).

    Raises:
      ValueError: shapes that differ by more; broadcasting them would compare every row with every other.
    """
    shapes = jnp.shape(logits), jnp.shape(y)
    if shapes[0] != shapes[1]:
        logits, y = (a[..., 0] if a.ndim > 1 and a.shape[-1] == 1 else a for a in (logits, y))
    if logits.shape != y.shape:
        raise ValueError(
            f"logits {shapes[0]} and labels {shapes[1]} must have one shape, or (n, 1) and (n,). "
            "For class numbers against (n, classes) use categorical_crossentropy and categorical_accuracy."
        )
    return logits, y.astype(jnp.promote_types(logits.dtype, jnp.float32))


def class_numbers(logits: Outputs, y: Targets) -> Any:
    """The class numbers in `y`, integers of the shape of `logits` without its last axis; None where `y` is a probability of each class.

    Raises:
      ValueError: neither fits the logits; a class number that is not whole, where `y` is not traced.
    """
    if logits.ndim < 2 or logits.shape[-1] < 2:
        raise ValueError(
            f"logits (n, classes) need two classes or more, got {logits.shape}: with one logit for each example, use the binary functions."
        )
    if y.shape == logits.shape:
        return None
    if not _has_classes(logits, y):
        raise ValueError(
            f"against logits {logits.shape}, labels are class numbers of shape {logits.shape[:-1]} or probabilities of shape "
            f"{logits.shape}; got {y.dtype} of shape {y.shape}."
        )
    if not isinstance(y, Tracer) and (broken := np.asarray(y) % 1 != 0).any():
        raise ValueError(f"class numbers must be whole, got {np.asarray(y)[broken][0]}.")
    y = y if y.shape == logits.shape[:-1] else y[..., 0]
    return y if jnp.issubdtype(y.dtype, jnp.integer) else y.astype(jnp.int32)


def _has_classes(logits: Outputs, y: Targets) -> bool:
    """Whether `y` has one label for each place of logits of several classes."""
    return logits.ndim > 1 and logits.shape[-1] > 1 and y.shape in (logits.shape[:-1], (*logits.shape[:-1], 1))


def row_means(values: Any) -> Rows:
    """The mean of each row, shape (rows,)."""
    return values.reshape(values.shape[0], math.prod(values.shape[1:])).mean(1) if values.ndim > 1 else values


def _smooths(label_smoothing: Any) -> bool:
    """Whether there is anything to do: no for a plain 0, so that it costs nothing."""
    if isinstance(label_smoothing, Tracer):
        return True
    if not 0 <= label_smoothing <= 1:
        raise ValueError(f"label_smoothing must lie from 0 to 1, got {label_smoothing!r}.")
    return bool(label_smoothing)


def mode_of_function(function: Any) -> Mode | None:
    """Whether a loss or metric is best when small or large, as it says itself; None where it does not.

    A function says it by an attribute `mode`, as those of `flaxfit.losses` and `flaxfit.metrics` and every `flaxfit.Metric` do. The losses
    of optax and of Keras are best when small. A `functools.partial` says what its function says.

    Example:
      >>> import functools
      >>> mode_of_function(functools.partial(mse)), mode_of_function(optax.squared_error), mode_of_function(jnp.add)
      ('min', 'min', None)
    """
    function = unwrapped(function)
    if isinstance(function, targets_first):
        return mode_of_function(function.function)
    if (mode := getattr(function, "mode", None)) is not None:
        return mode
    package, *parts = (getattr(function, "__module__", None) or "").split(".")
    return "min" if package == "optax" or (package == "keras" and "losses" in parts) else None


_KERAS = {
    "sparse_categorical_crossentropy": "categorical_crossentropy, which takes class numbers and one-hot labels",
    "mean_squared_error": "mse",
    "mean_absolute_error": "mae",
    "poisson": "poisson_nll",
    "kl_divergence": "kl",
    "quantile": "pinball",
    "cross_entropy": "categorical_crossentropy or binary_crossentropy",
}

if not TYPE_CHECKING:  # a type checker finds unknown names itself

    def __getattr__(name: str) -> Any:
        raise absent(__name__, name, [each for each in globals() if each.islower()], _KERAS)
