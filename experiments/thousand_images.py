"""What the studies of saving have in common: a thousand images, and a network with one hidden layer."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from options import WithOriginals, WithSeeds

import flaxfit as ff


@dataclass(frozen=True)
class WithImages(WithOriginals, WithSeeds):
    """The options of these studies."""

    data: Literal["mnist", "digits"] = "mnist"
    """MNIST, or the small digits of scikit-learn (1,000 to train, 797 to test), which need no network."""
    first_seed: int = 4_000
    """The first of the seeds. The others follow it."""


def images(config: WithImages) -> tuple[ff.Dataset, ff.Dataset, ff.Dataset]:
    """Images to train on, to test on, and a hundred more."""
    if config.data == "mnist":
        splits = ff.data.load("mnist", originals=config.originals)
    else:
        splits = ff.data.load("digits", train=1_200, test=597, seed=0)
    assert splits.test is not None
    return splits.train[:1_000], splits.test[:1_000], splits.train[1_000:1_100]


def make_task(config: WithImages, outputs: int = 10, width: int = 512) -> ff.Task:
    """The network, trained by Keras's Adam."""
    import optax

    loss, accuracy = ff.losses.categorical_crossentropy, ff.metrics.categorical_accuracy
    if outputs == 1:
        loss, accuracy = ff.losses.binary_crossentropy, ff.metrics.binary_accuracy
    scale = ff.data.rescale(255 if config.data == "mnist" else 16)
    model, adam = ff.nn.MLP((width,), outputs, dropout=0.2), optax.adam(1e-3, eps=1e-7)
    return ff.Task(model, loss, adam, metrics={"accuracy": accuracy}, preprocess=scale)


def initial(task: ff.Task, x: Any, seed: int) -> ff.TrainState:
    """The untrained network of a seed, as a run of this seed begins."""
    import jax

    return task.init(jax.random.key(seed), x[:1])


def measured(steps: dict[str, Callable[[], Any]], times: int, fresh: Path | None = None) -> dict[str, np.ndarray]:
    """Seconds of each step, taken in turns after one turn that does not count; a directory that is deleted before each."""
    seconds: dict[str, list[float]] = {step: [] for step in steps}
    for turn in range(times + 1):
        for step, call in steps.items():
            if fresh is not None:
                shutil.rmtree(fresh, ignore_errors=True)
            began = time.perf_counter()
            call()
            seconds[step] += [time.perf_counter() - began] * (turn > 0)
    return {step: np.array(values) for step, values in seconds.items()}


def spread(values: np.ndarray) -> str:
    """The median, and the quartiles."""
    low, middle, high = np.quantile(values, (0.25, 0.5, 0.75))
    return f"{middle:.3g} ({low:.3g} to {high:.3g})"
