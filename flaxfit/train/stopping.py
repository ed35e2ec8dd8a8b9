"""Early stopping as an (init, update) pair of pure functions, so that it runs inside the compiled loop."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal, Self, cast

import jax.numpy as jnp
import numpy as np
from jax import Array

from flaxfit.arguments import Mode, mode_of
from flaxfit.state import StopperState


class Monitored:
    """What `EarlyStopping` and `Plateau` have in common: a monitor, and whether it is best when small or large."""

    monitor: str
    mode: Literal["auto", "min", "max"]

    def resolved(self, modes: Mapping[str, Mode]) -> Self:
        """The same rule with the mode that the metric says.

        Args:
          modes: base name -> mode, such as `Task.modes`.

        Raises:
          ValueError: the mode is "auto", and the metric does not say.
        """
        return self if self.mode != "auto" else replace(cast(Any, self), mode=mode_of(self.monitor, modes))

    @property
    def direction(self) -> Mode:
        """Whether smaller or larger is better. Used alone, "auto" knows it of `loss` and `val_loss` only; `fit` asks the task's metrics.

        Raises:
          ValueError: it is not known.
        """
        return mode_of(self.monitor, None) if self.mode == "auto" else self.mode


@dataclass(frozen=True)
class EarlyStopping(Monitored):
    """Stop when a metric no longer improves: Keras's `EarlyStopping`, its words and its meanings.

    Two differences, both where Keras loses something: NaN and infinities never count as best, and there is no
    `restore_best_weights`, because best and last are both returned.

    Attributes:
      monitor: a column of the history, such as `val_loss`.
      patience: stop after this many checks in a row without improvement (0 stops at the first, as 1 does).
      min_delta: an improvement must be larger than this.
      mode: "min", "max", or "auto": as the metric says, see `flaxfit.Metric`.
      baseline: improvements count only once the metric is better than this.
      start_from_epoch: epochs before the first check.

    Raises:
      ValueError, TypeError: negative or NaN numbers, an unknown mode, a monitor that is no name.

    Example:
      >>> stopping = EarlyStopping("val_loss", patience=2)
      >>> state = stopping.init()
      >>> for epoch, value in enumerate([0.5, 0.4, 0.45, 0.41], start=1):
      ...     state = stopping.update(state, value, epoch)
      >>> bool(state.stopped), int(state.best_epoch)
      (True, 2)
    """

    monitor: str = "val_loss"
    patience: int = 0
    min_delta: float = 0.0
    mode: Literal["auto", "min", "max"] = "auto"
    baseline: float | None = None
    start_from_epoch: int = 0

    def __post_init__(self) -> None:
        for name in ("patience", "start_from_epoch"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < 0:
                raise ValueError(f"EarlyStopping({name}=...) counts epochs: an integer of 0 or more, got {value!r}.")
            object.__setattr__(self, name, int(value))
        if not isinstance(self.monitor, str):
            raise TypeError(f"EarlyStopping(monitor=...) is the name of a metric, got {self.monitor!r}.")
        object.__setattr__(self, "min_delta", float(self.min_delta))
        object.__setattr__(self, "baseline", None if self.baseline is None else float(self.baseline))
        if not 0 <= self.min_delta < math.inf:
            raise ValueError(f"EarlyStopping(min_delta=...) must be 0 or more, got {self.min_delta!r}.")
        if self.baseline is not None and not math.isfinite(self.baseline):
            raise ValueError(f"EarlyStopping(baseline=...) must be finite, got {self.baseline!r}.")
        if self.mode not in ("auto", "min", "max"):
            raise ValueError(f'EarlyStopping(mode=...) is "auto", "min" or "max", got {self.mode!r}.')

    def init(self) -> StopperState:
        """Nothing seen yet."""
        zero, no = jnp.zeros((), jnp.int32), jnp.zeros((), bool)
        worst = jnp.inf if self.direction == "min" else -jnp.inf
        return StopperState(jnp.asarray(worst, jnp.float32), zero, zero, no, no)

    def update(self, state: StopperState, value: Array | float, epoch: Array | int) -> StopperState:
        """The state after epoch `epoch` (from 1) gave `value`. Pure; once stopped, stays stopped."""
        value, epoch = jnp.asarray(value, jnp.float32), jnp.asarray(epoch, jnp.int32)
        sign = 1 if self.direction == "min" else -1

        def better(than: Array | float) -> Array:
            return sign * value + self.min_delta < sign * jnp.asarray(than, jnp.float32)

        checks = epoch > self.start_from_epoch
        improved = checks & jnp.isfinite(value) & (better(state.best) | (state.best_epoch == 0))
        restart = improved if self.baseline is None else improved & better(self.baseline)
        wait = jnp.where(restart, 0, state.wait + checks)
        stops = checks & ~improved & (wait >= self.patience) & (epoch > 1)
        return StopperState(
            best=jnp.where(improved, value, state.best),
            best_epoch=jnp.where(improved, epoch, state.best_epoch),
            wait=wait,
            improved=improved,
            stopped=state.stopped | stops,
        )
