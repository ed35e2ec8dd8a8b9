from typing import Any

import flax.linen as linen
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from scipy import stats

import flaxfit as ff
from flaxfit import losses, nn
from flaxfit.rng import stream
from flaxfit.task.task import Task

KEY = jax.random.key(0)
X = jax.random.normal(jax.random.key(1), (12, 6))


def apply(module: Any, *args: Any, **options: Any) -> Any:
    return module.apply(*args, **options)


def dropped(rate, x, key: Any = KEY):
    return apply(nn.Dropout(rate), {}, x, train=True, rngs={"dropout": key})


def kept(keys, shape, rate):
    """Centered and scaled masks, one a key: mean 0 and variance 1 if right."""
    masks = jax.jit(jax.vmap(lambda key: dropped(rate, jnp.ones(shape), key) != 0))(keys)
    return (np.asarray(masks, np.float64) - (1 - rate)) / np.sqrt(rate * (1 - rate))


def step_keys(steps):
    """As `train_step` makes them."""
    return jax.vmap(lambda step: jax.random.fold_in(stream(KEY, "dropout"), step))(jnp.arange(steps))


# Dropout: its statistics. A sum of n independent z has z-score sum / sqrt(n); |z| < 4.5 holds by chance in all but 7 of a million.


@pytest.mark.parametrize("rate", [0.01, 0.1, 0.5, 0.9])
def test_dropout_drops_its_rate(rate):
    z = kept(step_keys(50), (100, 64), rate)
    assert abs(z.sum()) < 4.5 * np.sqrt(z.size)


@pytest.mark.parametrize("rate", [0.1, 0.5])
def test_dropout_spreads_evenly_over_units_rows_and_steps(rate):
    z = kept(step_keys(256), (128, 64), rate)
    for axes in [(0, 1), (0, 2), (1, 2)]:  # leaves units, rows, steps
        sums = z.sum(axes) / np.sqrt(z.size / z.sum(axes).size)
        assert 1e-4 < stats.chi2.sf((sums**2).sum(), sums.size) < 1 - 1e-4


@pytest.mark.parametrize("rate", [0.1, 0.5, 0.9])
def test_dropout_is_independent_between_units_rows_and_steps(rate):
    z = kept(step_keys(512), (64, 32), rate)
    flat = z.reshape(512, -1)
    pairs = [(flat[:, lag:], flat[:, :-lag]) for lag in (1, 2, 3, 4, 8, 16, 32, 64, 128, 1024)]  # lag 32: the row above
    pairs += [(z[lag:], z[:-lag]) for lag in (1, 2, 4, 8, 256)]
    for a, b in pairs:
        assert abs((a * b).sum()) < 4.5 * np.sqrt(a.size)
    for vectors in (flat[:, :256].T, flat[:256]):  # all pairs of 256 entries over steps, of 256 steps over entries
        z_scores = (vectors @ vectors.T / np.sqrt(vectors.shape[1]))[np.triu_indices(256, 1)]
        assert np.abs(z_scores).max() < 6.5  # of 32,640 nearly normal ones; 6.5 leaves room for the tail at rates 0.1 and 0.9
        assert z_scores.var() == pytest.approx(1, abs=0.04)  # 5 standard deviations


def test_dropout_patterns_of_eight_neighbors_are_equally_likely():
    bits = (kept(step_keys(64), (64, 64), 0.5) > 0).reshape(-1, 8)
    counts = np.bincount(bits @ (1 << np.arange(8)), minlength=256)
    assert 1e-4 < stats.chisquare(counts).pvalue < 1 - 1e-4


def test_dropout_differs_between_layers_of_one_model():
    class Two(linen.Module):
        @linen.compact
        def __call__(self, x, *, train):
            return nn.Dropout(0.5)(x, train=train), nn.Dropout(0.5)(x, train=train)

    first, second = apply(Two(), {}, jnp.ones((300, 300)), train=True, rngs={"dropout": KEY})
    assert abs(((first - 1) * (second - 1)).sum()) < 4.5 * 300


def test_dropout_repeats_with_its_key():
    np.testing.assert_array_equal(dropped(0.5, X), dropped(0.5, X))
    assert (dropped(0.5, X) != dropped(0.5, X, jax.random.key(1))).any()


