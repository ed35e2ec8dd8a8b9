"""A learning rate range test: training with a learning rate that grows from step to step."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax
from numpy.lib.stride_tricks import sliding_window_view

from flaxfit.arguments import check_count
from flaxfit.data import order
from flaxfit.data.dataset import Dataset
from flaxfit.data.table import Table, encoded
from flaxfit.programs import program
from flaxfit.programs.checks import check_data, check_task
from flaxfit.programs.compiled import programs_of
from flaxfit.programs.step import train_step
from flaxfit.sections import Sentence
from flaxfit.storage.predictor import COUNTED
from flaxfit.task.task import Task
from flaxfit.train.config import TrainConfig, check_seed
from flaxfit.train.job import Member
from flaxfit.train.validate import validate

_SMOOTHING = 0.9


@dataclass(frozen=True, eq=False)
class RangeTest(Sentence):
    """The result of a learning rate range test. `flaxfit.plots.lr_range` draws it.

    Attributes:
      rates: the learning rate of each step, shape (steps,).
      losses: the objective of the batch of each step, before the update, shape (steps,). It is not finite once training has diverged.
      smoothed: the exponential moving average of the losses, with Adam's correction of the bias towards zero.
      steepest: the rate at which the loss falls fastest with the logarithm of the rate, by the slope of a line through a fifth of the
        steps; NaN if it never falls.
      tenth: a tenth of the rate at which the smoothed loss is lowest.
    """

    rates: np.ndarray
    losses: np.ndarray
    smoothed: np.ndarray = field(init=False)
    steepest: float = field(init=False)
    tenth: float = field(init=False)

    def __post_init__(self) -> None:
        smoothed, mean = np.full(len(self.losses), np.nan), 0.0
        for index, loss in enumerate(self.losses):
            if not np.isfinite(loss):
                break  # later losses were computed with weights that are not finite
            mean = _SMOOTHING * mean + (1 - _SMOOTHING) * float(loss)
            smoothed[index] = mean / (1 - _SMOOTHING ** (index + 1))
        object.__setattr__(self, "smoothed", smoothed)
        count = int(np.isfinite(smoothed).sum())
        best = int(np.argmin(smoothed[:count])) if count else 0
        window = min(max(3, len(self.rates) // 5), best + 1)
        steepest = math.nan
        if window > 1:  # the difference of the losses of two batches is mostly noise
            logs, losses = (sliding_window_view(a[: best + 1], window) for a in (np.log(self.rates), self.losses))
            slopes = ((logs - logs.mean(1, keepdims=True)) * losses).sum(1)
            if slopes.min() < 0:
                steepest = float(np.exp(logs[np.argmin(slopes)].mean()))
        object.__setattr__(self, "steepest", steepest)
        object.__setattr__(self, "tenth", float(self.rates[best] / 10) if best else math.nan)

    @property
    def suggestion(self) -> float:
        """The smaller of `steepest` and `tenth`, as a rate to start with; NaN if the loss never falls."""
        return min(self.steepest, self.tenth) if math.isfinite(self.steepest) else math.nan

    def __str__(self) -> str:
        if not math.isfinite(self.suggestion):
            return f"no learning rate from {self.rates[0]:.2g} to {self.rates[-1]:.2g} lowered the loss"
        return (
            f"suggested learning rate {self.suggestion:.2g}: the loss falls fastest at {self.steepest:.2g}, and a tenth of the rate "
            f"with the lowest loss is {self.tenth:.2g}"
        )


def lr_range_test(
    task: Task,
    train: Dataset | Table,
    optimizer: Callable[[Any], optax.GradientTransformation],
    *,
    low: float = 1e-6,
    high: float = 10.0,
    steps: int = 200,
    batch_size: int = 32,
    seed: int = 0,
) -> RangeTest:
    """Trains for a few steps with an exponentially growing learning rate, to find the range in which the loss falls.

    The test is due to Smith (2017), "Cyclical learning rates for training neural networks". Exponential growth, smoothing, and the two
    rules for a rate to start with are those of fastai's `lr_find`. The test runs as one compiled program.

    Args:
      task: the task to train. Its optimizer is replaced.
      train: the training examples. Batches are drawn as in `fit`, but all of them are full.
      optimizer: a function of the learning rate, which is traced, that returns the optimizer, such as `optax.adam` or
        `lambda rate: optax.sgd(rate, momentum=0.9)`.
      low: the first learning rate, above 0.
      high: the last learning rate.
      steps: the number of steps, 3 or more.
      batch_size: the number of examples of a step.
      seed: the seed of the initial weights and of the order of the examples.

    Returns:
      A `RangeTest`, with a `suggestion`.

    Raises:
      ValueError: the rates are not 0 < low < high; other errors are those of `fit`.
      TypeError: the optimizer is not a function of the rate.

    Example:
      >>> import flaxfit as ff
      >>> x = np.linspace(-1, 1, 64)[:, None]
      >>> task = ff.Task(ff.nn.MLP((8,), 1), ff.losses.mse, optax.adam(1e-3))
      >>> found = ff.lr_range_test(task, ff.Dataset(x, x[:, 0] ** 2), optax.adam, steps=100)
      >>> 1e-4 < found.suggestion < 1
      True
    """
    check_task(task)
    check_count("lr_range_test(steps=...)", steps, 3, "steps")
    if not 0 < low < high < math.inf:
        raise ValueError(f"lr_range_test needs rates 0 < low < high, got low={low!r} and high={high!r}.")
    if isinstance(optimizer, optax.GradientTransformation) or not callable(optimizer):
        raise TypeError("lr_range_test(optimizer=...) is a function of the learning rate, such as optax.adam, not optax.adam(1e-3).")
    (train,) = encoded(train)
    check_data("train", train)
    trial, key = replace(task, optimizer=optimizer(low)), jax.random.key(check_seed(seed))
    job = validate(Member({}, seed, trial, programs=programs_of(trial)), train, None, TrainConfig(batch_size=batch_size))
    size = job.plan.batch_size
    whole = len(train) // size

    def run(rates: Any, key: Any, data: Dataset, initial: Any) -> Any:
        def step(state: Any, place: Any) -> Any:
            rate, index = place
            keys = order.round_keys(key, index // whole, len(data))
            rows = data[order.shuffled((index % whole) * size + jnp.arange(size), keys, len(data))]
            state, sums = train_step(replace(task, optimizer=optimizer(rate)), state, key, rows.x, rows.y, rows.sample_weight)
            return state, sums["loss"] / sums.get(COUNTED, size)

        state = program.start(trial, job.plan, key, data[:1].x, initial).train
        return lax.scan(step, state, (rates, jnp.arange(steps)))[1]

    rates = np.geomspace(low, high, steps)
    losses = jax.jit(run)(jnp.asarray(rates, jnp.float32), key, job.data, job.initial)
    return RangeTest(rates, np.asarray(losses, np.float64))
