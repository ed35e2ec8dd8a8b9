"""Compiled programs. Each task holds its own `jax.jit` functions, so that they are freed with it and a second call compiles nothing."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jax

from flaxfit.train.task import Task

MakeTask = Callable[[Mapping[str, Any]], Task] | Task
"""A function of a mapping of hyperparameters that returns a Task; or a Task."""


MOST_FUNCTIONS = 64
"""How many functions a task keeps. The one that was not asked for the longest goes first."""
MOST_SHAPES = 16
"""For how many shapes of its arguments a function stays compiled. Beyond that, the next call compiles again."""


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class _Found:
    """Holds a value that is not an array, so that a traced function can return it."""

    value: Any = field(metadata={"static": True})


class Programs:
    """The programs of a task; or of all tasks of a `make_task` that differ only in numbers, which are arguments of the programs.

    Args:
      make: the task or the `make_task`.
      static: the names and values of the hyperparameters that are compiled in.
    """

    def __init__(self, make: MakeTask, static: tuple[tuple[str, Hashable], ...] = ()):
        self.make, self.static = make, static
        self._functions: dict[Hashable, Any] = {}
        self._kept: dict[Hashable, Any] = {}
        self._lock = threading.RLock()  # threads of a population ask for the same program at the same time

    def task(self, numbers: Mapping[str, Any]) -> Task:
        """Returns the task for these numbers, which may be traced."""
        return self.make if isinstance(self.make, Task) else self.make({**dict(self.static), **numbers})

    def jit(self, what: Hashable, function: Callable[..., Any], **options: Any) -> Any:
        """Returns `jax.jit(function)`, made once for each `what` that is in use. The function may depend only on the task and on `what`."""
        with self._lock:
            found: Any = self._functions.pop(what, None) or jax.jit(function, **options)
            self._functions[what] = found
            if len(self._functions) > MOST_FUNCTIONS:
                del self._functions[next(iter(self._functions))]
            if found._cache_size() > MOST_SHAPES:  # each compiled program takes about 10 MB
                found.clear_cache()
            return found

    def compiled(self, what: Hashable, function: Callable[..., Any], *args: Any, **options: Any) -> Any:
        """Returns the function of `jit`, already compiled for these arguments. Raises whatever the function raises when it is traced."""
        directory = os.environ.get("FLAXFIT_CACHE")
        if directory and not jax.config.values["jax_compilation_cache_dir"]:  # another process then only traces
            jax.config.update("jax_compilation_cache_dir", str(Path(directory).resolve() / "programs"))
            jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
        with self._lock:
            jitted = self.jit(what, function, **options)
            jitted.lower(*args).compile()  # JAX keeps both, for the call
        return jitted

    def found(self, what: Hashable, function: Callable[..., Any], *args: Any) -> Any:
        """Returns what `function` returns when it is traced for arguments of these shapes, which may be any value. JAX caches it."""
        with self._lock:
            return self.jit(what, lambda *traced: _Found(function(*traced))).eval_shape(*args).value

    def kept(self, what: Hashable, make: Callable[[], Any]) -> Any:
        """Returns what `make` returned at its first call with this `what` that raised nothing."""
        with self._lock:
            if what not in self._kept:
                self._kept[what] = make()
            return self._kept[what]


def programs_of(make: MakeTask, static: tuple[tuple[str, Hashable], ...] = ()) -> Programs:
    """The programs of a task or `make_task`, which holds them itself."""
    holder, name = getattr(make, "__self__", make), getattr(make, "__name__", "")  # a bound method's object
    attributes = getattr(holder, "__dict__", None)
    held = attributes.setdefault("_flaxfit_programs", {}) if isinstance(attributes, dict) else {}
    return held.setdefault((name, static), Programs(make, static))
