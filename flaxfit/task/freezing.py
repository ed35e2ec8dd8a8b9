"""Which parameters a task trains, and which collections are frozen with the others."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import jax
import optax

from flaxfit.regularize.masks import Mask, resolve
from flaxfit.state import paths


def trained(mask: Mask | None, params: Any) -> Any:
    """Returns `params` with `optax.MaskedNode()`, which has no leaves, in place of the frozen parameters.

    Args:
      mask: which parameters are trained, or None for all.
      params: the parameters.

    Raises:
      ValueError: the mask matches no parameter.
    """
    if mask is None:
        return params
    return jax.tree.map(lambda chosen, leaf: leaf if chosen else optax.MaskedNode(), resolve(mask, params), params)


def frozen_modules(mask: Mask, params: Any) -> Callable[[str], bool]:
    """Returns a function that tells from the path of a module whether it is frozen, that is, whether none of its parameters is trained.

    A module without parameters is frozen if the regular expressions of the mask do not match its path. If the mask is a function, it is
    frozen if the nearest enclosing module with parameters is.
    """
    flags = dict(zip(paths(params), jax.tree.leaves(resolve(mask, params)), strict=True))

    def frozen(module: str) -> bool:
        own = [flag for path, flag in flags.items() if f"{path}/".startswith(f"{module}/" if module else "")]
        if own or not module:
            return not any(own)
        if not callable(mask):
            return not any(re.search(pattern, f"{module}/") for pattern in ([mask] if isinstance(mask, str) else mask))
        return frozen(module.rpartition("/")[0])

    return frozen


def kept(frozen: Callable[[str], bool], new: Any, old: Any) -> Any:
    """Returns the collections after a step, with those of frozen modules as they were before it."""

    def choose(path: Any, after: Any, before: Any) -> Any:
        _, *module, _ = jax.tree_util.keystr(path, simple=True, separator="/").split("/")
        return before if frozen("/".join(module)) else after

    return jax.tree_util.tree_map_with_path(choose, new, old)
