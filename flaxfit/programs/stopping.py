"""Early stopping as an (init, update) pair of pure functions, so that it runs inside the compiled loop."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal, Self, cast

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from flaxfit.arguments import Mode, mode_of, told_elsewhere
from flaxfit.curves import CAPACITY, large, lowest_and_last, rise
from flaxfit.state import CurveState, StopperState

_OFTEN = 1.75  # the factor on the critical value, since the test is repeated as the run grows


class Monitored:
    """What `EarlyStopping` and `Plateau` have in common: a monitored metric and its mode."""

    monitor: str | None
    mode: Literal["auto", "min", "max"]

    def monitoring(self, default: str) -> Self:
        """Returns the same rule for the metric `default`, unless a metric is named."""
        return self if self.monitor is not None else replace(cast(Any, self), monitor=default)

    def resolved(self, modes: Mapping[str, Mode]) -> Self:
        """Returns the same rule with the mode of its metric.

        Args:
          modes: name without `val_` -> mode, such as `Task.modes`.

        Raises:
          ValueError: the mode is "auto", and that of the metric is not known.
        """
        return self if self.mode != "auto" else replace(cast(Any, self), mode=mode_of(self.monitor or "loss", modes))

    @property
    def column(self) -> str:
        """The name of the metric, which `monitoring` has filled in."""
        assert self.monitor is not None
        return self.monitor

    @property
    def direction(self) -> Mode:
        """Whether the metric is best when small or large. Outside of `fit`, "auto" knows it of a data loss, `loss` and `val_loss` only.

        Raises:
          ValueError: it is not known.
        """
        return mode_of(self.monitor or "loss", None) if self.mode == "auto" else self.mode


@told_elsewhere(
    {"restore_best_weights": "result.best for the best weights and result.last for the last ones", "verbose": "result.stop_reason"}
)
@dataclass(frozen=True)
class EarlyStopping(Monitored):
    """Stops training when a metric no longer improves, as `keras.callbacks.EarlyStopping` does.

    There are three differences. The default monitor is the data loss, which leaves out penalties. NaN and infinities never count as
    best. There is no `restore_best_weights`, because `fit` returns both the best and the last weights.

    `patience="auto"` needs no number: the run stops when the test of `flaxfit.diagnose` finds that the metric became worse, beyond noise
    and by more than 5% of its earlier improvement. It is tested after each of the first 40 epochs, and then each time the run is about 5%
    longer. Because it is tested so often, the rise must be 1.75 times as large as for `diagnose`. The curve is kept as fewer than 128 means
    over blocks of epochs, so that memory does not grow. Unlike `diagnose`, it does not test whether training diverges, whether validation
    falls again, or whether there are too few validation examples.

    Attributes:
      monitor: the metric to monitor, a column of the history such as `val_accuracy`. None for the data loss of the validation examples, or
        of the training examples if there are no others.
      patience: the number of epochs without improvement after which training stops (0 stops at the first one, as 1 does); or "auto".
      min_delta: the smallest change that counts as an improvement.
      mode: "min", "max", or "auto" for the mode of the metric (see `flaxfit.Metric`).
      baseline: a value that the metric must pass before improvements count. Not with `patience="auto"`.
      start_from_epoch: the number of epochs before the metric is first checked.

    Raises:
      ValueError: a number is negative or NaN, or the mode is unknown.
      TypeError: the monitor is not a name.

    Example:
      >>> stopping = EarlyStopping("val_loss", patience=2)
      >>> state = stopping.init()
      >>> for epoch, value in enumerate([0.5, 0.4, 0.45, 0.41], start=1):
      ...     state = stopping.update(state, value, epoch)
      >>> bool(state.stopped), int(state.best_epoch)
      (True, 2)
    """

    monitor: str | None = None
    patience: int | Literal["auto"] = 0
    min_delta: float = 0.0
    mode: Literal["auto", "min", "max"] = "auto"
    baseline: float | None = None
    start_from_epoch: int = 0

    def __post_init__(self) -> None:
        for name in ("patience", "start_from_epoch"):
            value = getattr(self, name)
            if name == "patience" and value == "auto":
                continue
            if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < 0:
                least = "an integer of 0 or more" + (', or "auto"' if name == "patience" else "")
                raise ValueError(f"EarlyStopping({name}=...) must be a number of epochs, {least}, got {value!r}.")
            object.__setattr__(self, name, int(value))
        if self.monitor is not None and not isinstance(self.monitor, str):
            raise TypeError(f"EarlyStopping(monitor=...) must be the name of a metric, or None for the data loss, got {self.monitor!r}.")
        object.__setattr__(self, "min_delta", float(self.min_delta))
        object.__setattr__(self, "baseline", None if self.baseline is None else float(self.baseline))
        if not 0 <= self.min_delta < math.inf:
            raise ValueError(f"EarlyStopping(min_delta=...) must be 0 or more, got {self.min_delta!r}.")
        if self.baseline is not None and not math.isfinite(self.baseline):
            raise ValueError(f"EarlyStopping(baseline=...) must be finite, got {self.baseline!r}.")
        if self.baseline is not None and self.patience == "auto":
            raise ValueError('EarlyStopping(baseline=...) cannot be used with patience="auto": leave it out.')
        if self.mode not in ("auto", "min", "max"):
            raise ValueError(f'EarlyStopping(mode=...) must be "auto", "min" or "max", got {self.mode!r}.')

    def init(self) -> StopperState:
        """Returns the state before the first epoch."""
        zero, no = jnp.zeros((), jnp.int32), jnp.zeros((), bool)
        worst = jnp.inf if self.direction == "min" else -jnp.inf
        curve = None
        if self.patience == "auto":
            levels, none = jnp.zeros(CAPACITY, jnp.float32), jnp.full(2, jnp.nan, jnp.float32)
            curve = CurveState(levels, zero, zero + 1, levels[0], zero, none[0], none)
        return StopperState(jnp.asarray(worst, jnp.float32), zero, zero, no, no, curve)

    def update(self, state: StopperState, value: Array | float, epoch: Array | int, training: Array | float | None = None) -> StopperState:
        """Returns the state after an epoch. A run that was stopped stays stopped.

        Args:
          state: the state before the epoch.
          value: the value of the metric in the epoch.
          epoch: the number of the epoch, from 1.
          training: the value of the metric on the training examples, if it is known. `patience="auto"` uses it at the start of a run that
            has learned little.
        """
        value, epoch = jnp.asarray(value, jnp.float32), jnp.asarray(epoch, jnp.int32)
        sign = 1 if self.direction == "min" else -1

        def better(than: Array | float) -> Array:
            return sign * value + self.min_delta < sign * jnp.asarray(than, jnp.float32)

        checks = epoch > self.start_from_epoch
        improved = checks & jnp.isfinite(value) & (better(state.best) | (state.best_epoch == 0))
        restart = improved if self.baseline is None else improved & better(self.baseline)
        wait = jnp.where(restart, 0, state.wait + checks)
        curve = state.curve
        if self.patience != "auto":
            stops = checks & ~improved & (wait >= self.patience) & (epoch > 1)
        elif curve is None:
            raise ValueError('the state is not one of patience="auto": start from init().')
        else:
            seen = jnp.nan if training is None else sign * jnp.asarray(training, jnp.float32)
            longer, look = _longer(curve, sign * value, seen)
            counts = checks & jnp.isfinite(value)
            curve = jax.tree.map(lambda new, old: jnp.where(counts, new, old), longer, curve)
            stops = lax.cond(counts & look, _overfits, lambda curve: jnp.zeros((), bool), curve)
        return StopperState(
            best=jnp.where(improved, value, state.best),
            best_epoch=jnp.where(improved, epoch, state.best_epoch),
            wait=wait,
            improved=improved,
            stopped=state.stopped | stops,
            curve=curve,
        )


def _longer(curve: CurveState, value: Array, training: Array | float) -> tuple[CurveState, Array]:
    """Returns the curve with one more epoch, smaller is better; and whether to test it now, which depends only on its length."""
    total, filled = curve.sum + value, curve.filled + 1
    full = filled == curve.size
    levels = jnp.where((jnp.arange(CAPACITY) == curve.count) & full, total / curve.size, curve.levels)
    count = curve.count + full
    merge = count == CAPACITY
    halved = jnp.concatenate([levels.reshape(-1, 2).mean(1), jnp.zeros(CAPACITY // 2, jnp.float32)])
    longer = CurveState(
        levels=jnp.where(merge, halved, levels),
        count=jnp.where(merge, CAPACITY // 2, count),
        size=jnp.where(merge, 2 * curve.size, curve.size),
        sum=jnp.where(full, 0.0, total),
        filled=jnp.where(full, 0, filled),
        first=jnp.where(jnp.isnan(curve.first), value, curve.first),
        training=jnp.stack([jnp.where(jnp.isnan(curve.training[0]), training, curve.training[0]), jnp.fmin(curve.training[1], training)]),
    )
    return longer, full & (longer.count >= 5) & (longer.count % jnp.maximum(1, longer.count // 20) == 0)


def _overfits(curve: CurveState) -> Array:
    lowest, _, last = lowest_and_last(curve.levels, curve.count, jnp)
    learned = jnp.nan_to_num(curve.training[0] - curve.training[1])
    return (rise(curve.levels, curve.count, jnp, jax.vmap)[0] > _OFTEN) & large(last - lowest, curve.first - lowest, learned)
