"""Keras on the backend that KERAS_BACKEND names, at the fastest of several `steps_per_execution`. The clock is on for `model.fit`.

Runs after the first reuse the compiled model, with other initial weights, which saves Keras a new compilation for each run.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

import keras  # pyright: ignore[reportMissingImports]
import numpy as np
from serve import Round, Rows, Run, mean, trainings

if keras.backend.backend() == "jax":
    from jax_device import device, device_memory

    PACKAGES = ("keras", "jax", "jaxlib", "numpy")
else:
    from tensorflow_device import device, device_memory, products

    PACKAGES = ("keras", "tensorflow", "tensorflow-cpu", "numpy")
__all__ = ["PACKAGES", "build", "device", "device_memory"]


def build(work: Any, arrays: Mapping[str, np.ndarray]) -> Run:
    """Returns a function that trains once."""
    if keras.backend.backend() == "tensorflow":
        products(work.precision)
    keras.config.set_dtype_policy("mixed_bfloat16" if work.precision == "bf16" else "float32")
    steps = sorted({min(steps, -(-work.rows // work.batch)) for steps in work.executions})
    fits = {number: fitted(work, arrays["x"].shape[1:], number) for number in steps}

    def seconds(number: int) -> float:
        rows = next(trainings(work, arrays, 0))
        fits[number](rows, 1)  # compiles
        return min(fits[number](rows, max(1, work.epochs // 5)).seconds for _ in range(2))

    fit = fits[min(steps, key=seconds) if len(steps) > 1 else steps[0]]
    return lambda seed, epochs: mean([fit(rows, epochs) for rows in trainings(work, arrays, seed)])


def fitted(work: Any, shape: tuple[int, ...], steps: int) -> Callable[[Rows, int], Round]:
    """Returns a function of (rows, epochs) that trains a model of its own, each time from new initial weights."""
    options = {"kernel_initializer": work.initializer}
    if any(work.l2):
        options["kernel_regularizer"] = keras.regularizers.L2(work.l2[0])
    model = keras.Sequential([keras.Input(shape), *(layer(each, options) for each in work.layers)])
    model.add(keras.layers.Activation("linear", dtype="float32"))
    rate = keras.optimizers.schedules.InverseTimeDecay(work.rate, work.decay_steps, 1.0) if work.decay_steps else work.rate
    optimizer = {"adam": keras.optimizers.Adam, "sgd": keras.optimizers.SGD}[work.optimizer](rate)
    if work.classes == 1:
        loss, metrics = keras.losses.BinaryCrossentropy(from_logits=True), keras.metrics.BinaryAccuracy("accuracy", threshold=0.0)
    else:
        loss, metrics = keras.losses.SparseCategoricalCrossentropy(from_logits=True), keras.metrics.SparseCategoricalAccuracy("accuracy")
    model.compile(optimizer, loss, metrics=[metrics], steps_per_execution=steps)

    def fit(rows: Rows, epochs: int) -> Round:
        if optimizer.built:  # this is not the first run
            model.set_weights(keras.models.clone_model(model).get_weights())
            for variable in optimizer.variables:
                if variable is not optimizer._learning_rate:
                    variable.assign(np.zeros(variable.shape, variable.dtype))
        validation = {"validation_data": (rows.validation_x, rows.validation_y), "validation_batch_size": len(rows.validation_y)}
        start = time.perf_counter()
        history = model.fit(rows.x, rows.y, batch_size=work.batch, epochs=epochs, verbose=0, **validation).history
        seconds = time.perf_counter() - start
        return Round(seconds, float(history["val_accuracy"][-1]), float(history["val_loss"][-1]), note=f"{steps} steps per execution")

    return fit


def layer(each: list[Any], options: dict[str, Any]) -> Any:
    """A layer of the workload."""
    kind, *values = each
    if kind == "dense":
        return keras.layers.Dense(values[0], activation=values[1], **options)
    if kind == "conv":
        return keras.layers.Conv2D(values[0], 3, padding="same", activation=values[1], **options)
    if kind == "pool":
        return keras.layers.MaxPooling2D()
    if kind == "flatten":
        return keras.layers.Flatten()
    if kind == "batch_norm":
        return keras.layers.BatchNormalization()
    if kind == "dropout":
        return keras.layers.Dropout(values[0])
    if kind == "lstm":
        return keras.layers.LSTM(values[0], unit_forget_bias=False, **options)  # as in Flax and PyTorch
    raise ValueError(f"a network has no layer of the kind {kind!r}.")
