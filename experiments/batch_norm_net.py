"""The network of the studies of 60,000 images of MNIST: batch norm, then dropout, after each hidden activation."""

from __future__ import annotations

from typing import Any

import flaxfit as ff


def task(dropout: Any = 0.0, l2: float = 0.0, activation: str = "relu", optimizer: Any = None) -> ff.Task:
    """Returns the task of a 784-50-50-10 network, trained by Keras's Adam unless told otherwise."""
    import optax

    return ff.Task(
        model=ff.nn.MLP((50, 50), 10, batch_norm="after", dropout=dropout, activation=activation),
        loss=ff.losses.categorical_crossentropy,
        metrics={"accuracy": ff.metrics.categorical_accuracy},
        penalty=ff.penalties.l2(l2) if l2 else None,
        optimizer=optimizer or optax.adam(1e-3, eps=1e-7),
        preprocess=ff.data.rescale(),
    )
