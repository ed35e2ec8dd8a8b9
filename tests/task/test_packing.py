"""Weights in one vector: only under optimizers that treat all arrays alike and each number by itself, and with equal results."""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import flaxfit as ff
from flaxfit.devices.sharding import Placement
from flaxfit.programs import program
from flaxfit.programs.step import train_step
from flaxfit.task.packing import LARGEST, Packed, packing_of

by_axes = optax.stateless(lambda updates, _: jax.tree.map(lambda u: u * (2 if u.ndim > 1 else 1), updates))
by_name = optax.stateless(lambda updates, _: jax.tree_util.tree_map_with_path(lambda path, u: u * ("bias" in str(path)), updates))
of_each_array = optax.stateless(lambda updates, _: jax.tree.map(lambda u: u / jnp.max(jnp.abs(u)), updates))
of_neighbors = optax.stateless(lambda updates, _: jax.tree.map(lambda u: jnp.cumsum(u, axis=0), updates))
ALIKE = {
    "adam": optax.adam(0.05),
    "adam, schedule": optax.adam(optax.exponential_decay(0.05, 10, 0.5)),
    "adam, bfloat16": optax.adam(0.05, mu_dtype=jnp.bfloat16),
    "adamw": optax.adamw(0.05),
    "clip, decay, sgd": optax.chain(optax.clip(1.0), optax.add_decayed_weights(0.01), optax.sgd(0.1, momentum=0.9, nesterov=True)),
    "amsgrad": optax.amsgrad(0.05),
    "lion": optax.lion(0.01),
    "rmsprop": optax.rmsprop(0.01),
    "injected rate": optax.inject_hyperparams(optax.adam)(learning_rate=0.05),
}
APART = {
    "mask": optax.adamw(0.05, mask=ff.masks.kernels),
    "norm of all": optax.chain(optax.clip_by_global_norm(1.0), optax.sgd(0.1)),
    "norm of each": optax.lamb(0.01),
    "largest of each": of_each_array,
    "neighbors": of_neighbors,
    "number of axes": by_axes,
    "names": by_name,
    "factored": optax.adafactor(0.05),
    "noise": optax.chain(optax.add_noise(0.01, 0.55, jax.random.key(3)), optax.sgd(0.01)),
    "line search": optax.lbfgs(),
    "branches": optax.MultiSteps(optax.adam(0.05), 2),
    "parts": optax.partition({"a": optax.adam(0.05), "b": optax.sgd(0.05)}, {"Dense_0": "a", "Dense_1": "b", "Dense_2": "a"}),
    "one part, by names": optax.partition({"a": optax.adam(0.05)}, {"Dense_0": "a", "Dense_1": "a", "Dense_2": "a"}),
}


def task_of(optimizer, **options):
    return ff.Task(ff.nn.MLP((5, 5), 1), ff.losses.mse, optimizer, **options)


def packing(task):
    state = task.init(jax.random.key(0), jnp.ones((2, 5)))
    return packing_of(task, state.params, state.opt_state), state


