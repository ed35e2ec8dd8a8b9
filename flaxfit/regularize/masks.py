"""Which parameters a penalty, a constraint or a weight decay is about, as trees of booleans."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any

import jax

from flaxfit.state import paths

Mask = str | Sequence[str] | Callable[[Any], Any]
"""A regular expression on the path, several of them, or params -> tree of booleans."""


def kernels(params: Any) -> Any:
    """True for the leaves called `kernel`: the weights of Linen's dense and convolutional layers, not biases and scales.

    Example:
      >>> kernels({"Dense_0": {"bias": 0.0, "kernel": 0.0}})
      {'Dense_0': {'bias': False, 'kernel': True}}
      >>> import optax
      >>> decay = optax.add_decayed_weights(1e-4, mask=kernels)
    """
    flags = [path.rsplit("/", 1)[-1] == "kernel" for path in paths(params)]
    return jax.tree.unflatten(jax.tree.structure(params), flags)


def matching(*patterns: str) -> Callable[[Any], Any]:
    """A mask for optax: true where one of the regular expressions is found in the path.

    Args:
      patterns: for `re.search`; each must match something.

    Returns:
      params -> tree of booleans.

    Example:
      >>> matching("Dense_0/.*")({"Dense_0": {"bias": 0.0, "kernel": 0.0}, "Dense_1": {"kernel": 0.0}})
      {'Dense_0': {'bias': True, 'kernel': True}, 'Dense_1': {'kernel': False}}
    """
    return lambda params: resolve(patterns, params)


def resolve(mask: Mask | None, params: Any) -> Any:
    """The mask as a tree of booleans with the structure of `params`.

    Args:
      mask: a regular expression that is searched in the path, such as `"Dense_0/kernel"`; several, of which each must match something;
        params -> tree of booleans, or of prefixes; or None: the leaves called `kernel`.
      params: the parameters.

    Raises:
      ValueError: a pattern that matches nothing, or no kernels for None.
      TypeError: a mask of another kind.

    Example:
      >>> resolve(["Dense_0", "bias"], {"Dense_0": {"kernel": 0.0}, "Dense_1": {"bias": 0.0, "kernel": 0.0}})
      {'Dense_0': {'kernel': True}, 'Dense_1': {'bias': True, 'kernel': False}}
    """
    if callable(mask):
        return jax.tree.map(lambda flag, part: jax.tree.map(lambda _: bool(flag), part), mask(params), params)
    if mask is None:
        flags = kernels(params)
        if not any(jax.tree.leaves(flags)):
            raise ValueError(f'no parameter is called kernel: give mask="a regular expression" on the path. There are: {_listed(params)}')
        return flags
    if not isinstance(mask, Sequence) or not mask:
        raise TypeError(f"a mask is a regular expression, a sequence of them, or params -> tree of booleans; got {mask!r}.")
    patterns = [mask] if isinstance(mask, str) else mask
    found = [[re.search(pattern, path) is not None for path in paths(params)] for pattern in patterns]
    for pattern, flags in zip(patterns, found, strict=True):
        if not any(flags):
            raise ValueError(f"the mask {pattern!r} matches no parameter. There are: {_listed(params)}")
    return jax.tree.unflatten(jax.tree.structure(params), [any(flags) for flags in zip(*found, strict=True)])


def _listed(params: Any) -> str:
    return ", ".join(paths(params)) or "none"