@pytest.mark.parametrize("impl", ["rbg", "unsafe_rbg", "threefry2x32"])
def test_dropout_uses_keys_of_every_kind_in_full(impl):
    keys = jax.random.split(jax.random.key(3, impl=impl), 100)
    z = kept(keys, (1000,), 0.5)
    pairs = (z @ z.T / np.sqrt(1000))[np.triu_indices(100, 1)]
    assert np.abs(pairs).max() < 6
    assert abs(z.sum()) < 4.5 * np.sqrt(z.size)


def test_dropout_takes_an_old_style_key():
    np.testing.assert_array_equal(dropped(0.5, X, jax.random.PRNGKey(0)), dropped(0.5, X))


# Dropout: its values


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16, jnp.float16])
@pytest.mark.parametrize("shape", [(), (2, 3, 4, 5), (0, 3)])
def test_dropout_keeps_shape_type_and_what_it_does_not_drop(shape, dtype):
    x = jax.random.normal(KEY, shape, dtype)
    result = jax.jit(dropped)(0.2, x)
    assert (result.shape, result.dtype) == (shape, dtype)
    expected = (x.astype(jnp.float32) * np.float32(1 / (1 - np.float32(0.2)))).astype(dtype)
    assert ((result == expected) | (result == 0)).all()


def test_rate_zero_is_no_dropout_bit_for_bit_traced_or_not():
    x = jax.random.normal(KEY, (50, 40)).at[0, :3].set(jnp.array([jnp.inf, -0.0, 2e-38]))  # below 1.2e-38 XLA rounds to 0 on a CPU
    for result in (dropped(0.0, x), jax.jit(dropped)(0.0, x), apply(nn.Dropout(0.7), {}, x, train=False)):
        np.testing.assert_array_equal(np.asarray(result).view(np.uint32), np.asarray(x).view(np.uint32))
    apply(nn.Dropout(0.0), {}, x, train=True)  # draws nothing: no stream needed


def test_a_new_rate_compiles_nothing():
    traces = []

    @jax.jit
    def ones(rate):
        traces.append(1)
        return dropped(rate, jnp.ones((100, 100)))

    shares = [float((ones(rate) == 0).mean()) for rate in (0.0, 0.3, 0.99)]
    np.testing.assert_allclose(shares, [0, 0.3, 0.99], atol=0.02)
    assert len(traces) == 1


def test_dropout_under_vmap_gives_what_each_gives_alone():
    rates, keys = jnp.array([0.0, 0.2, 0.5]), jax.random.split(KEY, 3)
    together = jax.vmap(dropped, (0, None, 0))(rates, X, keys)
    for i in range(3):
        np.testing.assert_array_equal(together[i], jax.jit(dropped)(rates[i], X, keys[i]))


@pytest.mark.parametrize("rate", [0.0, 0.5, 0.99])
def test_dropout_gradients_are_the_mask(rate):
    gradient = jax.jit(jax.grad(lambda x, rate: dropped(rate, x).sum()))(X, rate)
    np.testing.assert_allclose(gradient, dropped(rate, jnp.ones_like(X)), rtol=1e-6)


@pytest.mark.parametrize("rate", [-0.1, 1, 1.0, 5, float("nan")])
def test_a_rate_outside_its_range_is_an_error_at_once(rate):
    for build in (nn.Dropout, lambda rate: nn.MLP((4,), 1, dropout=rate)):
        with pytest.raises(ValueError, match="at least 0 and below 1"):
            build(rate)


def test_classic_dropout_scales_in_evaluation_what_inverted_dropout_scales_in_training():
    classic = nn.Dropout(0.2, classic=True)
    trained = apply(classic, {}, X, train=True, rngs={"dropout": KEY})
    np.testing.assert_allclose(trained / 0.8, dropped(0.2, X), rtol=1e-6)  # the same mask
    np.testing.assert_allclose(apply(classic, {}, X, train=False), 0.8 * X, rtol=1e-6)
    means = jax.vmap(lambda key: apply(classic, {}, X, train=True, rngs={"dropout": key}))(step_keys(20_000)).mean(0)
    np.testing.assert_allclose(means, 0.8 * X, atol=0.02)
    for train in (True, False):  # a rate of zero, traced or not, changes no bit
        rates = [0.0, jnp.float32(0)]
        for result in [apply(nn.Dropout(rate, classic=True), {}, X, train=train, rngs={"dropout": KEY}) for rate in rates]:
            np.testing.assert_array_equal(result, X)
    half = apply(classic, {}, X.astype(jnp.bfloat16), train=False)
    assert half.dtype == jnp.bfloat16


