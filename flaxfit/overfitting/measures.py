"""How a study scores predictions: a loss or metric of a task, on any outputs for any examples."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import jax.numpy as jnp
import numpy as np

from flaxfit import losses
from flaxfit.arguments import mode_of, unknown
from flaxfit.metrics import auc
from flaxfit.report import statistics
from flaxfit.report.statistics import Interval
from flaxfit.task.labels import kind_of_loss
from flaxfit.task.task import Task

_TITLES = {
    "binary_crossentropy": "log loss",
    "categorical_crossentropy": "log loss",
    "mse": "MSE",
    "mae": "MAE",
    "auc": "AUC",
    "rmse": "RMSE",
}


@dataclass(frozen=True, eq=False)
class Measure:
    """A score of outputs."""

    name: str  # the metric, such as "binary_crossentropy" or "rmse"
    larger_is_better: bool  # whether larger scores are better
    bounds: tuple[float, float]  # the least and the largest value
    _rows: Callable[[Any, Any], Any] | None
    _whole: Callable[[Any, Any], float] | None = None

    @property
    def title(self) -> str:
        """The name for a reader."""
        return _TITLES.get(self.name, self.name)

    @property
    def by_example(self) -> bool:
        """Whether the score is a mean of one number for each example (or the root of one)."""
        return self._rows is not None

    def rows(self, logits: Any, y: Any) -> np.ndarray:
        """Returns the score of each example, shape (rows,): squared errors for the root mean squared error."""
        assert self._rows is not None
        return np.asarray(self._rows(jnp.asarray(logits), jnp.asarray(y)), np.float64)

    def __call__(self, logits: Any, y: Any, weight: Any = None) -> float:
        """Returns the score of outputs for some examples."""
        if self._whole is not None:
            return float(self._whole(logits, y))
        mean = float(np.average(self.rows(logits, y), weights=weight))
        return mean**0.5 if self.name == "rmse" else mean


def measure_for(task: Task, name: str | None) -> Measure:
    """Returns the measure with this name; by default the data loss, or the root mean squared error in place of the squared one.

    Raises:
      ValueError: the task has no such metric, or it is not known whether larger is better.
    """
    loss, kind = task.loss_name, kind_of_loss(task)
    squared = loss in ("mse", "standardized_mse")
    name = name or ("rmse" if squared else loss)
    if name in ("log loss", "log_loss") and kind is not None:
        name = loss
    extra = ({"rmse", "mse"} if squared else set()) | ({"auc"} if kind == "binary" else set())
    known = [loss, *task.metrics, *task.set_metrics, *sorted(extra - {*task.metrics, *task.set_metrics})]
    if name not in known:
        raise ValueError(unknown("metric", name, known))
    if name in ("rmse", "mse") and name in extra and name not in {*task.metrics, *task.set_metrics}:
        return Measure(name, False, (0.0, math.inf), losses.mse)
    if name == "auc" and name not in task.set_metrics:
        return Measure(name, True, (0.0, 1.0), None, auc)
    larger = mode_of(name, task.modes, None) == "max"
    if name in task.set_metrics:
        return Measure(name, larger, (-math.inf, math.inf), None, task.set_metrics[name])
    function = task.loss if name == loss else task.metrics[name]
    share = name in task.metrics and getattr(function, "__name__", "").endswith("accuracy")
    positive = name == loss and (kind is not None or loss in ("mse", "mae", "standardized_mse"))
    bounds = (0.0, 1.0) if share else (0.0, math.inf) if positive else (-math.inf, math.inf)
    return Measure(name, larger, bounds, function)


def logits_of(task: Task, probabilities: np.ndarray) -> np.ndarray:
    """Returns logits for class probabilities of shape (rows, classes), in the shape that the task's loss takes."""
    logs = np.log(np.clip(probabilities, 1e-12, 1.0))
    return (logs[:, 1:] - logs[:, :1]).astype(np.float32) if kind_of_loss(task) == "binary" else logs.astype(np.float32)


def interval_of(measure: Measure, outputs: Any, y: Any) -> Interval:
    """Returns a score of outputs with its interval over the examples."""
    if not measure.by_example:
        if measure.name == "auc":
            return statistics.auc_interval(y, outputs)
        value = measure(outputs, y)
        return Interval(value, math.nan, math.nan, math.nan, 1, method="none")
    found = statistics.of_rows(measure.rows(outputs, y), measure.bounds)
    if measure.name != "rmse":
        return found
    low, high = (math.sqrt(max(0.0, bound)) for bound in (found.low, found.high))
    return replace(found, mean=math.sqrt(found.mean), low=low, high=high)
