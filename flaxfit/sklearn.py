"""Estimators for scikit-learn: a Flax model with `fit`, `predict` and `score`, for pipelines, searches and calibration."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import KW_ONLY, dataclass, field
from typing import Any, Self

import jax
import numpy as np
import optax
from scipy.special import softmax
from sklearn.base import BaseEstimator, ClassifierMixin, RegressorMixin
from sklearn.model_selection import train_test_split
from sklearn.preprocessing import StandardScaler
from sklearn.utils import check_random_state, compute_sample_weight
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import _check_sample_weight, check_is_fitted, column_or_1d, validate_data

from flaxfit import losses
from flaxfit.data.dataset import Dataset
from flaxfit.data.encoding import Encoding, learn
from flaxfit.data.frames import cells_of, native
from flaxfit.nn import MLP
from flaxfit.programs.evaluate import predict
from flaxfit.programs.stopping import EarlyStopping
from flaxfit.rng import key_shape
from flaxfit.task.task import Task
from flaxfit.train.fit import fit

_ROWS = 256  # rows of a prediction step, always as many, so that a row's prediction does not depend on the rows beside it


@dataclass(eq=False, repr=False)
class _Estimator(BaseEstimator):
    """What both estimators share. Fitted, it holds arrays and plain values only, so that it can be pickled."""

    hidden: Sequence[int] = (64,)
    _: KW_ONLY
    model: Any = None
    loss: Callable[..., Any] | None = None
    optimizer: Any = None
    learning_rate: float = 1e-2
    penalty: Callable[[Any], Any] | None = None
    dropout: float = 0.0
    epochs: int = 200
    batch_size: int = 200
    early_stopping: EarlyStopping | None = None
    validation_fraction: float = 0.1
    random_state: Any = None
    encoding_: Encoding | None = field(init=False)

    def _train(self, X: Any, y: np.ndarray, weight: np.ndarray | None, validation: tuple[Any, np.ndarray] | None, stratified: bool) -> Self:
        """Trains on checked targets: those of `validation` too."""
        seed = int(check_random_state(self.random_state).randint(2**31 - 1))
        frame = hasattr(native(X), "columns") and not _is_numeric(X)
        if frame:
            validate_data(self, X, skip_check_array=True)
            raw: Any = cells_of(X)
        else:
            raw = np.asarray(validate_data(self, X, dtype=np.float64, order="C"))
        size = len(next(iter(raw.values()))) if frame else len(raw)
        if len(y) != size:
            raise ValueError(f"Found input variables with inconsistent numbers of samples: {[size, len(y)]}")
        if weight is not None:
            weight = np.asarray(_check_sample_weight(weight, np.zeros((size, 1)), dtype=np.float64, ensure_non_negative=True))
            if not weight.sum() > 0:
                raise ValueError("sample_weight is zero for all rows.")

        def part(rows: Any) -> Any:
            return {name: column[rows] for name, column in raw.items()} if frame else raw[rows]

        rows, held_out = np.arange(size) if weight is None else np.flatnonzero(weight), None
        if self.early_stopping is not None and validation is None:
            strata = y[rows] if stratified else None
            rows, held_out = train_test_split(rows, test_size=self.validation_fraction, random_state=seed, stratify=strata)
        x, targets, weight = part(rows), y[rows], None if weight is None else weight[rows]
        if frame:
            self.encoding_ = learn(x, sample_weight=weight)
        else:
            self.encoding_ = None
            x, targets, weight = _merged(x, targets, weight, self.batch_size)
            scaler: Any = StandardScaler().fit(x, sample_weight=weight)
            self.mean_, self.scale_ = scaler.mean_, scaler.scale_
        self._learn_targets(targets, weight)
        if weight is not None:
            weight = weight * (len(weight) / weight.sum())
        x, val = self._encoded(x), None
        if validation is not None:
            val = Dataset(self._encoded(self._checked(validation[0])), self._scaled(validation[1]))
        elif held_out is not None:
            val = Dataset(self._encoded(part(held_out)), self._scaled(y[held_out]))
        task = self._task(x)
        options: dict[str, Any] = {"epochs": self.epochs, "batch_size": self.batch_size, "early_stopping": self.early_stopping}
        result = fit(task, Dataset(x, self._scaled(targets), weight), validation=val, seed=seed, **options)
        best = result.last if self.early_stopping is None else result.best
        self.state_ = jax.device_get(task.evaluated(best))
        self.n_iter_ = len(result.history.epochs)
        self.history_ = {name: np.asarray(values, float) for name, values in result.history.items()}
        return self

    def _outputs(self, X: Any) -> np.ndarray:
        """The model's outputs, float64 of shape (rows, outputs)."""
        check_is_fitted(self)
        x = self._encoded(self._checked(X))
        rows = len(x)
        filled = np.concatenate([x, np.repeat(x[-1:], -rows % _ROWS, axis=0)])
        outputs = np.asarray(predict(self._task(x), jax.device_put(self.state_), filled, batch_size=_ROWS), np.float64)[:rows]
        return outputs.reshape(rows, -1)

    def _checked(self, X: Any) -> Any:
        """Rows as `_encoded` takes them."""
        if self.encoding_ is not None:
            validate_data(self, X, skip_check_array=True, reset=False)
            return cells_of(X)
        return np.asarray(validate_data(self, X, dtype=np.float64, order="C", reset=False))

    def _encoded(self, raw: Any) -> np.ndarray:
        if self.encoding_ is not None:
            return self.encoding_.encode(raw)
        return np.clip((raw - self.mean_) / self.scale_, -1e30, 1e30).astype(np.float32)

    def _learn_targets(self, y: np.ndarray, weight: np.ndarray | None) -> None:
        pass

    def _scaled(self, y: np.ndarray) -> np.ndarray:
        return y

    def _task(self, x: np.ndarray) -> Task:
        """The task, for rows like `x`; of equal parameters the same one, so that fitting again compiles nothing."""
        model = self.model or MLP(tuple(self.hidden), self._units(), dropout=self.dropout)
        arguments: Any = (model, self.loss, self.optimizer, self.learning_rate, self.penalty, isinstance(self, ClassifierMixin), x.shape[1])
        try:
            return _cached_task(*arguments)
        except TypeError:  # something that cannot be hashed
            return _make_task(*arguments)

    def _units(self) -> int:
        return 1