# MLP and CNN


def fresh(model, x: Any = X, train=False) -> Any:
    return jax.jit(lambda: model.init({"params": KEY, "dropout": KEY}, x, train=train))()


def test_mlp_is_dense_layers_with_an_activation_between():
    model = nn.MLP([8, 4], 3, activation="elu")
    params = fresh(model)["params"]
    assert list(params) == ["Dense_0", "Dense_1", "Dense_2"]
    x = X
    for name in ("Dense_0", "Dense_1"):
        x = linen.elu(x @ params[name]["kernel"] + params[name]["bias"])
    expected = x @ params["Dense_2"]["kernel"] + params["Dense_2"]["bias"]
    np.testing.assert_allclose(apply(model, {"params": params}, X, train=True), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("where", ["before", True, "after"])
def test_batch_norm_stands_where_it_was_asked_for(where):
    model = nn.MLP((8,), 1, batch_norm=where)
    variables = fresh(model)
    params = variables["params"]
    norm = linen.BatchNorm(use_running_average=False, momentum=0.99, epsilon=1e-3)
    stats_of = {"params": params["BatchNorm_0"], "batch_stats": variables["batch_stats"]["BatchNorm_0"]}
    x = X @ params["Dense_0"]["kernel"]
    if where == "after":
        x, changed = apply(norm, stats_of, linen.relu(x), mutable="batch_stats")
    else:
        x, changed = apply(norm, stats_of, x, mutable="batch_stats")
        x = linen.relu(x)
    result, mutated = apply(model, variables, X, train=True, mutable="batch_stats")
    np.testing.assert_allclose(result, x @ params["Dense_1"]["kernel"], rtol=1e-4, atol=1e-5)
    jax.tree.map(np.testing.assert_allclose, mutated["batch_stats"]["BatchNorm_0"], changed["batch_stats"])
    np.testing.assert_allclose(changed["batch_stats"]["var"], 0.99 + 0.01 * changed_variance(where, params), rtol=1e-4)


def changed_variance(where, params):
    x = X @ params["Dense_0"]["kernel"]
    return np.var(linen.relu(x) if where == "after" else x, axis=0)


def test_dropout_comes_after_each_hidden_layer_and_only_in_training():
    model = nn.MLP((50, 50), 10, dropout=0.5, activation=lambda x: x + 1)
    variables = fresh(model)
    run = lambda train, key=KEY: apply(model, variables, X, train=train, rngs={"dropout": key})  # noqa: E731
    _, seen = apply(model, variables, X, train=True, rngs={"dropout": KEY}, capture_intermediates=True, mutable=["intermediates"])
    for name in ("Dropout_0", "Dropout_1"):
        assert 0.4 < (seen["intermediates"][name]["__call__"][0] == 0).mean() < 0.6
    assert (run(True) != 0).all()  # the logits are never dropped
    np.testing.assert_array_equal(run(False), run(False, jax.random.key(1)))


def test_a_models_dropout_rate_may_be_traced_and_zero_trains_as_none():
    traces = []

    @jax.jit
    def gradients(rate):
        traces.append(1)
        model = nn.MLP((16, 16), 1, dropout=rate)
        loss = lambda params: apply(model, {"params": params}, X, train=True, rngs={"dropout": KEY}).sum()  # noqa: E731
        return jax.grad(loss)(fresh(model, train=True)["params"])

    plain = nn.MLP((16, 16), 1)
    expected = jax.grad(lambda params: apply(plain, {"params": params}, X, train=True).sum())(fresh(plain)["params"])
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), gradients(0.0), expected)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradients(0.9)))
    assert len(traces) == 1


