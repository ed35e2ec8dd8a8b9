"""Compiled programs, kept as long as their task: a second call with the same task and shapes compiles nothing."""

from __future__ import annotations

import os
import weakref
from collections.abc import Callable, Hashable
from pathlib import Path
from typing import Any

import jax

from flaxfit.task import Task

_kept: weakref.WeakKeyDictionary[Task, dict[Hashable, Any]] = weakref.WeakKeyDictionary()


def kept(task: Task, what: Hashable, args: tuple[Any, ...], make: Callable[[], Any]) -> Any:
    """What `make` returned for this task, this name and arguments of these shapes and types."""
    # What tracing depends on besides.
    settings = tuple(str(getattr(jax.config, f"jax_{name}")) for name in ("enable_x64", "default_matmul_precision", "default_prng_impl"))
    shapes = tuple((a.shape, str(a.dtype), getattr(a, "sharding", None)) for a in jax.tree.leaves(args))
    made = _kept.setdefault(task, {})
    key = (what, jax.tree.structure(args), shapes, settings)
    if key not in made:
        made[key] = make()
    return made[key]


def compiled(task: Task, what: Hashable, function: Callable[..., Any], *args: Any, donate: tuple[int, ...] = ()) -> Callable[..., Any]:
    """`function` compiled for `args`; it may depend on `task` and `what` besides them, and on nothing else.

    Raises:
      Exception: whatever tracing the function raises.
    """
    directory = os.environ.get("FLAXFIT_CACHE")
    if directory and not jax.config.values["jax_compilation_cache_dir"]:  # another process then only traces
        jax.config.update("jax_compilation_cache_dir", str(Path(directory).resolve() / "programs"))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    return kept(task, what, args, lambda: jax.jit(function, donate_argnums=donate).lower(*args).compile())
