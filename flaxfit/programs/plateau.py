"""Lowering the learning rate on a plateau, as an (init, update) pair of pure functions inside the compiled run."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import jax.numpy as jnp
from jax import Array

from flaxfit.arguments import check_count, told_elsewhere
from flaxfit.programs.stopping import Monitored
from flaxfit.state import PlateauState


@told_elsewhere({"min_lr": "min_scale, a fraction of the first learning rate", "verbose": 'history["learning_rate_scale"]'})
@dataclass(frozen=True)
class Plateau(Monitored):
    """Lowers the learning rate when a metric no longer improves, as `keras.callbacks.ReduceLROnPlateau` does.

    The updates of the optimizer are multiplied by a scale that starts at 1. For optimizers whose updates are proportional to the learning
    rate, such as Adam, AdamW and SGD, this is the same as a lower learning rate. The momentum of the optimizer does not change. The scale
    is logged in each epoch as `learning_rate_scale`, and is part of the compiled run and of its checkpoints.

    Attributes:
      monitor: the metric to monitor, a column of the history such as `val_accuracy`. None for the data loss of the validation examples, or
        of the training examples if there are no others.
      factor: the factor by which the scale is lowered, above 0 and below 1.
      patience: the number of epochs without improvement after which it is lowered.
      min_delta: the smallest change that counts as an improvement.
      mode: "min", "max", or "auto" for the mode of the metric (see `flaxfit.Metric`).
      cooldown: the number of epochs after a reduction that are not counted.
      min_scale: the lowest value of the scale.

    Raises:
      ValueError: a number is out of range, or the mode is unknown.
      TypeError: an argument has the wrong type.

    Example:
      >>> plateau = Plateau("val_loss", factor=0.5, patience=2)
      >>> state = plateau.init()
      >>> for value in [0.5, 0.5, 0.5, 0.4]:
      ...     state = plateau.update(state, value)
      >>> float(state.scale)
      0.5
    """

    monitor: str | None = None
    factor: float = 0.1
    patience: int = 10
    min_delta: float = 1e-4
    mode: Literal["auto", "min", "max"] = "auto"
    cooldown: int = 0
    min_scale: float = 0.0

    def __post_init__(self) -> None:
        check_count("Plateau(patience=...)", self.patience, 0, "epochs")
        check_count("Plateau(cooldown=...)", self.cooldown, 0, "epochs")
        if self.monitor is not None and not isinstance(self.monitor, str):
            raise TypeError(f"Plateau(monitor=...) must be the name of a metric, or None for the data loss, got {self.monitor!r}.")
        if not 0 < self.factor < 1:
            raise ValueError(f"Plateau(factor=...) must be above 0 and below 1, got {self.factor!r}.")
        if not 0 <= self.min_scale <= 1:
            raise ValueError(f"Plateau(min_scale=...) must be from 0 to 1, got {self.min_scale!r}.")
        if not 0 <= self.min_delta < math.inf:
            raise ValueError(f"Plateau(min_delta=...) must be 0 or more, got {self.min_delta!r}.")
        if self.mode not in ("auto", "min", "max"):
            raise ValueError(f'Plateau(mode=...) must be "auto", "min" or "max", got {self.mode!r}.')

    def init(self) -> PlateauState:
        """Returns the state before the first epoch."""
        zero, worst = jnp.zeros((), jnp.int32), -jnp.inf if self.direction == "max" else jnp.inf
        return PlateauState(jnp.ones((), jnp.float32), jnp.asarray(worst, jnp.float32), zero, zero)

    def update(self, state: PlateauState, value: Array | float) -> PlateauState:
        """Returns the state after an epoch in which the metric was `value`. A value that is not finite is not an improvement."""
        value, sign = jnp.asarray(value, jnp.float32), -1 if self.direction == "max" else 1
        cooldown = jnp.maximum(state.cooldown - 1, 0)
        cooling = cooldown > 0
        improved = jnp.isfinite(value) & (sign * value < sign * state.best - self.min_delta)
        wait = jnp.where(improved | (state.cooldown > 0), 0, state.wait)
        wait = jnp.where(improved | cooling, wait, wait + 1)
        reduces = ~improved & ~cooling & (wait >= self.patience)
        lower = jnp.minimum(jnp.maximum(state.scale * self.factor, self.min_scale), state.scale)
        return PlateauState(
            scale=jnp.where(reduces, lower, state.scale),
            best=jnp.where(improved, value, state.best),
            wait=jnp.where(reduces, 0, wait),
            cooldown=jnp.where(reduces, self.cooldown, cooldown),
        )
