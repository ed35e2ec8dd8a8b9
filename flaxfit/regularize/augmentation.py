"""Augmentation for `Task(augment=...)`: each function here gives one `(key, x, y) -> (x, y)`. Numbers may be traced.

Each row has its own draw, and x keeps its shape and type unless said otherwise. x comes preprocessed: the 0 that fills what is shifted
in or cut out is black after `flaxfit.data.rescale`, but each feature's mean after `flaxfit.data.standardize`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jax.core import Tracer
from jax.scipy.ndimage import map_coordinates

from flaxfit.arguments import unknown
from flaxfit.nn import check_rate
from flaxfit.regularize.penalties import non_negative
from flaxfit.rng import random_bits
from flaxfit.shapes import Key

Augment = Callable[[Key, Any, Any], tuple[Any, Any]]
"""(key, x, y) -> (x, y)."""


def random_translation(height_factor: Any, width_factor: Any) -> Augment:
    """Shifts images by whole pixels and fills with 0: Keras's RandomTranslation without its interpolation.

    Args:
      height_factor: the largest shift up or down as a share of the height, from 0 to 1, rounded to pixels; all shifts up to it are
        equally likely.
      width_factor: likewise left or right.

    Raises:
      ValueError: a factor is outside [0, 1]; when called, x is not images of shape (rows, height, width, channels).

    Example:
      >>> random_translation(1 / 3, 0)(jax.random.key(1), jnp.arange(1, 4).reshape(1, 3, 1, 1), None)[0].ravel()
      Array([2, 3, 0], dtype=int32)
    """
    factors = _fraction("height_factor", height_factor), _fraction("width_factor", width_factor)

    def translated(keys: Any, x: Any) -> Any:
        places = []
        for key, side, factor in zip(keys, x.shape[1:3], factors, strict=True):
            most = jnp.round(factor * side).astype(jnp.int32)
            places.append(jnp.arange(side) - jax.random.randint(key, (len(x), 1), -most, most + 1))
        index = jnp.arange(len(x))[:, None, None], places[0][:, :, None], places[1][:, None, :]
        return jnp.asarray(x).at[index].get(mode="fill", fill_value=0, wrap_negative_indices=False)

    return _of_images("random_translation", translated)


def random_flip(mode: str) -> Augment:
    """Mirrors each image with chance 1/2, Keras's RandomFlip.

    Args:
      mode: "horizontal" swaps left and right, "vertical" top and bottom, "horizontal_and_vertical" draws for each separately.

    Raises:
      ValueError: the mode is not known; when called, x is not images.

    Example:
      >>> random_flip("horizontal")(jax.random.key(0), jnp.array([[1, 2]] * 4).reshape(4, 1, 2, 1), None)[0][:, 0, :, 0].tolist()
      [[2, 1], [2, 1], [2, 1], [1, 2]]
    """
    modes = {"horizontal": [2], "vertical": [1], "horizontal_and_vertical": [2, 1]}
    if mode not in modes:
        raise ValueError(unknown("mode of flipping", str(mode), modes))

    def flipped(keys: Any, x: Any) -> Any:
        for key, axis in zip(keys, modes[mode], strict=False):
            flips = jax.vmap(jax.random.bernoulli)(jax.random.split(key, len(x)))
            x = jnp.where(flips[:, None, None, None], jnp.flip(x, axis), x)
        return x

    return _of_images("random_flip", flipped)


def random_rotation(factor: Any) -> Augment:
    """Rotates images about their center, with bilinear interpolation and 0 outside: Keras's RandomRotation, `fill_mode="constant"`.

    Args:
      factor: the largest angle either way as a share of a full turn, from 0 to 1, such as `15 / 360`.

    Raises:
      ValueError: a factor is outside [0, 1]; when called, x is not images.

    Example:
      >>> random_rotation(15 / 360)(jax.random.key(0), jnp.ones((2, 28, 28, 1)), None)[0].shape
      (2, 28, 28, 1)
    """
    _fraction("factor", factor)

    def rotated(keys: Any, x: Any) -> Any:
        return jax.vmap(_rotated)(x, 2 * math.pi * factor * jax.random.uniform(keys[0], (len(x),), minval=-1, maxval=1))

    return _of_images("random_rotation", rotated)


def cutout(size: Any) -> Augment:
    """Sets a square of each image to 0 (DeVries and Taylor 2017, "Improved regularization of convolutional neural networks with cutout").

    Args:
      size: pixels of a side. All pixels are equally likely to be the center, so the square may hang over the border.

    Raises:
      ValueError: the size is negative or not a whole number; when called, x is not images.

    Example:
      >>> cutout(2)(jax.random.key(0), jnp.ones((1, 9, 9, 1)), None)[0].sum()
      Array(77., dtype=float32)
    """
    if isinstance(size, str) or (not isinstance(size, Tracer) and (size < 0 or size % 1)):
        raise ValueError(f"cutout's size is a whole number of pixels, 0 or more, got {size!r}.")

    def cut(keys: Any, x: Any) -> Any:
        away = (jnp.arange(side) - jax.random.randint(key, (len(x), 1), 0, side) for key, side in zip(keys, x.shape[1:3], strict=True))
        down, across = (abs(2 * pixels + 1 - size % 2) < size for pixels in away)
        return jnp.where(down[:, :, None, None] & across[:, None, :, None], 0, x)

    return _of_images("cutout", cut)


def mixup(alpha: Any, classes: int | None = None) -> Augment:
    """`share * row + (1 - share) * partner`, of x and y alike (Zhang et al. 2018, "mixup: beyond empirical risk minimization").

    Each row has its own share, from Beta(alpha, alpha), where the paper's code draws one a batch; partners are the batch in random order.
    Integers become float32; weights of rows are not mixed.

    Args:
      alpha: above 0. A small alpha makes shares near 0 and 1 likely; with 1, all shares are equally likely.
      classes: how many, for class numbers y, which become probabilities of shape (rows, classes). None for binary labels, numbers and
        probabilities, mixed as they are.

    Raises:
      ValueError: alpha is not positive; when called, `classes` is given but y does not hold integers.

    Example:
      >>> x, y = mixup(0.2, classes=3)(jax.random.key(0), jnp.eye(3), jnp.arange(3))
      >>> bool((x == y).all())
      True
    """
    if not isinstance(alpha, Tracer) and not 0 < alpha < math.inf:
        raise ValueError(f"mixup's alpha must be above 0 and finite, got {alpha!r}.")
    if classes is not None and classes < 2:
        raise ValueError(f"mixup's classes are 2 or more, got {classes!r}.")

    def augment(key: Key, x: Any, y: Any) -> tuple[Any, Any]:
        if classes is not None:
            if not jnp.issubdtype(y.dtype, jnp.integer):
                raise ValueError(f"mixup(classes={classes}) takes class numbers y, integers, got {y.dtype}.")
            y = jax.nn.one_hot(y, classes)
        keys, rows = jax.random.split(key), jax.tree.leaves(x)[0].shape[0]
        shares, partners = jax.random.beta(keys[0], alpha, alpha, (rows,)), jax.random.permutation(keys[1], rows)

        def mixed(a: Array) -> Array:
            a = jnp.asarray(a, None if jnp.issubdtype(a.dtype, jnp.floating) else jnp.float32)
            share = jax.lax.broadcast_in_dim(shares, a.shape, (0,))
            return (share * a + (1 - share) * a[partners]).astype(a.dtype)

        return jax.tree.map(mixed, (x, y))

    return augment


def gaussian_noise(stddev: Any) -> Augment:
    """Adds normal noise of mean 0 to every entry, Keras's GaussianNoise.

    Args:
      stddev: of the noise, 0 or more: a number, or one for each feature.

    Raises:
      ValueError: stddev is negative; when called, x holds integers, which such noise would leave as they are.

    Example:
      >>> round(float(gaussian_noise(0.1)(jax.random.key(0), jnp.zeros((1000, 6)), None)[0].std()), 2)
      0.1
    """
    non_negative("gaussian_noise's stddev", stddev)

    def augment(key: Key, x: Array, y: Any) -> tuple[Array, Any]:
        if not jnp.issubdtype(x.dtype, jnp.floating):
            raise ValueError(f"gaussian_noise takes floating x, got {x.dtype}: scale it in Task(preprocess=...), which comes first.")
        # Several times faster on a CPU than `jax.random.normal`. Exact in float32 and symmetric, with neither -1 nor 1:
        uniform = ((random_bits(key, x.shape) >> 9).astype(jnp.float32) + 0.5) * 2.0**-22 - 1
        return (x + stddev * math.sqrt(2) * jax.lax.erf_inv(uniform)).astype(x.dtype), y

    return augment


def word_dropout(rate: Any) -> Augment:
    """Removes present words (Iyyer et al. 2015, "Deep unordered composition rivals syntactic methods"); what stays is not rescaled.

    Args:
      rate: the chance of each to be removed, in [0, 1). x has a column for each word, 0 where it is absent.

    Raises:
      ValueError: the rate is outside [0, 1).

    Example:
      >>> round(float(word_dropout(0.3)(jax.random.key(0), jnp.ones((100, 1000)), None)[0].mean()), 2)
      0.7
    """
    check_rate(rate)

    def augment(key: Key, x: Array, y: Any) -> tuple[Array, Any]:
        removed = random_bits(key, x.shape) < (jnp.asarray(rate, jnp.float32) * 2.0**32).astype(jnp.uint32)
        return jnp.where(removed, 0, x), y

    return augment


def chain(*augmentations: Augment) -> Augment:
    """Applies augmentations one after the other, each with its own key.

    Example:
      >>> augment = chain(random_flip("horizontal"), random_translation(0.1, 0.1))
      >>> augment(jax.random.key(0), jnp.ones((2, 28, 28, 1)), None)[0].shape
      (2, 28, 28, 1)
    """
    for augmentation in augmentations:
        if not callable(augmentation):
            raise TypeError(f"chain takes augmentations, functions (key, x, y) -> (x, y), got {augmentation!r}.")

    def augment(key: Key, x: Any, y: Any) -> tuple[Any, Any]:
        for own, augmentation in zip(jax.random.split(key, len(augmentations)), augmentations, strict=True):
            x, y = augmentation(own, x, y)
        return x, y

    return augment


def _rotated(image: Array, angle: Any) -> Array:
    """(height, width, channels), turned. `dm_pix.rotate` took 50 times as long on a CPU and blanks borders at multiples of 90 degrees."""
    top, left = ((side - 1) / 2 for side in image.shape[:2])
    down, across = jnp.arange(image.shape[0])[:, None] - top, jnp.arange(image.shape[1]) - left
    sine, cosine = jnp.sin(angle), jnp.cos(angle)
    places = [cosine * down + sine * across + top, cosine * across - sine * down + left]
    return jax.vmap(lambda channel: map_coordinates(channel, places, order=1, mode="constant"), -1, -1)(image)


def _of_images(name: str, function: Callable[[Any, Any], Any]) -> Augment:
    """(two keys, x) -> x, as an augmentation."""

    def augment(key: Key, x: Any, y: Any) -> tuple[Any, Any]:
        if x.ndim != 4:
            raise ValueError(f"{name} takes images (rows, height, width, channels), got {x.shape}.")
        return function(jax.random.split(key), x), y

    return augment


def _fraction(name: str, value: Any) -> Any:
    if not isinstance(value, Tracer) and not 0 <= value <= 1:
        raise ValueError(f"{name} must lie from 0 to 1, got {value!r}.")
    return value
