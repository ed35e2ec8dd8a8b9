from __future__ import annotations

import collections
import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from scipy import ndimage, stats

import flaxfit as ff
from flaxfit.regularize.augmentation import (
    _rotated,
    chain,
    cutout,
    gaussian_noise,
    mixup,
    random_flip,
    random_rotation,
    random_translation,
    word_dropout,
)

KEY = jax.random.key(0)
RNG = np.random.default_rng(0)
IMAGES = RNG.integers(1, 256, (40, 6, 7, 3), dtype=np.uint8)
LABELS = np.arange(40) % 3
NUMBERS = {  # name -> (a number -> augmentation, a number)
    "translation": (lambda v: random_translation(v, 0.3), 0.4),
    "rotation": (random_rotation, 0.2),
    "cutout": (cutout, 3),
    "mixup": (mixup, 0.7),
    "noise": (gaussian_noise, 2.5),
    "words": (word_dropout, 0.3),
}
ALL = {name: make(number) for name, (make, number) in NUMBERS.items()} | {"flip": random_flip("horizontal_and_vertical")}
COMPILED = {name: jax.jit(augment) for name, augment in ALL.items()}
CHANGES_TYPE = {"mixup", "noise"}


def run(augment, x):
    return jax.jit(augment)(KEY, x, None)


def within(count, chance, of):
    """Whether a count is within four standard deviations."""
    return abs(count - chance * of) < 4 * math.sqrt(of * chance * (1 - chance))


def equally_likely(outcomes, rows, expected):
    """Asserts that each row is one of the expected arrays, all of them equally often."""
    names = {np.ascontiguousarray(array).tobytes(): name for name, array in expected.items()}
    assert len(names) == len(expected)
    counts = collections.Counter(names[np.ascontiguousarray(row).tobytes()] for row in np.asarray(outcomes))
    assert counts.total() == rows
    assert stats.chisquare([counts[name] for name in expected]).pvalue > 1e-4


