from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from flaxfit import losses
from flaxfit.nn import MLP
from flaxfit.programs.step import train_step
from flaxfit.regularize.averaging import averaged, weight_ema
from flaxfit.task.task import Task

KEY = jax.random.key(0)
X, Y = jax.random.normal(KEY, (20, 3)), jax.random.normal(jax.random.key(1), (20,))


def task_with(decay):
    return Task(MLP((4,), 1), losses.mse, optax.chain(optax.adam(0.1), weight_ema(decay)), eval_params=averaged)


def equal(a, b, **tolerance):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, **tolerance), a, b)


def test_the_average_against_a_loop_by_hand():
    task, plain = task_with(0.9), Task(MLP((4,), 1), losses.mse, optax.adam(0.1))
    state, bare = task.init(KEY, X), plain.init(KEY, X)
    equal(averaged(state), bare.params)  # before any step: the initial weights
    average = None
    for _ in range(5):
        state, _ = train_step(task, state, KEY, X, Y)
        bare, _ = train_step(plain, bare, KEY, X, Y)
        # Keras starts at the weights after the first update
        average = bare.params if average is None else jax.tree.map(lambda a, w: 0.9 * a + 0.1 * w, average, bare.params)
        equal(state.params, bare.params, rtol=1e-6, atol=1e-7)  # updates pass unchanged
        equal(averaged(state), average, rtol=1e-5, atol=1e-6)
    equal(task.evaluated(state).params, averaged(state))


def test_a_constant_weight_averages_to_itself_and_decay_zero_to_the_last():
    optimizer: Any = weight_ema(0.5)
    params = {"kernel": jnp.full(3, 1.1)}
    state = optimizer.init(params)
    for _ in range(3):
        _, state = optimizer.update({"kernel": jnp.zeros(3)}, state, params)
    np.testing.assert_allclose(state.weight_average["kernel"], 1.1, rtol=1e-6)
    optimizer = weight_ema(0.0)
    _, state = optimizer.update({"kernel": jnp.ones(3)}, state, params)
    np.testing.assert_allclose(state.weight_average["kernel"], 2.1, rtol=1e-6)


def test_decay_may_be_traced():
    traces = []

    @jax.jit
    def after_two(decay):
        traces.append(1)
        task = task_with(decay)
        state = task.init(KEY, X)
        for _ in range(2):
            state, _ = train_step(task, state, KEY, X, Y)
        return state.params, averaged(state)

    equal(*after_two(0.0), rtol=1e-6)
    params, average = after_two(0.5)
    assert not np.allclose(params["Dense_0"]["kernel"], average["Dense_0"]["kernel"])
    assert len(traces) == 1


def test_the_state_can_be_donated():
    optimizer, params = weight_ema(0.9), {"kernel": jnp.ones(3)}
    state = optimizer.init(params)
    advance = jax.jit(lambda params, state: (params, optimizer.update(params, state, params)[1]), donate_argnums=(0, 1))
    advance(params, state)


def test_errors():
    for decay in (-0.1, 1.5, float("nan")):
        with pytest.raises(ValueError, match="from 0 to 1"):
            weight_ema(decay)
    state = Task(MLP((4,), 1), losses.mse, optax.adam(0.1)).init(KEY, X)
    with pytest.raises(ValueError, match="needs weight_ema in the optimizer"):
        averaged(state)
