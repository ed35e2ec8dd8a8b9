from __future__ import annotations

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import flaxfit as ff


class Net(nn.Module):
    """A small net in plain Linen, so that the engine is tested apart from `flaxfit.nn`."""

    hidden: int = 16
    outputs: int = 1
    batch_norm: bool = False
    dropout: float = 0.0

    @nn.compact
    def __call__(self, x, *, train):
        x = nn.Dense(self.hidden)(x)
        if self.batch_norm:
            x = nn.BatchNorm(use_running_average=not train)(x)
        x = nn.Dropout(self.dropout, deterministic=not train)(nn.relu(x))
        return nn.Dense(self.outputs)(x)


@pytest.fixture(scope="session")
def net():
    return Net


@pytest.fixture(scope="session")
def table():
    """A learnable but noisy two-class table: 250 rows of 6 features to train, 100 to validate."""
    rng = np.random.default_rng(7)
    x = rng.normal(size=(350, 6)).astype(np.float32)
    y = (x[:, 0] * x[:, 1] + 0.5 * x[:, 2] + 0.5 * rng.normal(size=350) > 0).astype(np.int32)
    return ff.Dataset(x[:250], y[:250]), ff.Dataset(x[250:], y[250:])


class EachLoss(ff.hooks.Hook):
    """Notes the objective after every step, from an optimiser chain that starts with the fixture's transformation."""

    every_steps = 1

    def __init__(self):
        self.losses = []

    def look(self, look):
        self.losses.append(float(look.state.train.opt_state[0]))


@pytest.fixture
def each_loss():
    """A hook, and an optax transformation that changes nothing and keeps the last objective to the bit, for the hook to read."""

    def update(updates, state, params=None, *, value, **extra):
        return updates, value

    return EachLoss(), optax.GradientTransformationExtraArgs(lambda params: jnp.zeros(()), update)