@pytest.mark.parametrize("name", ALIKE)
def test_steps_with_a_vector_are_those_without(name):
    task = task_of(ALIKE[name])
    how, apart = packing(task)
    assert how is not None
    joined, rng = how.packed(apart), np.random.default_rng(0)
    assert isinstance(joined.params, Packed)
    steps = [jax.jit(lambda state, x, y, how=how: train_step(task, state, jax.random.key(0), x, y, packing=how)[0]) for how in (None, how)]
    for _ in range(5):
        x = rng.normal(size=(8, 5)).astype(np.float32)
        apart, joined = (step(state, x, x[:, 0] ** 2) for step, state in zip(steps, (apart, joined), strict=True))
    back = how.unpacked(joined)
    assert jax.tree.structure(back) == jax.tree.structure(apart)
    for one, other in zip(jax.tree.leaves(back), jax.tree.leaves(apart), strict=True):
        assert one.dtype == other.dtype
        np.testing.assert_allclose(np.asarray(one, np.float32), np.asarray(other, np.float32), rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("name", APART)
def test_optimizers_that_tell_arrays_apart_keep_them(name):
    assert packing(task_of(APART[name]))[0] is None


def test_frozen_and_constrained_weights_stay_apart():
    assert packing(task_of(optax.adam(0.05), trainable="kernel"))[0] is None
    assert packing(task_of(optax.adam(0.05), constraint=ff.constraints.max_norm(1.0)))[0] is None


def test_large_arrays_stay_apart():
    how, state = packing(ff.Task(ff.nn.MLP((LARGEST // 5 + 1, 3), 1), ff.losses.mse, optax.adam(0.05)))
    assert how is not None
    packed = how.packed(state.params)
    assert [leaf.shape for leaf in packed.others] == [(5, LARGEST // 5 + 1)]
    assert packed.vector.size == sum(leaf.size for leaf in jax.tree.leaves(state.params)) - packed.others[0].size


def test_a_scalar_weight_that_scales_the_others_is_found():
    def update(updates, _):
        return {name: update * updates["scale"] for name, update in updates.items()}

    params = {"scale": jnp.ones(()), "a": jnp.ones(3), "b": jnp.ones(3)}
    assert packing_of(task_of(optax.stateless(update)), params, optax.EmptyState()) is None
    assert packing_of(task_of(optax.sgd(0.1)), params, optax.sgd(0.1).init(params)) is not None


def test_a_run_starts_resumes_and_returns_with_the_arrays_of_the_model(tmp_path):
    rng = np.random.default_rng(0)
    data = ff.Dataset(x := rng.normal(size=(40, 5)).astype(np.float32), x[:, 0] ** 2)
    whole = ff.fit(task_of(optax.adam(0.05)), data, epochs=6, batch_size=8)
    ff.fit(task_of(optax.adam(0.05)), data, epochs=3, batch_size=8, run_dir=tmp_path / "run")
    resumed = ff.fit(task_of(optax.adam(0.05)), data, epochs=6, batch_size=8, run_dir=tmp_path / "run")
    assert jax.tree.structure(whole.last) == jax.tree.structure(packing(task_of(optax.adam(0.05)))[1])
    for one, other in zip(jax.tree.leaves(whole.last), jax.tree.leaves(resumed.last), strict=True):
        assert np.array_equal(one, other)


class Averaging(nn.Module):
    """Keeps a copy of its weights in a collection."""

    @nn.compact
    def __call__(self, x, *, train):
        kernel = self.param("kernel", nn.initializers.ones, (5, 1))
        bias = self.param("bias", nn.initializers.zeros, (1,))
        copies = [self.variable("copies", name, jnp.zeros_like, value) for name, value in (("kernel", kernel), ("bias", bias))]
        if train:
            for copy, value in zip(copies, (kernel, bias), strict=True):
                copy.value = value
        return x @ kernel + bias


def test_a_collection_that_looks_like_the_weights_stays_as_it_is():
    x = np.random.default_rng(0).normal(size=(40, 5)).astype(np.float32)
    task = ff.Task(Averaging(), ff.losses.mse, optax.adam(0.05))
    assert packing(task)[0] is not None
    result = ff.fit(task, ff.Dataset(x, x[:, 0] ** 2), validation=ff.Dataset(x, x[:, 0] ** 2), epochs=3, batch_size=8)
    copies = result.last.collections["copies"]
    assert jax.tree.structure(copies) == jax.tree.structure(result.last.params)
    assert 0 < np.abs(np.asarray(copies["kernel"]) - np.asarray(result.last.params["kernel"])).max() < 0.1  # one step behind


@pytest.mark.parametrize("platform", ["cpu", "gpu"])
def test_arrays_are_joined_on_cpus_only(platform, monkeypatch):
    asked = []
    monkeypatch.setattr(Placement, "platform", platform)
    monkeypatch.setattr(program, "packing_of", lambda *args: asked.append(args))
    data = ff.Dataset(np.zeros((8, 3), np.float32), np.zeros(8, np.float32))
    ff.fit(ff.Task(ff.nn.MLP((4,), 1), ff.losses.mse, optax.adam(1e-3)), data, epochs=1)
    assert bool(asked) == (platform == "cpu")
