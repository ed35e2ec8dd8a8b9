"""Masks: trees of booleans that say which parameters a penalty, a constraint or a weight decay applies to."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any

import jax

from flaxfit.state import paths

Mask = str | Sequence[str] | Callable[[Any], Any]
"""A regular expression on the path, several of them, or params -> tree of booleans."""


def kernels(params: Any) -> Any:
    """Returns a mask of the parameters called `kernel`: the weights of Linen's dense and convolutional layers, not biases and scales.

    Args:
      params: the parameters.

    Returns:
      A tree of booleans with the structure of `params`.

    Example:
      >>> kernels({"Dense_0": {"bias": 0.0, "kernel": 0.0}})
      {'Dense_0': {'bias': False, 'kernel': True}}
      >>> import optax
      >>> decay = optax.add_decayed_weights(1e-4, mask=kernels)
    """
    flags = [path.rsplit("/", 1)[-1] == "kernel" for path in paths(params)]
    return jax.tree.unflatten(jax.tree.structure(params), flags)


def matching(*patterns: str) -> Callable[[Any], Any]:
    """Returns a mask for optax of the parameters whose path matches one of the regular expressions.

    Args:
      patterns: regular expressions that are searched for in paths such as `Dense_0/kernel`. Each must match a parameter.

    Returns:
      A function from params to a tree of booleans.

    Example:
      >>> matching("Dense_0/.*")({"Dense_0": {"bias": 0.0, "kernel": 0.0}, "Dense_1": {"kernel": 0.0}})
      {'Dense_0': {'bias': True, 'kernel': True}, 'Dense_1': {'kernel': False}}
    """
    return lambda params: resolve(patterns, params)


def resolve(mask: Mask | None, params: Any) -> Any:
    """Returns a mask, in any of the forms that penalties and constraints take, as a tree of booleans.

    Args:
      mask: one of these: a regular expression that is searched for in the path of a parameter, such as `"Dense_0/kernel"`; a sequence of
        regular expressions, each of which must match a parameter; a function from params to a tree of booleans, or to a prefix of such a
        tree; None for the parameters called `kernel`.
      params: the parameters.

    Returns:
      A tree of booleans with the structure of `params`.

    Raises:
      ValueError: a regular expression matches no parameter, or the mask is None and there is no kernel.
      TypeError: the mask is of another kind.

    Example:
      >>> resolve(["Dense_0", "bias"], {"Dense_0": {"kernel": 0.0}, "Dense_1": {"bias": 0.0, "kernel": 0.0}})
      {'Dense_0': {'kernel': True}, 'Dense_1': {'bias': True, 'kernel': False}}
    """
    if callable(mask):
        return jax.tree.map(lambda flag, part: jax.tree.map(lambda _: bool(flag), part), mask(params), params)
    if mask is None:
        flags = kernels(params)
        if not any(jax.tree.leaves(flags)):
            raise ValueError(f'no parameter is called kernel: pass mask="a regular expression". The parameters are: {_listed(params)}')
        return flags
    if not isinstance(mask, Sequence) or not mask:
        raise TypeError(f"a mask must be a regular expression, a list of them, or a function params -> tree of booleans, got {mask!r}.")
    patterns = [mask] if isinstance(mask, str) else mask
    found = [[re.search(pattern, path) is not None for path in paths(params)] for pattern in patterns]
    for pattern, flags in zip(patterns, found, strict=True):
        if not any(flags):
            raise ValueError(f"the mask {pattern!r} matches no parameter. The parameters are: {_listed(params)}")
    return jax.tree.unflatten(jax.tree.structure(params), [any(flags) for flags in zip(*found, strict=True)])


def _listed(params: Any) -> str:
    return ", ".join(paths(params)) or "none"
