from __future__ import annotations

import tracemalloc

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import flaxfit as ff
from flaxfit.data.scaling import Scaling, min_max, rescale, standardize

RNG = np.random.default_rng(0)
TABLE = (RNG.normal(size=(500, 6)) * [1, 1e-6, 1e4, 3, 1, 1] + [0, 1e-3, 5e4, -7, 0, 0]).astype(np.float32)
TABLE[:, 4:] = 0.1, -1e6  # constants
IMAGES = RNG.integers(0, 200, (90, 5, 4, 3), dtype=np.uint8)


@pytest.mark.parametrize("x", [TABLE, IMAGES, TABLE[:1], TABLE[:, 0]], ids=["table", "images", "one row", "line"])
@pytest.mark.parametrize(("fit", "name"), [(standardize, "StandardScaler"), (min_max, "MinMaxScaler")])
def test_as_scikit_learn(fit, name, x):
    import sklearn.preprocessing

    scaling = fit(x)
    assert scaling.offset.dtype == scaling.divisor.dtype == np.float64
    assert scaling.offset.shape == scaling.divisor.shape == x.shape[1:]
    expected = getattr(sklearn.preprocessing, name)().fit_transform(x.reshape(len(x), -1).astype(np.float64))
    scaled = scaling(x)
    assert scaled.dtype == np.float32
    np.testing.assert_allclose(scaled.reshape(len(x), -1), expected, atol=2e-4)  # float32 of 0.001 and 1e-6 around it
    new = x + x.dtype.type(3)  # a constant feature is divided by 1 whatever comes
    np.testing.assert_allclose(scaling.inverse(scaling(new)), new, rtol=1e-5, atol=1e-5)


def test_constants_are_only_shifted():
    for value in (0.1, 1 / 3, -1e6, 0.0, 1e-30):
        for rows in (3, 7, 10_000):
            for fit in (standardize, min_max):
                scaling = fit(np.full((rows, 1), value, np.float32))
                assert scaling.divisor == 1
                assert scaling.offset == np.float32(value)


@pytest.mark.parametrize(("offset", "spread"), [(1.7e9, 600), (2.5e12, 86_400), (-4e8, 1), (0.0, 1)])
def test_large_offsets_keep_their_digits(offset, spread):
    from sklearn.preprocessing import StandardScaler

    x = offset + np.random.default_rng(0).uniform(0, spread, (512, 1))
    scaled = standardize(x)(x)
    assert scaled.dtype == np.float32
    np.testing.assert_allclose(scaled, StandardScaler().fit_transform(x), atol=1e-6)
    assert len(np.unique(min_max(x)(x))) > 500
    whole = np.round(x).astype(np.int64)
    np.testing.assert_allclose(standardize(whole)(whole), StandardScaler().fit_transform(whole), atol=1e-6)


def test_axes_of_images():
    scaling = standardize(IMAGES, axis=(0, 1, 2))
    np.testing.assert_allclose(scaling.offset.ravel(), IMAGES.mean((0, 1, 2)), rtol=1e-6)
    np.testing.assert_allclose(scaling.divisor.ravel(), IMAGES.std((0, 1, 2)), rtol=1e-6)
    columns = min_max(IMAGES, axis=(0, 1))
    np.testing.assert_array_equal(columns.offset[0], IMAGES.min((0, 1)))
    np.testing.assert_array_equal(columns(IMAGES).max((0, 1)), np.ones((4, 3)))


def test_large_memory_mapped_files_are_read_in_chunks(tmp_path):
    x = np.lib.format.open_memmap(tmp_path / "x.npy", mode="w+", dtype=np.uint8, shape=(60_000, 28, 28, 1))
    x[::3, 0], x[-1, 1, 1] = 240, 255
    for fit, offset, divisor in ((standardize, [80, 255 / 60_000], [240 * 2**0.5 / 3, 255 / 60_000**0.5]), (min_max, [0, 0], [240, 255])):
        tracemalloc.start()
        scaling = fit(x)
        assert tracemalloc.get_traced_memory()[1] < 100e6
        tracemalloc.stop()
        np.testing.assert_allclose(scaling.offset[[0, 1], 1, 0], offset, rtol=1e-5)
        np.testing.assert_allclose(scaling.divisor[[0, 1], 1, 0], divisor, rtol=1e-4)


def test_dicts_and_tuples_of_numpy_jax_and_tracers():
    x = {"table": TABLE, "both": (IMAGES, jnp.arange(90.0))}
    scaling = standardize(x)
    scaled = scaling(x)
    np.testing.assert_array_equal(scaled["table"], standardize(TABLE)(TABLE))
    np.testing.assert_array_equal(scaled["both"][0], standardize(IMAGES)(IMAGES))
    assert isinstance(scaled["table"], np.ndarray)
    assert isinstance(scaled["both"][1], jax.Array)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4), jax.jit(scaling)(x), scaled)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4), scaling.inverse(scaled), x)
    thirds = rescale(by=3)({"a": np.array([3, 6]), "b": jnp.ones((2, 2))})
    np.testing.assert_array_equal(thirds["a"], [1, 2])
    np.testing.assert_allclose(thirds["b"], 1 / 3, rtol=1e-6)


def test_rows_beyond_the_training_rows_take_no_part():
    scaling = min_max(TABLE[:100])
    assert scaling(TABLE[100:]).max() > 1
    assert scaling(TABLE[:100]).max() == 1


@pytest.mark.parametrize("fit", [standardize, min_max])
def test_what_cannot_be_fitted_is_told(fit, table):
    with pytest.raises(TypeError, match=r"x must be arrays, got a Dataset: pass data\.x"):
        fit(table[0])
    with pytest.raises(ValueError, match=r"x of shape \(0, 3\) has no rows"):
        fit(np.zeros((0, 3)))
    with pytest.raises(TypeError, match=r"x\['b'\] must hold numbers, got <U1"):
        fit({"a": TABLE, "b": np.array(["1", "2"])})
    large = np.zeros((3000, 1000), np.float32)  # more than a chunk
    large[2900, 17] = np.inf
    with pytest.raises(ValueError, match=r"x\['a'\] is not finite in row 2900, feature 17\."):
        fit({"a": large})
    with pytest.raises(ValueError, match=r"x is not finite in row 1, feature 0\."):
        fit([0.0, np.nan])
    with pytest.raises(ValueError, match=r"\(axis=\.\.\.\) must include 0, the axis of the examples, got \(1, 2\)"):
        fit(IMAGES, axis=(1, 2))


def test_what_cannot_be_scaled_is_told():
    for divisor in (0, [1.0, 0.0], np.nan, np.inf):
        with pytest.raises(ValueError, match=r"must be finite|must not be 0"):
            Scaling(0, divisor)
    with pytest.raises(ValueError, match=r"x of shape \(5, 1\) does not fit a Scaling for rows of shape \(6,\)"):
        standardize(TABLE)(np.ones((5, 1)))


def test_as_a_tasks_preprocess(net, table):
    train = ff.Dataset(10 + 100 * table[0].x, table[0].y)
    scaling = standardize(train.x)
    scaled, plain = (ff.Task(net(), ff.losses.binary_crossentropy, optax.adam(1e-2), preprocess=p) for p in (scaling, None))
    state = plain.init(jax.random.key(0), train.x)
    by_hand = (train.x - train.x.mean(0)) / train.x.std(0)
    np.testing.assert_allclose(ff.predict(scaled, state, train.x), ff.predict(plain, state, by_hand), rtol=1e-4, atol=1e-5)
