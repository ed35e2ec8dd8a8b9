"""flaxfit: `fit`, `fit_many` for populations and `cross_validate` for folds. The clock is on for the whole call."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import numpy as np
from jax_device import device, device_memory
from networks import network, optimizer
from serve import Round, Run

import flaxfit as ff

PACKAGES = ("flaxfit", "jax", "jaxlib", "flax", "optax", "numpy")
__all__ = ["PACKAGES", "build", "device", "device_memory"]


def build(work: Any, arrays: Mapping[str, np.ndarray]) -> Run:
    """Returns a function that trains once."""
    two = work.classes == 1
    loss = ff.losses.binary_crossentropy if two else ff.losses.categorical_crossentropy
    accuracy = ff.metrics.binary_accuracy if two else ff.metrics.categorical_accuracy
    model = network(work, lambda rate, x, train: ff.nn.Dropout(rate)(x, train=train))

    def make_task(hp: Mapping[str, Any]) -> ff.Task:
        penalty = ff.penalties.l2(hp["l2"]) if any(work.l2) else None
        return ff.Task(model, loss, optimizer(work), metrics={"accuracy": accuracy}, penalty=penalty)

    task = make_task({"l2": work.l2[0]})
    train = ff.Dataset(arrays["x"], arrays["y"])
    validation = None if work.folds else ff.Dataset(arrays["validation_x"], arrays["validation_y"])
    data_loss = "val_binary_crossentropy" if two else "val_categorical_crossentropy"

    def run(seed: int, epochs: int) -> Round:
        how, start = {"epochs": epochs, "batch_size": work.batch}, time.perf_counter()
        if work.folds:
            folds = {"folds": int(arrays["folds"].max()) + 1, "repeats": len(arrays["folds"]), "stratified": True}
            study = ff.cross_validate(task, train, seeds=[seed], strategy=work.strategy, **folds, **how).study
        elif work.members > 1:
            seeds = [seed * work.members + number for number in range(work.members // len(work.l2))]
            options = {"validation": validation, "seeds": seeds, "strategy": work.strategy, **how}
            study = ff.fit_many(make_task, {"l2": list(work.l2)}, train, **options)
        else:
            history = ff.fit(task, train, validation=validation, seed=seed, **how).history
            seconds, name = time.perf_counter() - start, data_loss if data_loss in history else "val_loss"
            return Round(seconds, float(history["val_accuracy"][-1]), float(history[name][-1]))
        seconds = time.perf_counter() - start
        name = data_loss if data_loss in study.results[0].history else "val_loss"
        accuracy, loss = (float(study.scores(metric, "last").mean()) for metric in ("val_accuracy", name))
        return Round(seconds, accuracy, loss, len(study.members))

    return run
