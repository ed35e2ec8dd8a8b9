"""Compiled programs, kept as long as their task or `make_task`: a second call with the same one and shapes compiles nothing."""

from __future__ import annotations

import os
import threading
import weakref
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax

from flaxfit.train.task import Task

_one_at_a_time = threading.RLock()
_kept: weakref.WeakKeyDictionary[Any, dict[Hashable, Any]] = weakref.WeakKeyDictionary()


@dataclass(frozen=True)
class Family:
    """Tasks that share their programs, since they differ in numbers that are arguments of these.

    Attributes:
      make: a `make_task`, from a mapping of numbers to a Task; or a Task, the family's only one. Compared by identity.
      static: names and values that are compiled in.
    """

    make: Callable[[Mapping[str, Any]], Task] | Task
    static: tuple[tuple[str, Hashable], ...] = ()

    def task(self, numbers: Mapping[str, Any]) -> Task:
        """The member for these numbers, which may be traced."""
        return self.make if isinstance(self.make, Task) else self.make({**dict(self.static), **numbers})


def kept(family: Family, what: Hashable, args: tuple[Any, ...], make: Callable[[], Any]) -> Any:
    """What `make` returned for this family, this name and arguments of these shapes and types."""
    # What tracing depends on besides.
    settings = tuple(str(getattr(jax.config, f"jax_{name}")) for name in ("enable_x64", "default_matmul_precision", "default_prng_impl"))
    shapes = tuple((a.shape, str(a.dtype), getattr(a, "sharding", None)) for a in jax.tree.leaves(args))
    made = _kept.setdefault(family.make, {})
    key = (family.static, what, jax.tree.structure(args), shapes, settings)
    with _one_at_a_time:  # threads of a population ask for the same program at the same time
        if key not in made:
            made[key] = make()
        return made[key]


def compiled(
    family: Family, what: Hashable, function: Callable[..., Any], *args: Any, donate: tuple[int, ...] = (), out: Any = None
) -> Any:
    """`function` compiled for `args`; it may depend on `family` and `what` besides them, and on nothing else.

    Args:
      family, what, function, args: these.
      donate: which arguments are given away.
      out: the shardings of its results, or None.

    Raises:
      Exception: whatever tracing the function raises.
    """
    directory = os.environ.get("FLAXFIT_CACHE")
    if directory and not jax.config.values["jax_compilation_cache_dir"]:  # another process then only traces
        jax.config.update("jax_compilation_cache_dir", str(Path(directory).resolve() / "programs"))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    options: dict[str, Any] = {} if out is None else {"out_shardings": out}
    return kept(family, what, args, lambda: jax.jit(function, donate_argnums=donate, **options).lower(*args).compile())