@dataclass(eq=False, repr=False)
class FlaxClassifier(ClassifierMixin, _Estimator):
    """A classifier for scikit-learn: a Flax model on standardized inputs, with a softmax, or for two classes a sigmoid.

    A data frame with text, dates or missing values is encoded by what is learned from the rows that train (`flaxfit.data.Encoding`).

    Args:
      hidden: widths of the hidden layers of a `flaxfit.nn.MLP`.
      model: a model for `flaxfit.Task` instead of it, with an output for each class, or a single one for two classes.
      loss: (logits, y) -> one number a row; None: cross-entropy.
      optimizer: a function of the learning rate, such as `optax.sgd`, or an optax transformation; None: `optax.adam`.
      learning_rate: of the optimizer.
      penalty: params -> scalar, see `flaxfit.penalties`.
      dropout: of the `MLP`.
      epochs: how many at most.
      batch_size: rows of a step.
      early_stopping: such as `ff.EarlyStopping("val_loss", patience=10)`; the weights of the best epoch are kept. None: all epochs.
      validation_fraction: with early stopping, the share of rows that are set aside to validate on, where `fit` is given none.
      class_weight: class -> factor, or "balanced".
      random_state: decides the initial weights and all other randomness.

    Attributes:
      classes_: the classes, sorted.
      encoding_: what was learned from a data frame's columns, or None.
      history_: each logged metric by epoch.
      n_iter_: epochs that were trained.

    Example:
      >>> from sklearn.datasets import load_iris
      >>> x, y = load_iris(return_X_y=True)
      >>> FlaxClassifier(epochs=50, random_state=0).fit(x, y).score(x, y) > 0.9
      True
    """

    class_weight: Any = field(default=None, kw_only=True)

    def fit(self, X: Any, y: Any, sample_weight: Any = None, *, validation: tuple[Any, Any] | None = None) -> Self:
        """Trains on rows.

        Args:
          X: numbers of shape (rows, features), or a data frame.
          y: classes, shape (rows,).
          sample_weight: how much each row counts, shape (rows,).
          validation: rows and classes that each epoch is validated on.

        Raises:
          ValueError: a single class, NaN or infinity in arrays, and what scikit-learn's validation refuses.
        """
        y = _target(y)
        check_classification_targets(y)
        self.classes_, codes = np.unique(y, return_inverse=True)
        if len(self.classes_) < 2:
            raise ValueError(f"FlaxClassifier needs two classes or more, y has one class: {self.classes_[0]!r}.")
        if self.class_weight is not None:
            factors = compute_sample_weight(self.class_weight, y)
            sample_weight = factors if sample_weight is None else factors * np.asarray(sample_weight, np.float64)
        if validation is not None:
            validation = (validation[0], self._codes(_target(validation[1])))
        return self._train(X, codes.astype(np.int32), sample_weight, validation, stratified=True)

    def predict_proba(self, X: Any) -> np.ndarray:
        """The probability of each class, shape (rows, classes)."""
        logits = self._outputs(X)
        if logits.shape[1] == 1:
            logits = np.concatenate([np.zeros_like(logits), logits], axis=1)
        return softmax(logits, 1)

    def predict(self, X: Any) -> np.ndarray:
        """The most probable class of each row, shape (rows,)."""
        return self.classes_[self.predict_proba(X).argmax(1)]

    def _units(self) -> int:
        return 1 if len(self.classes_) == 2 else len(self.classes_)

    def _codes(self, y: np.ndarray) -> np.ndarray:
        if new := sorted(set(y.tolist()) - set(self.classes_.tolist())):
            raise ValueError(f"fit(validation=...) has the class {new[0]!r}, which y has not.")
        return np.searchsorted(self.classes_, y).astype(np.int32)