@pytest.mark.parametrize("name", ALL)
def test_each_row_has_its_own_draw_of_the_key(name):
    augment, compiled = ALL[name], COMPILED[name]
    x = np.repeat(IMAGES[:1], 40, 0).astype(np.float32)
    if name == "mixup":
        x = x + np.arange(40, dtype=np.float32)[:, None, None, None]  # like rows stay as they are
    first, y = compiled(KEY, x, LABELS)
    assert first.shape == x.shape
    assert first.dtype == jnp.float32
    assert len(np.unique(first, axis=0)) >= 4
    assert name == "mixup" or np.array_equal(y, LABELS)
    np.testing.assert_array_equal(first, compiled(KEY, x, LABELS)[0])
    assert (np.asarray(first) != compiled(jax.random.key(1), x, LABELS)[0]).any()
    for result, expected in zip(augment(KEY, x, LABELS), (first, y), strict=True):
        np.testing.assert_allclose(result, expected, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("name", ALL)
def test_types_stay(name):
    half = jax.ShapeDtypeStruct(IMAGES.shape, jnp.bfloat16)
    assert jax.eval_shape(ALL[name], KEY, half, LABELS)[0].dtype == jnp.bfloat16
    if name not in CHANGES_TYPE:
        bytes_, floats = (COMPILED[name](KEY, x, LABELS)[0] for x in (IMAGES, IMAGES.astype(np.float32)))
        assert bytes_.dtype == jnp.uint8
        np.testing.assert_allclose(bytes_, floats, atol=0.5001 if name == "rotation" else 0)


@pytest.mark.parametrize("name", [name for name in NUMBERS if name != "mixup"])
def test_zero_changes_nothing(name):
    make = (lambda v: random_translation(v, v)) if name == "translation" else NUMBERS[name][0]
    x = RNG.normal(size=IMAGES.shape).astype(np.float32)
    assert np.asarray(jax.jit(lambda zero: make(zero)(KEY, x, None)[0])(0 * NUMBERS[name][1])).tobytes() == x.tobytes()


@pytest.mark.parametrize("name", NUMBERS)
def test_numbers_may_be_traced(name):
    make, number = NUMBERS[name]
    traces = []

    @jax.jit
    def augmented(value):
        traces.append(1)
        return make(value)(KEY, IMAGES.astype(np.float32), LABELS)[0]

    for value in (number, number / 2 if number < 1 else number + 2):
        np.testing.assert_allclose(augmented(value), make(value)(KEY, IMAGES.astype(np.float32), LABELS)[0], rtol=1e-4, atol=1e-3)
    assert len(traces) == 1


def test_all_shifts_up_to_the_largest_are_equally_likely():
    rows, image = 20_000, IMAGES[0]
    moved, _ = run(random_translation(0.3, 0.1), np.repeat(image[None], rows, 0))  # 1.8 and 0.7 pixels
    shifts = itertools.product(range(-2, 3), range(-1, 2))
    equally_likely(moved, rows, {shift: ndimage.shift(image, (*shift, 0), order=0, cval=0) for shift in shifts})


def test_a_factor_of_one_may_shift_everything_out():
    moved, _ = run(random_translation(1.0, 0.0), np.ones((500, 2, 3, 1), np.float32))
    assert {tuple(image[:, 0, 0]) for image in np.asarray(moved)} == {(0, 0), (0, 1), (1, 1), (1, 0)}


@pytest.mark.parametrize("mode", ["horizontal", "vertical", "horizontal_and_vertical"])
def test_half_of_the_images_are_mirrored(mode):
    rows, image = 4000, IMAGES[0]
    flipped, _ = run(random_flip(mode), np.repeat(image[None], rows, 0))
    horizontal, vertical = {"horizontal": ([0, 1], [0]), "vertical": ([0], [0, 1]), "horizontal_and_vertical": ([0, 1], [0, 1])}[mode]
    outcomes = {(h, v): image[:: -1 if v else 1, :: -1 if h else 1] for h in horizontal for v in vertical}
    equally_likely(flipped, rows, outcomes)


@pytest.mark.parametrize("shape", [(6, 7, 3), (28, 28, 1)])
def test_rotation_about_the_centre(shape):
    image, rotated = RNG.random(shape).astype(np.float32), jax.jit(_rotated)
    for degrees in (90, 180, -30, 77):
        expected = ndimage.rotate(image, degrees, reshape=False, order=1, mode="grid-constant")
        np.testing.assert_allclose(rotated(image, np.radians(degrees)), expected, atol=1e-4)
    square = image[:6, :6]
    np.testing.assert_allclose(rotated(square, np.pi / 2), np.rot90(square), atol=1e-5)
    np.testing.assert_allclose(rotated(image, np.pi), image[::-1, ::-1], atol=1e-5)


def test_rotation_is_that_of_dm_pix_inside():
    import dm_pix

    image = RNG.random((28, 28, 1)).astype(np.float32)
    expected = jax.jit(lambda image: dm_pix.rotate(image, 0.3, order=1, mode="constant"))(image)
    np.testing.assert_allclose(jax.jit(_rotated)(image, 0.3)[6:-6, 6:-6], expected[6:-6, 6:-6], atol=1e-4)


def test_angles_are_uniform():
    across, down = np.meshgrid(np.arange(-2.0, 3), np.arange(-2.0, 3))
    image = np.stack([across, down], -1)  # beside the center it shows the angle's cosine and sine
    turned, _ = run(random_rotation(0.25), np.repeat(image[None], 5000, 0).astype(np.float32))
    angles = np.arctan2(turned[:, 2, 3, 1], turned[:, 2, 3, 0])
    assert stats.kstest(angles / np.pi + 0.5, "uniform").pvalue > 1e-4


@pytest.mark.parametrize("size", [1, 3, 4])
def test_the_square_cut_out_has_its_centre_anywhere(size):
    rows, shape = 6000, (6, 5, 2)
    cut, _ = run(cutout(size), np.ones((rows, *shape), np.float32))
    expected = {}
    for center in itertools.product(range(6), range(5)):
        expected[center] = np.ones(shape, np.float32)
        first = [c - size // 2 for c in center]
        expected[center][tuple(slice(max(f, 0), f + size) for f in first)] = 0
    equally_likely(cut, rows, expected)


@pytest.mark.parametrize("alpha", [0.2, 1.0, 4.0])
def test_mixup_mixes_x_and_y_alike(alpha):
    rows = 1500
    y = np.linspace(0, 1, rows, dtype=np.float32)
    x, mixed = mixup(alpha)(KEY, {"eye": np.eye(rows, dtype=np.float32), "byte": np.arange(rows, dtype=np.uint8)}, y)
    shares, others = np.diag(x["eye"]), np.asarray(x["eye"]) * (1 - np.eye(rows))
    partners = np.where(others.max(1) > 0, others.argmax(1), np.arange(rows))
    apart = partners != np.arange(rows)
    assert apart.sum() > 0.95 * rows  # a share of 1 shows no partner
    assert len(np.unique(partners[apart])) == apart.sum()
    np.testing.assert_allclose(others.sum(1)[apart], 1 - shares[apart], atol=1e-6)
    np.testing.assert_allclose(mixed, shares * y + (1 - shares) * y[partners], atol=1e-6)
    assert x["byte"].dtype == jnp.float32
    bytes_ = np.arange(rows, dtype=np.uint8).astype(np.float32)
    np.testing.assert_allclose(x["byte"], shares * bytes_ + (1 - shares) * bytes_[partners], atol=1e-4)
    assert stats.kstest(shares, stats.beta(alpha, alpha).cdf).pvalue > 1e-4


def test_mixup_of_classes_and_of_binary_labels():
    x, y = mixup(1.0, classes=3)(KEY, np.eye(3)[LABELS], LABELS)
    assert y.shape == (40, 3)
    np.testing.assert_allclose(y.sum(1), 1, rtol=1e-6)
    np.testing.assert_allclose(x, y, rtol=1e-6)
    _, again = mixup(1.0)(KEY, np.eye(3)[LABELS], np.eye(3)[LABELS])
    np.testing.assert_array_equal(y, again)
    x, y = mixup(1.0)(KEY, (LABELS[:, None] > 0).astype(np.float32), (LABELS > 0).astype(np.int32))
    assert y.dtype == jnp.float32
    np.testing.assert_array_equal(x[:, 0], y)
    assert ((y > 0) & (y < 1)).any()


def test_noise_is_normal_and_independent():
    noise = np.asarray(run(gaussian_noise(np.float32([1, 10])), np.full((20_000, 2), 3, np.float32))[0]) - 3
    assert stats.kstest(noise[:, 0], "norm").pvalue > 1e-4
    assert stats.kstest(noise[:, 1] / 10, "norm").pvalue > 1e-4
    flat = (noise / [1, 10]).ravel()
    for lag in (1, 2, 3):
        assert abs((flat[lag:] * flat[:-lag]).mean()) < 4 / math.sqrt(flat.size)


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
@pytest.mark.parametrize("rate", [0.05, 0.5, 0.9])
def test_words_are_only_removed(dtype, rate):
    x = (RNG.random((400, 500)) < 0.3).astype(dtype)
    kept = np.asarray(run(word_dropout(rate), x)[0])
    assert kept.dtype == dtype
    assert not kept[x == 0].any()
    assert within((x - kept).sum(), rate, int(x.sum()))
    assert within((x - kept)[:, 7].sum(), rate, int(x[:, 7].sum()))


def test_each_link_of_a_chain_has_its_own_key():
    noise = gaussian_noise(1.0)
    x = np.asarray(run(chain(noise, noise), np.zeros((1000, 10), np.float32))[0])
    assert x.std() == pytest.approx(math.sqrt(2), rel=0.05)  # one key for both would double the noise
    ordered = chain(lambda k, x, y: (x + 1, y), lambda k, x, y: (2 * x, y - 1))(KEY, 1, 1)
    assert ordered == (4, 0)
    assert chain()(KEY, 1, 2) == (1, 2)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: random_translation(1.5, 0), "height_factor must be from 0 to 1, got 1.5"),
        (lambda: random_translation(0, -0.1), "width_factor must be from 0 to 1, got -0.1"),
        (lambda: random_rotation(15), "factor must be from 0 to 1, got 15"),
        (lambda: random_rotation(math.nan), "factor must be from 0 to 1, got nan"),
        (lambda: random_flip("horizontl"), "no mode of flipping 'horizontl'; did you mean 'horizontal'"),
        (lambda: cutout(0.25), r"cutout\(size=...\) must be a whole number of pixels, 0 or more, got 0.25"),
        (lambda: cutout(-1), "got -1"),
        (lambda: mixup(0.0), r"mixup\(alpha=...\) must be above 0 and finite, got 0.0"),
        (lambda: mixup(math.nan), "got nan"),
        (lambda: gaussian_noise(-1.0), r"gaussian_noise\(stddev=...\) must be 0 or more, got -1.0"),
        (lambda: word_dropout(1.0), "at least 0 and below 1, got 1.0"),
        (
            lambda: mixup(1.0, 3)(KEY, IMAGES, LABELS.astype(np.float32)),
            r"mixup\(classes=3\) needs class numbers y, which are integers, got float32",
        ),
        (lambda: gaussian_noise(1.0)(KEY, IMAGES, None), "gaussian_noise needs floating-point x, got uint8"),
    ],
)
def test_wrong_numbers_are_told(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize("name", ["translation", "flip", "rotation", "cutout"])
def test_what_is_no_image_is_told(name, net, table):
    task = ff.Task(net(), ff.losses.binary_crossentropy, optax.sgd(0.1), augment=ALL[name])
    with pytest.raises(ValueError, match=r"(random_\w+|cutout) needs images x of shape \(rows, height, width, channels\), got \(\d+, 6\)"):
        ff.fit(task, table[0], epochs=1)


def test_only_training_is_augmented(net, table):
    train, _ = table
    plain, noisy = (ff.Task(net(), ff.losses.binary_crossentropy, optax.sgd(0.0), augment=a) for a in (None, gaussian_noise(0.5)))
    result = ff.fit(noisy, train, validation=train, epochs=2, batch_size=250)  # weights stand still
    state, loss, val_loss = result.last, result.history["loss"], result.history["val_loss"]
    assert len({*loss, *val_loss}) == 3
    assert abs(loss - val_loss).min() > 1e-4
    assert ff.evaluate(noisy, state, train) == ff.evaluate(noisy, state, train) == ff.evaluate(plain, state, train)
    np.testing.assert_array_equal(ff.predict(noisy, state, train.x), ff.predict(plain, state, train.x))


def test_byte_images_are_scaled_augmented_and_mixed():
    task = ff.Task(
        ff.nn.MLP((16,), 3),
        ff.losses.categorical_crossentropy,
        optax.adam(1e-2),
        metrics={"accuracy": ff.metrics.categorical_accuracy},
        preprocess=ff.data.rescale(),
        augment=chain(random_translation(0.2, 0.2), cutout(2), mixup(0.2, classes=3)),
    )
    bright = (IMAGES // 8 + 80 * LABELS[:, None, None, None]).astype(np.uint8)
    result = ff.fit(task, ff.Dataset(bright, LABELS), epochs=100, batch_size=20)
    assert result.history["accuracy"][-10:].mean() > 0.8
