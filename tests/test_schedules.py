from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from flaxfit import schedules


@pytest.mark.parametrize("staircase", [False, True])
def test_inverse_time_decay_is_kerass_formula(staircase):
    steps = np.arange(0, 500)
    units = steps // 49 if staircase else steps / 49
    schedule = schedules.inverse_time_decay(0.3, 49, 0.7, staircase)
    np.testing.assert_allclose(jax.jit(jax.vmap(schedule))(steps), 0.3 / (1 + 0.7 * units), rtol=1e-6)
    assert schedule(98) == pytest.approx(0.3 / 2.4)


def test_initial_value_and_rate_may_be_traced():
    traces = []

    @jax.jit
    def value(initial, rate):
        traces.append(1)
        return schedules.inverse_time_decay(initial, 10, rate)(5)

    np.testing.assert_allclose([value(0.1, 1.0), value(0.2, 2.0)], [0.1 / 1.5, 0.2 / 2], rtol=1e-6)
    assert len(traces) == 1


def test_it_drives_an_optimizer():
    optimizer = optax.sgd(schedules.inverse_time_decay(1.0, 1))
    one: Any = jnp.ones(())
    state, rates = optimizer.init(one), []
    for _ in range(3):
        update, state = optimizer.update(one, state)
        rates.append(-np.asarray(update))
    np.testing.assert_allclose(rates, [1, 1 / 2, 1 / 3], rtol=1e-6)


@pytest.mark.parametrize("steps", [0, -5, float("nan")])
def test_decay_steps_must_be_above_zero(steps):
    with pytest.raises(ValueError, match="above 0"):
        schedules.inverse_time_decay(0.1, steps)
