"""A learning rate schedule that optax does not have. For others see optax, such as `optax.cosine_decay_schedule`."""

from __future__ import annotations

from typing import Any

from optax import Schedule


def inverse_time_decay(initial: Any, decay_steps: float, decay_rate: Any = 1.0, staircase: bool = False) -> Schedule:
    """Returns the schedule `initial / (1 + decay_rate * step / decay_steps)`, which is Keras's `InverseTimeDecay`.

    With a decay rate of 1, the value is half the initial one after `decay_steps` steps, and a third after twice as many.

    Args:
      initial: the value at step 0. It may be traced.
      decay_steps: the number of optimizer steps (not epochs) in which the denominator grows by `decay_rate`.
      decay_rate: how fast the value falls. It may be traced.
      staircase: whether to round `step / decay_steps` down, so that the value falls in steps.

    Returns:
      A schedule: a function from the step to the value.

    Raises:
      ValueError: `decay_steps` is not above 0.

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
