"""scikit-learn's `MLPClassifier`: one `partial_fit` for each epoch, then the validation scores, as the other peers compute them.

It has networks of dense layers with ReLU and Glorot's initial weights, Adam or SGD at a constant rate, and an L2 penalty that depends on
the size of the batch.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import numpy as np
from serve import Round, Rows, Run, Unable, mean, trainings
from sklearn.metrics import log_loss
from sklearn.neural_network import MLPClassifier

PACKAGES = ("scikit-learn", "numpy")


def device() -> str:
    return "cpu"


def device_memory() -> None:
    return None


def build(work: Any, arrays: Mapping[str, np.ndarray]) -> Run:
    """Returns a function that trains once."""
    dense = [layer for layer in work.layers if layer[0] == "dense"]
    others = ({layer[0] for layer in work.layers} - {"dense"}) | {layer[2] for layer in dense[:-1]} - {"relu"}
    wishes = {"a learning rate that decays": work.decay_steps, "this L2 penalty": any(work.l2), work.precision: work.precision != "float32"}
    wishes |= {work.initializer: work.initializer != "glorot_uniform"} | dict.fromkeys(sorted(others), True)
    if lacks := [wish for wish, asked in wishes.items() if asked]:
        raise Unable(f"MLPClassifier lacks {', '.join(lacks)}")
    hidden, solver = tuple(layer[1] for layer in dense[:-1]), {"solver": work.optimizer, "momentum": 0.0}
    how = {"alpha": 0.0, "batch_size": work.batch, "learning_rate_init": work.rate, **solver}

    def train(rows: Rows, seed: int, epochs: int) -> Round:
        model, classes, start = MLPClassifier(hidden, random_state=seed, **how), np.unique(rows.y), time.perf_counter()
        scores = (0.0, 0.0)
        for _ in range(epochs):
            model.partial_fit(rows.x, rows.y, classes=classes)
            probabilities = np.asarray(model.predict_proba(rows.validation_x))
            accuracy = float((classes[probabilities.argmax(1)] == rows.validation_y).mean())
            scores = accuracy, log_loss(rows.validation_y, probabilities, labels=classes)
        return Round(time.perf_counter() - start, *scores)

    return lambda seed, epochs: mean([train(rows, seed, epochs) for rows in trainings(work, arrays, seed)])
