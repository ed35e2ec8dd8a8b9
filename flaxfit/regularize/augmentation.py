"""Augmentations for `Task(augment=...)`. Each function here returns a function `(key, x, y) -> (x, y)` of one batch.

Every example has its own random draw. x keeps its shape and type unless the docstring says otherwise. The numbers that the functions take
may be traced. x has been preprocessed already: the 0 that fills the parts of an image that are shifted in or cut out is black after
`flaxfit.data.rescale`, but after `flaxfit.data.standardize` it is the mean of the feature.
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
"""A function (key, x, y) -> (x, y) of one training batch."""


def random_translation(height_factor: Any, width_factor: Any) -> Augment:
    """Shifts each image by a random number of whole pixels and fills with 0, as Keras's `RandomTranslation` without interpolation.

    Args:
      height_factor: the largest shift up or down, as a fraction of the height from 0 to 1, rounded to pixels. All shifts up to it are
        equally likely.
      width_factor: the largest shift left or right, as a fraction of the width.

    Returns:
      An augmentation of images, shape (rows, height, width, channels).

    Raises:
      ValueError: a factor is outside [0, 1]. The augmentation raises it if x does not have the shape of images.

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
    """Flips each image with probability 1/2, as Keras's `RandomFlip`. It needs dm-pix (`pip install flaxfit[data]`).

    Args:
      mode: "horizontal" swaps left and right, "vertical" swaps top and bottom, "horizontal_and_vertical" draws each of them separately.

    Returns:
      An augmentation of images, shape (rows, height, width, channels).

    Raises:
      ValueError: the mode is not known. The augmentation raises it if x does not have the shape of images.

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
    """Rotates each image about its center by a random angle, as Keras's `RandomRotation` with `fill_mode="constant"`.

    Values between pixels are interpolated bilinearly, and 0 fills what comes from outside of the image.

    Args:
      factor: the largest angle in either direction, as a fraction of a full turn from 0 to 1, such as `15 / 360`.

    Returns:
      An augmentation of images, shape (rows, height, width, channels).

    Raises:
      ValueError: the factor is outside [0, 1]. The augmentation raises it if x does not have the shape of images.

    Example:
      >>> random_rotation(15 / 360)(jax.random.key(0), jnp.ones((2, 28, 28, 1)), None)[0].shape
      (2, 28, 28, 1)
    """
    _fraction("factor", factor)

    def rotated(keys: Any, x: Any) -> Any:
        return jax.vmap(_rotated)(x, 2 * math.pi * factor * jax.random.uniform(keys[0], (len(x),), minval=-1, maxval=1))

    return _of_images("random_rotation", rotated)


def cutout(size: Any) -> Augment:
    """Sets a random square of each image to 0.

    The source is DeVries and Taylor (2017, "Improved regularization of convolutional neural networks with cutout").

    Args:
      size: the side of the square in pixels. All pixels are equally likely to be its center, so it may extend beyond the border.

    Returns:
      An augmentation of images, shape (rows, height, width, channels).

    Raises:
      ValueError: the size is negative or not a whole number. The augmentation raises it if x does not have the shape of images.

    Example:
      >>> cutout(2)(jax.random.key(0), jnp.ones((1, 9, 9, 1)), None)[0].sum()
      Array(77., dtype=float32)
    """
    if isinstance(size, str) or (not isinstance(size, Tracer) and (size < 0 or size % 1)):
        raise ValueError(f"cutout(size=...) must be a whole number of pixels, 0 or more, got {size!r}.")

    def cut(keys: Any, x: Any) -> Any:
        away = (jnp.arange(side) - jax.random.randint(key, (len(x), 1), 0, side) for key, side in zip(keys, x.shape[1:3], strict=True))
        down, across = (abs(2 * pixels + 1 - size % 2) < size for pixels in away)
        return jnp.where(down[:, :, None, None] & across[:, None, :, None], 0, x)

    return _of_images("cutout", cut)


def mixup(alpha: Any, classes: int | None = None) -> Augment:
    """Mixes each example with another one of its batch, x and y alike: `share * example + (1 - share) * partner`.

    The source is Zhang et al. (2018, "mixup: beyond empirical risk minimization"). Every example draws its own share from
    Beta(alpha, alpha), where the code of the paper draws one share for each batch. The partners are the examples of the batch in random
    order. Integers become float32. Sample weights are not mixed.

    Args:
      alpha: the parameter of the beta distribution, above 0. With a small alpha, shares near 0 and 1 are likely; with 1, all shares are
        equally likely.
      classes: the number of classes, if y holds class numbers. They become probabilities of shape (rows, classes). None if y holds binary
        labels, numbers or probabilities, which are mixed as they are.

    Returns:
      An augmentation.

    Raises:
      ValueError: `alpha` is not positive and finite, or `classes` is below 2. The augmentation raises it if `classes` is given but y does
        not hold integers.

    Example:
      >>> x, y = mixup(0.2, classes=3)(jax.random.key(0), jnp.eye(3), jnp.arange(3))
      >>> bool((x == y).all())
      True
    """
    if not isinstance(alpha, Tracer) and not 0 < alpha < math.inf:
        raise ValueError(f"mixup(alpha=...) must be above 0 and finite, got {alpha!r}.")
    if classes is not None and classes < 2:
        raise ValueError(f"mixup(classes=...) must be 2 or more, got {classes!r}.")

    def augment(key: Key, x: Any, y: Any) -> tuple[Any, Any]:
        if classes is not None:
            if not jnp.issubdtype(y.dtype, jnp.integer):
                raise ValueError(f"mixup(classes={classes}) needs class numbers y, which are integers, got {y.dtype}: leave out classes.")
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
    """Adds normally distributed noise of mean 0 to every entry of x, as Keras's `GaussianNoise`.

    Args:
      stddev: the standard deviation of the noise, 0 or more: one number, or one for each feature.

    Returns:
      An augmentation.

    Raises:
      ValueError: `stddev` is negative. The augmentation raises it if x holds integers, which cannot take such noise.

    Example:
      >>> round(float(gaussian_noise(0.1)(jax.random.key(0), jnp.zeros((1000, 6)), None)[0].std()), 2)
      0.1
    """
    non_negative("gaussian_noise(stddev=...)", stddev)

    def augment(key: Key, x: Array, y: Any) -> tuple[Array, Any]:
        if not jnp.issubdtype(x.dtype, jnp.floating):
            raise ValueError(f"gaussian_noise needs floating-point x, got {x.dtype}: scale it first, with Task(preprocess=...).")
        # Several times faster on a CPU than `jax.random.normal`. Exact in float32 and symmetric, with neither -1 nor 1:
        uniform = ((random_bits(key, x.shape) >> 9).astype(jnp.float32) + 0.5) * 2.0**-22 - 1
        return (x + stddev * math.sqrt(2) * jax.lax.erf_inv(uniform)).astype(x.dtype), y

    return augment


def word_dropout(rate: Any) -> Augment:
    """Removes random words from texts in multi-hot form. The words that stay are not rescaled.

    The source is Iyyer et al. (2015, "Deep unordered composition rivals syntactic methods for text classification").

    Args:
      rate: the probability of each word to be removed, in [0, 1).

    Returns:
      An augmentation of x with one column for each word, which is 0 if the word is absent.

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
    """Applies several augmentations one after the other, each with its own key.

    Args:
      augmentations: functions (key, x, y) -> (x, y).

    Returns:
      An augmentation.

    Raises:
      TypeError: one of them is not a function.

    Example:
      >>> augment = chain(random_flip("horizontal"), random_translation(0.1, 0.1))
      >>> augment(jax.random.key(0), jnp.ones((2, 28, 28, 1)), None)[0].shape
      (2, 28, 28, 1)
    """
    for augmentation in augmentations:
        if not callable(augmentation):
            raise TypeError(f"chain takes augmentations, which are functions (key, x, y) -> (x, y), got {augmentation!r}.")

    def augment(key: Key, x: Any, y: Any) -> tuple[Any, Any]:
        for own, augmentation in zip(jax.random.split(key, len(augmentations)), augmentations, strict=True):
            x, y = augmentation(own, x, y)
        return x, y

    return augment


