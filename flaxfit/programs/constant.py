"""The best constant prediction, which a model that has learned something beats."""

from __future__ import annotations

import numpy as np

from flaxfit import losses, metrics
from flaxfit.data.dataset import Dataset
from flaxfit.task.labels import kind_of_loss
from flaxfit.task.task import Task


def constant_scores(task: Task, validation: Dataset) -> dict[str, float]:
    """Returns the scores of the best constant prediction on validation examples, by the names of their columns.

    It is empty unless the loss is a plain cross-entropy, squared or absolute error, each example has one target, and none has a weight.
    """
    y, loss, found = validation.y, task.loss, {}
    if isinstance(y, dict | tuple) or y.size != len(y) or validation.sample_weight is not None or task.ignore_label is not None:
        return {}
    y = np.asarray(y, np.float64).ravel()
    if loss is losses.binary_crossentropy or loss is losses.categorical_crossentropy:
        _, counts = np.unique(y, return_counts=True)
        shares = counts / len(y)
        found[task.loss_name] = -float(shares @ np.log(shares))
        accuracy = metrics.binary_accuracy if kind_of_loss(task) == "binary" else metrics.categorical_accuracy
        found |= {name: float(shares.max()) for name, metric in task.metrics.items() if metric is accuracy}
    elif loss is losses.mse or hasattr(loss, "unit"):
        found[task.loss_name] = float(y.var()) / getattr(loss, "unit", 1.0) ** 2
    elif loss is losses.mae:
        found[task.loss_name] = float(np.abs(y - np.median(y)).mean())
    return {f"val_{name}": score for name, score in found.items()}
