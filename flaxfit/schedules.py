"""The learning rate's schedule that optax lacks; the others are optax's own, such as `optax.cosine_decay_schedule`."""

from __future__ import annotations

from typing import Any

from optax import Schedule


def inverse_time_decay(initial: Any, decay_steps: float, decay_rate: Any = 1.0, staircase: bool = False) -> Schedule:
    """The initial value over 1 + decay_rate * step / decay_steps: Keras's `InverseTimeDecay`.

    With decay_rate 1 it is half after `decay_steps`, a third after twice as many.

    Args:
      initial: the value at step 0, may be traced.
      decay_steps: steps in the unit of `decay_rate`; optimizer steps, not epochs.
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