@dataclass(eq=False, repr=False)
class FlaxRegressor(RegressorMixin, _Estimator):
    """A regressor for scikit-learn: a Flax model on standardized inputs and targets, fitted by squared error.

    Arguments are those of `FlaxClassifier`, without `class_weight`; `model` has a single output, and `loss` sees standardized targets.

    Attributes:
      encoding_: what was learned from a data frame's columns, or None.
      history_: each logged metric by epoch, in units of the standardized target.
      n_iter_: epochs that were trained.

    Example:
      >>> x = np.linspace(-1, 1, 200)[:, None]
      >>> FlaxRegressor(random_state=0).fit(x, x[:, 0] ** 2).score(x, x[:, 0] ** 2) > 0.9
      True
    """

    def fit(self, X: Any, y: Any, sample_weight: Any = None, *, validation: tuple[Any, Any] | None = None) -> Self:
        """Trains on rows; arguments as for `FlaxClassifier.fit`, with numbers as targets."""
        y = self._numbers(y)
        if validation is not None:
            validation = (validation[0], self._numbers(validation[1]))
        return self._train(X, y, sample_weight, validation, stratified=False)

    def predict(self, X: Any) -> np.ndarray:
        """The prediction of each row, shape (rows,)."""
        outputs = self._outputs(X)[:, 0]
        return outputs * self.target_scale_ + self.target_mean_

    def _numbers(self, y: Any) -> np.ndarray:
        y = _target(y).astype(np.float64)
        if not np.isfinite(y).all():
            raise ValueError("Input y contains NaN or infinity.")
        return y

    def _learn_targets(self, y: np.ndarray, weight: np.ndarray | None) -> None:
        scaler: Any = StandardScaler().fit(y[:, None], sample_weight=weight)
        self.target_mean_, self.target_scale_ = float(scaler.mean_[0]), float(scaler.scale_[0])

    def _scaled(self, y: np.ndarray) -> np.ndarray:
        return ((y - self.target_mean_) / self.target_scale_).astype(np.float32)


def _target(y: Any) -> np.ndarray:
    if y is None:
        raise ValueError("This estimator requires y to be passed, but the target y is None.")
    found = native(y)
    y = np.asarray(column_or_1d(y if found is None else found.to_numpy(), warn=True))
    if not len(y):
        raise ValueError("Found array with 0 sample(s) while a minimum of 1 is required.")
    return y


def _is_numeric(frame: Any) -> bool:
    """Whether an estimator may take a frame as an array of numbers: it has no text, dates, categories or missing values."""
    cells = cells_of(frame).values()
    return all(c.holds in ("number", "boolean") and not np.isnan(c.values).any() for c in cells)


def _merged(x: np.ndarray, y: np.ndarray, weight: np.ndarray | None, batch_size: int) -> tuple[Any, Any, Any]:
    """Rows of which none is there twice, with their weights added, if all rows are one step.

    The objective is the same, and so are the bits of a row with weight 2 and of the row twice, as scikit-learn wants it.
    """
    if len(x) > batch_size:
        return x, y, weight
    _, first, place = np.unique(np.column_stack([x, y]), axis=0, return_index=True, return_inverse=True)
    if weight is None and len(first) == len(x):
        return x, y, None
    return x[first], y[first], np.bincount(place.ravel(), weight)


def _make_task(model: Any, loss: Any, optimizer: Any, learning_rate: float, penalty: Any, classifies: bool, features: int) -> Task:
    if loss is None and classifies:
        bare, x = Task(model, losses.mse, optax.identity()), jax.ShapeDtypeStruct((2, features), np.float32)
        state = jax.eval_shape(bare.init, key_shape(), x)
        outputs: Any = jax.eval_shape(lambda state, x: bare.apply(state.params, state.collections, x)[0], state, x)
        loss = losses.binary_crossentropy if outputs.ndim == 1 or outputs.shape[-1] == 1 else losses.categorical_crossentropy
    loss = loss or losses.mse
    made = optimizer if isinstance(optimizer, optax.GradientTransformation) else (optimizer or optax.adam)(learning_rate)
    return Task(model, loss, made, penalty=penalty)


_cached_task = functools.lru_cache(64)(_make_task)
