"""Which parameters a penalty, a constraint or a weight decay is about, as trees of booleans."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any

import jax

Mask = str | Sequence[str] | Callable[[Any], Any]
"""A regular expression on the path, several of them, or params -> tree of booleans."""


def paths(params: Any) -> list[str]:
    """The path of each parameter, such as `Dense_0/kernel`, in the order of `jax.tree.leaves`."""
    return ["/".join(str(getattr(k, "key", getattr(k, "name", getattr(k, "idx", k)))) for k in path)
            for path, _ in jax.tree_util.tree_flatten_with_path(params)[0]]


def kernels(params: Any) -> Any:
    """True for the leaves called `kernel`: the weights of Linen's dense and convolutional layers, not biases and scales."""
    flags = [path.rsplit("/", 1)[-1] == "kernel" for path in paths(params)]
    return jax.tree.unflatten(jax.tree.structure(params), flags)
