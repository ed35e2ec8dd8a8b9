"""Convolutions and pooling in a compiled loop on a CPU: the same values and gradients as JAX's own, whatever the shapes."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from jax import lax

import flaxfit as ff
from flaxfit.programs.step import train_step
from flaxfit.task.convolutions import rewritten

LAYOUTS = {1: ("NHC", "HIO", "NHC"), 2: ("NHWC", "HWIO", "NHWC"), 3: ("NHWDC", "HWDIO", "NHWDC")}
CHANNELS_FIRST = {1: ("NCH", "OIH", "NCH"), 2: ("NCHW", "OIHW", "NCHW"), 3: ("NCHWD", "OIHWD", "NCHWD")}


def random(*shape, seed=0):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


def check_alike(function, *args, tolerance=2e-5):
    """That the rewritten function has the values and gradients of the function, against a random cotangent."""

    @jax.jit
    def plain(*args):
        values, backward = jax.vjp(function, *args)
        return values, backward(jax.tree.map(lambda v: random(*v.shape, seed=9), values))

    @jax.jit
    def other(*args):
        values, backward = jax.vjp(lambda *a: rewritten(function, *a), *args)
        return values, backward(jax.tree.map(lambda v: random(*v.shape, seed=9), values))

    for expected, found in zip(jax.tree.leaves(plain(*args)), jax.tree.leaves(other(*args)), strict=True):
        assert expected.shape == found.shape
        assert expected.dtype == found.dtype
        scale = np.abs(expected).max(initial=1e-3)
        np.testing.assert_allclose(found, expected, rtol=0, atol=tolerance * scale)


@st.composite
def convolutions(draw):
    dims = draw(st.integers(1, 3))
    few = st.integers(1, 3)
    groups = draw(st.sampled_from([1, 1, 2, 3]))
    inputs, outputs = groups * draw(st.sampled_from([1, 2, 7])), groups * draw(few)
    window, sizes = [draw(few) for _ in range(dims)], [draw(st.integers(1, 6)) for _ in range(dims)]
    strides, dilation = [draw(few) for _ in range(dims)], [draw(few) for _ in range(dims)]
    transposed = draw(st.booleans()) and draw(st.booleans())
    holes = [draw(few) if transposed else 1 for _ in range(dims)]
    padding = draw(st.sampled_from(["SAME", "VALID", None])) or [(draw(st.integers(-1, 3)), draw(st.integers(-1, 3))) for _ in sizes]
    layout = draw(st.sampled_from([LAYOUTS, CHANNELS_FIRST]))[dims]
    x, kernel = random(draw(few), *sizes, inputs), random(*window, inputs // groups, outputs, seed=1)
    if layout is CHANNELS_FIRST[dims]:
        x, kernel = jnp.moveaxis(x, -1, 1), kernel.transpose(dims + 1, dims, *range(dims))
    how = {"window_strides": strides, "padding": padding, "lhs_dilation": holes, "rhs_dilation": dilation, "feature_group_count": groups}

    def convolve(x, kernel):
        return lax.conv_general_dilated(x, kernel, dimension_numbers=layout, **how)

    try:
        assume(0 not in jax.eval_shape(convolve, x, kernel).shape)
    except (ValueError, TypeError):
        assume(False)
    return convolve, x, kernel


@settings(max_examples=15, deadline=None, derandomize=True)
@given(convolutions())
def test_convolutions_have_jaxs_values_and_gradients(drawn):
    check_alike(*drawn)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
@pytest.mark.parametrize("how", [{}, {"lhs_dilation": (2, 2)}, {"feature_group_count": 8}, {"preferred_element_type": jnp.float32}])
def test_convolutions_in_half_precision(dtype, how):
    x, kernel = random(2, 6, 6, 8).astype(dtype), random(3, 3, 8 // how.get("feature_group_count", 1), 8, seed=1).astype(dtype)

    def convolve(x, kernel):
        return lax.conv_general_dilated(x, kernel, (1, 1), ((1, 1), (1, 1)), dimension_numbers=LAYOUTS[2], **how)

    expected, found = jax.jit(convolve)(x, kernel), jax.jit(lambda *args: rewritten(convolve, *args))(x, kernel)
    assert found.dtype == expected.dtype
    np.testing.assert_allclose(*(np.asarray(a, np.float32) for a in (found, expected)), rtol=0.02, atol=0.1)
    if "preferred_element_type" not in how:  # JAX has no gradient of those
        grads = [
            jax.jit(jax.grad(lambda k, f=f: f(x, k).astype(jnp.float32).sum()))(kernel)
            for f in (convolve, lambda *a: rewritten(convolve, *a))
        ]
        assert grads[1].dtype == dtype
        np.testing.assert_allclose(*(np.asarray(a, np.float32) for a in grads), rtol=0.05, atol=0.5)


@st.composite
def poolings(draw):
    dims = draw(st.integers(1, 3))
    window, strides = [draw(st.integers(1, 3)) for _ in range(dims)], [draw(st.integers(1, 3)) for _ in range(dims)]
    sizes = [draw(st.integers(1, 6)) for _ in range(dims)]
    padding = draw(st.sampled_from(["SAME", "VALID", None])) or [(min(draw(st.integers(0, 2)), w - 1), 0) for w in window]
    dilation = [draw(st.sampled_from([1, 1, 2])) for _ in range(dims)]
    # Integers, so that windows have ties.
    x = jnp.asarray(np.random.default_rng(draw(st.integers(0, 99))).integers(-2, 3, (2, *sizes, 2)), jnp.float32)
    kind = draw(st.sampled_from(["max", "min", "sum"]))
    first, combine = {"max": (-jnp.inf, lax.max), "min": (jnp.inf, lax.min), "sum": (0.0, lax.add)}[kind]
    if isinstance(padding, list):
        padding = [(0, 0), *padding, (0, 0)]
    if kind != "sum":
        dilation = [1] * dims  # JAX has no gradient of the others
    shape, steps, holes = (1, *window, 1), (1, *strides, 1), (1, *dilation, 1)

    def pool(x):
        return lax.reduce_window(x, first, combine, shape, steps, padding, window_dilation=holes)

    assume(0 not in jax.eval_shape(pool, x).shape)
    return pool, x


@settings(max_examples=15, deadline=None, derandomize=True)
@given(poolings())
def test_pooling_has_jaxs_values_and_gradients_ties_included(drawn):
    check_alike(*drawn, tolerance=1e-6)


def test_max_pooling_passes_nan_on_and_ignores_its_padding():
    x = jnp.asarray([[1.0, np.nan, 3.0, -5.0, -np.inf]]).reshape(1, 5, 1)
    for pool in (nn.max_pool, lambda *args: -nn.max_pool(*args)):
        expected = pool(x, (2,), (1,), "SAME")
        np.testing.assert_array_equal(rewritten(lambda x, pool=pool: pool(x, (2,), (1,), "SAME"), x), expected)


class Everything(nn.Module):
    """Convolutions and pooling behind jit, remat, scan, cond, custom derivatives, batch norm and dropout."""

    @nn.compact
    def __call__(self, x, train):
        x = nn.max_pool(nn.relu(nn.Conv(6, (3, 3))(x)), (3, 3), (2, 2), "SAME")
        x = nn.remat(nn.Conv)(6, (3, 3), feature_group_count=6)(x)
        x = nn.Dropout(0.2, deterministic=not train)(nn.BatchNorm(use_running_average=not train)(x))
        block = nn.scan(Block, variable_axes={"params": 0}, split_rngs={"params": True}, length=2)
        x, _ = block()(x, None)
        kernel = self.param("kernel", nn.initializers.normal(0.3), (2, 2, 6, 6))
        x = jax.jit(lambda x, k: lax.conv(x.transpose(0, 3, 1, 2), k.transpose(3, 2, 0, 1), (1, 1), "SAME"))(x, kernel)
        x = x.transpose(0, 2, 3, 1)
        x = lax.cond(x.mean() > 0, lambda x: nn.avg_pool(x, (2, 2)), lambda x: nn.max_pool(x, (2, 2)), x)
        x = nn.ConvTranspose(4, (3, 3), (2, 2))(x)
        return nn.Dense(3)(jax.nn.silu(x).reshape(x.shape[0], -1))


class Block(nn.Module):
    @nn.compact
    def __call__(self, x, _):
        return nn.relu(nn.Conv(6, (3, 3), kernel_dilation=2)(x)) + x, None


def test_a_linen_network_with_nested_functions():
    x, net = random(4, 10, 10, 2), Everything()
    variables = net.init(jax.random.key(0), x, False)
    rest = {"batch_stats": variables["batch_stats"]}

    def apply(params):
        return net.apply({"params": params, **rest}, x, True, mutable=["batch_stats"], rngs={"dropout": jax.random.key(1)})

    check_alike(apply, variables["params"])
    text = jax.jit(jax.grad(lambda p: rewritten(apply, p)[0].sum())).lower(variables["params"]).as_text()
    assert "select_and_scatter" not in text
    assert "reduce_window" not in text


def test_functions_with_derivatives_of_their_own_keep_them():
    @jax.custom_vjp
    def pooled(x):
        return nn.max_pool(x, (2,), (2,))

    pooled.defvjp(lambda x: (pooled(x), x), lambda x, g: (7 * jnp.ones_like(x),))
    x = random(2, 4, 1)
    assert (jax.grad(lambda x: rewritten(lambda x: nn.avg_pool(pooled(x), (2,)).sum(), x))(x) == 7).all()


@pytest.mark.parametrize("channels", [1, 5, 40])
def test_second_derivatives_and_vmap(channels):
    x, kernel = random(2, 5, 5, channels), random(3, 3, channels, 2, seed=1) / channels

    def loss(kernel, x):
        h = lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=LAYOUTS[2])
        return jnp.square(nn.max_pool(jnp.tanh(h), (2, 2), (2, 2))).sum()

    def other(kernel, x):
        return rewritten(loss, kernel, x)

    def penalized(loss):
        return jax.grad(lambda kernel, x: jnp.square(jax.grad(loss, 1)(kernel, x)).sum())

    direction = random(*kernel.shape, seed=2)
    for transform in (
        penalized,
        lambda loss: lambda *args: jax.jvp(jax.grad(loss), args, (direction, jnp.zeros_like(x)))[1],
        lambda loss: lambda k, x: jax.vmap(jax.grad(loss), (0, None))(jnp.stack([k, 2 * k]), x),
        lambda loss: lambda k, x: jax.vmap(jax.grad(loss), (None, 0))(k, x[:, None]),
    ):
        expected, found = (jax.jit(transform(function))(kernel, x) for function in (loss, other))
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-4 * np.abs(expected).max())


class Nnx(nnx.Module):
    def __init__(self, rngs):
        self.conv, self.dense = nnx.Conv(1, 4, (3, 3), rngs=rngs), nnx.Linear(36, 3, rngs=rngs)

    def __call__(self, x):
        return self.dense(nnx.max_pool(nnx.relu(self.conv(x)), (2, 2), (2, 2)).reshape(x.shape[0], -1))


class Linen(nn.Module):
    @nn.compact
    def __call__(self, x):
        return nn.Dense(3)(nn.max_pool(nn.relu(nn.Conv(4, (3, 3))(x)), (2, 2), (2, 2)).reshape(x.shape[0], -1))


@pytest.mark.parametrize("model", [Linen(), Nnx])
def test_fit_trains_a_network_as_steps_outside_a_loop_do(model):
    x, y = np.asarray(random(48, 6, 6, 1)), np.arange(48) % 3
    task = ff.Task(model, ff.losses.categorical_crossentropy, optax.sgd(0.1))
    data = ff.Dataset(x, y)
    start = ff.fit(task, data, epochs=1, batch_size=48).last
    found = ff.fit(task, data, validation=data, initial=start, epochs=3, batch_size=48, seed=1)
    state, losses = start, []
    for _ in range(3):  # of one batch each, so that the order of the rows does not matter
        state, sums = jax.jit(lambda state: train_step(task, state, jax.random.key(1), x, y))(state)
        losses.append(float(sums["loss"]) / 48)
    np.testing.assert_allclose(found.history["loss"], losses, rtol=1e-5)
    for a, b in zip(jax.tree.leaves(found.last.params), jax.tree.leaves(state.params), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)
    scores = ff.eval_step(task, state, x, y)
    np.testing.assert_allclose(found.history["val_loss"][-1], float(scores["categorical_crossentropy"]) / 48, rtol=1e-5)


def dense(dropout):
    class Net(nn.Module):
        @nn.compact
        def __call__(self, x, train):
            x = nn.BatchNorm(use_running_average=not train)(nn.remat(nn.Dense)(8)(x))
            return nn.Dense(1)(nn.Dropout(dropout, deterministic=not train)(nn.gelu(nn.relu(x))))[:, 0]

    return Net()


class NnxDense(nnx.Module):
    def __init__(self, rngs):
        self.first, self.drop, self.last = nnx.Linear(5, 8, rngs=rngs), nnx.Dropout(0.3, rngs=rngs), nnx.Linear(8, 1, rngs=rngs)

    def __call__(self, x):
        return self.last(self.drop(nnx.relu(self.first(x))))[:, 0]


@pytest.mark.parametrize("model", [dense(0.3), NnxDense, ff.nn.MLP((8, 8), 1, dropout=0.2)])
def test_other_networks_lower_to_the_very_same_program(model):
    task = ff.Task(model, ff.losses.mse, optax.adam(0.1))
    x, y, key = random(6, 5), random(6), jax.random.key(0)
    state = jax.eval_shape(lambda: task.init(key, x))
    texts = [
        jax.jit(lambda state, platform=platform: train_step(task, state, key, x, y, platform=platform)).lower(state).as_text()
        for platform in (None, "cpu")
    ]
    assert texts[0] == texts[1]


def test_other_platforms_keep_jaxs_forms():
    task = ff.Task(Linen(), ff.losses.categorical_crossentropy, optax.sgd(0.1))
    x, y, key = random(6, 6, 6, 1), jnp.arange(6) % 3, jax.random.key(0)
    state = jax.eval_shape(lambda: task.init(key, x))
    texts = {
        platform: jax.jit(lambda state, platform=platform: train_step(task, state, key, x, y, platform=platform)).lower(state).as_text()
        for platform in (None, "cpu", "gpu", "tpu")
    }
    assert texts["gpu"] == texts["tpu"] == texts[None] != texts["cpu"]
    assert ["select_and_scatter" in texts[platform] for platform in ("gpu", "cpu")] == [True, False]
