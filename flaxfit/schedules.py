"""Learning rates over steps: optax's schedules under their own names, and the one that optax lacks."""

from __future__ import annotations

from typing import Any

from optax.schedules import (
    Schedule,
    constant_schedule,
    cosine_decay_schedule,
    cosine_onecycle_schedule,
    exponential_decay,
    join_schedules,
    linear_onecycle_schedule,
    linear_schedule,
    piecewise_constant_schedule,
    piecewise_interpolate_schedule,
    polynomial_schedule,
    sgdr_schedule,
    warmup_constant_schedule,
    warmup_cosine_decay_schedule,
    warmup_exponential_decay_schedule,
)

__all__ = [
    "constant_schedule",
    "cosine_decay_schedule",
    "cosine_onecycle_schedule",
    "exponential_decay",
    "inverse_time_decay",
    "join_schedules",
    "linear_onecycle_schedule",
    "linear_schedule",
    "piecewise_constant_schedule",
    "piecewise_interpolate_schedule",
    "polynomial_schedule",
    "sgdr_schedule",
    "warmup_constant_schedule",
    "warmup_cosine_decay_schedule",
    "warmup_exponential_decay_schedule",
]


def inverse_time_decay(initial: Any, decay_steps: float, decay_rate: Any = 1.0, staircase: bool = False) -> Schedule:
    """The initial value over 1 + decay_rate * step / decay_steps: Keras's `InverseTimeDecay`.

    With decay_rate 1 it is half after `decay_steps`, a third after twice as many.

    Args:
      initial: the value at step 0, may be traced.
      decay_steps: steps in the unit of `decay_rate`; optimiser steps, not epochs.
      decay_rate: may be traced.
      staircase: whole units only: `step / decay_steps` is rounded down.

    Returns:
      step -> value.

    Raises:
      ValueError: decay_steps not above 0.

    Example:
      >>> schedule = inverse_time_decay(0.001, decay_steps=20_000)
      >>> [round(float(schedule(step)), 6) for step in (0, 20_000, 40_000)]
      [0.001, 0.0005, 0.000333]
    """
    if not decay_steps > 0:
        raise ValueError(f"inverse_time_decay(decay_steps=...) must be above 0, got {decay_steps!r}.")

    def schedule(step: Any) -> Any:
        units = step // decay_steps if staircase else step / decay_steps  # integers: a compiled float division may fall short of a whole
        return initial / (1 + decay_rate * units)

    return schedule
