import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from sklearn.datasets import load_diabetes
from sklearn.linear_model import ElasticNet, Ridge

from flaxfit import losses
from flaxfit.data.dataset import Dataset
from flaxfit.programs import program
from flaxfit.programs.stopping import EarlyStopping
from flaxfit.regularize import penalties
from flaxfit.task.task import Task

PARAMS = {"Dense_0": {"bias": jnp.array([5.0]), "kernel": jnp.array([[1.0], [-3.0]])}, "Dense_1": {"kernel": jnp.array([[2.0]])}}


class Linear(nn.Module):
    @nn.compact
    def __call__(self, x, *, train):
        return nn.Dense(1)(x)


@pytest.fixture(scope="module")
def diabetes():
    """Standardized columns, and a target of spread 1."""
    data: Any = load_diabetes()
    x, y = data.data, data.target
    return (x - x.mean(0)) / x.std(0), (y - y.mean()) / y.std()


def trained(x, y, penalty):
    task = Task(Linear(), losses.mse, optax.sgd(0.1), penalty=penalty)
    plan = program.Plan(batch_size=len(x), stopping=EarlyStopping("loss"), stops=False, capacity=3000)
    data = Dataset(x.astype(np.float32), y.astype(np.float32))
    state = program.start(task, plan, jax.random.key(0), data.x[:1])
    state, _ = jax.jit(functools.partial(program.advance, task, plan))(state, data, None, 3000)
    return np.asarray(state.train.params["Dense_0"]["kernel"])[:, 0]


@pytest.mark.parametrize(
    ("penalty", "expected"),
    [
        (penalties.l1(0.5), 3.0),
        (penalties.l2(0.5), 7.0),
        (penalties.elastic_net(0.5, 2.0), 3 + 28),
        (penalties.linf(0.5), 2.5),
        (penalties.l2(0.5, "bias"), 12.5),
        (penalties.l1(0.5, ["Dense_0/kernel"]), 2.0),
        (penalties.l1(0.5, lambda params: jax.tree.map(lambda _: False, params)), 0.0),
    ],
)
def test_values_of_kernels_or_of_what_the_mask_picks(penalty, expected):
    assert float(penalty(PARAMS)) == pytest.approx(expected)
    assert penalty(PARAMS).shape == ()


@pytest.mark.parametrize("make", [penalties.l1, penalties.l2, penalties.linf, lambda w: penalties.elastic_net(w, w)])
def test_gradients_are_finite_everywhere_and_zero_at_zero(make):
    gradient = jax.grad(make(0.1))(jax.tree.map(jnp.zeros_like, PARAMS))
    assert all((leaf == 0).all() for leaf in jax.tree.leaves(gradient))
    gradient = jax.grad(make(0.1))(PARAMS)
    assert np.isfinite(jax.tree.leaves(gradient)[1]).all()
    assert not gradient["Dense_0"]["bias"].any()


@pytest.mark.parametrize("make", [penalties.l1, penalties.l2, penalties.linf, lambda w: penalties.elastic_net(w, w)])
def test_weights_may_be_traced(make):
    traces = []

    @jax.jit
    def value(weight):
        traces.append(1)
        return make(weight)(PARAMS)

    np.testing.assert_allclose([value(0.0), value(0.1)], [0, make(0.1)(PARAMS)], rtol=1e-6)
    assert len(traces) == 1


@pytest.mark.parametrize("make", [penalties.l1, penalties.l2, penalties.linf, lambda w: penalties.elastic_net(0.1, w)])
@pytest.mark.parametrize("weight", [-0.1, float("nan"), jnp.asarray(-1.0)])
def test_negative_weights_are_an_error_at_once(make, weight):
    with pytest.raises(ValueError, match=r"weight of the .* penalty must be 0 or more"):
        make(weight)


def test_a_mask_that_matches_nothing_is_an_error():
    with pytest.raises(ValueError, match="'Dense_9' matches no parameter"):
        penalties.l2(0.1, "Dense_9")(PARAMS)


@pytest.mark.parametrize("weight", [0.01, 0.1, 1.0])
def test_l2_is_ridge_regression(diabetes, weight):
    x, y = diabetes
    expected = Ridge(alpha=len(x) * weight).fit(x, y).coef_  # Ridge's loss is a sum over rows, ours a mean
    np.testing.assert_allclose(trained(x, y, penalties.l2(weight)), expected, atol=1e-3)


def test_elastic_net_is_scikit_learns(diabetes):
    x, y = diabetes
    # mean square + l1 |w| + l2 w^2 is twice scikit-learn's mean square / 2 + alpha (ratio |w| + (1 - ratio) / 2 w^2)
    alpha, ratio = 0.1, 0.4
    expected = ElasticNet(alpha=alpha, l1_ratio=ratio, tol=1e-8, max_iter=100_000).fit(x, y).coef_
    weights = trained(x, y, penalties.elastic_net(2 * alpha * ratio, alpha * (1 - ratio)))
    np.testing.assert_allclose(weights, expected, atol=2e-2)  # a gradient step of 0.1 * 0.08 goes to and fro over zero
