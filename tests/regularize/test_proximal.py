import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from sklearn.datasets import load_diabetes
from sklearn.linear_model import Lasso

from flaxfit import losses
from flaxfit.data.dataset import Dataset
from flaxfit.programs import program
from flaxfit.programs.stopping import EarlyStopping
from flaxfit.regularize import proximal
from flaxfit.task.task import Task


class Linear(nn.Module):
    @nn.compact
    def __call__(self, x, *, train):
        return nn.Dense(1)(x)


def step(optimizer: Any, params: Any, gradients: Any, state: Any = None) -> Any:
    updates, state = optimizer.update(gradients, optimizer.init(params) if state is None else state, params)
    return optax.apply_updates(params, updates), state


@pytest.mark.parametrize("alpha", [0.02, 0.1, 0.3])
def test_ista_finds_the_coefficients_and_the_zeros_of_the_lasso(alpha):
    data: Any = load_diabetes()
    x, y = data.data, data.target
    x, y = ((a - a.mean(0)) / a.std(0) for a in (x, y))
    expected = Lasso(alpha=alpha, tol=1e-10, max_iter=100_000).fit(x, y).coef_
    rate, weight = 0.1, 2 * alpha  # Lasso halves the mean square
    task = Task(Linear(), losses.mse, optax.chain(optax.sgd(rate), proximal.l1(weight, rate)))
    plan = program.Plan(batch_size=len(x), stopping=EarlyStopping("loss"), stops=False, capacity=3000)
    data = Dataset(x.astype(np.float32), y.astype(np.float32))
    state = program.start(task, plan, jax.random.key(0), data.x[:1])
    state, _ = jax.jit(functools.partial(program.advance, task, plan))(state, data, None, 3000)
    result = np.asarray(state.train.params["Dense_0"]["kernel"])[:, 0]
    np.testing.assert_allclose(result, expected, atol=1e-3)
    np.testing.assert_array_equal(result == 0, expected == 0)
    assert (result == 0).any()


def test_weights_become_exactly_zero_whatever_their_rounding():
    params = {"kernel": jax.random.normal(jax.random.key(0), (10_000,))}
    gradients = {"kernel": jax.random.normal(jax.random.key(1), (10_000,))}
    after, _ = step(optax.chain(optax.sgd(0.1), proximal.l1(10.0, 0.1)), params, gradients)
    new = params["kernel"] - 0.1 * gradients["kernel"]
    np.testing.assert_array_equal(after["kernel"] == 0, abs(new) <= 1)
    np.testing.assert_allclose(after["kernel"], np.sign(new) * np.maximum(abs(new) - 1, 0), atol=1e-6)


def test_only_kernels_or_what_the_mask_picks():
    params = {"bias": jnp.ones(2), "kernel": jnp.ones(2)}
    for mask, (bias, kernel) in [(None, (1, 0.5)), ("bias", (0.5, 1)), (".", (0.5, 0.5))]:
        after, _ = step(proximal.l1(5.0, 0.1, mask), params, jax.tree.map(jnp.zeros_like, params))
        np.testing.assert_allclose([after["bias"][0], after["kernel"][0]], [bias, kernel])
    with pytest.raises(ValueError, match="'Dense' matches no parameter"):
        proximal.l1(5.0, 0.1, "Dense").init(params)
    with pytest.raises(ValueError, match=r"weight=...\) must be 0 or more"):
        proximal.l1(-1.0, 0.1)


def test_the_threshold_follows_a_schedule():
    optimizer = proximal.l1(1.0, optax.piecewise_constant_schedule(0.25, {1: 0.5}))
    params, state = {"kernel": jnp.ones(1)}, None
    for expected in (0.75, 0.625, 0.5):
        params, state = step(optimizer, params, {"kernel": jnp.zeros(1)}, state)
        np.testing.assert_allclose(params["kernel"], expected)


def test_weight_and_rate_may_be_traced():
    traces = []

    @jax.jit
    def after(weight, rate):
        traces.append(1)
        return step(proximal.l1(weight, rate), {"kernel": jnp.ones(1)}, {"kernel": jnp.zeros(1)})[0]["kernel"][0]

    np.testing.assert_allclose([after(0.0, 0.1), after(2.0, 0.1), after(2.0, 0.9)], [1, 0.8, 0])
    assert len(traces) == 1
