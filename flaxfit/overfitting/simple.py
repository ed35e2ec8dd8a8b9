"""Simple models of scikit-learn on the folds of a study: if one of them is as good, no network is needed."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from flaxfit.data.dataset import Dataset
from flaxfit.overfitting.measures import Measure, logits_of
from flaxfit.overfitting.problem import Part
from flaxfit.task.labels import kind_of_loss
from flaxfit.task.task import Task

_MANY = 2_000  # examples from which histograms are faster than sorting


@dataclass(frozen=True, eq=False)
class Simple:
    """A simple model."""

    name: str  # what it is, for a reader
    scores: np.ndarray  # its score on each fold, shape (folds,)
    rows: Sequence[np.ndarray] | None  # the scores of the held-out examples of each fold, or None if the measure is not a mean of them


def simple_models(task: Task, measure: Measure, parts: Sequence[Part], seconds: float) -> tuple[list[Simple], list[str]]:
    """Fits a constant, a linear model and gradient boosting to the training examples of each fold, and scores them.

    Args:
      task: the task of the study, whose loss takes their predictions.
      measure: how they are scored.
      parts: the folds.
      seconds: leave gradient boosting out if all folds would take longer.

    Returns:
      The models, and the names of those that were left out.
    """
    kinds = _models(task, len(parts[0].train))
    found, left_out = [], []
    for name, make in kinds.items():
        scores, rows, began = [], [], time.perf_counter()
        for part in parts:
            outputs = _predicted(task, make, part.train, part.held_out)
            y = np.asarray(part.held_out.y)
            scores.append(measure(outputs, y, part.held_out.sample_weight))
            rows.append(measure.rows(outputs, y) if measure.by_example else None)
            spent = time.perf_counter() - began
            if "boosting" in name and spent / len(scores) * len(parts) > seconds and len(scores) < len(parts):
                left_out.append(name)
                break
        else:
            found.append(Simple(name, np.array(scores), rows if measure.by_example else None))
    return found, left_out


def _models(task: Task, rows: int) -> dict[str, Callable[[], Any]]:
    from sklearn import dummy, ensemble, linear_model

    if kind_of_loss(task) is None:
        boosting: Any = ensemble.HistGradientBoostingRegressor if rows > _MANY else ensemble.GradientBoostingRegressor
        return {
            "the mean": dummy.DummyRegressor,
            "a linear model (ridge regression)": linear_model.RidgeCV,
            "gradient boosting": lambda: boosting(random_state=0),
        }
    boosting = ensemble.HistGradientBoostingClassifier if rows > _MANY else ensemble.GradientBoostingClassifier
    return {
        "the class frequencies": lambda: dummy.DummyClassifier(strategy="prior"),
        "a linear model (logistic regression)": lambda: linear_model.LogisticRegression(max_iter=1000),
        "gradient boosting": lambda: boosting(random_state=0),
    }


def _predicted(task: Task, make: Callable[[], Any], train: Dataset, held_out: Dataset) -> np.ndarray:
    """The outputs of a model in the form of the task's network."""
    x, z = (np.asarray(data.x, np.float32).reshape(len(data), -1) for data in (train, held_out))
    y, model = np.asarray(train.y), make()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of convergence
        model.fit(x, y, **({} if train.sample_weight is None else {"sample_weight": train.sample_weight}))
    if kind_of_loss(task) is None:
        return np.asarray(model.predict(z), np.float32)[:, None]
    known = model.predict_proba(z)
    classes = max(2, len(train.classes or ()), int(y.max()) + 1, int(np.max(held_out.y)) + 1)
    probabilities = np.zeros((len(z), classes))
    probabilities[:, model.classes_.astype(int)] = known
    return logits_of(task, probabilities)


def comparable(task: Task, data: Dataset) -> bool:
    """Whether simple models can be fitted to such examples: one array of inputs, one target, and a loss that takes their predictions."""
    known = kind_of_loss(task) is not None or task.loss_name in ("mse", "standardized_mse", "mae", "huber")
    return known and not isinstance(data.x, dict | tuple) and not isinstance(data.y, dict | tuple) and data.y.ndim == 1