@pytest.mark.parametrize(
    ("name", "variance"),
    [(f"{kind}_{law}", v) for kind, v in [("glorot", 2 / 500), ("he", 2 / 300), ("lecun", 1 / 300)] for law in ("normal", "uniform")],
)
def test_initializers_have_their_variance_and_biases_are_zero(name, variance):
    layer = fresh(nn.MLP((), 200, initializer=name), jnp.ones((1, 300)))["params"]["Dense_0"]
    assert layer["kernel"].var() == pytest.approx(variance, rel=0.03)
    assert not layer["bias"].any()


def test_an_initializer_may_be_a_function():
    params = fresh(nn.MLP((3,), 1, initializer=linen.initializers.constant(0.5)))["params"]
    assert (params["Dense_1"]["kernel"] == 0.5).all()


def test_inputs_are_flattened_and_may_be_integers():
    images = np.random.default_rng(0).integers(0, 256, (5, 4, 4, 2), np.uint8)
    model = nn.MLP((3,), 2)
    variables = fresh(model, images)
    assert variables["params"]["Dense_0"]["kernel"].shape == (32, 3)
    np.testing.assert_array_equal(apply(model, variables, images, train=False), apply(model, variables, images.reshape(5, 32), train=False))


def test_half_precision_computes_in_it_and_keeps_float32_parameters():
    for model in (nn.MLP((8,), 2, batch_norm=True, dtype=jnp.bfloat16), nn.CNN((2,), (8,), 2, dtype=jnp.bfloat16, dropout=0.5)):
        x = jnp.ones((3, 4, 4))
        variables = fresh(model, x)
        assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {jnp.dtype(jnp.float32)}
        output, _ = apply(model, variables, x, train=True, rngs={"dropout": KEY}, mutable="batch_stats")
        assert output.dtype == jnp.bfloat16


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"activation": "rellu"}, "no activation 'rellu'; did you mean 'relu'"),
        ({"initializer": "he_norml"}, "no initializer 'he_norml'; did you mean 'he_normal'"),
        ({"batch_norm": "befor"}, 'True, "before" or "after"'),
    ],
)
def test_unknown_names_are_an_error_at_once(options, words):
    with pytest.raises(ValueError, match=words):
        nn.MLP((4,), 1, **options)
    with pytest.raises(ValueError, match=words):
        nn.CNN((4,), (4,), 1, **options)


def test_every_activation_by_name_works():
    variables = fresh(nn.MLP((4,), 1))
    for name in nn._ACTIVATIONS:
        assert jax.eval_shape(lambda name=name: apply(nn.MLP((4,), 1, activation=name), variables, X, train=False)).shape == (12, 1)


def test_cnn_against_plain_linen():
    images = jax.random.normal(KEY, (5, 9, 8))
    model = nn.CNN((4, 6), (7,), 3, activation="tanh")
    params = fresh(model, images)["params"]
    assert list(params) == ["Conv_0", "Conv_1", "Dense_0", "Dense_1"]
    x = images[..., None]
    for i, features in enumerate((4, 6)):
        x = jnp.tanh(apply(linen.Conv(features, (3, 3)), {"params": params[f"Conv_{i}"]}, x))
        x = linen.max_pool(x, (2, 2), (2, 2))
    x = jnp.tanh(x.reshape(5, -1) @ params["Dense_0"]["kernel"])
    result = apply(model, {"params": params}, images, train=False)
    np.testing.assert_allclose(result, x @ params["Dense_1"]["kernel"], rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(apply(model, {"params": params}, images[..., None], train=False), result)


@pytest.mark.parametrize("shape", [(5, 30), (5, 3, 3), (5, 8, 3, 1)])
def test_cnn_explains_images_it_cannot_take(shape):
    with pytest.raises(ValueError, match="can be halved 2 times"):
        fresh(nn.CNN((4, 4), (), 1), jnp.zeros(shape))


def test_summary_is_plain_text_of_the_preprocessed_model():
    task = Task(nn.MLP((16,), 1, dropout=0.5), losses.binary_crossentropy, optax.adam(1e-3), preprocess=lambda x: x[:, :4])
    text = ff.summary(task, np.ones((1, 28), np.float32))
    assert "\x1b" not in text
    assert max(map(len, text.splitlines())) <= 140
    for part in ("Dense_0", "float32[1,16]", "kernel: float32[4,16]", "flops", "Total Parameters: 97"):
        assert part in text