def _rotated(image: Array, angle: Any) -> Array:
    """Rotates one image, shape (height, width, channels).

    `dm_pix.rotate` took 50 times as long on a CPU, and sets borders to 0 at multiples of 90 degrees.
    """
    top, left = ((side - 1) / 2 for side in image.shape[:2])
    down, across = jnp.arange(image.shape[0])[:, None] - top, jnp.arange(image.shape[1]) - left
    sine, cosine = jnp.sin(angle), jnp.cos(angle)
    places = [cosine * down + sine * across + top, cosine * across - sine * down + left]
    return jax.vmap(lambda channel: map_coordinates(channel, places, order=1, mode="constant"), -1, -1)(image)


def _of_images(name: str, function: Callable[[Any, Any], Any]) -> Augment:
    """Makes an augmentation of images from a function (two keys, x) -> x."""

    def augment(key: Key, x: Any, y: Any) -> tuple[Any, Any]:
        if x.ndim != 4:
            raise ValueError(f"{name} needs images x of shape (rows, height, width, channels), got {x.shape}.")
        return function(jax.random.split(key), x), y

    return augment


def _fraction(name: str, value: Any) -> Any:
    if not isinstance(value, Tracer) and not 0 <= value <= 1:
        raise ValueError(f"{name} must be from 0 to 1, got {value!r}.")
    return value
